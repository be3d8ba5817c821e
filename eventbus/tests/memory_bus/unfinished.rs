//! Events unfinished at the end of a process: the next one delivers these, in order, and no further ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use eventbus::{
    InMemoryEventBus, Name, Position,
    delivery::{DeliveryAttempts, RetryPolicy},
    event::EventFilter,
    port::{EventBus, Subscriber, Subscription, UnfinishedDelivery},
};
use tokio::task::JoinHandle;

use crate::kit::{Kept, LATER, NEVER, SOON, Worker, feed, pending, start, until};
use crate::lines::Lines;

/// A process that consumes: a bus that resumes on a store, and gets its feed.
async fn process(kept: &Arc<Kept>, retry: RetryPolicy, worker: &Worker) -> (InMemoryEventBus, JoinHandle<()>) {
    process_with(kept, retry, |bus| worker.join(bus, "a")).await
}

/// The same, with other handlers.
async fn process_with(
    kept: &Arc<Kept>,
    retry: RetryPolicy,
    join: impl FnOnce(&InMemoryEventBus) -> Subscription,
) -> (InMemoryEventBus, JoinHandle<()>) {
    let bus = InMemoryEventBus::builder().retry(retry).concurrency(4).build();
    join(&bus);
    let from = bus.resume_from(kept.clone()).await.unwrap().unwrap();
    feed(&bus, &kept.after(from).await).await;
    let consumer = start(&bus).await;
    (bus, consumer)
}

async fn settled(bus: &InMemoryEventBus) {
    let group = Name::from_static("a");
    until("the group is settled", async || bus.progress(&group).await.unwrap().is_settled()).await;
}

/// Ends a process as `kill -9` does: the bus saves no more.
async fn kill(kept: &Kept, bus: InMemoryEventBus, consumer: JoinHandle<()>) {
    kept.broken.store(true, Ordering::SeqCst);
    consumer.abort();
    let _ = consumer.await;
    until("it has ended", async || !bus.is_consuming()).await;
    drop(bus);
    kept.broken.store(false, Ordering::SeqCst);
}

#[tokio::test]
async fn a_restart_gets_what_waits_and_what_is_parked_behind_it_in_order() {
    let kept = Kept::with(&["x", "other", "x", "y", "x", "last"]).await;
    let worker = Worker::new().failing(&[1]);
    let (bus, consumer) = process(&kept, LATER, &worker).await;
    until("the others are handled", async || worker.got().len() == 4).await;
    until("the checkpoint has passed them", async || kept.get("group:a") == Some(Position::new(6))).await;
    assert_eq!(kept.rows("a").await, (vec![1, 3, 5], vec![]), "what waits, and what is parked behind it");
    kill(&kept, bus, consumer).await;

    let again = Worker::new();
    let (bus, consumer) = process(&kept, LATER, &again).await;
    let group = Name::from_static("a");
    until("it waits again", async || bus.progress(&group).await.unwrap().pending == 3).await;
    assert_eq!(again.got(), Vec::<u64>::new(), "it is due in an hour, and the others are behind it");
    kill(&kept, bus, consumer).await;

    // an hour later
    let group = Name::from_static("a");
    let mut rows = kept.waiting(&group).await;
    rows[0].attempts.next_at = Some(0);
    kept.put(&group, rows).await;
    let (bus, _) = process(&kept, LATER, &again).await;
    settled(&bus).await;
    assert_eq!(again.got(), [1, 3, 5]);
    assert_eq!(again.tries.load(Ordering::SeqCst), 2, "its first try was in another process");
    assert_eq!(kept.rows("a").await, (vec![], vec![]));
}

/// During the first run of an event the checkpoint stays before it; later events have their rows all the same.
#[tokio::test]
async fn rows_after_the_checkpoint_are_what_the_feed_brings_once_more() {
    let kept = Kept::with(&["slow", "waits", "dies", "done"]).await;
    let worker = Worker::held().failing(&[2]);
    worker.let_at(2);
    worker.let_at(4);
    let (bus, consumer) = process(&kept, LATER, &worker).await;
    until("two are tried", async || worker.got().len() == 2).await;
    until("what waits has a row", async || kept.rows("a").await == (vec![2], vec![])).await;
    assert_eq!(kept.get("group:a"), None, "the first is being handled");
    kill(&kept, bus, consumer).await;

    let again = Worker::new().failing(&[3]);
    let (bus, consumer) = process(&kept, NEVER, &again).await;
    until("the dead letter has a row", async || kept.rows("a").await.1 == [3]).await;
    let got: BTreeSet<_> = again.got().into_iter().collect();
    assert_eq!(got, BTreeSet::from([1, 3, 4]), "the second waits for an hour, of which the row tells");
    kill(&kept, bus, consumer).await;
}

/// An event that runs for long does not hold the checkpoint back: what was handled meanwhile is not handled again.
#[tokio::test]
async fn the_checkpoint_passes_an_event_that_runs_for_long() {
    const EVENTS: u64 = 600;
    // two are blocked behind it
    let aggregates: Vec<_> = (1..=EVENTS).map(|number| number.max(3).to_string()).collect();
    let kept = Kept::with(&aggregates.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let worker = Worker::held();
    (2..=EVENTS).for_each(|position| worker.let_at(position));
    let (bus, consumer) = process(&kept, LATER, &worker).await;
    until("all others are handled", async || worker.got().len() as u64 == EVENTS - 3).await;
    until("the checkpoint has passed them", async || kept.get("group:a") > Some(Position::new(EVENTS - 64))).await;
    until("they have rows", async || kept.rows("a").await == (vec![1, 2, 3], vec![])).await;
    kill(&kept, bus, consumer).await;

    let again = Worker::new();
    let (bus, _) = process(&kept, LATER, &again).await;
    settled(&bus).await;
    let got = again.got();
    let slow: Vec<_> = got.iter().filter(|position| **position <= 3).collect();
    assert!(slow == [&1, &2, &3] && got.len() <= 64 + 3, "{got:?}");
    assert_eq!(kept.rows("a").await, (vec![], vec![]));
}

/// The process before it ran on over a failover to a replica that lacked the last events.
#[tokio::test]
async fn a_group_whose_checkpoint_is_beyond_the_end_of_the_store_begins_at_that_end() {
    let kept = Kept::with_events(2).await;
    kept.save_checkpoint_of("a", 10).await;
    let worker = Worker::new();
    let (bus, _) = process(&kept, SOON, &worker).await;
    assert_eq!(kept.get("group:a"), Some(Position::new(2)));
    kept.add("3").await;
    feed(&bus, &kept.after(Position::new(2)).await).await;
    until("the next event is handled", async || worker.got() == [3]).await;
}

/// Fails if events that a slow append hides count as lost: their deliveries would lose their attempts, and dead letters
/// would be delivered.
#[tokio::test]
async fn unfinished_deliveries_beyond_a_head_that_went_lower_stay() {
    let group = Name::from_static("a");
    let kept = Kept::with_events(4).await;
    *kept.low_head.lock().unwrap() = Some(Position::new(1));
    kept.save_checkpoint_of("a", 4).await;
    let died = Some(time::OffsetDateTime::UNIX_EPOCH);
    let row = |position: u64, dead_since| {
        let attempts = DeliveryAttempts::default();
        UnfinishedDelivery { position: Position::new(position), attempts, dead_since }
    };
    kept.put(&group, vec![row(2, died), row(3, None)]).await;
    let worker = Worker::new();
    let (bus, _) = process(&kept, SOON, &worker).await;
    until("what waits is handled", async || worker.got() == [3]).await;
    assert_eq!((kept.get("group:a"), kept.rows("a").await.1), (Some(Position::new(4)), vec![2]));
    *kept.low_head.lock().unwrap() = None;
    kept.add("5").await;
    feed(&bus, &kept.after(Position::new(4)).await).await;
    until("the next event is handled", async || worker.got() == [3, 5]).await;
}

/// Fails if one event that was appended after the restoring makes all lost ones count as present: the group would leave
/// out the next events up to its checkpoint.
#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_the_store_lost_is_reset_though_an_event_is_beyond_a_low_head() {
    let kept = Kept::with_events(4).await;
    *kept.low_head.lock().unwrap() = Some(Position::new(2));
    kept.save_checkpoint_of("a", 100).await;
    let row =
        UnfinishedDelivery { position: Position::new(3), attempts: DeliveryAttempts::default(), dead_since: None };
    kept.put(&Name::from_static("a"), vec![row]).await;
    let worker = Worker::new();
    let (bus, _) = process(&kept, SOON, &worker).await;
    until("the group begins at the head", async || kept.get("group:a") == Some(Position::new(2))).await;
    *kept.low_head.lock().unwrap() = None;
    feed(&bus, &kept.after(Position::new(2)).await).await;
    until("the events after it are handled", async || worker.got() == [3, 4]).await;
}

/// Fails if a new event counts as the lost one of its position: it would not be delivered, or with former attempts.
#[tokio::test]
async fn unfinished_deliveries_beyond_the_end_of_the_store_go_with_their_events() {
    let group = Name::from_static("a");
    // before the end, at it, and beyond it
    for checkpoint in [1, 2, 10] {
        let lines = Lines::default();
        let _here = lines.capture("eventbus=info");
        let kept = Kept::with_events(2).await;
        kept.save_checkpoint_of("a", checkpoint).await;
        let mut tried = DeliveryAttempts::default();
        tried.attempts = 3;
        let row = |position: u64, dead_since| UnfinishedDelivery {
            position: Position::new(position),
            attempts: tried.clone(),
            dead_since,
        };
        let died = Some(time::OffsetDateTime::UNIX_EPOCH);
        kept.put(&group, vec![row(1, died), row(3, died), row(4, None), row(11, died), row(12, None)]).await;
        let worker = Worker::new();
        let (bus, _) = process(&kept, SOON, &worker).await;
        assert_eq!(kept.rows("a").await, (vec![], vec![1]), "of {checkpoint}");
        let log = lines.text();
        let told: Vec<_> = log.lines().filter(|line| line.contains("deletes their unfinished deliveries")).collect();
        assert!(told.len() == 1 && told[0].contains("waiting=2") && told[0].contains("dead_letters=2"), "{log}");
        for aggregate in ["3", "4"] {
            kept.add(aggregate).await;
        }
        feed(&bus, &kept.after(Position::new(2)).await).await;
        settled(&bus).await;
        let handled: BTreeSet<_> = worker.got().into_iter().collect();
        assert!(handled.is_superset(&BTreeSet::from([3, 4])), "of {checkpoint}: {handled:?}");
        assert_eq!(worker.tries.load(Ordering::SeqCst), 1, "of {checkpoint}");
    }
}

/// The store may have saved a row without an answer.
#[tokio::test]
async fn a_row_that_was_saved_without_an_answer_goes_with_its_event() {
    let kept = Kept::with(&["1"]).await;
    let worker = Worker::new().failing(&[1]);
    kept.mute.store(true, Ordering::SeqCst);
    let (bus, _) = process(&kept, SOON, &worker).await;
    until("what waits has a row", async || kept.rows("a").await == (vec![1], vec![])).await;
    worker.failing.lock().unwrap().clear();
    // the rest is still to be saved
    until("it is handled", async || bus.stats().events_processed_success == 1 && pending(&bus, "a").await == 1).await;
    kept.mute.store(false, Ordering::SeqCst);
    settled(&bus).await;
    assert_eq!(kept.rows("a").await, (vec![], vec![]));
}

#[tokio::test]
async fn what_is_read_back_for_a_group_that_comes_late_is_not_unread_for_the_others() {
    let kept = Kept::with(&["1", "2"]).await;
    let worker = Worker::new();
    let (bus, _) = process(&kept, SOON, &worker).await;
    settled(&bus).await;
    kept.save_checkpoint_of("late", 2).await;
    let row =
        UnfinishedDelivery { position: Position::new(1), attempts: DeliveryAttempts::default(), dead_since: None };
    kept.put(&Name::from_static("late"), vec![row]).await;
    let late = Worker::new();
    late.join(&bus, "late");
    until("what waits is delivered", async || late.got() == [1]).await;
    settled(&bus).await;
    assert_eq!(worker.got().len(), 2, "it gets nothing of that");
}

/// Only an event that ran when the process ended may have ended it.
#[tokio::test]
async fn what_waited_for_its_retry_is_no_suspect_and_what_ran_again_is() {
    let group = Name::from_static("a");
    let kept = Kept::with(&["1"]).await;
    let worker = Worker::held().failing(&[1]);
    worker.let_one();
    let (bus, consumer) = process(&kept, LATER, &worker).await;
    until("it waits", async || kept.rows("a").await == (vec![1], vec![])).await;
    kill(&kept, bus, consumer).await;

    // an hour later
    let mut rows = kept.waiting(&group).await;
    rows[0].attempts.next_at = Some(0);
    kept.put(&group, rows).await;
    let runs = async || {
        let rows = kept.waiting(&group).await;
        rows.first().filter(|row| row.attempts.next_at.is_none()).map(|row| row.attempts.clone())
    };
    let (bus, consumer) = process(&kept, LATER, &Worker::held()).await;
    until("it runs again", async || runs().await.is_some()).await;
    let tries = runs().await.unwrap();
    assert_eq!((tries.attempts, tries.process_ends, tries.ended_alone), (1, 0, 0));
    kill(&kept, bus, consumer).await;

    let (bus, consumer) = process(&kept, LATER, &Worker::held()).await;
    until("it runs alone", async || runs().await.is_some_and(|tries| tries.ended_alone == 1)).await;
    let tries = runs().await.unwrap();
    assert_eq!((tries.attempts, tries.process_ends), (1, 1));
    kill(&kept, bus, consumer).await;
}

/// The bus saves how far a group reads for many events at once, and takes it back when it stops.
#[tokio::test]
async fn a_group_that_was_stopped_leaves_nothing_that_may_have_ended_its_process() {
    let names: Vec<String> = (0..1_000).map(|number| number.to_string()).collect();
    let kept = Kept::with(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let worker = Worker::new();
    let (bus, consumer) = process(&kept, NEVER, &worker).await;
    settled(&bus).await;
    let reach = kept.get("reading:a").map(Position::get);
    assert!(reach.is_some_and(|reach| reach >= 1_000), "{reach:?}");
    let reaches = kept.reaches.load(Ordering::SeqCst);
    assert!(reaches <= 1_000 / 8 + 1, "{reaches} notes for 1,000 events");
    bus.stop_consuming().await;
    consumer.await.unwrap();
    assert_eq!(kept.get("reading:a"), Some(Position::START));
}

/// A handler that blocks its thread goes on after the deadline: its event must count as in flight.
#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_whose_deadline_a_handler_outlasts_saves_nothing() {
    let kept = Kept::with(&["1"]).await;
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let blocked = std::sync::Mutex::new(blocked);
    let blocks = Subscriber::new(Name::from_static("blocks"), EventFilter::All, move |_| {
        begun.send(()).unwrap();
        let _ = blocked.lock().unwrap().recv(); // until the test releases it
        Box::pin(async { Ok(()) })
    });
    let (bus, consumer) = process_with(&kept, LATER, |bus| bus.add_subscriber(Name::from_static("a"), blocks)).await;
    begins.recv().await.unwrap();
    bus.shutdown(Duration::from_millis(1)).await.unwrap_err();
    assert!(kept.get("reading:a") > Some(Position::START), "the next process must take it for a suspect");
    drop(release);
    consumer.await.unwrap();
}

/// Ends a process by a shutdown that does not wait for the handlers.
async fn shut_down_at_once(bus: &InMemoryEventBus, consumer: JoinHandle<()>) {
    assert!(bus.shutdown(Duration::from_millis(1)).await.is_err(), "a handler runs");
    consumer.await.unwrap();
}

/// Fails if the event of a handler that a shutdown aborts counts as one that may have ended the process.
#[tokio::test]
async fn what_a_shutdown_aborts_is_no_suspect_and_is_delivered_at_once() {
    let lines = Lines::default();
    let _here = lines.capture("eventbus=info");
    let kept = Kept::with(&["1", "1", "2"]).await;
    let worker = Worker::held();
    worker.let_at(3);
    let (bus, consumer) = process(&kept, LATER, &worker).await;
    until("the last is handled", async || worker.got() == [3]).await;
    shut_down_at_once(&bus, consumer).await;
    assert_eq!(kept.get("reading:a"), Some(Position::START));
    assert_eq!((kept.get("group:a"), kept.rows("a").await), (Some(Position::new(3)), (vec![1, 2], vec![])));
    let rows = kept.waiting(&Name::from_static("a")).await;
    assert!(rows.iter().all(|row| row.attempts == DeliveryAttempts::default()), "{rows:?}");
    assert_eq!(lines.text().matches("aborted by shutdown").count(), 1);

    let again = Worker::new();
    let (bus, _) = process(&kept, LATER, &again).await;
    settled(&bus).await;
    assert_eq!(again.got(), [1, 2]);
}

/// Fails if a shutdown that aborts a suspect counts as its process end: after five it would be a dead letter.
#[tokio::test(start_paused = true)]
async fn a_suspect_that_a_shutdown_aborts_has_not_ended_its_process() {
    let group = Name::from_static("a");
    let kept = Kept::with(&["1"]).await;
    let worker = Worker::held();
    let (bus, consumer) = process(&kept, LATER, &worker).await;
    until("it is read", async || pending(&bus, "a").await == 1).await;
    kill(&kept, bus, consumer).await;
    for _ in 0..7 {
        let (bus, consumer) = process(&kept, LATER, &worker).await;
        until("it runs alone", async || kept.waiting(&group).await.iter().any(|row| row.attempts.ended_alone == 1))
            .await;
        shut_down_at_once(&bus, consumer).await;
        let tries = &kept.waiting(&group).await[0].attempts;
        assert_eq!((tries.process_ends, tries.ended_alone, tries.next_at.is_some()), (1, 0, true));
    }
    assert_eq!(worker.got(), Vec::<u64>::new());
    let again = Worker::new();
    let (bus, _) = process(&kept, LATER, &again).await;
    settled(&bus).await;
    assert_eq!((again.got(), kept.rows("a").await), (vec![1], (vec![], vec![])));
}

/// Processes are killed and saves fail at any moment: all events are handled in the order of their aggregate, and none
/// again once that was saved.
#[tokio::test]
async fn killed_processes_lose_nothing_and_repeat_nothing_that_was_saved() {
    // concurrently, as each suspect waits a second
    futures_util::future::join_all((0..40).map(kill_processes)).await;
}

async fn kill_processes(round: u64) {
    let mut random = oorandom(7 + round);
    let aggregates: Vec<String> = (0..60).map(|_| format!("a{}", random() % 12)).collect();
    let names: Vec<&str> = aggregates.iter().map(String::as_str).collect();
    let kept = Kept::with(&names).await;
    let mut all = Vec::new();
    loop {
        let worker = Worker::new();
        let is_last = all.len() > 4;
        if !is_last {
            worker.failing.lock().unwrap().extend((1..=60).filter(|_| random().is_multiple_of(4)));
        }
        let checkpoint = kept.get("group:a").map_or(0, Position::get);
        let (waiting, _) = kept.rows("a").await;
        let (bus, consumer) = process(&kept, SOON, &worker).await;
        if is_last {
            settled(&bus).await;
        } else {
            let enough = random() % 40;
            until("it has worked for a while", async || {
                worker.got().len() as u64 >= enough || {
                    bus.progress(&Name::from_static("a")).await.unwrap().is_settled()
                }
            })
            .await;
        }
        kept.broken.store(random().is_multiple_of(3) && !is_last, Ordering::SeqCst);
        kill(&kept, bus, consumer).await;
        for at in worker.got() {
            let is_open = at > checkpoint || waiting.contains(&at);
            assert!(is_open, "round {round}: {at} came again, after {checkpoint}, with {waiting:?}");
        }
        let failing = worker.failing.lock().unwrap().clone();
        all.push(worker.got().into_iter().filter(|at| !failing.contains(at)).collect::<Vec<_>>());
        if is_last {
            break;
        }
    }
    let mut first = BTreeMap::new();
    for (nth, at) in all.iter().flatten().enumerate() {
        first.entry(*at).or_insert(nth);
    }
    assert_eq!(first.len(), 60, "round {round}: all are handled");
    for aggregate in &aggregates {
        let own: Vec<_> = (1..=60).filter(|at| aggregates[*at as usize - 1] == *aggregate).collect();
        let order: Vec<_> = own.iter().map(|at| first[at]).collect();
        assert!(order.is_sorted(), "round {round}: {own:?} were handled in the order {order:?}");
    }
    assert_eq!(kept.rows("a").await, (vec![], vec![]));
}

/// Pseudorandom numbers, the same in each run.
fn oorandom(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    }
}

#[tokio::test]
async fn nothing_is_delivered_before_progress_is_known() {
    let kept = Kept::with(&["1", "2"]).await;
    let early = Worker::new();
    let (bus, _) = process(&kept, SOON, &early).await;
    settled(&bus).await;
    let late = Worker::new();
    kept.save_checkpoint_of("late", 1).await;
    kept.unreadable.store(true, Ordering::SeqCst);
    late.join(&bus, "late");
    until("loading was refused", async || kept.refused.load(Ordering::SeqCst) > 0).await;
    assert_eq!(late.got(), Vec::<u64>::new());
    kept.unreadable.store(false, Ordering::SeqCst);
    until("the rest is delivered", async || late.got() == [2]).await;
    bus.shutdown(Duration::from_secs(10)).await.unwrap();
}

/// Fails if a group goes on without bound while saves fail, or does not go on once they succeed.
#[tokio::test(start_paused = true)]
async fn while_progress_cannot_be_saved_a_group_handles_a_few_hundred_events_at_most() {
    const EVENTS: u64 = 2_000;
    let lines = Lines::default();
    let _here = lines.capture("eventbus=info");
    let kept = Kept::with_events(EVENTS).await;
    kept.broken.store(true, Ordering::SeqCst);
    let worker = Worker::new();
    let bus = InMemoryEventBus::builder().retry(SOON).max_in_flight(16).build();
    worker.join(&bus, "a");
    bus.resume_from(kept.clone()).await.unwrap();
    feed(&bus, &kept.after(Position::START).await).await;
    start(&bus).await;
    until("saves were refused for a while", async || kept.refused.load(Ordering::SeqCst) >= 20).await;
    let handled = worker.got().len();
    assert!((256..=256 + 64 + 16).contains(&handled), "{handled}");
    assert_eq!(lines.text().matches("takes no more events until its progress is saved").count(), 1);

    kept.broken.store(false, Ordering::SeqCst);
    settled(&bus).await;
    assert_eq!(worker.got(), (1..=EVENTS).collect::<Vec<_>>());
    assert_eq!(lines.text().matches("progress is saved again").count(), 1);
}
