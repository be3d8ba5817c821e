//! Releases of a group one after the other, of which one handles types or versions that the other does not.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::common::{another, config, folder, fresh, until};
use eventbus::{
    HandlerError, Name, NewEvent, RecordedEvent, StreamId, Version,
    event::{EventDescriptor, EventFilter, Source},
    handler::{HandlerOptions, HandlerStart},
    port::{Announced, DeadLetterFilter, DeadLetters as _, EventBus, Subscriber},
};
use eventbus_file::{FileQueue, FileQueueConfig, FileQueueError, RemovalCondition};
use tokio::{sync::Semaphore, task::JoinHandle};

const fn only(event_type: &'static str, schema_version: u32) -> EventDescriptor {
    EventDescriptor::new(event_type, "Order", schema_version, event_type, Source::new(file!(), line!(), module_path!()))
}

const CREATED: EventFilter = EventFilter::Only(&[only("OrderCreated", 1)]);
const SHIPPED: EventFilter = EventFilter::Only(&[only("OrderShipped", 1)]);
const SHIPPED_2: EventFilter = EventFilter::Only(&[only("OrderShipped", 2)]);
const BOTH: EventFilter = EventFilter::Only(&[only("OrderCreated", 1), only("OrderShipped", 1)]);

fn event(event_type: &'static str, schema_version: u32, aggregate: u64) -> RecordedEvent {
    let stream = StreamId::parse("Order", &aggregate.to_string()).unwrap();
    NewEvent::new(Name::from_static(event_type), schema_version, "{}").recorded_as(stream, Version::FIRST, None)
}

async fn publish(queue: &FileQueue, event_type: &'static str, schema_version: u32, count: u64) {
    let events: Vec<_> = (0..count).map(|aggregate| event(event_type, schema_version, aggregate)).collect();
    EventBus::publish(queue, &events).await.unwrap();
}

/// A worker of one release on the shared folder.
struct Release {
    queue: FileQueue,
    consumer: JoinHandle<()>,
    /// The ids delivered to it.
    seen: Arc<Mutex<Vec<u64>>>,
}

impl Release {
    async fn start(former: &FileQueue, events: EventFilter, start: Option<HandlerStart>, can_decode: bool) -> Self {
        let (queue, seen) = (another(former).await, Arc::<Mutex<Vec<u64>>>::default());
        let sees = Arc::clone(&seen);
        let subscriber = Subscriber::new(Name::from_static("watch"), events, move |delivery| {
            let id = delivery.message_id().unwrap().as_str().parse().unwrap();
            sees.lock().unwrap().push(id);
            Box::pin(async move {
                match can_decode {
                    true => Ok(()),
                    false => Err(HandlerError::permanent("unknown field")),
                }
            })
        });
        let mut options = HandlerOptions::default();
        options.start = start;
        queue.add_subscriber(queue.default_group().clone(), subscriber.with_options(options));
        let consuming = queue.clone();
        let consumer = tokio::spawn(async move { consuming.start_consuming().await.unwrap() });
        until("it consumes for the group", async || queue.stream_info().await.active_consumers == 1).await;
        Self { queue, consumer, seen }
    }

    /// Waits until `handled` events are handled, none is unread and `pending` are pending, and ends.
    async fn end_after(self, handled: usize, pending: u64) -> Vec<u64> {
        until("they are handled", async || self.seen.lock().unwrap().len() >= handled).await;
        self.end(pending).await
    }

    /// Waits until no event is unread and `pending` are pending, and ends.
    async fn end(self, pending: u64) -> Vec<u64> {
        let group = self.queue.default_group().clone();
        until("the rest is handled", async || {
            let progress = self.queue.progress(&group).await.unwrap();
            (progress.unread, progress.pending) == (0, pending)
        })
        .await;
        self.queue.stop_consuming().await;
        self.consumer.await.unwrap();
        self.seen.lock().unwrap().clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_skipped_is_delivered_when_its_type_is_first_announced() {
    let queue = fresh().await;
    publish(&queue, "OrderShipped", 1, 150).await;
    publish(&queue, "OrderCreated", 1, 1).await;
    assert_eq!(Release::start(&queue, CREATED, None, true).await.end(0).await, [151]);
    publish(&queue, "OrderShipped", 1, 1).await;
    let expected: Vec<u64> = (1..=150).chain([152]).collect();
    let new = Release::start(&queue, BOTH, None, true).await;
    assert_eq!(new.end_after(expected.len(), 0).await, expected, "in order, and nothing again");
    publish(&queue, "OrderCreated", 1, 1).await;
    assert_eq!(Release::start(&queue, BOTH, None, true).await.end(0).await, [153]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_announced_before_waits_for_a_worker_that_handles_it_and_is_not_removed() {
    let queue = fresh().await;
    publish(&queue, "OrderShipped", 1, 1).await;
    assert_eq!(Release::start(&queue, BOTH, None, true).await.end(0).await, [1]);
    publish(&queue, "OrderShipped", 1, 3).await;
    publish(&queue, "OrderCreated", 1, 1).await;
    assert_eq!(Release::start(&queue, CREATED, None, true).await.end(3).await, [5]);
    assert_eq!(queue.remove_through(5, RemovalCondition::Groups).await.unwrap().through, 1);
    assert_eq!(Release::start(&queue, BOTH, None, true).await.end_after(3, 0).await, [2, 3, 4]);
    assert_eq!(queue.remove_through(5, RemovalCondition::Groups).await.unwrap().through, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_skipped_long_ago_is_to_be_decided_once() {
    for (choice, delivered) in [(HandlerStart::Oldest, vec![1, 2]), (HandlerStart::Now, vec![])] {
        let config = FileQueueConfig { deliver_skipped_within: Duration::ZERO, ..config(folder()) };
        let queue = FileQueue::open(config).await.unwrap();
        publish(&queue, "OrderShipped", 1, 2).await;
        publish(&queue, "OrderCreated", 1, 1).await;
        assert_eq!(Release::start(&queue, CREATED, None, true).await.end(0).await, [3]);
        publish(&queue, "OrderShipped", 1, 1).await;
        let undecided = Release::start(&queue, BOTH, None, true).await;
        let announced = Announced::by_subscribers(queue.default_group(), &undecided.queue.subscribers());
        let older = queue.announce(&announced, None).await.unwrap();
        let older: Vec<_> = older.iter().map(|older| (older.event_type.as_str(), older.count)).collect();
        assert_eq!(older, [("OrderShipped", 2)]);
        assert_eq!(undecided.end(0).await, [4], "what it handles from now on it handles");
        let decided = Release::start(&queue, BOTH, Some(choice), true).await;
        assert_eq!(decided.end_after(delivered.len(), 0).await, delivered, "{choice:?}");
        assert!(queue.announce(&announced, None).await.unwrap().is_empty(), "{choice:?} was recorded");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_comes_while_the_worker_consumes_gets_what_was_skipped() {
    let queue = fresh().await;
    publish(&queue, "OrderShipped", 1, 3).await;
    let old = Release::start(&queue, CREATED, None, true).await;
    until("they are skipped", async || old.queue.stats().events_skipped == 3).await;
    let late = Arc::new(AtomicBool::new(false));
    let is_late = Arc::clone(&late);
    let subscriber = Subscriber::new(Name::from_static("late"), SHIPPED, move |delivery| {
        is_late.store(delivery.message_id().unwrap().as_str() == "3", Ordering::SeqCst);
        Box::pin(async { Ok(()) })
    });
    old.queue.add_subscriber(queue.default_group().clone(), subscriber);
    until("the last is delivered", async || late.load(Ordering::SeqCst)).await;
    assert!(old.end(0).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_cannot_be_decoded_here_waits_for_a_worker_of_its_version() {
    let queue = fresh().await;
    publish(&queue, "OrderShipped", 2, 1).await;
    assert_eq!(Release::start(&queue, SHIPPED_2, None, true).await.end(0).await, [1]);
    publish(&queue, "OrderShipped", 2, 2).await;
    publish(&queue, "OrderShipped", 3, 1).await;
    let mut tried = Release::start(&queue, SHIPPED, None, false).await.end(2).await;
    tried.sort_unstable();
    assert_eq!(tried, [2, 3, 4]);
    let letters = queue.list_dead_letters(&DeadLetterFilter::default(), None, 10).await.unwrap().letters;
    assert_eq!(letters.len(), 1, "a version that no release announced waits for none: {letters:?}");
    assert_eq!(Release::start(&queue, SHIPPED_2, None, true).await.end(0).await, [2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_receives_no_new_events_while_ten_thousand_wait_for_a_newer_release() {
    let queue = fresh().await;
    publish(&queue, "OrderShipped", 2, 1).await;
    assert_eq!(Release::start(&queue, SHIPPED_2, None, true).await.end(0).await, [1]);
    publish(&queue, "OrderShipped", 2, 10_300).await;
    let old = Release::start(&queue, SHIPPED, None, false).await;
    let progress = async || queue.progress(queue.default_group()).await.unwrap();
    until("it has left as many", async || old.seen.lock().unwrap().len() == 10_000).await;
    old.queue.stop_consuming().await;
    old.consumer.await.unwrap();
    assert_eq!((progress().await.pending, progress().await.unread), (10_000, 300));
    let new = Release::start(&queue, SHIPPED_2, None, true).await;
    assert_eq!(new.end_after(10_300, 0).await.len(), 10_300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_is_never_handled_again_is_forgotten_while_nobody_consumes() {
    let queue = fresh().await;
    publish(&queue, "OrderShipped", 1, 1).await;
    assert_eq!(Release::start(&queue, BOTH, None, true).await.end(0).await, [1]);
    publish(&queue, "OrderShipped", 1, 2).await;
    let old = Release::start(&queue, CREATED, None, true).await;
    until("they are left", async || old.queue.stats().events_consumed == 2).await;
    let in_use = queue.forget_event_type(queue.default_group(), "OrderShipped").await;
    assert!(matches!(in_use, Err(FileQueueError::GroupInUse { .. })), "{in_use:?}");
    old.end(2).await;
    assert!(queue.forget_event_type(queue.default_group(), "OrderShipped").await.unwrap());
    assert!(queue.progress(queue.default_group()).await.unwrap().is_settled());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_group_whose_handlers_start_now_gets_nothing_from_before() {
    let queue = fresh().await;
    publish(&queue, "OrderCreated", 1, 3).await;
    let new = Release::start(&queue, CREATED, Some(HandlerStart::Now), true).await;
    until("it is there", async || queue.stream_info().await.active_consumers == 1).await;
    publish(&queue, "OrderCreated", 1, 1).await;
    assert_eq!(new.end(0).await, [4]);
}

/// Adds a handler of a type that records the ids and the attempts of its deliveries.
fn add_late(queue: &FileQueue, events: EventFilter) -> Arc<Mutex<Vec<(u64, u32)>>> {
    let seen = Arc::<Mutex<Vec<_>>>::default();
    let sees = Arc::clone(&seen);
    let subscriber = Subscriber::new(Name::from_static("late"), events, move |delivery| {
        let id = delivery.message_id().unwrap().as_str().parse().unwrap();
        sees.lock().unwrap().push((id, delivery.attempt()));
        Box::pin(async { Ok(()) })
    });
    queue.add_subscriber(queue.default_group().clone(), subscriber);
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_waits_with_its_attempts_for_a_handler_that_comes_while_the_worker_consumes() {
    let queue = fresh().await;
    let (failing, failed) = (another(&queue).await, Arc::new(AtomicUsize::new(0)));
    let counts = Arc::clone(&failed);
    let subscriber = Subscriber::new(Name::from_static("late"), SHIPPED, move |_| {
        counts.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Err("not yet".into()) })
    });
    failing.add_subscriber(queue.default_group().clone(), subscriber);
    let consuming = failing.clone();
    let consumer = tokio::spawn(async move { consuming.start_consuming().await.unwrap() });
    publish(&queue, "OrderShipped", 1, 1).await;
    until("it has failed", async || failed.load(Ordering::SeqCst) > 0).await;
    failing.stop_consuming().await;
    consumer.await.unwrap();

    let old = Release::start(&queue, CREATED, None, true).await;
    until("it is left", async || old.queue.stats().events_consumed > 0).await;
    let seen = add_late(&old.queue, SHIPPED);
    until("it is handled", async || !seen.lock().unwrap().is_empty()).await;
    assert!(old.end(0).await.is_empty());
    let (seen, failed) = (seen.lock().unwrap().clone(), failed.load(Ordering::SeqCst));
    assert_eq!(seen, [(1, u32::try_from(failed).unwrap() + 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_handler_announces_that_comes_while_the_worker_consumes_is_written_at_once() {
    // the claim, whose renewal would also write it, is not renewed during the test
    let config = FileQueueConfig { group_expiration: Duration::from_secs(3_600), ..config(folder()) };
    let queue = FileQueue::open(config).await.unwrap();
    let old = Release::start(&queue, CREATED, None, true).await;
    publish(&queue, "OrderCreated", 1, 1).await;
    until("it is handled", async || old.seen.lock().unwrap().len() == 1).await;
    let group = queue.config().root_dir.join("subscriptions/default");
    let written = || {
        let newest = std::fs::read_dir(&group).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
        std::fs::read_to_string(newest).unwrap_or_default() // a worker may replace it meanwhile
    };
    until("that is written", async || written().contains("\"open\": {}")).await;
    add_late(&old.queue, SHIPPED);
    until("it is announced", async || written().contains("OrderShipped")).await;
    old.end(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_a_type_that_is_not_handled_any_more_is_skipped_and_never_delivered() {
    let queue = fresh().await;
    publish(&queue, "OrderShipped", 1, 1).await;
    let failing = Release::start(&queue, SHIPPED, None, false).await;
    let letters = async || queue.list_dead_letters(&DeadLetterFilter::default(), None, 10).await.unwrap().letters;
    until("it is a dead letter", async || letters().await.len() == 1).await;
    failing.end(0).await;
    assert!(queue.forget_event_type(queue.default_group(), "OrderShipped").await.unwrap());
    queue.replay(&letters().await[0].id).await.unwrap();
    let old = Release::start(&queue, CREATED, None, true).await;
    until("it is skipped", async || old.queue.stats().events_skipped == 1).await;
    assert!(old.end(0).await.is_empty());
    publish(&queue, "OrderShipped", 1, 1).await;
    let new = Release::start(&queue, BOTH, None, true).await;
    assert_eq!(new.end_after(1, 0).await, [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_skipped_and_is_to_be_delivered_counts_as_unread() {
    let queue = fresh().await;
    publish(&queue, "OrderShipped", 1, 500).await;
    publish(&queue, "OrderCreated", 1, 1).await;
    assert_eq!(Release::start(&queue, CREATED, None, true).await.end(0).await, [501]);
    let (new, gate) = (another(&queue).await, Arc::new(Semaphore::new(0)));
    let waits = Arc::clone(&gate);
    let subscriber = Subscriber::new(Name::from_static("watch"), BOTH, move |_| {
        let gate = Arc::clone(&waits);
        Box::pin(async move {
            gate.acquire().await.unwrap().forget();
            Ok(())
        })
    });
    new.add_subscriber(queue.default_group().clone(), subscriber);
    let consuming = new.clone();
    let consumer = tokio::spawn(async move { consuming.start_consuming().await.unwrap() });
    let progress = async || queue.progress(queue.default_group()).await.unwrap();
    until("the first are taken", async || progress().await.pending > 0).await;
    assert_eq!(progress().await.unread, 1, "a range of which most is not taken yet");
    gate.add_permits(500);
    until("all are handled", async || progress().await.is_settled()).await;
    assert_eq!(new.stats().events_consumed, 500);
    new.stop_consuming().await;
    consumer.await.unwrap();
}
