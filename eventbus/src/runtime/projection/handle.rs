//! Handles of projections, as callers read, feed and rebuild them.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    ProjectionError, ProjectionGuard, event_handling::feed_delivery, fed_projection::FedProjection,
    inner::ProjectionInner, memory_rebuild::replay_in_memory, rebuild::Rebuild, rebuild_progress::Rebuilt,
};
use crate::{
    domain::{record::RecordedEvent, stream::Position},
    port::{EventStore, delivery::HandlerError, state::StateMap},
    runtime::definition::Projection,
};

/// A projection with its position. Clones share both.
///
/// An app makes and feeds its own ([`App::projection`](crate::App::projection)); without an app, feed it from a bus
/// ([`EventBusExt::subscribe_all`](crate::EventBusExt::subscribe_all)) or from a store
/// ([`ProjectionHandle::rebuild`]).
///
/// # Examples
/// ```
/// # use eventbus::{InMemoryEventStore, ProjectionHandle, prelude::*};
/// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// # #[event(aggregate_type = "Account")]
/// # struct Opened {}
/// #[derive(Debug, Default)]
/// struct Accounts { opened: u64 }
///
/// #[projection(name = "accounts")]
/// impl Accounts {
///     fn opened(&mut self, _event: &Opened) { self.opened += 1; }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> eventbus::Result<()> {
/// # let store = InMemoryEventStore::new();
/// let accounts = ProjectionHandle::with_factory(Accounts::default);
/// accounts.rebuild(&store).await?;
/// assert_eq!(accounts.read().await.opened, 0);
/// # Ok(())
/// # }
/// ```
pub struct ProjectionHandle<P>(Arc<ProjectionInner<P>>);

impl<P: Projection> ProjectionHandle<P> {
    /// Creates a handle of this instance, which cannot be rebuilt; [`with_factory`](Self::with_factory) creates one
    /// that can.
    #[must_use]
    pub fn new(projection: P) -> Self {
        Self(Arc::new(ProjectionInner::new(projection, None)))
    }

    /// Creates a handle of an instance that `factory` makes; each rebuild calls `factory` again.
    #[must_use]
    pub fn with_factory(factory: impl Fn() -> P + Send + Sync + 'static) -> Self {
        Self(Arc::new(ProjectionInner::new(factory(), Some(Box::new(factory)))))
    }

    /// Handles one event, for example to replay the history of a stream to a new projection. Skips events of types that
    /// the projection does not handle. An event that is passed twice counts twice.
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
        self.0.handle_from_bus(&feed_delivery(&definition, event.clone(), &StateMap::new())).await
    }

    /// Reads the state as it is now; waits while an event is being handled.
    ///
    /// A task that holds a guard and requests a second one may wait for ever: an event that arrives in between waits
    /// for the first guard, and the second guard waits for that event.
    pub async fn read(&self) -> ProjectionGuard<'_, P> {
        self.0.read().await
    }

    /// Returns the position up to which all events are included; if a bus feeds the projection, the highest position of
    /// the handled events.
    #[must_use]
    pub fn position(&self) -> Position {
        self.0.progress().position()
    }

    /// Waits until every event up to `position` is included, then reads the state.
    ///
    /// # Errors
    /// [`ProjectionError::Stopped`] if an event could not be handled; [`ProjectionError::ShutDown`] if no app feeds it
    /// any more; after `timeout` [`ProjectionError::TimedOut`], or [`ProjectionError::Busy`] while its state is in use.
    pub async fn read_at(
        &self,
        position: Position,
        timeout: Duration,
    ) -> Result<ProjectionGuard<'_, P>, ProjectionError> {
        self.read_when_included(Some(position), timeout).await
    }

    /// Waits until every event up to `position` is included, then reads the state. Without a position, state in memory is
    /// read once it includes the events that were stored when its app started.
    pub(crate) async fn read_when_included(
        &self,
        position: Option<Position>,
        timeout: Duration,
    ) -> Result<ProjectionGuard<'_, P>, ProjectionError> {
        let clock = self.0.progress().clock();
        let began = clock.instant();
        self.fed().wait_for_position(position, timeout).await?;
        clock
            .timeout(timeout.saturating_sub(clock.elapsed(began)), self.0.read())
            .await
            .map_err(|_| ProjectionError::Busy { name: P::definition().name, timeout })
    }

    /// Folds the whole store into a new instance, then replaces the state by it; until then readers see the old state.
    ///
    /// Events that an app feeds meanwhile are neither missing nor counted twice. Events of the store that a bus
    /// delivers afterwards are counted again.
    ///
    /// # Errors
    /// [`RebuildError`](crate::projection::RebuildError); the former state stays.
    pub fn rebuild<'a>(&'a self, store: &'a dyn EventStore) -> Rebuild<'a, Rebuilt> {
        Rebuild::new(move |report| Box::pin(replay_in_memory(&self.0, store, report, None)))
    }

    /// Returns the projection, if this is its only handle.
    #[cfg(feature = "testkit")]
    pub(crate) fn into_projection(self) -> Option<P> {
        Arc::into_inner(self.0).map(ProjectionInner::into_projection)
    }

    pub(crate) const fn inner(&self) -> &Arc<ProjectionInner<P>> {
        &self.0
    }

    pub(crate) fn fed(&self) -> &dyn FedProjection {
        &*self.0
    }
}

impl<P> Clone for ProjectionHandle<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P> fmt::Debug for ProjectionHandle<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{
            name::Name,
            record::NewEvent,
            stream::{StreamId, Version},
        },
        memory::InMemoryEventStore,
        port::delivery::Delivery,
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
        assert!(seen.0.progress().advance(0, Position::new(5), 0));
        let caught_up = async |_: &mut Seen, target: Position| Ok::<_, HandlerError>(target);
        let replaced = seen.0.replace_state(Seen::default(), Position::new(2), None, caught_up);
        assert_eq!(replaced.await.unwrap(), Position::new(5));
        assert!(!seen.0.progress().advance(0, Position::new(6), 0), "the feed is read anew");
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
            seen.0.handle_from_bus(&delivery).await.unwrap();
        }
        assert_eq!((seen.position(), seen.read().await.0), (Position::new(3), 3));
    }

    #[tokio::test]
    async fn a_new_state_does_not_get_again_what_it_includes() {
        let seen = ProjectionHandle::with_factory(Seen::default);
        let handle = async |generation| {
            let delivery = feed_delivery(&Seen::definition(), event(1), &StateMap::new());
            seen.0.handle_from_feed(&delivery, generation).await.unwrap()
        };
        let included = async |_: &mut Seen, _| Ok::<_, HandlerError>(Position::new(1));
        let replaced = seen.0.replace_state(Seen(1), Position::new(1), None, included);
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
        rows.0.progress().restart();
        let delivery = feed_delivery(&Rows::definition(), event(1), &StateMap::new());
        assert!(!rows.0.handle_from_feed(&delivery, 0).await.unwrap());
        assert_eq!(rows.read().await.0.load(std::sync::atomic::Ordering::SeqCst), 0);
    }

    #[test]
    fn a_position_never_goes_back() {
        let seen = ProjectionHandle::with_factory(Seen::default);
        for position in [5, 3] {
            assert!(seen.0.progress().advance(0, Position::new(position), 0));
            assert_eq!(seen.position(), 5);
        }
    }

    #[tokio::test]
    async fn a_stop_from_before_a_rebuild_is_void() {
        let seen = ProjectionHandle::with_factory(Seen::default);
        let stream = StreamId::parse("Order", "1").unwrap();
        let event = NewEvent::new(Name::from_static("Noted"), 1, "{}");
        let record = event.recorded_as(stream, Version::FIRST, Some(Position::new(1)));
        let generation = seen.0.progress().borrow().generation;
        seen.rebuild(&InMemoryEventStore::new()).await.unwrap();
        seen.0.progress().stop_at(&record, &"late".into(), generation);
        assert!(seen.0.progress().borrow().stopped.is_none());
        let generation = seen.0.progress().borrow().generation;
        seen.0.progress().stop_at(&record, &"now".into(), generation);
        assert!(seen.0.progress().borrow().stopped.is_some());
    }
}
