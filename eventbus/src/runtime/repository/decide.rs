//! Deciding: load, decide, save, and again if another writer was first.

use super::{AggregateRepository, Saved, UpdateError};
use crate::domain::{
    aggregate::{AggregateRoot, Apply, IntoEvents},
    stream::AggregateId,
};

impl<A: Apply> AggregateRepository<A> {
    /// Loads, decides, saves; and again if another writer was first, with jittered delays, up to a bound.
    ///
    /// The decision is pure, and a plain closure, not an `async` one: what it needs from elsewhere is loaded before. It
    /// may run several times. It returns an event of the aggregate, or a tuple, array, `Vec` or `Option` of them; one
    /// that never refuses says so: `Ok::<_, eventbus::Never>(event)`, as for [`upsert`](Self::upsert).
    ///
    /// # Errors
    /// [`UpdateError::Refused`] with what the decision said, at once; [`UpdateError::Load`] if there is no such
    /// aggregate or it cannot be loaded; [`UpdateError::Save`] if it cannot be saved, also when every retry conflicted.
    pub async fn update<T, X>(
        &self,
        id: &AggregateId,
        decide: impl Fn(&A) -> Result<T, X>,
    ) -> Result<Saved, UpdateError<X>>
    where
        T: IntoEvents<A::Event>,
    {
        self.decide_and_save(id, Existing::Demanded, recording(decide)).await.map(|(saved, ())| saved)
    }

    /// As [`update`](Self::update), for decisions that depend on what was just decided: `decide` records by itself, and
    /// may return a value.
    ///
    /// # Errors
    /// As for [`update`](Self::update).
    pub async fn update_with<T, X>(
        &self,
        id: &AggregateId,
        decide: impl Fn(&mut AggregateRoot<A>) -> Result<T, X>,
    ) -> Result<(Saved, T), UpdateError<X>> {
        self.decide_and_save(id, Existing::Demanded, decide).await
    }

    /// Decides and saves the first events of a new aggregate; the decision is as for [`update`](Self::update).
    ///
    /// # Errors
    /// As for [`update`](Self::update); a conflict if the aggregate has events already, which no retry can change.
    pub async fn create_with<T, X>(
        &self,
        id: &AggregateId,
        decide: impl Fn(&A) -> Result<T, X>,
    ) -> Result<Saved, UpdateError<X>>
    where
        T: IntoEvents<A::Event>,
    {
        let mut root = self.create(id.clone());
        let events = decide(&root).map_err(UpdateError::Refused)?;
        root.record(events);
        Ok(self.save(&mut root).await?)
    }

    /// As [`update`](Self::update), on a new aggregate if there is none.
    ///
    /// The decision returns a `Result`. One that never refuses names [`Never`](crate::Never), or the compiler asks for the
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
    pub async fn upsert<T, X>(
        &self,
        id: &AggregateId,
        decide: impl Fn(&A) -> Result<T, X>,
    ) -> Result<Saved, UpdateError<X>>
    where
        T: IntoEvents<A::Event>,
    {
        self.decide_and_save(id, Existing::Optional, recording(decide)).await.map(|(saved, ())| saved)
    }

    async fn decide_and_save<T, X>(
        &self,
        id: &AggregateId,
        existing: Existing,
        decide: impl Fn(&mut AggregateRoot<A>) -> Result<T, X>,
    ) -> Result<(Saved, T), UpdateError<X>> {
        let mut attempt = 0;
        loop {
            let mut root = match existing {
                Existing::Demanded => self.load(id).await?,
                Existing::Optional => self.find(id).await?.unwrap_or_else(|| self.create(id.clone())),
            };
            let value = decide(&mut root).map_err(UpdateError::Refused)?;
            attempt += 1;
            match self.save(&mut root).await {
                Err(error) if error.is_conflict() && self.on_conflict.allows(attempt) => {
                    tracing::debug!(stream = %A::stream(id), attempt, "another writer was first, deciding anew");
                    self.clock.sleep(self.on_conflict.jittered(attempt)).await;
                }
                saved => return Ok((saved?, value)),
            }
        }
    }
}

/// Has a decision's events recorded.
fn recording<A: Apply, T: IntoEvents<A::Event>, X>(
    decide: impl Fn(&A) -> Result<T, X>,
) -> impl Fn(&mut AggregateRoot<A>) -> Result<(), X> {
    move |root| {
        root.record(decide(root)?);
        Ok(())
    }
}

/// Whether an update needs the aggregate to be there.
#[derive(Clone, Copy)]
enum Existing {
    Demanded,
    Optional,
}
