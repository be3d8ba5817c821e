//! The updating methods of the repository: load, decide, save.

use super::{
    AggregateRepository, Saved,
    update_future::{AggregateExistence, UpdateFuture},
};
use crate::domain::{
    aggregate::{AggregateRoot, Apply, IntoEvents},
    stream::AggregateId,
};

impl<A: Apply> AggregateRepository<A> {
    /// Loads, decides, saves; after a conflict loads and decides anew, with jittered delays, up to a bound.
    ///
    /// The decision is a pure, plain closure, not an `async` one: load the values it needs before. It may run several
    /// times. It returns an event of the aggregate, or a tuple, array, `Vec` or `Option` of them; one that never refuses
    /// says so: `Ok::<_, eventbus::Never>(event)`, as for [`upsert`](Self::upsert).
    ///
    /// ```ignore
    /// let rate = rates.load().await?; // and not in the decision
    /// accounts.update(&id, |account| account.convert(rate)).await?;
    /// ```
    ///
    /// # Errors
    /// [`UpdateError::Refused`] with the decision's refusal, at once; [`UpdateError::Load`] if there is no such
    /// aggregate or it cannot be loaded; [`UpdateError::Save`] if it cannot be saved, also if every retry conflicted.
    ///
    /// [`UpdateError::Refused`]: crate::UpdateError::Refused
    /// [`UpdateError::Load`]: crate::UpdateError::Load
    /// [`UpdateError::Save`]: crate::UpdateError::Save
    pub fn update<'a, D, T, X>(&'a self, id: &'a AggregateId, decide: D) -> UpdateFuture<'a, A, D, (), X, Saved>
    where
        D: Fn(&A) -> Result<T, X>,
        T: IntoEvents<A::Event>,
    {
        UpdateFuture::new(self, id, AggregateExistence::Required, decide, record_events::<A, D, T, X>, |saved, ()| {
            saved
        })
    }

    /// As [`update`](Self::update), for decisions that depend on events they have just recorded: `decide` records by
    /// itself, and may return a value.
    ///
    /// # Errors
    /// As for [`update`](Self::update).
    pub fn update_with<'a, D, T, X>(
        &'a self,
        id: &'a AggregateId,
        decide: D,
    ) -> UpdateFuture<'a, A, D, T, X, (Saved, T)>
    where
        D: Fn(&mut AggregateRoot<A>) -> Result<T, X>,
    {
        UpdateFuture::new(
            self,
            id,
            AggregateExistence::Required,
            decide,
            |decide, root| decide(root),
            |saved, value| (saved, value),
        )
    }

    /// Decides and saves the first events of a new aggregate; the decision is as for [`update`](Self::update).
    ///
    /// # Errors
    /// As for [`update`](Self::update); a conflict if the aggregate has events already, which no retry can change.
    pub fn create_with<'a, D, T, X>(&'a self, id: &'a AggregateId, decide: D) -> UpdateFuture<'a, A, D, (), X, Saved>
    where
        D: Fn(&A) -> Result<T, X>,
        T: IntoEvents<A::Event>,
    {
        UpdateFuture::new(self, id, AggregateExistence::Absent, decide, record_events::<A, D, T, X>, |saved, ()| saved)
    }

    /// As [`update`](Self::update), on a new aggregate if the id has no events.
    ///
    /// The decision returns a `Result`. If it never refuses, name [`Never`](crate::Never), or the compiler asks for the
    /// type of its error.
    ///
    /// # Examples
    /// ```
    /// # use eventbus::{InMemoryEventStore, prelude::*};
    /// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// # #[event(aggregate = Room)]
    /// # struct Booked { guest: String }
    /// # #[derive(Debug, Default, Aggregate)]
    /// # #[aggregate(events(Booked))]
    /// # struct Room { guest: Option<String> }
    /// # impl Apply for Room {
    /// #     fn apply(&mut self, RoomEvent::Booked(booked): &RoomEvent) { self.guest = Some(booked.guest.clone()); }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> eventbus::Result<()> {
    /// # let rooms = AggregateRepository::<Room>::new(InMemoryEventStore::new());
    /// # let id = "12".parse()?;
    /// use eventbus::Never;
    /// rooms.upsert(&id, |_| Ok::<_, Never>(Booked { guest: "ada".into() })).await?; // it never refuses
    ///
    /// let book = |room: &Room| match room.guest {
    ///     None => Ok(Booked { guest: "bob".into() }),
    ///     Some(_) => Err("the room is taken"),
    /// };
    /// let refused = rooms.upsert(&id, book).await.unwrap_err();
    /// assert_eq!(refused.refused(), Some(&"the room is taken"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`update`](Self::update), except that not found cannot happen.
    pub fn upsert<'a, D, T, X>(&'a self, id: &'a AggregateId, decide: D) -> UpdateFuture<'a, A, D, (), X, Saved>
    where
        D: Fn(&A) -> Result<T, X>,
        T: IntoEvents<A::Event>,
    {
        UpdateFuture::new(self, id, AggregateExistence::Optional, decide, record_events::<A, D, T, X>, |saved, ()| {
            saved
        })
    }
}

/// Records the events of a decision.
fn record_events<A, D, T, X>(decide: &D, root: &mut AggregateRoot<A>) -> Result<(), X>
where
    A: Apply,
    D: Fn(&A) -> Result<T, X>,
    T: IntoEvents<A::Event>,
{
    root.record(decide(root)?);
    Ok(())
}
