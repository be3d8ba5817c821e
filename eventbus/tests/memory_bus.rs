//! What is the in-process bus's alone: checkpoints, back-pressure, letting go of old entries.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use eventbus::{
    EventFilter, HandlerError, InMemoryEventBus, Name, NewEvent, Position, RecordedEvent, StreamId, Version,
    port::{CheckpointError, Checkpoints, EventBus, PublishError, PublishRange, Subscriber, Subscription},
};
use tokio::{sync::Semaphore, task::JoinHandle};

#[derive(Debug, Default)]
struct Kept {
    positions: Mutex<HashMap<String, Position>>,
    broken: AtomicBool,
    refused: AtomicUsize,
}

#[async_trait]
impl Checkpoints for Kept {
    async fn load_checkpoint(&self, name: &Name) -> Result<Option<Position>, CheckpointError> {
        Ok(self.get(name))
    }

    async fn save_checkpoint(&self, name: &Name, p: Position) -> Result<(), CheckpointError> {
        if self.broken.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(CheckpointError::new(name, "broken"));
        }
        self.positions.lock().unwrap().insert(name.to_string(), p);
        Ok(())
    }
}

impl Kept {
    fn get(&self, name: &str) -> Option<Position> {
        self.positions.lock().unwrap().get(name).copied()
    }
}

/// A handler that notes the positions it gets, fails some, and works only as far as it is let.
#[derive(Debug, Clone)]
struct Worker {
    got: Arc<Mutex<Vec<u64>>>,
    failing: Arc<Mutex<HashSet<u64>>>,
    permits: Arc<Semaphore>,
}

impl Worker {
    fn new() -> Self {
        Self { got: Arc::default(), failing: Arc::default(), permits: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)) }
    }

    /// Works only when [`let_one`](Self::let_one) says so.
    fn held() -> Self {
        Self { permits: Arc::new(Semaphore::new(0)), ..Self::new() }
    }

    fn let_one(&self) {
        self.permits.add_permits(1);
    }

    fn failing(self, positions: &[u64]) -> Self {
        self.failing.lock().unwrap().extend(positions);
        self
    }

    fn got(&self) -> Vec<u64> {
        self.got.lock().unwrap().clone()
    }

    fn join(&self, bus: &InMemoryEventBus, group: &'static str) -> Subscription {
        let worker = self.clone();
        let subscriber = Subscriber::new(Name::from_static("worker"), EventFilter::All, move |delivery| {
            let worker = worker.clone();
            Box::pin(async move {
                let permit = worker.permits.acquire().await;
                permit.expect("never closed").forget();
                let at = delivery.metadata().position().map_or(0, Position::get);
                worker.got.lock().unwrap().push(at);
                if worker.failing.lock().unwrap().contains(&at) {
                    return Err(HandlerError::from("told to fail"));
                }
                Ok(())
            })
        });
        bus.subscribers().add(Name::from_static(group), subscriber)
    }
}

fn event(position: u64) -> RecordedEvent {
    let stream = StreamId::parse("Order", "1").unwrap();
    NewEvent::new(Name::from_static("OrderCreated"), 1, "{}").recorded_as(
        stream,
        Version::new(position),
        Some(Position::new(position)),
    )
}

fn events(positions: std::ops::RangeInclusive<u64>) -> Vec<RecordedEvent> {
    positions.map(event).collect()
}

/// Publishes as a relay does.
async fn feed(bus: &InMemoryEventBus, events: &[RecordedEvent]) {
    let range = PublishRange { after: Position::START, through: Position::START, events };
    bus.publish_range(range).await.unwrap();
}

async fn start(bus: &InMemoryEventBus) -> JoinHandle<()> {
    let consuming = bus.clone();
    let consumer = tokio::spawn(async move { consuming.start_consuming().await.unwrap() });
    until("the bus consumes", async || bus.is_consuming()).await;
    consumer
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), waiting).await;
    assert!(waited.is_ok(), "waited in vain until {what}");
}

/// Reads a number of events that the worker of a group has in hand or failed.
async fn pending(bus: &InMemoryEventBus, group: &'static str) -> u64 {
    let progress = bus.progress(&Name::from_static(group)).await;
    progress.unwrap().pending
}

#[tokio::test]
async fn a_restart_resumes_after_the_checkpoint() {
    let kept = Arc::new(Kept::default());
    let (bus, worker) = (InMemoryEventBus::new(), Worker::new());
    worker.join(&bus, "a");
    assert_eq!(bus.resume_from(kept.clone()).await.unwrap(), Some(Position::START));
    feed(&bus, &events(1..=100)).await;
    let consumer = start(&bus).await;
    until("all is handled", async || worker.got().len() == 100).await;
    bus.stop_consuming().await;
    consumer.await.unwrap();
    assert_eq!(kept.get("group:a"), Some(Position::new(100)));

    // a new process, and a feed that is published from a little too early on
    let (bus, worker) = (InMemoryEventBus::new(), Worker::new());
    worker.join(&bus, "a");
    assert_eq!(bus.resume_from(kept.clone()).await.unwrap(), Some(Position::new(100)));
    start(&bus).await;
    feed(&bus, &events(95..=102)).await;
    until("the rest is handled", async || worker.got().len() == 2).await;
    assert_eq!(worker.got(), [101, 102]);
    assert_eq!(bus.stats().events_consumed, 2, "skipped is not consumed");
}

#[tokio::test]
async fn the_lowest_checkpoint_decides_from_where_the_feed_is_published() {
    let kept = Arc::new(Kept::default());
    let bus = InMemoryEventBus::new();
    assert_eq!(bus.resume_from(kept.clone()).await.unwrap(), None, "no groups");
    let [a, b] = ["group:a", "group:b"].map(Name::from_static);
    kept.save_checkpoint(&a, Position::new(7)).await.unwrap();
    kept.save_checkpoint(&b, Position::new(4)).await.unwrap();
    let (of_a, of_b) = (Worker::new(), Worker::new());
    of_a.join(&bus, "a");
    of_b.join(&bus, "b");
    assert_eq!(bus.resume_from(kept.clone()).await.unwrap(), Some(Position::new(4)));
    start(&bus).await;
    feed(&bus, &events(5..=8)).await;
    until("both groups have got theirs", async || of_a.got() == [8] && of_b.got() == [5, 6, 7, 8]).await;
}

#[tokio::test]
async fn a_failed_event_holds_the_checkpoint_back() {
    let kept = Arc::new(Kept::default());
    let bus = InMemoryEventBus::new();
    let worker = Worker::new().failing(&[3]);
    worker.join(&bus, "a");
    bus.resume_from(kept.clone()).await.unwrap();
    feed(&bus, &events(1..=5)).await;
    let consumer = start(&bus).await;
    until("all was tried", async || worker.got().len() == 5).await;
    bus.stop_consuming().await;
    consumer.await.unwrap();
    assert_eq!(kept.get("group:a"), Some(Position::new(2)));

    // a new process gets the failed event again, and with it what came after
    let (bus, again) = (InMemoryEventBus::new(), Worker::new());
    again.join(&bus, "a");
    let from = bus.resume_from(kept.clone()).await.unwrap();
    assert_eq!(from, Some(Position::new(2)));
    feed(&bus, &events(3..=5)).await;
    start(&bus).await;
    until("the checkpoint has moved on", async || kept.get("group:a") == Some(Position::new(5))).await;
    assert_eq!(again.got(), [3, 4, 5]);
}

#[tokio::test]
async fn a_failed_event_that_succeeds_later_lets_the_checkpoint_go() {
    let kept = Arc::new(Kept::default());
    let bus = InMemoryEventBus::new();
    let worker = Worker::new().failing(&[2]);
    worker.join(&bus, "a");
    bus.resume_from(kept.clone()).await.unwrap();
    feed(&bus, &events(1..=3)).await;
    let consumer = start(&bus).await;
    until("all was tried", async || worker.got().len() == 3).await;
    bus.stop_consuming().await;
    consumer.await.unwrap();
    worker.failing.lock().unwrap().clear();
    start(&bus).await;
    until("the checkpoint has moved on", async || kept.get("group:a") == Some(Position::new(3))).await;
    assert_eq!(worker.got(), [1, 2, 3, 2]);
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_saved_is_saved_later() {
    let kept = Arc::new(Kept::default());
    kept.broken.store(true, Ordering::SeqCst);
    let (bus, worker) = (InMemoryEventBus::new(), Worker::new());
    worker.join(&bus, "a");
    bus.resume_from(kept.clone()).await.unwrap();
    let consumer = start(&bus).await;
    feed(&bus, &[event(1)]).await;
    until("the event is handled", async || worker.got() == [1]).await;
    until("saving was tried", async || kept.refused.load(Ordering::SeqCst) > 0).await;
    kept.broken.store(false, Ordering::SeqCst);
    bus.stop_consuming().await;
    consumer.await.unwrap();
    assert_eq!(kept.get("group:a"), Some(Position::new(1)));
}

#[tokio::test]
async fn a_group_that_came_too_late_for_some_events_saves_no_checkpoint() {
    let kept = Arc::new(Kept::default());
    let bus = InMemoryEventBus::with_capacity(2);
    let (early, late) = (Worker::new(), Worker::new());
    early.join(&bus, "early");
    bus.resume_from(kept.clone()).await.unwrap();
    let consumer = start(&bus).await;
    for position in 1..=5 {
        feed(&bus, &[event(position)]).await;
    }
    until("the early group is done", async || early.got().len() == 5).await;
    until("the first are gone", async || bus.stream_info().await.stream.length == 2).await;
    late.join(&bus, "late");
    until("the late group is done", async || late.got() == [4, 5]).await;
    bus.stop_consuming().await;
    consumer.await.unwrap();
    assert_eq!(kept.get("group:early"), Some(Position::new(5)));
    assert_eq!(kept.get("group:late"), None, "1 to 3 would be lost to it");
}

#[tokio::test]
async fn publishing_waits_for_a_group_that_lags_and_is_refused_when_nobody_consumes() {
    let bus = InMemoryEventBus::with_capacity(3);
    let worker = Worker::held();
    worker.join(&bus, "slow");
    bus.publish(&events(1..=3)).await.unwrap();
    let refused = bus.publish(&[event(4)]).await;
    assert!(matches!(refused, Err(PublishError::Full { .. })), "{refused:?}");

    start(&bus).await;
    until("one is in hand", async || pending(&bus, "slow").await == 1).await;
    bus.publish(&[event(4)]).await.unwrap(); // there is room for one more
    let publisher = bus.clone();
    let waiting = tokio::spawn(async move { publisher.publish(&[event(5)]).await });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!waiting.is_finished(), "published though the group lags by 3");
    worker.let_one();
    waiting.await.unwrap().unwrap();

    let publisher = bus.clone();
    let waiting = tokio::spawn(async move { publisher.publish(&[event(6)]).await });
    let bus_to_stop = bus.clone();
    let stopping = tokio::spawn(async move { bus_to_stop.stop_consuming().await });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    worker.let_one(); // the delivery in hand; the next one does not begin
    stopping.await.unwrap();
    let refused = waiting.await.unwrap();
    assert!(matches!(refused, Err(PublishError::Full { .. })), "{refused:?}");
}

#[tokio::test]
async fn old_entries_go_when_every_group_is_done_with_them() {
    let bus = InMemoryEventBus::with_capacity(4);
    let worker = Worker::new().failing(&[2]);
    worker.join(&bus, "a");
    start(&bus).await;
    for position in 1..=20 {
        bus.publish(&[event(position)]).await.unwrap();
    }
    until("all was tried", async || worker.got().len() == 20).await;
    until("only four are held", async || bus.stream_info().await.stream.length == 4).await;
    let progress = bus.progress(&Name::from_static("a")).await.unwrap();
    assert_eq!((progress.pending, progress.failed), (1, 1));
}

#[tokio::test]
async fn without_subscribers_the_newest_events_are_held_and_publishing_goes_on() {
    let bus = InMemoryEventBus::with_capacity(4);
    bus.publish(&events(1..=10)).await.unwrap();
    assert_eq!(bus.stream_info().await.stream.length, 4);
    let worker = Worker::new();
    worker.join(&bus, "late");
    start(&bus).await;
    until("what is held was delivered", async || worker.got() == [7, 8, 9, 10]).await;
}

#[tokio::test]
async fn an_event_in_hand_of_a_group_without_handlers_is_not_acknowledged() {
    use eventbus::port::{Delivery, Outcome, dispatch};
    let event = NewEvent::new(Name::from_static("Counted"), 1, "{}");
    let stream = StreamId::parse("Counter", "1").unwrap();
    let record = event.recorded_as(stream, Version::FIRST, Some(Position::new(1)));
    let delivery = Delivery::new(record, Name::from_static("default"));
    assert!(matches!(dispatch(&[], &delivery).await, Outcome::Unattended));
    let other = Subscriber::new(Name::from_static("other"), EventFilter::Only(&[]), |_| Box::pin(async { Ok(()) }));
    assert!(matches!(dispatch(&[other], &delivery).await, Outcome::Skipped));
}

#[tokio::test]
async fn an_event_that_nobody_attended_to_goes_to_whoever_subscribes_next() {
    let (bus, worker) = (InMemoryEventBus::new(), Worker::new());
    let subscription = worker.join(&bus, "a");
    start(&bus).await;
    bus.publish(&[event(1)]).await.unwrap();
    until("the first is handled", async || worker.got() == [1]).await;

    // this thread runs, in this order: the consumer, whoever subscribes next, whoever stops idle consumers
    bus.publish(&[event(2)]).await.unwrap();
    let (next, there) = (worker.clone(), bus.clone());
    let joining = tokio::spawn(async move { next.join(&there, "a") });
    subscription.cancel();
    joining.await.unwrap();
    until("the second is handled", async || worker.got() == [1, 2]).await;
}

#[tokio::test]
async fn a_group_that_comes_back_saves_no_checkpoint_past_what_it_missed() {
    let kept = Arc::new(Kept::default());
    let bus = InMemoryEventBus::with_capacity(2);
    let (gone, other) = (Worker::new(), Worker::new());
    let subscription = gone.join(&bus, "gone");
    other.join(&bus, "other");
    bus.resume_from(kept.clone()).await.unwrap();
    let consumer = start(&bus).await;
    feed(&bus, &[event(1)]).await;
    until("the first checkpoint is saved", async || kept.get("group:gone") == Some(Position::new(1))).await;
    subscription.cancel();
    for position in 2..=6 {
        feed(&bus, &[event(position)]).await;
    }
    until("only two are held", async || bus.stream_info().await.stream.length == 2).await;
    gone.join(&bus, "gone");
    until("it gets what is held", async || gone.got() == [1, 5, 6]).await;
    bus.stop_consuming().await;
    consumer.await.unwrap();
    assert_eq!(kept.get("group:other"), Some(Position::new(6)));
    let saved = kept.get("group:gone");
    assert_eq!(saved, Some(Position::new(1)), "2 to 4 would be lost to it");
}

#[tokio::test]
async fn a_bus_that_resumes_on_another_feed_forgets_the_former_one() {
    let (former, kept) = (Arc::new(Kept::default()), Arc::new(Kept::default()));
    let bus = InMemoryEventBus::with_capacity(4);
    let failing = Worker::new().failing(&[2]);
    let [late, back, again] = [Worker::new(), Worker::new(), Worker::new()];
    failing.join(&bus, "failing");
    let subscriptions = [back.join(&bus, "back"), again.join(&bus, "again")];
    bus.resume_from(former.clone()).await.unwrap();
    let consumer = start(&bus).await;
    for position in 1..=8 {
        feed(&bus, &[event(position)]).await;
        until("it was tried", async || {
            [&failing, &back, &again].map(|worker| worker.got().len() as u64) == [position; 3]
        })
        .await;
    }
    late.join(&bus, "late"); // some are gone already: without checkpoint
    until("the late group got what is held", async || late.got().last() == Some(&8)).await;
    bus.stop_consuming().await;
    consumer.await.unwrap();
    feed(&bus, &[event(9)]).await;
    for subscription in subscriptions {
        subscription.cancel();
    }

    // the same numbers now are places in another feed, of which all but one have handled the first event
    for group in ["group:failing", "group:late", "group:again"].map(Name::from_static) {
        kept.save_checkpoint(&group, Position::new(1)).await.unwrap();
    }
    bus.resume_from(kept.clone()).await.unwrap();
    failing.failing.lock().unwrap().clear();
    let workers = [&failing, &back, &late, &again];
    for worker in workers {
        worker.got.lock().unwrap().clear();
    }
    start(&bus).await;
    let settled = async |group: &'static str| {
        let progress = bus.progress(&Name::from_static(group)).await.unwrap();
        progress.unread == 0 && progress.pending == 0
    };
    until("the rest of the former feed is handled", async || settled("failing").await && settled("late").await).await;
    back.join(&bus, "back");
    again.join(&bus, "again");
    for position in 2..=4 {
        feed(&bus, &[event(position)]).await;
    }
    for worker in workers {
        until("the other feed is handled", async || worker.got().ends_with(&[2, 3, 4])).await;
    }
    assert_eq!(failing.got(), [2, 9, 2, 3, 4], "nothing pending is lost");
    for group in ["group:failing", "group:late", "group:again"] {
        until(group, async || kept.get(group) == Some(Position::new(4))).await;
    }
    assert_eq!(kept.get("group:back"), None, "1 would be lost to it");
}
