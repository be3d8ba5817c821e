//! Releases of an app one after the other, of which one handles types that the other does not: deliveries at restarts.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use eventbus::{
    ExpectedVersion, InMemoryEventBus, Name, NewEvent, Position, StreamId,
    clock::SharedClock,
    delivery::RetryPolicy,
    event::{EventDescriptor, EventFilter, Source},
    handler::{HandlerOptions, HandlerStart},
    port::{Announced, AppendEvents, Checkpoints, EventBus, SkippedBefore, UnfinishedDeliveries},
    testkit::ManualClock,
};
use tokio::task::JoinHandle;

use super::kit::{Kept, LATER, NEVER, Worker, feed, pending, start, until};
use super::lines::Lines;

const fn only(event_type: &'static str, schema_version: u32) -> EventDescriptor {
    EventDescriptor::new(event_type, "Order", schema_version, event_type, Source::new(file!(), line!(), module_path!()))
}

const CREATED: EventFilter = EventFilter::Only(&[only("OrderCreated", 1)]);
const SHIPPED: EventFilter = EventFilter::Only(&[only("OrderShipped", 1)]);
const SHIPPED_2: EventFilter = EventFilter::Only(&[only("OrderShipped", 2)]);
const BOTH: EventFilter = EventFilter::Only(&[only("OrderCreated", 1), only("OrderShipped", 1)]);
const CREATED_AND_PAID: EventFilter = EventFilter::Only(&[only("OrderCreated", 1), only("OrderPaid", 1)]);

async fn append(kept: &Kept, event_type: &'static str, schema_version: u32, aggregates: std::ops::RangeInclusive<u64>) {
    for aggregate in aggregates {
        let event = NewEvent::new(Name::from_static(event_type), schema_version, "{}");
        let stream = StreamId::parse("Order", &aggregate.to_string()).unwrap();
        kept.append(&stream, ExpectedVersion::Any, vec![event]).await.unwrap();
    }
}

/// A release of an app: a bus of its own on the store.
struct Release {
    bus: InMemoryEventBus,
    kept: Arc<Kept>,
    consumer: JoinHandle<()>,
    /// The handled positions.
    worker: Worker,
}

impl Release {
    fn bus(clock: &SharedClock, retry: RetryPolicy) -> InMemoryEventBus {
        InMemoryEventBus::builder().clock(clock.clone()).retry(retry).build()
    }

    /// Starts as an app does; returns the error if the bus cannot decide.
    async fn try_start(
        kept: &Arc<Kept>,
        clock: &SharedClock,
        events: EventFilter,
        start_at: Option<HandlerStart>,
        worker: Worker,
    ) -> Result<Self, Vec<SkippedBefore>> {
        Self::start_on(Self::bus(clock, NEVER), kept, events, start_at, worker).await
    }

    async fn start_on(
        bus: InMemoryEventBus,
        kept: &Arc<Kept>,
        events: EventFilter,
        start_at: Option<HandlerStart>,
        worker: Worker,
    ) -> Result<Self, Vec<SkippedBefore>> {
        let mut options = HandlerOptions::default();
        options.start = start_at;
        worker.join_for(&bus, "a", events, options);
        let announced = Announced::by_subscribers(&Name::from_static("a"), &bus.subscribers());
        let undecided = bus.announce(&announced, Some(&**kept)).await.unwrap();
        if !undecided.is_empty() {
            return Err(undecided);
        }
        let from = bus.resume_from(kept.clone()).await.unwrap().unwrap();
        let consumer = start(&bus).await;
        feed(&bus, &kept.after(from).await).await;
        Ok(Self { bus, kept: Arc::clone(kept), consumer, worker })
    }

    async fn start(kept: &Arc<Kept>, clock: &SharedClock, events: EventFilter) -> Self {
        Self::try_start(kept, clock, events, None, Worker::new()).await.unwrap()
    }

    /// Ends like a killed process.
    async fn kill(self) {
        self.consumer.abort();
        assert!(self.consumer.await.is_err(), "it was consuming");
    }

    /// Ends after all events are handled.
    async fn end(self) -> Vec<u64> {
        let group = Name::from_static("a");
        let end = self.kept.after(Position::START).await.last().and_then(|event| event.position());
        until("all is handled", async || {
            let is_settled = self.bus.progress(&group).await.unwrap().is_settled();
            is_settled && self.kept.get("group:a") == end
        })
        .await;
        self.bus.stop_consuming().await;
        self.consumer.await.unwrap();
        self.worker.got()
    }
}

fn clock() -> (ManualClock, SharedClock) {
    let manual = ManualClock::new();
    let shared = SharedClock::from(manual.clone());
    (manual, shared)
}

#[tokio::test]
async fn what_was_skipped_is_delivered_when_its_type_is_first_announced() {
    let (kept, (_, clock)) = (Arc::new(Kept::default()), clock());
    append(&kept, "OrderShipped", 1, 1..=200).await;
    append(&kept, "OrderCreated", 1, 1..=2).await;
    let old = Release::start(&kept, &clock, CREATED).await;
    let bus = old.bus.clone();
    assert_eq!(old.end().await, [201, 202]);
    assert_eq!(bus.stats().events_skipped, 200);
    append(&kept, "OrderShipped", 1, 1..=2).await;
    let new = Release::start(&kept, &clock, BOTH).await;
    let expected: Vec<u64> = (1..=200).chain(203..=204).collect();
    assert_eq!(new.end().await, expected, "in order, and nothing again");
    assert!(Release::start(&kept, &clock, BOTH).await.end().await.is_empty());
}

#[tokio::test]
async fn what_was_announced_before_waits_for_a_release_that_handles_it() {
    let (kept, (manual, clock)) = (Arc::new(Kept::default()), clock());
    append(&kept, "OrderShipped", 1, 1..=1).await;
    assert_eq!(Release::start(&kept, &clock, BOTH).await.end().await, [1]);
    append(&kept, "OrderShipped", 1, 2..=100).await;
    append(&kept, "OrderCreated", 1, 1..=1).await;
    let old = Release::start(&kept, &clock, CREATED).await;
    let bus = old.bus.clone();
    assert_eq!(old.end().await, [101]);
    assert_eq!(bus.stats().events_skipped, 0);
    manual.advance(Duration::from_secs(30 * 86_400));
    let expected: Vec<u64> = (2..=100).collect();
    assert_eq!(Release::start(&kept, &clock, BOTH).await.end().await, expected);
}

#[tokio::test]
async fn what_was_skipped_long_ago_is_to_be_decided_once() {
    for (choice, delivered) in [(HandlerStart::Oldest, vec![1, 2, 4]), (HandlerStart::Now, vec![4])] {
        let (kept, (manual, clock)) = (Arc::new(Kept::default()), clock());
        append(&kept, "OrderShipped", 1, 1..=2).await;
        append(&kept, "OrderCreated", 1, 1..=1).await;
        assert_eq!(Release::start(&kept, &clock, CREATED).await.end().await, [3]);
        manual.advance(Duration::from_secs(86_400));
        let undecided = Release::try_start(&kept, &clock, BOTH, None, Worker::new()).await.err().unwrap();
        let [SkippedBefore { event_type, count, age, .. }] = &undecided[..] else {
            panic!("{undecided:?}");
        };
        assert_eq!((event_type.as_str(), *count, age.as_secs() >= 86_400), ("OrderShipped", 2, true));
        append(&kept, "OrderShipped", 1, 1..=1).await;
        let new = Release::try_start(&kept, &clock, BOTH, Some(choice), Worker::new()).await.ok().unwrap();
        assert_eq!(new.end().await, delivered, "{choice:?}");
        assert!(Release::start(&kept, &clock, BOTH).await.end().await.is_empty(), "{choice:?}");
    }
}

#[tokio::test]
async fn a_handler_that_comes_while_the_bus_consumes_gets_what_was_skipped() {
    let (kept, (_, clock)) = (Arc::new(Kept::default()), clock());
    append(&kept, "OrderShipped", 1, 1..=3).await;
    let old = Release::start(&kept, &clock, CREATED).await;
    until("they are skipped", async || old.bus.stats().events_skipped == 3).await;
    let late = Worker::new();
    late.join_for(&old.bus, "a", SHIPPED, HandlerOptions::default());
    until("they are delivered", async || late.got() == [1, 2, 3]).await;
    assert!(old.end().await.is_empty());
    assert!(Release::start(&kept, &clock, BOTH).await.end().await.is_empty());
}

#[tokio::test]
async fn an_event_that_cannot_be_decoded_here_waits_for_a_release_of_its_version() {
    let (kept, (_, clock)) = (Arc::new(Kept::default()), clock());
    append(&kept, "OrderShipped", 2, 1..=1).await;
    assert_eq!(Release::start(&kept, &clock, SHIPPED_2).await.end().await, [1]);
    append(&kept, "OrderShipped", 2, 2..=3).await;
    append(&kept, "OrderShipped", 3, 4..=4).await;
    let cannot = Worker::new();
    cannot.cannot_decode.store(true, Ordering::SeqCst);
    let old = Release::try_start(&kept, &clock, SHIPPED, None, cannot).await.ok().unwrap();
    assert_eq!(old.end().await, [2, 3, 4]);
    assert_eq!(kept.rows("a").await, (vec![2, 3], vec![4]), "a version that no release announced waits for none");
    assert_eq!(Release::start(&kept, &clock, SHIPPED_2).await.end().await, [2, 3]);
    assert_eq!(kept.rows("a").await, (vec![], vec![4]));
}

#[tokio::test]
async fn a_new_group_whose_handlers_start_now_gets_nothing_from_before() {
    let (kept, (_, clock)) = (Arc::new(Kept::default()), clock());
    append(&kept, "OrderCreated", 1, 1..=3).await;
    let new = Release::try_start(&kept, &clock, CREATED, Some(HandlerStart::Now), Worker::new()).await.ok().unwrap();
    append(&kept, "OrderCreated", 1, 4..=4).await;
    feed(&new.bus, &kept.after(Position::new(3)).await).await;
    assert_eq!(new.end().await, [4]);
}

/// Fails if each attempt to read skipped events has a log line, or their delivery has none.
#[tokio::test(start_paused = true)]
async fn of_skipped_events_that_cannot_be_delivered_it_is_told_once_and_when_they_are() {
    let lines = Lines::default();
    let _here = lines.capture("eventbus=info");
    let (kept, clock) = (Arc::new(Kept::default()), SharedClock::SYSTEM);
    append(&kept, "OrderShipped", 1, 1..=20).await;
    append(&kept, "OrderCreated", 1, 1..=1).await;
    assert_eq!(Release::start(&kept, &clock, CREATED).await.end().await, [21]);
    kept.broken.store(true, Ordering::SeqCst);
    let new = Release::start(&kept, &clock, BOTH).await;
    until("it was tried often", async || kept.refused.load(Ordering::SeqCst) > 5).await;
    kept.broken.store(false, Ordering::SeqCst);
    until("they are delivered", async || new.worker.got().len() == 20).await;
    assert_eq!(new.end().await, (1..=20).collect::<Vec<_>>());
    let log = lines.text();
    let told = |text: &str| log.lines().filter(|line| line.contains(text)).map(Into::into).collect::<Vec<String>>();
    let (began, over) = (told("skipped events not read, trying again"), told("skipped events are read again"));
    assert_eq!((began.len(), over.len()), (1, 1), "{log}");
    assert!(over[0].contains("lasted="), "{log}");
}

#[tokio::test]
async fn a_new_group_that_starts_now_and_ends_before_its_first_event_begins_where_it_started() {
    let (kept, (_, clock)) = (Arc::new(Kept::default()), clock());
    append(&kept, "OrderCreated", 1, 1..=3).await;
    for (handled, appended) in [(vec![], 4..=5), (vec![4, 5], 6..=6), (vec![6], 7..=7)] {
        let new =
            Release::try_start(&kept, &clock, CREATED, Some(HandlerStart::Now), Worker::new()).await.ok().unwrap();
        assert_eq!(new.end().await, handled);
        append(&kept, "OrderCreated", 1, appended).await;
    }
}

#[tokio::test]
async fn what_was_brought_comes_once_though_its_process_was_killed_before_it_was_handled() {
    for answers in [true, false] {
        let (kept, (manual, clock)) = (Arc::new(Kept::default()), clock());
        append(&kept, "OrderShipped", 1, 1..=3).await;
        append(&kept, "OrderCreated", 1, 1..=1).await;
        assert_eq!(Release::start(&kept, &clock, CREATED).await.end().await, [4]);
        // without an answer the rows are saved, and the range is still to be read
        kept.mute.store(!answers, Ordering::SeqCst);
        let new = Release::try_start(&kept, &clock, BOTH, None, Worker::held()).await.ok().unwrap();
        until("the rows are there", async || kept.rows("a").await.0 == [1, 2, 3]).await;
        new.kill().await;
        kept.mute.store(false, Ordering::SeqCst);
        let last = Release::start(&kept, &clock, BOTH).await;
        // a suspect runs alone, after a second
        until("all are handled", async || {
            manual.advance(Duration::from_millis(100));
            last.worker.got().len() >= 3
        })
        .await;
        assert_eq!(last.end().await, [1, 2, 3], "{answers}");
    }
}

#[tokio::test]
async fn what_a_handler_announces_that_comes_while_the_bus_consumes_outlives_the_process() {
    let (kept, (_, clock)) = (Arc::new(Kept::default()), clock());
    append(&kept, "OrderCreated", 1, 1..=1).await;
    let old = Release::start(&kept, &clock, CREATED).await;
    until("it is handled", async || old.worker.got() == [1]).await;
    Worker::new().join_for(&old.bus, "a", SHIPPED, HandlerOptions::default());
    append(&kept, "OrderCreated", 1, 2..=2).await;
    feed(&old.bus, &kept.after(Position::new(1)).await).await;
    assert_eq!(old.end().await, [1, 2]);
    append(&kept, "OrderShipped", 1, 1..=1).await;
    let old = Release::start(&kept, &clock, CREATED).await;
    let bus = old.bus.clone();
    assert!(old.end().await.is_empty());
    assert_eq!(bus.stats().events_skipped, 0);
    assert_eq!(Release::start(&kept, &clock, BOTH).await.end().await, [3]);
}

/// Lets an event fail and wait for its retry, and restarts the group without a handler of its type when that is due.
async fn with_a_failed_event_left(kept: &Arc<Kept>, (manual, clock): (&ManualClock, &SharedClock)) -> Release {
    append(kept, "OrderShipped", 1, 1..=1).await;
    let failing = Worker::new().failing(&[1]);
    let bus = Release::bus(clock, LATER);
    let new = Release::start_on(bus, kept, BOTH, None, failing).await.ok().unwrap();
    until("it waits for its retry", async || kept.rows("a").await == (vec![1], vec![])).await;
    new.bus.stop_consuming().await;
    manual.advance(Duration::from_secs(7_200));
    let bus = Release::bus(clock, LATER);
    let old = Release::start_on(bus, kept, CREATED, None, Worker::new()).await.ok().unwrap();
    let group = Name::from_static("a");
    until("it is left", async || old.bus.progress(&group).await.unwrap().is_settled()).await;
    old
}

#[tokio::test]
async fn what_failed_keeps_its_tries_while_it_waits_for_a_handler() {
    let (kept, (manual, clock)) = (Arc::new(Kept::default()), clock());
    let old = with_a_failed_event_left(&kept, (&manual, &clock)).await;
    assert_eq!(kept.rows("a").await, (vec![1], vec![]));
    let late = Worker::new();
    late.join_for(&old.bus, "a", SHIPPED, HandlerOptions::default());
    until("it is delivered", async || late.got() == [1]).await;
    assert_eq!(late.tries.load(Ordering::SeqCst), 2);
    assert!(old.end().await.is_empty());
    assert_eq!(kept.rows("a").await, (vec![], vec![]));
}

#[tokio::test]
async fn a_type_that_is_never_handled_again_is_forgotten_and_what_waits_is_skipped() {
    let group = Name::from_static("a");
    let (kept, (manual, clock)) = (Arc::new(Kept::default()), clock());
    let old = with_a_failed_event_left(&kept, (&manual, &clock)).await;
    append(&kept, "OrderShipped", 1, 2..=2).await;
    feed(&old.bus, &kept.after(Position::new(1)).await).await;
    until("it has read both", async || kept.get("group:a") == Some(Position::new(2))).await;
    assert_eq!((old.bus.stats().events_skipped, kept.rows("a").await.0), (0, vec![1]));
    assert!(old.bus.forget_event_type(&group, "OrderShipped").await.unwrap());
    assert!(!old.bus.forget_event_type(&group, "OrderShipped").await.unwrap());
    until("what failed is skipped", async || kept.rows("a").await.0.is_empty()).await;
    assert!(old.end().await.is_empty());

    // also while no consumer runs, by a bus that does not know the group
    assert_eq!(Release::start(&kept, &clock, BOTH).await.end().await, [1, 2], "the range of what was skipped");
    let bus = Release::bus(&clock, NEVER);
    bus.resume_from(kept.clone()).await.unwrap();
    assert!(bus.forget_event_type(&group, "OrderShipped").await.unwrap());
    append(&kept, "OrderShipped", 1, 3..=3).await;
    let old = Release::start(&kept, &clock, CREATED).await;
    let bus = old.bus.clone();
    assert!(old.end().await.is_empty());
    assert_eq!(bus.stats().events_skipped, 1);
}

/// Fails if a skipped type, or one left to a release that handles it, has no log line, or one for each event.
#[tokio::test]
async fn of_each_type_that_is_skipped_or_left_it_is_told_once() {
    let (kept, (_, clock)) = (Arc::new(Kept::default()), clock());
    append(&kept, "OrderShipped", 2, 1..=1).await;
    assert_eq!(Release::start(&kept, &clock, SHIPPED_2).await.end().await, [1]);
    let lines = Lines::default();
    let _here = lines.capture("eventbus=info");
    append(&kept, "OrderPaid", 1, 2..=4).await;
    append(&kept, "OrderSent", 1, 5..=6).await;
    append(&kept, "OrderShipped", 2, 7..=9).await;
    append(&kept, "OrderCreated", 1, 10..=10).await;
    let old = Release::start(&kept, &clock, CREATED).await;
    let bus = old.bus.clone();
    assert_eq!(old.end().await, [10]);
    assert_eq!(bus.stats().events_skipped, 5);
    // a release with a handler that does not know the version
    append(&kept, "OrderPaid", 1, 11..=11).await;
    let cannot = Worker::new();
    cannot.cannot_decode.store(true, Ordering::SeqCst);
    assert_eq!(Release::try_start(&kept, &clock, SHIPPED, None, cannot).await.ok().unwrap().end().await, [7, 8, 9]);
    let log = lines.text();
    let told = |level: &str, text: &str, event_type: &str| {
        let is_one = |line: &&str| line.contains(level) && line.contains(text) && line.contains(event_type);
        log.lines().filter(is_one).count()
    };
    let skipped = "the group has no handler for this event type";
    for event_type in ["OrderPaid", "OrderSent"] {
        assert_eq!(told("INFO", skipped, event_type), 1, "{event_type}: {log}");
    }
    assert_eq!(told("INFO", skipped, "OrderShipped"), 0, "{log}");
    assert_eq!(told("WARN", "events are left: the group announced their type before", "OrderShipped"), 1, "{log}");
    assert_eq!(
        told("WARN", "event cannot be decoded here and is left", "OrderShipped"),
        3,
        "one for each event: {log}"
    );
}

/// Starts a release that announces payments, which were skipped, while the row of a failed shipment is left.
async fn with_a_due_range_and_a_row_left(kept: &Arc<Kept>, (manual, clock): (&ManualClock, &SharedClock)) -> Release {
    append(kept, "OrderShipped", 1, 1..=1).await;
    append(kept, "OrderPaid", 1, 2..=2).await;
    let failing = Worker::new().failing(&[1]);
    let new = Release::start_on(Release::bus(clock, LATER), kept, BOTH, None, failing).await.ok().unwrap();
    until("the checkpoint has passed both", async || kept.get("group:a") == Some(Position::new(2))).await;
    assert_eq!(kept.rows("a").await, (vec![1], vec![]));
    new.bus.stop_consuming().await;
    manual.advance(Duration::from_secs(7_200));
    let old = Release::start_on(Release::bus(clock, LATER), kept, CREATED_AND_PAID, None, Worker::new());
    let old = old.await.ok().unwrap();
    let group = Name::from_static("a");
    until("the payment is handled and the shipment left", async || {
        old.worker.got() == [2] && old.bus.progress(&group).await.unwrap().is_settled()
    })
    .await;
    old
}

/// Fails if the bus takes a skipped event for one that its row delivers.
#[tokio::test]
async fn an_event_that_was_left_and_skipped_is_delivered_when_its_type_is_announced_again() {
    let (kept, (manual, clock)) = (Arc::new(Kept::default()), clock());
    let old = with_a_due_range_and_a_row_left(&kept, (&manual, &clock)).await;
    assert!(old.bus.forget_event_type(&Name::from_static("a"), "OrderShipped").await.unwrap());
    until("it is skipped", async || kept.rows("a").await.0.is_empty()).await;
    let late = Worker::new();
    late.join_for(&old.bus, "a", SHIPPED, HandlerOptions::default());
    until("it is delivered", async || late.got() == [1]).await;
    assert_eq!(old.end().await, [2]);
}

/// Fails if positions of the former store count as delivered in the next one.
#[tokio::test]
async fn a_bus_that_resumes_from_a_different_store_delivers_what_was_skipped_there() {
    let (kept, (manual, clock)) = (Arc::new(Kept::default()), clock());
    let old = with_a_due_range_and_a_row_left(&kept, (&manual, &clock)).await;
    old.bus.stop_consuming().await;
    let other = Arc::new(Kept::default());
    append(&other, "OrderShipped", 1, 1..=1).await;
    old.bus.resume_from(other.clone()).await.unwrap();
    start(&old.bus).await;
    feed(&old.bus, &other.after(Position::START).await).await;
    until("it is skipped", async || other.get("group:a") == Some(Position::new(1))).await;
    let late = Worker::new();
    late.join_for(&old.bus, "a", SHIPPED, HandlerOptions::default());
    until("both are delivered, as the bus still has the one that was left", async || late.got() == [1, 1]).await;
}

/// Starts a release that handles shipments: the first of two of one aggregate runs, the next one is a dead letter, and
/// the last one is handled.
async fn with_a_dead_letter_behind_a_slow_event(kept: &Arc<Kept>, clock: &SharedClock) -> Release {
    append(kept, "OrderShipped", 1, 1..=1).await;
    append(kept, "OrderShipped", 1, 1..=3).await;
    let worker = Worker::held().failing(&[3]);
    worker.let_at(3);
    worker.let_at(4);
    let bus = InMemoryEventBus::builder().clock(clock.clone()).retry(NEVER).concurrency(4).build();
    let old = Release::start_on(bus, kept, BOTH, None, worker).await.ok().unwrap();
    until("the others are handled", async || old.worker.got().len() == 2).await;
    until("the dead letter has a row", async || kept.rows("a").await == (vec![], vec![3])).await;
    assert_eq!(kept.get("group:a"), None, "the first is being handled");
    old
}

/// Fails if a range that began below a dead letter delivers it.
#[tokio::test]
async fn a_range_of_events_that_were_left_leaves_out_dead_letters() {
    let (kept, (_, clock)) = (Arc::new(Kept::default()), clock());
    with_a_dead_letter_behind_a_slow_event(&kept, &clock).await.kill().await;
    // else the new event waits, as it may have ended the process
    kept.save_checkpoint(&Name::from_static("reading:a"), Position::START).await.unwrap();
    append(&kept, "OrderCreated", 1, 4..=4).await;
    assert_eq!(Release::start(&kept, &clock, CREATED).await.end().await, [5]);
    let delivered = Release::start(&kept, &clock, BOTH).await.end().await;
    assert_eq!(delivered, [1, 2, 4], "also the one whose end was not saved");
    assert_eq!(kept.rows("a").await, (vec![], vec![3]));
}

/// Fails if an event that did not run before the stop gets no row: then a range begins with it.
#[tokio::test]
async fn after_a_stop_what_was_handled_or_discarded_is_not_delivered_again() {
    let (kept, (_, clock)) = (Arc::new(Kept::default()), clock());
    let old = with_a_dead_letter_behind_a_slow_event(&kept, &clock).await;
    // the stop first: the second event of the aggregate does not begin
    futures_util::join!(old.bus.stop_consuming(), async { old.worker.let_one() });
    assert_eq!(kept.get("group:a"), Some(Position::new(4)));
    assert_eq!(kept.rows("a").await, (vec![2], vec![3]));
    assert!(kept.end_dead_delivery(&Name::from_static("a"), Position::new(3), None).await.unwrap());
    append(&kept, "OrderCreated", 1, 4..=4).await;
    assert_eq!(Release::start(&kept, &clock, CREATED).await.end().await, [5]);
    assert_eq!(Release::start(&kept, &clock, BOTH).await.end().await, [2]);
}

/// Fails if a range delivers an event that runs, as it has no row.
#[tokio::test]
async fn a_range_of_events_that_were_left_leaves_out_one_that_still_runs() {
    let (kept, (_, clock)) = (Arc::new(Kept::default()), clock());
    append(&kept, "OrderShipped", 1, 1..=1).await;
    append(&kept, "OrderShipped", 1, 1..=2).await;
    let bus = InMemoryEventBus::builder().clock(clock.clone()).concurrency(4).build();
    let (first, again) = (Worker::held(), Worker::new());
    let shipped = first.join_for(&bus, "a", SHIPPED, HandlerOptions::default());
    let release = Release::start_on(bus, &kept, CREATED, None, Worker::new()).await.ok().unwrap();
    until("the aggregates' first events run", async || pending(&release.bus, "a").await == 3).await;
    shipped.cancel();
    first.let_one();
    append(&kept, "OrderShipped", 1, 3..=3).await;
    feed(&release.bus, &kept.after(Position::new(3)).await).await;
    until("one runs, and two are left", async || pending(&release.bus, "a").await == 1).await;
    again.join_for(&release.bus, "a", SHIPPED, HandlerOptions::default());
    until("these are delivered", async || again.got().contains(&4)).await;
    first.let_one();
    assert!(release.end().await.is_empty());
    let again: BTreeSet<_> = again.got().into_iter().collect();
    assert_eq!((first.got(), again), (vec![1, 3], BTreeSet::from([2, 4])));
}

/// Fails if rows count as those of a due range only if the announcement was saved.
#[tokio::test]
async fn what_was_brought_comes_once_though_its_announcement_was_not_saved() {
    let (kept, (_, clock)) = (Arc::new(Kept::default()), clock());
    append(&kept, "OrderShipped", 1, 1..=60).await;
    append(&kept, "OrderCreated", 1, 1..=1).await;
    assert_eq!(Release::start(&kept, &clock, CREATED).await.end().await, [61]);
    append(&kept, "OrderCreated", 1, 2..=2).await;
    let rows: Vec<u64> = (1..=60).collect();
    let run = async |worker: Worker| {
        let bus = Release::bus(&clock, NEVER);
        worker.join_for(&bus, "a", BOTH, HandlerOptions::default());
        let from = bus.resume_from(kept.clone()).await.unwrap().unwrap();
        feed(&bus, &kept.after(from).await).await;
        let consumer = start(&bus).await;
        Release { bus, kept: Arc::clone(&kept), consumer, worker }
    };
    // without an answer the rows are saved; as the clock stands still, the announcement is not
    kept.mute.store(true, Ordering::SeqCst);
    let first = run(Worker::held()).await;
    until("the rows are there", async || kept.rows("a").await.0 == rows).await;
    first.kill().await;
    kept.mute.store(false, Ordering::SeqCst);
    // no event was in flight
    kept.save_checkpoint(&Name::from_static("reading:a"), Position::START).await.unwrap();
    let expected: Vec<u64> = rows.into_iter().chain([62]).collect();
    assert_eq!(run(Worker::new()).await.end().await, expected);
}
