//! Saving when the store or the bus does not answer.

use std::{collections::VecDeque, time::Duration};

use eventbus::{
    EventContext, ExpectedVersion, InMemoryEventBus, InMemoryEventStore, Name, NewEvent, SaveError, StreamId, Version,
    port::{AppendError, AppendEvents, Checkpoints, EventBus, PublishError},
    prelude::*,
    repository::Publication,
    testkit::{Fault, FaultyBus, FaultyStore, ManualClock, delegate},
};
use parking_lot::Mutex;

use crate::{
    gated::GatedStore,
    orders::{Order, created},
};

fn orders() -> AggregateRepository<Order> {
    AggregateRepository::new(InMemoryEventStore::new())
}

async fn saved_order(orders: &AggregateRepository<Order>) -> AggregateRoot<Order> {
    let mut order = orders.create_new(AggregateId::new());
    order.record(created("ada", 10.0));
    orders.save(&mut order).await.unwrap();
    order
}

#[tokio::test]
async fn an_unknown_outcome_is_resolved_by_the_same_event_ids() {
    let store = FaultyStore::new(InMemoryEventStore::new());
    let orders = AggregateRepository::<Order>::new(store.clone());
    store.appends.fail_next(Fault::LostReply, 2);
    let order = saved_order(&orders).await;
    assert_eq!(orders.load(order.id()).await.unwrap().version(), Version::FIRST);
    assert_eq!(store.appends.remaining(), 0);
}

#[tokio::test]
async fn saving_again_after_an_outcome_that_stayed_unknown_stores_once() {
    let store = FaultyStore::new(InMemoryEventStore::new());
    let orders = AggregateRepository::<Order>::new(store.clone());
    store.appends.fail_next(Fault::LostReply, 4);
    let mut order = orders.create_new(AggregateId::new());
    order.record(created("ada", 1.0));
    let error = orders.save(&mut order).await.unwrap_err();
    assert_eq!(error.to_string(), "append outcome unknown");
    let saved = orders.save(&mut order).await.unwrap();
    assert_eq!((saved.version, saved.position.map(|p| p.get())), (Version::FIRST, Some(1)));
    assert!(order.pending().is_empty());
}

#[tokio::test]
async fn an_unknown_outcome_stays_unknown_until_the_store_answers() {
    let store = FaultyStore::new(InMemoryEventStore::new());
    let orders = AggregateRepository::<Order>::new(store.clone());
    store.appends.fail_next(Fault::LostReply, 1);
    store.appends.fail_next(Fault::Unavailable, 1);
    let order = saved_order(&orders).await;
    assert_eq!(order.version(), Version::FIRST, "asked until it answered");

    store.appends.fail_next(Fault::LostReply, 1);
    store.appends.fail_next(Fault::Unavailable, 3);
    let mut order = orders.create_new(AggregateId::new());
    order.record(created("ada", 1.0));
    let error = orders.save(&mut order).await.unwrap_err();
    assert_eq!(error.to_string(), "append outcome unknown", "it is stored: `unavailable` would say that nothing is");
    assert_eq!(store.appends.remaining(), 0);
    assert!(orders.exists(order.id()).await.unwrap());
}

#[tokio::test]
async fn an_unavailable_store_fails_the_save_and_keeps_what_is_pending() {
    let store = FaultyStore::new(InMemoryEventStore::new());
    let orders = AggregateRepository::<Order>::new(store.clone());
    store.appends.fail_next(Fault::Unavailable, 1);
    let mut order = orders.create_new(AggregateId::new());
    order.record(created("ada", 1.0));
    let error = orders.save(&mut order).await.unwrap_err();
    assert_eq!(error.to_string(), "event store unavailable");
    assert_eq!(order.pending().len(), 1);
    orders.save(&mut order).await.unwrap();
}

#[tokio::test]
async fn a_clone_is_the_same_decision_and_is_stored_once() {
    let orders = orders();
    let mut order = orders.create_new(AggregateId::new());
    order.record((created("ada", 1.0), created("bob", 1.0)));
    let mut clone = order.clone();
    let first = orders.save(&mut order).await.unwrap();
    let second = orders.save(&mut clone).await.unwrap();
    assert_eq!((second.version, second.events), (first.version, first.events));
}

/// A store whose appends end as the test says.
struct Scripted {
    store: InMemoryEventStore,
    /// The errors of the next appends, which store nothing.
    errors: Mutex<VecDeque<AppendError>>,
}

delegate!(Scripted, self => self.store; ReadStream, ReadFeed, Checkpoints, Leases, EventStore);

#[async_trait::async_trait]
impl AppendEvents for Scripted {
    async fn append(
        &self,
        stream: &StreamId,
        expected: ExpectedVersion,
        events: Vec<NewEvent>,
    ) -> Result<Vec<RecordedEvent>, AppendError> {
        let error = self.errors.lock().pop_front();
        match error {
            Some(error) => Err(error),
            None => self.store.append(stream, expected, events).await,
        }
    }
}

/// The first attempt may be stored, or may be stored later: only a conflict is a result that this does not change.
#[tokio::test]
async fn an_unknown_outcome_stays_unknown_if_the_repeat_is_refused_or_a_value_is_taken() {
    let stream = Order::stream(&AggregateId::new());
    let refused = AppendError::Refused { stream: stream.clone(), source: "it is read-only".into() };
    let taken = AppendError::Taken { stream: stream.clone(), name: Name::from_static("email") };
    let conflict = AppendError::Conflict { stream, expected: ExpectedVersion::NoStream, actual: Version::FIRST };
    for (error, is_unknown) in [(refused, true), (taken, true), (conflict, false)] {
        let text = error.to_string();
        let errors = [AppendError::OutcomeUnknown("the connection broke".into()), error];
        let store = Scripted { store: InMemoryEventStore::new(), errors: Mutex::new(errors.into()) };
        let orders = AggregateRepository::<Order>::new(store);
        let mut order = orders.create_new(AggregateId::new());
        order.record(created("ada", 1.0));
        let error = orders.save(&mut order).await.unwrap_err();
        let SaveError::Append(error) = error else { panic!("{error:?}") };
        match error {
            AppendError::OutcomeUnknown(source) => assert_eq!((is_unknown, source.to_string()), (true, text)),
            other => assert_eq!((is_unknown, other.to_string()), (false, text)),
        }
    }
}

#[tokio::test]
async fn publishes_plainly_after_each_save() {
    let bus = InMemoryEventBus::new();
    let orders = orders().publish_to(bus.clone()).with_context(EventContext::default());
    let mut order = orders.create_new(AggregateId::new());
    order.record(created("ada", 1.0));
    let saved = orders.save(&mut order).await.unwrap();
    let Publication::Published(ids) = saved.publication else { panic!("not published: {:?}", saved.publication) };
    let info = bus.stream_info().await;
    assert_eq!((info.stream.length, info.stream.last_entry_id.as_deref()), (1, Some(ids[0].as_str())));
}

#[tokio::test]
async fn a_failed_publish_is_reported_and_fails_no_save() {
    let bus = FaultyBus::new(InMemoryEventBus::new());
    let orders = orders().publish_to(bus.clone());
    bus.publishes.fail_next(Fault::Unavailable, 1);
    let order = {
        let mut order = orders.create_new(AggregateId::new());
        order.record(created("ada", 1.0));
        let saved = orders.save(&mut order).await.unwrap();
        assert!(matches!(saved.publication, Publication::Failed(_)), "{:?}", saved.publication);
        order
    };
    assert_eq!(orders.version(order.id()).await.unwrap(), Version::FIRST);
}

#[tokio::test]
async fn publishing_by_hand_is_refused_where_a_relay_publishes() {
    let (store, bus) = (InMemoryEventStore::new(), InMemoryEventBus::new());
    let relay = Name::prefixed("relay:", bus.destination());
    store.save_checkpoint(&relay, eventbus::Position::START).await.unwrap();
    let orders = AggregateRepository::<Order>::new(store).publish_to(bus.clone());
    let mut order = orders.create_new(AggregateId::new());
    order.record(created("ada", 1.0));
    let saved = orders.save(&mut order).await.unwrap();
    let Publication::Failed(error) = saved.publication else { panic!("published") };
    assert!(error.to_string().starts_with("a relay publishes this store to `memory`"), "{error}");
    assert_eq!(bus.stream_info().await.stream.length, 0);
}

#[tokio::test]
async fn publishing_by_hand_is_refused_within_a_second_of_the_start_of_a_relay() {
    let (store, bus, clock) = (InMemoryEventStore::new(), InMemoryEventBus::new(), ManualClock::default());
    let orders = AggregateRepository::<Order>::new(store.clone()).publish_to(bus.clone()).with_clock(clock.clone());
    let publication = async || {
        let mut order = orders.create_new(AggregateId::new());
        order.record(created("ada", 1.0));
        orders.clone().save(&mut order).await.unwrap().publication
    };
    assert!(matches!(publication().await, Publication::Published(_)));
    let relay = Name::prefixed("relay:", bus.destination());
    store.save_checkpoint(&relay, eventbus::Position::START).await.unwrap();
    clock.advance(Duration::from_millis(999));
    assert!(matches!(publication().await, Publication::Published(_)), "it does not ask the store at each save");
    clock.advance(Duration::from_millis(1));
    for _ in 0..2 {
        let refused = publication().await;
        assert!(matches!(refused, Publication::Failed(PublishError::OwnedByRelay { .. })), "{refused:?}");
    }
    assert_eq!(bus.stream_info().await.stream.length, 2);
}

#[tokio::test]
async fn publishing_by_hand_is_refused_while_nobody_can_tell_whether_a_relay_publishes() {
    let (store, bus) = (GatedStore::open(), InMemoryEventBus::new());
    let orders = AggregateRepository::<Order>::new(store.clone()).publish_to(bus.clone());
    store.is_damaged.store(true, std::sync::atomic::Ordering::SeqCst);
    let mut order = orders.create_new(AggregateId::new());
    order.record(created("ada", 1.0));
    let saved = orders.save(&mut order).await.unwrap();
    assert!(matches!(saved.publication, Publication::Failed(error) if error.is_retryable()));
    assert_eq!(bus.stream_info().await.stream.length, 0);
}
