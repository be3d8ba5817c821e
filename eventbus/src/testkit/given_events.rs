//! Tests of projections and handlers: given events, then the state of a projection of them, or the effects of a
//! handler.
//!
//! Invariant: a projection runs as an app's [`ProjectionHandle`] runs it, a handler as every bus dispatches to it.

use std::{panic::Location, sync::Arc};

use futures_util::TryStreamExt as _;

use super::{
    handler_run::HandlerRun,
    new_events::{IntoNewEvents, NewEvents},
};
use crate::{
    delivery::{ActiveSubscriber, Limits, Outcome, dispatch, handler_span},
    domain::{clock::SharedClock, name::Name, record::RecordedEvent, stream::Position},
    memory::InMemoryEventStore,
    port::{ReadFeed as _, attempts::DeliveryAttempts, delivery::Delivery, state::StateMap},
    runtime::{
        definition::{Handler, Projection, ProjectionKind},
        handler_context::HandlerContext,
        projection::ProjectionHandle,
        subscription::checked_subscriber,
    },
};

/// Begins the test of a projection or a handler: the aggregate with this id has these events.
///
/// The events are one event, or a tuple, array or `Vec` of them; each belongs to an aggregate of the type that its
/// `#[event(..)]` names.
///
/// # Examples
/// ```
/// use eventbus::{prelude::*, testkit::given_events};
/// # use std::sync::{Arc, Mutex};
/// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// # #[event(aggregate_type = "Order")]
/// # struct OrderCreated { customer: String }
/// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// # #[event(aggregate_type = "Order")]
/// # struct ParcelShipped {}
/// # #[derive(Debug, Clone, Default)]
/// # struct Mailer(Arc<Mutex<Vec<String>>>);
/// # impl Mailer { fn sent(&self) -> Vec<String> { self.0.lock().unwrap().clone() } }
/// # #[derive(Debug, Default)]
/// # struct OrderStatistics { orders: u64, parcels: u64 }
/// # #[projection(name = "order-statistics")]
/// # impl OrderStatistics {
/// #     fn created(&mut self, _event: &OrderCreated) { self.orders += 1; }
/// #     fn shipped(&mut self, _event: &ParcelShipped) { self.parcels += 1; }
/// # }
/// #[handler]
/// async fn send_receipt(event: &OrderCreated, State(mailer): State<Mailer>) {
///     mailer.0.lock().unwrap().push(format!("to {}", event.customer));
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let statistics = given_events("o-1", (OrderCreated { customer: "ada".into() }, ParcelShipped {}))
///     .and("o-2", OrderCreated { customer: "bob".into() })
///     .project(OrderStatistics::default())
///     .await;
/// assert_eq!((statistics.orders, statistics.parcels), (2, 1));
///
/// let mailer = Mailer::default();
/// given_events("o-1", OrderCreated { customer: "ada".into() })
///     .state(mailer.clone())
///     .handle::<send_receipt>()
///     .await
///     .then_ok();
/// assert_eq!(mailer.sent(), ["to ada"]);
/// # }
/// ```
///
/// # Panics
/// If the id is no valid [`AggregateId`](crate::AggregateId), or an event cannot be saved.
#[track_caller]
pub fn given_events(id: impl AsRef<str>, events: impl IntoNewEvents) -> GivenEvents {
    GivenEvents { events: NewEvents::new(id.as_ref(), events), state: StateMap::new() }
}

/// Events of one or more aggregates, see [`given_events`].
#[derive(Debug, Clone)]
#[must_use = "events alone test nothing: `project` or `handle` them"]
pub struct GivenEvents {
    events: NewEvents,
    state: StateMap,
}

impl GivenEvents {
    /// Adds events of another aggregate.
    ///
    /// # Panics
    /// If the id is no valid [`AggregateId`](crate::AggregateId), or an event cannot be saved.
    #[track_caller]
    pub fn and(mut self, id: impl AsRef<str>, events: impl IntoNewEvents) -> Self {
        self.events.extend(NewEvents::new(id.as_ref(), events));
        self
    }

    /// Shares a value with the handler or projection, as [`AppBuilder::state`](crate::app::AppBuilder::state) does.
    pub fn state<T: Clone + Send + Sync + 'static>(self, value: T) -> Self {
        Self { state: self.state.with(value), ..self }
    }

    /// Feeds the events to a projection, and returns it.
    ///
    /// # Panics
    /// If a method of the projection fails. Also if the projection writes rows in a transaction of a store: start a
    /// [`TestApp`](super::TestApp) on that store.
    #[track_caller]
    pub fn project<P: Projection>(self, projection: P) -> impl Future<Output = P> {
        let caller = Location::caller();
        async move {
            let definition = P::definition();
            let name = definition.name;
            assert!(
                definition.kind != ProjectionKind::Transactional,
                "{caller}: `{name}` writes rows in a transaction of a store: start a `TestApp` on that store"
            );
            let handle = ProjectionHandle::new(projection);
            handle.inner().set_app_state(self.state).await;
            let store = InMemoryEventStore::new();
            for event in append(self.events, &store, caller).await {
                if let Err(error) = handle.handle(&event).await {
                    panic!("{caller}: `{name}` failed at {}: {error}", describe(&event));
                }
            }
            match handle.into_projection() {
                Some(projection) => projection,
                None => unreachable!("no other handle of this projection was made"),
            }
        }
    }

    /// Delivers to a handler, in order, the given events of the types that it takes, until it fails. The handler's
    /// repositories find all given events from the first delivery on.
    ///
    /// # Panics
    /// If the handler takes no given event, or needs a state that the test does not give, or the connection of a store.
    #[track_caller]
    pub fn handle<H: Handler>(self) -> impl Future<Output = HandlerRun> {
        let caller = Location::caller();
        async move {
            let (definition, store) = (H::definition(), InMemoryEventStore::new());
            let group = definition.group.map_or(Name::from_static("default"), Name::from_static);
            let context = HandlerContext::from((&self.state, &store));
            let subscriber = match checked_subscriber(definition, &context) {
                Ok(subscriber) => Arc::new(ActiveSubscriber::new(group.clone(), subscriber)),
                Err(error) => panic!("{caller}: {error}"),
            };
            let given = append(self.events, &store, caller).await;
            let end = given.last().and_then(RecordedEvent::position).unwrap_or(Position::START);
            let mut wanted = given.into_iter().filter(|event| definition.events.matches(event.event_type())).peekable();
            assert!(
                wanted.peek().is_some(),
                "{caller}: `{}` takes none of the given events, it takes: {}",
                definition.name,
                definition.events.event_types().join(", ")
            );
            let mut failure = None;
            for event in wanted {
                let delivery = Delivery::new(event.clone(), group.clone());
                let (attempts, clock) = (DeliveryAttempts::default(), SharedClock::SYSTEM);
                let subscribers = [Arc::clone(&subscriber)];
                let outcome =
                    dispatch(&subscribers, &delivery, &attempts, &Limits::default(), &clock, &handler_span).await;
                if let Outcome::Failed { failures, .. } = outcome {
                    failure = failures.into_iter().next().map(|failure| (describe(&event), failure.error));
                    break;
                }
            }
            match store.read_all(end).try_collect().await {
                Ok(saved) => HandlerRun::new(definition.name, failure, saved),
                Err(error) => panic!("{caller}: {error}"),
            }
        }
    }
}

async fn append(events: NewEvents, store: &InMemoryEventStore, caller: &Location<'_>) -> Vec<RecordedEvent> {
    match events.append_to(store, &SharedClock::SYSTEM).await {
        Ok(recorded) => recorded,
        Err(error) => panic!("{caller}: the given events cannot be stored: {error}"),
    }
}

fn describe(event: &RecordedEvent) -> String {
    format!("{} of {}", event.event_type(), event.metadata().stream())
}
