//! Changes to the state of a projection: by events from a bus or a feed, and by a rebuild.

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::FutureExt;

use super::{
    ProjectionError,
    handle::{ProjectionHandle, ProjectionState},
    progress::ProjectionProgress,
};
use crate::{
    domain::{clock::SharedClock, name::Name, record::RecordedEvent, stream::Position},
    port::{
        Delivery, HandlerError, StateMap,
        activity::{Activity, TookTooLong},
    },
    runtime::definition::{Projection, ProjectionDefinition},
};

impl<P: Projection> ProjectionHandle<P> {
    /// Handles one event, as when the caller replays the history of a stream to a new projection; skips an event of a
    /// type that the projection does not handle. An event that is given twice is counted twice.
    ///
    /// # Errors
    /// If the projection's method fails, or the event cannot be decoded; the state stays as the method left it.
    ///
    /// # Examples
    /// ```
    /// # use eventbus::{ProjectionHandle, Version, prelude::*};
    /// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// # #[event(aggregate_type = "Account")]
    /// # struct Opened {}
    /// # #[derive(Debug, Default)]
    /// # struct Accounts { opened: u64 }
    /// # #[projection(name = "accounts")]
    /// # impl Accounts {
    /// #     fn opened(&mut self, _event: &Opened) { self.opened += 1; }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> eventbus::Result<()> {
    /// let accounts = ProjectionHandle::with_factory(Accounts::default);
    /// let event = RecordedEvent::from_event(&Opened {}, AggregateId::new(), Version::FIRST)?;
    /// accounts.handle(&event).await?;
    /// assert_eq!(accounts.read().await.opened, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn handle(&self, event: &RecordedEvent) -> Result<(), HandlerError> {
        let definition = P::definition();
        if !definition.events.matches(event.event_type()) {
            return Ok(());
        }
        self.handle_from_bus(&feed_delivery(&definition, event.clone(), &StateMap::new())).await
    }

    /// Handles an event from a bus: at least once, and in any order.
    pub(crate) async fn handle_from_bus(&self, delivery: &Delivery) -> Result<(), HandlerError> {
        let delivery = delivery.clone().with_state(self.app_state().await);
        self.handle_if(&delivery, |_| true).await?;
        if let Some(position) = delivery.record().position() {
            self.raise_position(position);
        }
        Ok(())
    }

    /// Raises the position to `position`, if it is lower.
    fn raise_position(&self, position: Position) {
        self.update(|progress| {
            progress.position = progress.position.max(position);
            true
        });
    }

    /// Handles an event from a feed, if it is the next one of `generation`. Returns `false` if the position was set
    /// back.
    pub(super) async fn handle_from_feed(&self, delivery: &Delivery, generation: u64) -> Result<bool, HandlerError> {
        let Some(position) = delivery.record().position() else {
            return Ok(true);
        };
        let is_next = |progress: &ProjectionProgress| progress.generation == generation && progress.position < position;
        if P::definition().events.matches(delivery.record().event_type()) {
            self.handle_if(delivery, is_next).await?;
        }
        Ok(self.advance(1, position, generation))
    }

    /// Runs the method for an event, if `accepts` still holds once the state is free.
    async fn handle_if(
        &self,
        delivery: &Delivery,
        accepts: impl Fn(&ProjectionProgress) -> bool,
    ) -> Result<(), HandlerError> {
        match self.state() {
            ProjectionState::Locked(lock) => {
                let mut state = lock.write().await;
                if !accepts(&self.progress().borrow()) {
                    return Ok(());
                }
                let handled = self.run_method(delivery, state.project_mut(delivery)).await;
                if let (Ok(()), Some(position)) = (&handled, delivery.record().position()) {
                    // under the lock, so that a replacement of the state knows which events it includes
                    self.raise_position(position);
                }
                handled
            }
            ProjectionState::Unlocked(state) if accepts(&self.progress().borrow()) => {
                self.run_method(delivery, state.project(delivery, None)).await
            }
            ProjectionState::Unlocked(_) => Ok(()),
        }
    }

    async fn run_method(
        &self,
        delivery: &Delivery,
        handled: impl Future<Output = Result<(), HandlerError>>,
    ) -> Result<(), HandlerError> {
        run_watched(&P::definition(), self.activity(), delivery, handled, &self.clock()).await
    }

    /// Replaces the state by `fresh`, which `catch_up` brings up to date while events wait; waits at most
    /// `guard_timeout` for guards to be dropped.
    pub(super) async fn replace_state<E: From<ProjectionError>>(
        &self,
        mut fresh: P,
        included: Position,
        guard_timeout: Option<Duration>,
        catch_up: impl AsyncFnOnce(&mut P, Position) -> Result<Position, E>,
    ) -> Result<Option<Position>, E> {
        let ProjectionState::Locked(lock) = self.state() else {
            return Ok(None);
        };
        let mut state = match guard_timeout {
            None => lock.write().await,
            Some(timeout) => self
                .clock()
                .timeout(timeout, lock.write())
                .await
                .map_err(|_| ProjectionError::Busy { name: P::definition().name, timeout })?,
        };
        // the lock keeps events out, so `target` covers every event that the old state has handled
        let target = self.position().max(included);
        let position = catch_up(&mut fresh, target).await?;
        *state = fresh;
        self.update(|progress| {
            progress.position = position;
            progress.generation += 1;
            progress.stopped = None;
            true
        });
        Ok(Some(position))
    }
}

/// Runs a projection's method under its time limit; a panic counts as an error of the event.
pub(super) async fn run_watched(
    definition: &ProjectionDefinition,
    activity: &Arc<Activity>,
    delivery: &Delivery,
    handled: impl Future<Output = Result<(), HandlerError>>,
    clock: &SharedClock,
) -> Result<(), HandlerError> {
    let name = Name::from_static(definition.name);
    let caught = std::panic::AssertUnwindSafe(handled).catch_unwind();
    match activity.watch(&name, delivery, definition.time_limit(), None, caught, clock).await {
        Ok(Ok(handled)) => handled,
        Ok(Err(panic)) => Err(HandlerError::from_panic(&*panic)),
        Err(TookTooLong(timeout)) => Err(HandlerError::timed_out(timeout)),
    }
}

/// Makes the delivery of a record from a feed.
pub(super) fn feed_delivery(definition: &ProjectionDefinition, record: RecordedEvent, state: &StateMap) -> Delivery {
    Delivery::new(record, Name::from_static(definition.name)).with_state(state.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        record::NewEvent,
        stream::{StreamId, Version},
    };

    #[derive(Default)]
    struct Seen(u64);

    #[eventbus::projection(name = "seen")]
    impl Seen {
        fn any(&mut self, _event: &RecordedEvent) {
            self.0 += 1;
        }
    }

    #[tokio::test]
    async fn a_new_state_catches_up_with_what_was_handled_while_it_was_made() {
        let seen = ProjectionHandle::with_factory(Seen::default);
        assert!(seen.advance(0, Position::new(5), 0));
        let caught_up = async |_: &mut Seen, target: Position| Ok::<_, HandlerError>(target);
        let replaced = seen.replace_state(Seen::default(), Position::new(2), None, caught_up);
        assert_eq!(replaced.await.unwrap(), Some(Position::new(5)));
        assert!(!seen.advance(0, Position::new(6), 0), "the feed is read anew");
    }

    #[tokio::test]
    async fn by_hand_only_what_is_asked_for_is_handled() {
        #[derive(Debug, serde::Serialize, serde::Deserialize, eventbus::DomainEvent)]
        #[event(aggregate_type = "Order")]
        struct Paid {}

        #[derive(Default)]
        struct Payments(u64);

        #[eventbus::projection(name = "payments")]
        impl Payments {
            fn paid(&mut self, _event: &Paid) {
                self.0 += 1;
            }
        }

        let payments = ProjectionHandle::with_factory(Payments::default);
        let paid = RecordedEvent::from_event(&Paid {}, "1".parse().unwrap(), Version::FIRST).unwrap();
        payments.handle(&paid).await.unwrap();
        payments.handle(&event(5)).await.unwrap();
        assert_eq!(payments.read().await.0, 1);
    }

    fn event(number: u64) -> RecordedEvent {
        let stream = StreamId::parse("Order", "1").unwrap();
        NewEvent::new(Name::from_static("Noted"), 1, "{}").recorded_as(
            stream,
            Version::new(number),
            Some(Position::new(number)),
        )
    }

    #[tokio::test]
    async fn what_a_bus_delivers_late_does_not_set_the_position_back() {
        let seen = ProjectionHandle::with_factory(Seen::default);
        for number in [1, 3, 2] {
            let delivery = Delivery::new(event(number), Name::from_static("default"));
            seen.handle_from_bus(&delivery).await.unwrap();
        }
        assert_eq!((seen.position(), seen.read().await.0), (Position::new(3), 3));
    }

    #[tokio::test]
    async fn a_new_state_does_not_get_again_what_it_includes() {
        let seen = ProjectionHandle::with_factory(Seen::default);
        let handle = async |generation| {
            let delivery = feed_delivery(&Seen::definition(), event(1), &StateMap::new());
            seen.handle_from_feed(&delivery, generation).await.unwrap()
        };
        let included = async |_: &mut Seen, _| Ok::<_, HandlerError>(Position::new(1));
        let replaced = seen.replace_state(Seen(1), Position::new(1), None, included);
        replaced.await.unwrap();
        assert!(!handle(0).await, "it was read before the state was replaced");
        assert!(handle(1).await);
        assert_eq!(seen.read().await.0, 1);
    }

    #[tokio::test]
    async fn what_was_read_before_a_restart_is_not_handled_after_it() {
        #[derive(Default)]
        struct Rows(std::sync::atomic::AtomicU64);

        #[eventbus::projection(name = "rows")]
        impl Rows {
            fn any(&self, _event: &RecordedEvent) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
        }

        let rows = ProjectionHandle::with_factory(Rows::default);
        rows.restart();
        let delivery = feed_delivery(&Rows::definition(), event(1), &StateMap::new());
        assert!(!rows.handle_from_feed(&delivery, 0).await.unwrap());
        assert_eq!(rows.read().await.0.load(std::sync::atomic::Ordering::SeqCst), 0);
    }
}
