//! Replays and retries that an owner of a group receives.

use eventbus::{
    HandlerError, NewEvent, RecordedEvent, StreamId, Version, clock::SharedClock, event::EventFilter, port::Subscriber,
    testkit::ManualClock,
};
use tempfile::TempDir;

use super::*;
use crate::{FileQueue, FileQueueConfig};

static GROUP: Name = Name::from_static("default");

async fn fresh() -> (TempDir, FileQueue) {
    let root = tempfile::tempdir().unwrap();
    let config = FileQueueConfig { sync: false, ..FileQueueConfig::at(root.path().join("queue")) };
    (root, FileQueue::open(config).await.unwrap())
}

fn outage(queue: &FileQueue) -> Outage {
    Outage::new(queue.config().clock.clone())
}

/// Acquires the group, as a worker that starts.
async fn acquire<'a>(queue: &'a FileQueue, outage: &'a mut Outage) -> Consumer<'a> {
    let acquire = |queue: &QueueInner| queue.groups().acquire_group(&GROUP, queue.subscribers(), queue.dead_letters());
    let owned = queue.inner().blocking(acquire).await.unwrap().expect("no other worker has the group");
    Consumer::new(queue.inner(), &GROUP, owned, outage)
}

/// An event of the aggregate with this id.
fn event(id: u64) -> RecordedEvent {
    event_with(id, "{}")
}

fn event_with(id: u64, payload: &str) -> RecordedEvent {
    let event = NewEvent::new(Name::from_static("Deposited"), 1, payload);
    event.recorded_as(StreamId::parse("Account", &id.to_string()).unwrap(), Version::FIRST, None)
}

/// Makes a dead letter of the group, and begins its replay.
fn replay(queue: &FileQueue, id: u64) {
    replay_of(queue, id, &event(id));
}

fn replay_of(queue: &FileQueue, id: u64, event: &RecordedEvent) {
    let letters = queue.inner().dead_letters();
    letters.write_dead_letter(id, &GROUP, None, Some(event), DeliveryAttempts::default()).unwrap();
    assert!(letters.start_replay(&format!("{id:012}-default")).unwrap());
}

/// Returns the replays that wait to become in-flight entries, each with `true` if it is marked as redelivered.
fn received(consumer: &Consumer<'_>) -> Vec<(u64, bool)> {
    let added = consumer.update.added.iter();
    added.map(|entry| (entry.id.as_str().parse().unwrap(), entry.is_redelivered)).collect()
}

/// Receives all replays, as if each became an in-flight entry at once.
async fn receive_all(consumer: &mut Consumer<'_>) -> Vec<(u64, bool)> {
    let mut all = Vec::new();
    loop {
        consumer.receive_replays().await.unwrap();
        match received(consumer) {
            new if new.is_empty() => return all,
            new => all.extend(new),
        }
        consumer.update.added.clear();
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_replay_that_cannot_be_read_now_is_received_later() {
    let (root, queue) = fresh().await;
    let mut outage = outage(&queue);
    let mut consumer = acquire(&queue, &mut outage).await;
    replay(&queue, 1);
    consumer.receive_replays().await.unwrap();
    replay(&queue, 2);
    let (folder, away) = (root.path().join("queue/replays"), root.path().join("away"));
    std::fs::rename(&folder, &away).unwrap();
    // it can be listed, and reading from it fails, as on a broken disk
    std::os::unix::fs::symlink(&away, &folder).unwrap();
    consumer.receive_replays().await.unwrap();
    assert_eq!(received(&consumer), [(1, false)]);
    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(&away, &folder).unwrap();
    consumer.receive_replays().await.unwrap();
    assert_eq!(received(&consumer), [(1, false), (2, false)]);
}

/// Fails if a process end counts only for the replays that the next owner receives first: then an event that ends its
/// process at each replay does so for ever.
#[tokio::test]
async fn a_replay_counts_the_end_of_its_process_however_late_the_next_owner_receives_it() {
    let (_root, queue) = fresh().await;
    let (mut first, mut second, mut third) = (outage(&queue), outage(&queue), outage(&queue));
    let mut consumer = acquire(&queue, &mut first).await;
    replay(&queue, 9);
    consumer.run_cycle().await.unwrap();
    drop(consumer); // as by a process end

    replay(&queue, 5); // no process has received these two
    replay(&queue, 12);
    let mut consumer = acquire(&queue, &mut second).await;
    while let room @ 1.. = consumer.in_flight.room_beside(consumer.update.added.len()) {
        let others = (0..room as u64).map(|number| InFlightEntry::new(message_id(100 + number), event(100 + number)));
        consumer.update.added.extend(others);
    }
    consumer.receive_replays().await.unwrap();
    assert!(received(&consumer).iter().all(|(id, _)| *id >= 100), "there is no room");
    consumer.update.added.clear();
    assert_eq!(receive_all(&mut consumer).await, [(5, false), (9, true), (12, false)]);
    consumer.finish().await.unwrap();
    drop(consumer);

    let mut consumer = acquire(&queue, &mut third).await;
    let all = receive_all(&mut consumer).await;
    assert_eq!(all, [(5, false), (9, false), (12, false)], "the owner before ended orderly");
}

/// Fails if a process that dies after it removed the file of a finished replay makes a later replay count its end.
#[tokio::test]
async fn a_finished_replay_counts_no_process_end_for_a_later_replay() {
    let (_root, queue) = fresh().await;
    let (mut first, mut second) = (outage(&queue), outage(&queue));
    let mut consumer = acquire(&queue, &mut first).await;
    replay(&queue, 1);
    replay(&queue, 2);
    consumer.run_cycle().await.unwrap();
    consumer.finish_event(1).await.unwrap();
    drop(consumer); // as by a process end, before the progress without the replay is saved

    let mut consumer = acquire(&queue, &mut second).await;
    replay(&queue, 1);
    assert_eq!(receive_all(&mut consumer).await, [(1, false), (2, true)]);
}

/// Fails if a process that dies between two steps leaves a dead letter beside its replay: the replay may succeed, and
/// the dead letter stays.
#[tokio::test]
async fn a_replay_that_fails_for_good_is_never_beside_its_dead_letter() {
    let (root, queue) = fresh().await;
    let letters = queue.inner().dead_letters();
    let give_up = || letters.write_dead_letter(1, &GROUP, None, Some(&event(1)), DeliveryAttempts::default());
    replay(&queue, 1);
    let blocked = root.path().join("queue/dead_letters/000000000001-default.json");
    std::fs::create_dir(&blocked).unwrap(); // the file cannot be moved there, as if the process died before
    give_up().unwrap_err();
    std::fs::remove_dir(&blocked).unwrap();
    assert_eq!(letters.list_replays(&GROUP).unwrap(), [1]);
    assert!(letters.load_replay(1, &GROUP).unwrap().is_some(), "the next owner delivers it again");
    give_up().unwrap();
    assert!(letters.has_dead_letter(1, &GROUP, None).unwrap());
    assert!(letters.list_replays(&GROUP).unwrap().is_empty());
    let mut outage = outage(&queue);
    let mut consumer = acquire(&queue, &mut outage).await;
    assert!(receive_all(&mut consumer).await.is_empty());
}

/// Retires the group, which has not received an event.
fn retire(queue: &FileQueue) {
    let (groups, letters) = (queue.inner().groups(), queue.inner().dead_letters());
    groups.make_group(&GROUP, 0).unwrap();
    groups.retire_group(&GROUP, letters).unwrap();
}

/// Fails if a dead letter of before the group's retirement ends the retries of its event.
#[tokio::test]
async fn a_dead_letter_of_before_a_retirement_finishes_no_event() {
    let (_root, queue) = fresh().await;
    queue.publish_all(&[1, 2]).await.unwrap();
    let letters = queue.inner().dead_letters();
    let failed = || DeliveryAttempts::from_json(r#"{"attempts":3,"done":["a"]}"#).unwrap();
    letters.write_dead_letter(1, &GROUP, None, Some(&event(1)), failed()).unwrap();
    retire(&queue);
    let (mut first, mut second, mut third) = (outage(&queue), outage(&queue), outage(&queue));
    let mut consumer = acquire(&queue, &mut first).await;
    consumer.run_cycle().await.unwrap();
    let waits = DeliveryAttempts::from_json(r#"{"attempts":1,"next_at":1}"#).unwrap();
    consumer.save_attempts(1, waits.clone()).await.unwrap();
    consumer.finish().await.unwrap();
    drop(consumer);

    let mut consumer = acquire(&queue, &mut second).await;
    consumer.receive_open().await.unwrap();
    assert_eq!(received(&consumer), [(1, false), (2, false)]);
    assert_eq!(consumer.update.added[0].attempts, waits);
    let first_epoch = consumer.progress.first_epoch;
    letters.write_dead_letter(1, &GROUP, first_epoch, Some(&event(1)), failed()).unwrap();
    drop(consumer); // as by a process end, before the progress without the event is saved

    let mut consumer = acquire(&queue, &mut third).await;
    consumer.receive_open().await.unwrap();
    assert_eq!(received(&consumer), [(2, true)]);
    assert_eq!(consumer.progress.open.keys().collect::<Vec<_>>(), [&2]);
}

/// Fails if the replay of a dead letter of before the group's retirement replaces the delivery of its event: then the
/// handlers that succeeded before the retirement never get the event again.
#[tokio::test]
async fn a_replay_of_before_a_retirement_waits_until_the_group_has_finished_its_event() {
    let (_root, queue) = fresh().await;
    queue.publish_all(&[1]).await.unwrap();
    retire(&queue);
    replay(&queue, 1);
    let mut outage = outage(&queue);
    let mut consumer = acquire(&queue, &mut outage).await;
    consumer.run_cycle().await.unwrap();
    assert_eq!((consumer.in_flight.len(), consumer.replays.len()), (1, 0));
    assert!(consumer.progress.open.contains_key(&1), "it is the event, not its replay");
    consumer.receive_replays().await.unwrap();
    assert!(received(&consumer).is_empty(), "the event is in flight");
    consumer.finish_event(1).await.unwrap();
    consumer.receive_replays().await.unwrap();
    assert_eq!(received(&consumer), [(1, false)]);
    assert!(consumer.replays.contains(&1));
}

/// Fails if replays whose files cannot be read take the room of readable ones.
#[tokio::test]
async fn replays_that_could_not_be_read_come_last() {
    let (_root, queue) = fresh().await;
    let mut outage = outage(&queue);
    let mut consumer = acquire(&queue, &mut outage).await;
    replay(&queue, 1);
    replay(&queue, 2);
    consumer.failed_replays.insert(1);
    let room = consumer.in_flight.room_beside(0) as u64;
    consumer
        .update
        .added
        .extend((1..room).map(|number| InFlightEntry::new(message_id(100 + number), event(100 + number))));
    consumer.receive_replays().await.unwrap();
    let replays: Vec<_> = received(&consumer).into_iter().filter(|(id, _)| *id < 100).collect();
    assert_eq!(replays, [(2, false)]);
}

/// Fails if a consumer holds as many replays as a count allows, whatever their size, or waits for a poll before it
/// receives the next page.
#[tokio::test]
async fn replays_of_large_events_are_received_page_by_page() {
    let (_root, queue) = fresh().await;
    let mut outage = outage(&queue);
    let mut consumer = acquire(&queue, &mut outage).await;
    let large = format!("\"{}\"", "x".repeat(PAGE_BYTES));
    for id in [1, 2] {
        replay_of(&queue, id, &event_with(id, &large));
    }
    assert!(consumer.in_flight.room_beside(0) >= 2);
    assert!(consumer.receive_replays().await.unwrap(), "there is one more");
    assert_eq!(received(&consumer), [(1, false)]);
    consumer.run_cycle().await.unwrap();
    assert_eq!(consumer.in_flight.len(), 2);
    for id in [3, 4] {
        replay_of(&queue, id, &event_with(id, &large));
    }
    consumer.in_flight.release([&message_id(1), &message_id(2)]);
    consumer.run_cycle().await.unwrap();
    assert_eq!(consumer.in_flight.len(), 1);
    assert!(consumer.has_more, "the next page is received as soon as there is room");
}

/// Fails if a consumer reads as many due events again as a count allows, whatever their size.
#[tokio::test]
async fn large_events_that_are_due_are_read_again_page_by_page() {
    const EVENTS: usize = 8;
    const RETRY_AFTER: Duration = Duration::from_secs(3_600);
    let (root, clock) = (tempfile::tempdir().unwrap(), ManualClock::new());
    let config = FileQueueConfig {
        sync: false,
        concurrency: EVENTS,
        clock: SharedClock::new(clock.clone()),
        ..FileQueueConfig::at(root.path().join("queue"))
    };
    let queue = FileQueue::open(config).await.unwrap();
    let fails = Subscriber::new(Name::from_static("fails"), EventFilter::All, |_| {
        Box::pin(async { Err(HandlerError::retry_after(RETRY_AFTER, "later")) })
    });
    let _subscription = queue.inner().subscribers().add(GROUP.clone(), fails);
    queue.publish_all(&vec!["x".repeat(PAGE_BYTES / 3); EVENTS]).await.unwrap();
    let mut outage = outage(&queue);
    let mut consumer = acquire(&queue, &mut outage).await;
    let (in_flight, context, inner) =
        (Arc::clone(&consumer.in_flight), consumer.group_context(), Arc::clone(queue.inner()));
    let work = move |_: Name, stop: StopSignal| {
        let (in_flight, context) = (Arc::clone(&in_flight), context.clone());
        async move { run_workers(&in_flight, &context, &stop).await }
    };
    let working = tokio::spawn(async move { inner.consuming().run(inner.name(), inner.subscribers(), work).await });
    let all_wait = async {
        while consumer.progress.open.values().filter(|attempts| attempts.next_at.is_some()).count() < EVENTS {
            consumer.run_cycle().await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all_wait).await.expect("each has failed");

    clock.advance(2 * RETRY_AFTER);
    for read in [3, 6] {
        consumer.read_due().await.unwrap();
        assert_eq!(consumer.update.resumed.len(), read);
    }
    queue.inner().consuming().stop().await;
    working.await.unwrap().unwrap();
}
