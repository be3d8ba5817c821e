//! Events that groups receive from PostgreSQL because the Redis stream holds them no longer: all events for a new
//! group, and for a known group a type that it skipped. With processes that have the store running, killed and
//! restarted.

use std::{
    collections::BTreeMap,
    env,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use eventbus::{
    ExpectedVersion, Name, NewEvent, StreamId,
    app::AppBuilder,
    port::{Append, AppendEvents, EventBus, GroupProgress, ReadFeed},
    prelude::*,
};
use eventbus_redis::Trim;
use eventbus_test::internal::Actor;
use tokio::sync::watch;

use crate::{
    log,
    world::{World, bus_with, until},
};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Meter)]
struct Counted {
    number: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Meter)]
struct Checked {
    number: u64,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Counted, Checked))]
struct Meter;

impl Apply for Meter {
    fn apply(&mut self, _event: &MeterEvent) {}
}

/// The numbers of the events: one in 11 is `Counted`, 3,000 are `Checked`.
const ALL: std::ops::Range<u64> = 0..3_300;
const METERS: u64 = 30;
/// Number of consecutive events of one meter.
const IN_A_ROW: u64 = 11;
/// Number of unread entries of a backlog at which the relay stops filling it.
const FULL: usize = 2_000;
/// The largest backlog: besides the unread entries those that a consumer reads ahead, and one batch of the filling.
const MOST: usize = FULL + 1_000 + 200;
/// Time that a group waits for a process with the store before it warns and reads the stream.
const STORE_WAIT: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(60);

const fn is_counted(number: &u64) -> bool {
    number.is_multiple_of(IN_A_ROW)
}

const fn is_checked(number: &u64) -> bool {
    !is_counted(number)
}

const fn meter_of(number: u64) -> u64 {
    number / IN_A_ROW % METERS
}

/// Appends `Counted` and `Checked` events, with gaps between positions as failed appends leave them.
async fn append_numbers(world: &World, numbers: std::ops::Range<u64>) {
    let numbers: Vec<u64> = numbers.collect();
    let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(&world.database).await.unwrap();
    for round in numbers.chunks(usize::try_from(IN_A_ROW * METERS).unwrap()) {
        let append = |numbers: &[u64]| Append {
            stream: StreamId::parse("Meter", &format!("m{}", meter_of(numbers[0]))).unwrap(),
            expected: ExpectedVersion::Any,
            events: numbers.iter().map(new_event).collect(),
        };
        let appends = round.chunks(usize::try_from(IN_A_ROW).unwrap()).map(append).collect();
        world.store.append_many(appends).await.into_iter().for_each(|appended| drop(appended.unwrap()));
        sqlx::query("SELECT nextval('eventbus.events_position_seq')").execute(&mut connection).await.unwrap();
    }
}

fn new_event(number: &u64) -> NewEvent {
    let event_type = if is_counted(number) { "Counted" } else { "Checked" };
    NewEvent::new(Name::from_static(event_type), 1, format!(r#"{{"number":{number}}}"#))
}

/// The numbers that one handler has handled, in order. It handles none while held.
#[derive(Clone)]
struct Seen(Arc<Mutex<Vec<u64>>>, watch::Sender<bool>);

impl Seen {
    fn new() -> Self {
        Self(Arc::default(), watch::Sender::new(false))
    }

    fn hold(&self, is_held: bool) {
        self.1.send_replace(is_held);
    }

    async fn add(&self, number: u64) -> Result<(), HandlerError> {
        self.1.subscribe().wait_for(|is_held| !is_held).await?;
        self.0.lock().map_err(|_| "poisoned")?.push(number);
        Ok(())
    }

    fn numbers(&self) -> Vec<u64> {
        self.0.lock().unwrap().clone()
    }

    async fn until(&self, what: &str, count: usize) {
        until(what, async || self.0.lock().unwrap().len() >= count).await;
    }
}

#[derive(Clone)]
struct OfCount(Seen);
#[derive(Clone)]
struct OfCheck(Seen);
#[derive(Clone)]
struct OfAudit(Seen);

#[handler(manual, group = "stock")]
async fn count(event: &Counted, State(seen): State<OfCount>) -> Result<(), HandlerError> {
    seen.0.add(event.number).await
}

/// The same group in the next release.
#[handler(manual, group = "stock")]
async fn check(event: &Checked, State(seen): State<OfCheck>) -> Result<(), HandlerError> {
    seen.0.add(event.number).await
}

/// A group that only the next release has.
#[handler(manual, group = "audit")]
async fn audit_counted(event: &Counted, State(seen): State<OfAudit>) -> Result<(), HandlerError> {
    seen.0.add(event.number).await
}

#[handler(manual, group = "audit")]
async fn audit_checked(event: &Checked, State(seen): State<OfAudit>) -> Result<(), HandlerError> {
    seen.0.add(event.number).await
}

/// Checks that each number occurs once, and those of each meter in order.
#[track_caller]
fn assert_once_and_in_order(seen: &[u64], wanted: impl IntoIterator<Item = u64>) {
    let wanted: Vec<u64> = wanted.into_iter().collect();
    for meter in 0..METERS {
        let of_meter = |numbers: &[u64]| -> Vec<u64> {
            numbers.iter().copied().filter(|number| meter_of(*number) == meter).collect()
        };
        assert_eq!(of_meter(seen), of_meter(&wanted), "of meter {meter}");
    }
}

/// Starts the app of a process with the store: it publishes, and fills backlogs.
async fn with_store(database: &str, redis: &str, partitions: u32) -> App {
    let store = eventstore_postgres::PgEventStore::connect(database).await.unwrap();
    App::builder().store(store).bus(bus_with(redis, partitions).await).wait_timeout(LIMIT).start().await.unwrap()
}

/// Returns the app of a process of the older release, without the store.
async fn older(world: &World, partitions: u32, counted: &Seen) -> AppBuilder {
    let bus = bus_with(world.redis.url(), partitions).await;
    App::builder().bus(bus).wait_timeout(LIMIT).state(OfCount(counted.clone())).handler::<count>()
}

/// Starts the app of a process of the newer release, without the store.
async fn newer(world: &World, partitions: u32, counted: &Seen, checked: &Seen, audited: &Seen) -> App {
    let builder = older(world, partitions, counted).await;
    let builder = builder.state(OfCheck(checked.clone())).state(OfAudit(audited.clone()));
    builder.handler::<check>().handler::<audit_counted>().handler::<audit_checked>().start().await.unwrap()
}

async fn progress(app: &App, group: &'static str) -> GroupProgress {
    app.bus().progress(&Name::from_static(group)).await.unwrap()
}

/// Returns the number of entries in the new group's backlog.
async fn in_backlog(world: &mut World) -> usize {
    redis::cmd("XLEN").arg("{relay:stream}:backlog:audit").query_async(&mut world.connection).await.unwrap()
}

/// Returns the keys of backlogs that remain in Redis, and the records of ranges to fill.
async fn left_of_backlogs(world: &mut World) -> Vec<String> {
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut world.connection).await.unwrap();
    let mut left = Vec::new();
    for key in keys {
        if key.ends_with(":fills") {
            let notes: Vec<String> = redis::cmd("HKEYS").arg(&key).query_async(&mut world.connection).await.unwrap();
            left.extend(notes.into_iter().filter(|note| !note.starts_with("filler ")));
        } else if key.contains(":backlog:") {
            left.push(key);
        }
    }
    left
}

/// Lets an older release handle its types of all stored events; then trims the stream to `keep` entries.
async fn handled_by_an_older_release(world: &World, owner: &App, partitions: u32, keep: u64) -> Seen {
    let counted = Seen::new();
    let app = older(world, partitions, &counted).await.start().await.unwrap();
    append_numbers(world, ALL).await;
    owner.published(world.head().await).await.unwrap();
    app.settled().await.unwrap();
    assert_once_and_in_order(&counted.numbers(), ALL.filter(is_counted));
    until("the other events are counted as skipped", async || app.bus().stats().events_skipped == 3_000).await;
    app.shutdown(Duration::from_secs(10)).await.unwrap();
    let trim = Trim { max_length: Some(keep), max_age: None };
    let trimmed = bus_with(world.redis.url(), partitions).await.trim(trim).await.unwrap();
    assert!(trimmed.removed >= 3_300 - keep - u64::from(partitions), "{trimmed:?}");
    counted
}

/// Returns how many warnings groups of this process logged about missing events that only this store has.
fn count_missing_warnings(store: &str, group: &str) -> usize {
    log::lines(&["the group misses events that only these stores have", &format!("group={group}"), store]).len()
}

/// Two processes with the store fill the backlogs of a new group and of a group that announces a type which it skipped.
async fn three_thousand_events_come_from_the_store(partitions: u32) {
    log::keep();
    let mut world = World::begin().await;
    let store = world.store.store_id().await.unwrap().to_string();
    let (database, redis) = (world.database.clone(), world.redis.url().to_owned());
    let owners = [with_store(&database, &redis, partitions).await, with_store(&database, &redis, partitions).await];
    let counted = handled_by_an_older_release(&world, &owners[0], partitions, 0).await;
    let (before, checked, audited) = (counted.numbers(), Seen::new(), Seen::new());

    // the new group's handler is held: its backlog fills to the limit, and does not delay the other group
    audited.hold(true);
    let new = newer(&world, partitions, &counted, &checked, &audited).await;
    until("the backlog of the new group is full", async || in_backlog(&mut world).await >= FULL).await;
    checked.until("the known group has what it skipped", 3_000).await;
    let filled = in_backlog(&mut world).await;
    assert!(filled <= MOST, "{filled} filled in for a group whose backlog is full");
    let warnings = ["stock", "audit"].map(|group| count_missing_warnings(&store, group));
    assert_eq!(warnings, [0, 0], "warnings while processes with the store run");
    audited.hold(false);
    append_numbers(&world, 3_300..3_630).await;
    owners[0].published(world.head().await).await.unwrap();
    new.settled().await.unwrap();
    for group in ["stock", "audit"] {
        assert_eq!(progress(&new, group).await, GroupProgress::default(), "of {group}");
    }
    assert_once_and_in_order(&audited.numbers(), 0..3_630);
    assert_once_and_in_order(&checked.numbers(), (0..3_630).filter(is_checked));
    assert_once_and_in_order(&counted.numbers(), before.into_iter().chain((3_300..3_630).filter(is_counted)));
    until("no backlog is left", async || left_of_backlogs(&mut world).await.is_empty()).await;
    new.shutdown(Duration::from_secs(10)).await.unwrap();
    for owner in owners {
        until("no backlog is to be filled", async || owner.health().await.unfilled.is_empty()).await;
        owner.shutdown(Duration::from_secs(10)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_thousand_events_that_redis_has_trimmed_come_from_postgres_once_and_in_order() {
    three_thousand_events_come_from_the_store(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_thousand_events_that_redis_has_trimmed_come_to_partitions_once_and_in_order() {
    three_thousand_events_come_from_the_store(4).await;
}

/// The role of a process with the store that dies; returns at once in an ordinary run.
#[tokio::test]
async fn the_owner_that_dies() {
    let variables = ["FILL_DATABASE", "FILL_REDIS", "FILL_PARTITIONS"].map(env::var);
    let [Ok(database), Ok(redis), Ok(partitions)] = variables else {
        return;
    };
    Actor::end_with_parent();
    let _app = with_store(&database, &redis, partitions.parse().unwrap()).await;
    std::future::pending::<()>().await;
}

fn owner(world: &World, partitions: u32) -> Actor {
    let partitions = partitions.to_string();
    let variables =
        [("FILL_DATABASE", &*world.database), ("FILL_REDIS", world.redis.url()), ("FILL_PARTITIONS", &*partitions)];
    Actor::play("fill::the_owner_that_dies", &variables)
}

fn stream(number: u32, partitions: u32) -> String {
    if partitions == 1 { "relay:stream".into() } else { format!("relay:stream:{number}") }
}

/// Returns the numbers that the stream still holds.
async fn in_stream(world: &mut World, partitions: u32) -> Vec<u64> {
    let mut numbers = Vec::new();
    for partition in 0..partitions {
        let stream = stream(partition, partitions);
        let mut range = redis::cmd("XRANGE");
        range.arg(stream).arg("-").arg("+");
        let entries: Vec<(String, BTreeMap<String, String>)> = range.query_async(&mut world.connection).await.unwrap();
        let number = |payload: &str| serde_json::from_str::<Checked>(payload).unwrap().number;
        numbers.extend(entries.iter().map(|(_, fields)| number(&fields["payload"])));
    }
    numbers.sort_unstable();
    numbers
}

/// Moves a time that Redis stores beside backlogs back by `time`.
async fn make_older(world: &mut World, partitions: u32, note: &str, time: Duration) {
    for partition in 0..partitions {
        let stream = stream(partition, partitions);
        let key = format!("{{{stream}}}:fills");
        let at: u64 = redis::cmd("HGET").arg(&key).arg(note).query_async(&mut world.connection).await.unwrap();
        world.redis(&["HSET", &key, note, &(at - time.as_secs() * 1_000).to_string()]).await;
    }
}

/// A release adds a group and a handler for a type that a known group skipped, while no process with the store runs.
/// Then one starts and is killed while it fills the backlogs, and a second one starts.
async fn a_release_begins_without_the_store(partitions: u32) {
    log::keep();
    let mut world = World::begin().await;
    let first_owner = with_store(&world.database, world.redis.url(), partitions).await;
    let counted = handled_by_an_older_release(&world, &first_owner, partitions, 44).await;
    first_owner.shutdown(Duration::from_secs(10)).await.unwrap();
    let store = world.store.store_id().await.unwrap().to_string();
    let misses = |group: &str| count_missing_warnings(&store, group);
    let (before, kept) = (counted.numbers(), in_stream(&mut world, partitions).await);
    assert!((44..=44 + 2 * usize::try_from(partitions).unwrap()).contains(&kept.len()), "{}", kept.len());

    let (checked, audited, began) = (Seen::new(), Seen::new(), Instant::now());
    let new = newer(&world, partitions, &counted, &checked, &audited).await;
    make_older(&mut world, partitions, "open stock", STORE_WAIT).await;
    until("the known group says that it misses events", async || misses("stock") == 1).await;
    let progress_of_audit = progress(&new, "audit").await;
    assert!(!progress_of_audit.is_settled(), "it waits for the store: {progress_of_audit:?}");
    let (seen, warnings) = (audited.numbers().len(), misses("audit"));
    assert!(
        (seen, warnings) == (0, 0) || began.elapsed() > STORE_WAIT,
        "{seen} handled and {warnings} warnings, but it has to wait"
    );
    for note in ["first audit", "open audit"] {
        make_older(&mut world, partitions, note, STORE_WAIT).await;
    }
    until("the new group says that it misses events", async || misses("audit") == 1).await;
    audited.until("the new group has read the stream", kept.len()).await;
    assert_once_and_in_order(&audited.numbers(), kept.iter().copied());
    assert_eq!(checked.numbers(), [0; 0], "what a group skipped comes from the store only");
    for group in ["stock", "audit"] {
        let progress = progress(&new, group).await;
        assert!(!progress.is_settled(), "{group} is owed events: {progress:?}");
    }

    // a process with the store starts, and is killed while it fills: more events wait than it can have filled
    audited.hold(true);
    let owner_that_dies = owner(&world, partitions);
    until("the backlog of the new group is full", async || in_backlog(&mut world).await >= FULL).await;
    let is_here_again = ["a process with each of these stores is here again", "group=audit", &*store];
    until("the group says that the store is here again", async || log::lines(&is_here_again).len() == 1).await;
    owner_that_dies.kill();
    audited.hold(false);
    audited.until("the new group has what was filled", kept.len() + FULL).await;
    until("the backlog is handled", async || in_backlog(&mut world).await == 0).await;
    let progress_of_audit = progress(&new, "audit").await;
    assert!(!progress_of_audit.is_settled(), "it is owed more: {progress_of_audit:?}");
    make_older(&mut world, partitions, &format!("filler {store}"), Duration::from_secs(30)).await;
    until("it says so again", async || misses("audit") == 2).await;

    let _owner = owner(&world, partitions);
    checked.until("the known group has what it skipped", 3_000).await;
    new.settled().await.unwrap();
    for group in ["stock", "audit"] {
        assert_eq!(progress(&new, group).await, GroupProgress::default(), "of {group}");
    }
    // the group reads the stream first
    let mut audited = audited.numbers();
    assert_once_and_in_order(&audited.split_off(kept.len()), ALL.filter(|number| !kept.contains(number)));
    assert_once_and_in_order(&checked.numbers(), ALL.filter(is_checked));
    assert_eq!(counted.numbers(), before, "no event is handled again");
    until("no backlog is left", async || left_of_backlogs(&mut world).await.is_empty()).await;
    new.shutdown(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_begins_without_the_store_waits_says_so_and_is_given_everything_later() {
    a_release_begins_without_the_store(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_begins_without_the_store_is_given_everything_later_with_partitions_too() {
    a_release_begins_without_the_store(4).await;
}
