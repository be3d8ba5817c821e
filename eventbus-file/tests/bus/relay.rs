//! The queue as the bus of a relay: the events of a store in order, each at least once, whichever process dies.

use std::{env, fs, path::Path, time::Duration};

use crate::common::{another, config, folder, fresh, until};
use eventbus::{
    InMemoryEventStore, Name, NewEvent, Position, RecordedEvent, StreamId, Version,
    port::{EventBus, PublishError, RelayTarget as _},
    prelude::*,
    relay::{PublishRange, PublishedPosition, RangeOutcome},
};
use eventbus_file::{FileQueue, FileQueueConfig, Search};
use eventbus_test::internal::Actor;
use tokio::task::JoinSet;
use uuid::Uuid;

const STORE: Uuid = Uuid::from_u128(7);

/// The record after the event at a position was published; without the event, if it was set.
fn record(position: u64) -> PublishedPosition {
    let event_id = (position > 0).then(|| event(position).metadata().event_id());
    PublishedPosition { position: position.into(), event_id }
}

const fn set_to(position: u64) -> PublishedPosition {
    PublishedPosition { position: Position::new(position), event_id: None }
}

/// The event of the store at a position, always the same.
fn event(position: u64) -> RecordedEvent {
    let stream = StreamId::parse("Order", &format!("order-{}", position % 7)).unwrap();
    let event = NewEvent::new(Name::from_static("OrderCreated"), 1, format!(r#"{{"n":{position}}}"#))
        .with_event_id(Uuid::from_u128(u128::from(position)).into());
    event.recorded_as(stream, Version::FIRST, Some(position.into()))
}

async fn send_after(queue: &FileQueue, after: PublishedPosition, through: u64) -> Result<RangeOutcome, PublishError> {
    let events: Vec<_> = (after.position.get() + 1..=through).map(event).collect();
    let range = PublishRange { after, through: through.into(), events: &events };
    queue.publish_range(STORE, range).await
}

async fn send(queue: &FileQueue, after: u64, through: u64) -> Result<RangeOutcome, PublishError> {
    send_after(queue, record(after), through).await
}

/// Publishes the events after one position through a second one; returns the outcome in a word.
async fn publish(queue: &FileQueue, after: u64, through: u64) -> String {
    told(send(queue, after, through).await.unwrap())
}

fn told(outcome: RangeOutcome) -> String {
    match outcome {
        RangeOutcome::Published(_) => "published".into(),
        RangeOutcome::Moved(record) => format!("moved to {}", record.position),
        RangeOutcome::Lost => "lost".into(),
        other => panic!("{other:?}"),
    }
}

async fn begun() -> FileQueue {
    let queue = fresh().await;
    assert_eq!(queue.set_position(STORE, None, set_to(0)).await.unwrap(), set_to(0));
    queue
}

/// The positions of the store's events, in the order of their ids.
async fn positions(queue: &FileQueue) -> Vec<u64> {
    let all = Search { limit: usize::MAX, ..Search::default() };
    let events = queue.events(&all).await.unwrap().items;
    events.iter().filter_map(|event| event.record().position()).map(Position::get).collect()
}

#[tokio::test]
async fn a_range_follows_the_one_before_and_no_other() {
    let queue = fresh().await;
    assert_eq!(publish(&queue, 0, 3).await, "lost", "no relay has set the first position");
    assert_eq!(queue.published_position(STORE).await.unwrap(), None);
    assert_eq!(queue.set_position(STORE, None, set_to(0)).await.unwrap(), set_to(0));
    assert_eq!(publish(&queue, 0, 3).await, "published");
    assert_eq!(publish(&queue, 0, 3).await, "moved to 3", "sent again");
    assert_eq!(publish(&another(&queue).await, 0, 3).await, "moved to 3", "by another worker");
    assert_eq!(publish(&queue, 5, 7).await, "moved to 3");
    queue.publish(&"of somebody else").await.unwrap();
    assert_eq!(publish(&queue, 3, 4).await, "published");
    assert_eq!(positions(&queue).await, [1, 2, 3, 4]);
    assert_eq!(queue.set_position(STORE, None, set_to(0)).await.unwrap(), record(4));
    assert_eq!(queue.stats().events_published, 4);
    assert_eq!(queue.published_position(STORE).await.unwrap(), Some(record(4)));
    assert_eq!(queue.published_position(Uuid::from_u128(8)).await.unwrap(), None);
    assert!(queue.check().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_range_ends_behind_its_last_event_where_others_are_skipped() {
    let queue = begun().await;
    let one = [event(1)];
    for (after, through, events) in [(0, 3, &one[..]), (3, 5, &[])] {
        let range = PublishRange { after: set_to(after), through: Position::new(through), events };
        let outcome = queue.publish_range(STORE, range).await.unwrap();
        assert!(matches!(&outcome, RangeOutcome::Published(ids) if ids.len() == events.len()), "{outcome:?}");
        let again = another(&queue).await.publish_range(STORE, range).await.unwrap();
        assert!(matches!(again, RangeOutcome::Moved(at) if at == set_to(through)), "{again:?}");
        assert_eq!(another(&queue).await.published_position(STORE).await.unwrap(), Some(set_to(through)));
    }
    assert_eq!(told(send_after(&queue, set_to(5), 7).await.unwrap()), "published");
    assert_eq!(positions(&queue).await, [1, 6, 7]);
    assert_eq!(another(&queue).await.published_position(STORE).await.unwrap(), Some(record(7)));
    assert!(queue.check().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_cannot_be_published_is_refused_by_name_and_nothing_is_written() {
    let queue = begun().await;
    let bad = RecordedEvent::new(event(2).metadata().clone(), "{");
    let nowhere = RecordedEvent::new(event(2).metadata().clone().with_position(None), "{}");
    for events in [vec![event(1), bad], vec![event(1), nowhere], vec![event(2), event(1)], vec![event(10)]] {
        let last = events[events.len() - 1].metadata().event_id();
        let range = PublishRange { after: set_to(0), through: 2.into(), events: &events };
        let error = queue.publish_range(STORE, range).await.unwrap_err();
        assert!(matches!(error, PublishError::Refused { event_id: Some(id), .. } if id == last), "{error:?}");
    }
    let range = PublishRange { after: set_to(3), through: 2.into(), events: &[] };
    let error = queue.publish_range(STORE, range).await.unwrap_err();
    assert!(matches!(error, PublishError::Refused { event_id: None, .. }), "{error:?}");
    assert!(positions(&queue).await.is_empty());
    queue.shutdown(Duration::from_secs(1)).await.unwrap();
    assert!(matches!(send(&queue, 0, 1).await, Err(PublishError::ShutDown { .. })));
}

#[tokio::test]
async fn the_position_is_set_only_if_it_has_not_moved() {
    let queue = begun().await;
    assert_eq!(publish(&queue, 0, 6).await, "published");
    assert_eq!(queue.set_position(STORE, Some(record(5)), set_to(4)).await.unwrap(), record(6));
    assert_eq!(queue.set_position(STORE, Some(record(6)), set_to(4)).await.unwrap(), set_to(4));
    for queue in [&queue, &another(&queue).await] {
        assert_eq!(publish(queue, 6, 7).await, "moved to 4");
        assert_eq!(queue.published_position(STORE).await.unwrap(), Some(set_to(4)));
    }
    assert_eq!(told(send_after(&queue, set_to(4), 7).await.unwrap()), "published");
    assert_eq!(positions(&queue).await, [1, 2, 3, 4, 5, 6, 5, 6, 7]);
}

#[tokio::test]
async fn a_store_without_a_record_is_told_of_one_that_has_one() {
    let queue = begun().await;
    let other = Uuid::from_u128(8);
    assert_eq!(queue.other_store(other).await.unwrap(), Some(STORE));
    assert_eq!(queue.other_store(STORE).await.unwrap(), None);
    assert_eq!(queue.set_position(other, None, set_to(0)).await.unwrap(), set_to(0));
    assert_eq!(queue.other_store(other).await.unwrap(), None);
    let range = PublishRange { after: set_to(0), through: 1.into(), events: &[event(1)] };
    assert!(matches!(queue.publish_range(other, range).await.unwrap(), RangeOutcome::Published(_)));
    assert_eq!(publish(&queue, 0, 1).await, "published", "the stores do not disturb each other");
    assert_eq!(positions(&queue).await, [1, 1]);
}

#[tokio::test]
async fn what_was_published_is_known_after_the_events_were_removed() {
    let queue = begun().await;
    let stale = another(&queue).await;
    assert_eq!(publish(&queue, 0, 3).await, "published");
    assert_eq!(publish(&stale, 3, 4).await, "published");
    assert_eq!(publish(&queue, 4, 6).await, "published");
    while let Some(work) = queue.try_claim_next().await.unwrap() {
        work.succeed(&()).await.unwrap();
    }
    assert_eq!(queue.remove_through(100).await.unwrap().events, 6);
    for queue in [&stale, &another(&queue).await] {
        assert_eq!(publish(queue, 4, 5).await, "moved to 6");
    }
    assert_eq!(publish(&stale, 6, 7).await, "published");
    assert_eq!(queue.event(7).await.unwrap().unwrap().record().position(), Some(7.into()));
}

#[tokio::test]
async fn the_last_two_records_stay_and_torn_ones_are_told() {
    let queue = begun().await;
    for after in 0..2 {
        assert_eq!(publish(&queue, after, after + 1).await, "published");
    }
    let records = queue.config().root_dir.join("relays").join(STORE.to_string());
    let mut names: Vec<_> = fs::read_dir(&records).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["000000000002.json", "000000000003.json"]);
    fs::write(records.join("000000000004.json"), "{").unwrap();
    let problems = queue.check().await.unwrap();
    assert_eq!(problems.iter().map(|problem| problem.path()).collect::<Vec<_>>(), [records.join("000000000004.json")]);
    let error = send(&another(&queue).await, 2, 3).await.unwrap_err();
    assert!(matches!(error, PublishError::Refused { event_id: None, .. }), "{error:?}");
}

/// Publishes through a position, from the queue's published position.
async fn publish_through(queue: &FileQueue, last: u64, most: u64) -> u64 {
    let (mut position, mut moved) = (0, 0);
    while position < last {
        let through = (position + 1 + fastrand::u64(..most)).min(last);
        match send(queue, position, through).await.unwrap() {
            RangeOutcome::Published(_) => position = through,
            RangeOutcome::Moved(to) => (position, moved) = (to.position.get(), moved + 1),
            other => panic!("{other:?}"),
        }
    }
    moved
}

/// Fails unless every event up to `last` is there, and follows the one before, apart from ranges that came again.
fn assert_in_order(positions: &[u64], last: u64) {
    let mut published = 0;
    for position in positions {
        assert!(*position <= published + 1, "{position} after {published}: {positions:?}");
        published = published.max(*position);
    }
    assert_eq!(published, last);
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_that_race_leave_no_event_out() {
    const LAST: u64 = 300;
    let queue = begun().await;
    let mut racers = JoinSet::new();
    for _ in 0..3 {
        let queue = another(&queue).await;
        racers.spawn(async move { publish_through(&queue, LAST, 7).await });
    }
    let moved = racers.join_all().await;
    assert_in_order(&positions(&queue).await, LAST);
    assert!(moved.iter().sum::<u64>() > 0, "they never met");
    let last = queue.published_position(STORE).await.unwrap().unwrap().position;
    assert_eq!(last.get(), LAST);
}

const ROOT: &str = "FILE_QUEUE_RELAY_ROOT";
const LAST: &str = "FILE_QUEUE_RELAY_LAST";

/// The role of the process that dies; returns at once in an ordinary run.
#[tokio::test(flavor = "multi_thread")]
async fn the_relay_that_dies() {
    if let Ok(root) = env::var(ROOT) {
        Actor::end_with_parent();
        let queue = FileQueue::open(config(Path::new(&root))).await.unwrap();
        publish_through(&queue, env::var(LAST).unwrap().parse().unwrap(), 20).await;
        std::future::pending::<()>().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_that_are_killed_leave_no_event_out_and_repeat_one_range_each() {
    let queue = begun().await;
    let root = &queue.config().root_dir;
    let mut last = 0;
    for _ in 0..8 {
        last += 1_000;
        let before = queue.published_position(STORE).await.unwrap().unwrap().position;
        let variables = [(ROOT, root.to_str().unwrap()), (LAST, &last.to_string())];
        let relay = Actor::play("relay::the_relay_that_dies", &variables);
        let some = fastrand::u64(1..150);
        until("it has published some", async || {
            queue.published_position(STORE).await.unwrap().unwrap().position.get() >= before.get() + some
        })
        .await;
        relay.kill();
    }
    let published = queue.published_position(STORE).await.unwrap().unwrap().position.get();
    publish_through(&queue, published + 100, 100).await;
    let positions = positions(&queue).await;
    assert_in_order(&positions, published + 100);
    assert!(positions.len() as u64 <= published + 100 + 8 * 20, "each kill repeats one range at most");
    assert!(queue.check().await.unwrap().is_empty());
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Deposited {
    cents: u64,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Deposited))]
struct Account;

impl Apply for Account {
    fn apply(&mut self, _: &AccountEvent) {}
}

/// An application that ends is followed by one that continues behind the published events.
#[tokio::test(flavor = "multi_thread")]
async fn an_application_publishes_on_over_restarts() {
    let (store, queue) = (InMemoryEventStore::new(), fresh().await);
    for round in 1..=4_u64 {
        let app = App::builder().store(store.clone()).bus(another(&queue).await).start().await.unwrap();
        let (accounts, account) = (app.repository::<Account>(), format!("account-{round}").parse().unwrap());
        for cents in 0..20 {
            accounts.upsert(&account, |_| Ok::<_, eventbus::Never>(Deposited { cents })).await.unwrap();
        }
        let last = Position::new(round * 20);
        app.published(last).await.unwrap();
        drop(app); // as if it had crashed: it does not shut down
    }
    assert_eq!(positions(&queue).await, (1..=80).collect::<Vec<_>>());
}

#[tokio::test]
async fn events_that_cannot_be_linked_leave_no_payload_files() {
    let queue = FileQueue::open(FileQueueConfig { compress_from: Some(1), ..config(folder()) }).await.unwrap();
    queue.set_position(STORE, None, set_to(0)).await.unwrap();
    let root = queue.config().root_dir.clone();
    // a file where the folder of the first events belongs
    fs::write(root.join("events/000000000"), "").unwrap();
    send(&queue, 0, 1).await.unwrap_err();
    queue.publish(&"an event with a payload file").await.unwrap_err();
    assert_eq!(fs::read_dir(root.join("payloads")).unwrap().count(), 0);
}
