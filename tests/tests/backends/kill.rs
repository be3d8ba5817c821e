//! Consumers on Redis that are killed with `kill -9` while they handle events, and events that end their consumer.
//!
//! The killed processes are runs of this test binary, with their role in environment variables.

#[path = "../../../eventbus-file/tests/common/fast_clock.rs"]
mod fast_clock;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    time::{Duration, Instant},
};

use eventbus::{
    Name, NewEvent, RecordedEvent, StreamId, Version,
    clock::SharedClock,
    event::EventFilter,
    port::{DeadLetterFilter, DeadLetters, EventBus, Subscriber},
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventbus_test::internal::Actor;
use fast_clock::FastClock;

const KILLER: &str = "killer";
const ROUNDS: usize = 10;
const EVENTS: usize = 1_000;

fn config(prefix: &str, consumer_name: Option<String>, concurrency: usize) -> RedisEventBusConfig {
    RedisEventBusConfig {
        redis_url: eventbus_test::redis_url().into(),
        stream_prefix: prefix.into(),
        consumer_name,
        block_ms: 100,
        pending_idle_ms: 400,
        concurrency,
        ..RedisEventBusConfig::default()
    }
}

fn event(id: &str) -> RecordedEvent {
    let event = NewEvent::new(Name::from_static("Deposited"), 1, "{}");
    event.recorded_as(StreamId::parse("Account", id).unwrap(), Version::FIRST, None)
}

/// The role of a consumer that dies; returns at once in an ordinary run.
#[tokio::test]
async fn the_consumer_that_dies() {
    let Ok(prefix) = env::var("KILL_PREFIX") else {
        return;
    };
    Actor::end_with_parent();
    let number = |name: &str| env::var(name).unwrap().parse().unwrap();
    let config = RedisEventBusConfig {
        clock: SharedClock::new(FastClock::new(number("KILL_FASTER"))),
        ..config(&prefix, env::var("KILL_NAME").ok(), number("KILL_CONCURRENCY") as usize)
    };
    let bus = RedisEventBus::connect(config).await.unwrap();
    let handler = Subscriber::new(Name::from_static("report"), EventFilter::All, |delivery| {
        let id = delivery.metadata().aggregate_id().to_string();
        Box::pin(async move {
            tokio::time::sleep(Duration::from_micros(500)).await;
            if id == KILLER {
                std::process::abort();
            }
            println!("handled {id}");
            Ok(())
        })
    });
    bus.add_subscriber(bus.default_group().clone(), handler);
    bus.start_consuming().await.unwrap();
}

/// A consumer process.
struct Consumer {
    actor: Actor,
    handled: Vec<String>,
}

impl Consumer {
    fn spawn(prefix: &str, name: Option<&str>, concurrency: usize) -> Self {
        Self::spawn_with(prefix, name, concurrency, 1)
    }

    /// As `spawn`, with a clock that runs `faster` times as fast.
    fn spawn_with(prefix: &str, name: Option<&str>, concurrency: usize, faster: u32) -> Self {
        let [concurrency, faster] = [concurrency as u32, faster].map(|number| number.to_string());
        let mut variables =
            vec![("KILL_PREFIX", prefix), ("KILL_CONCURRENCY", &*concurrency), ("KILL_FASTER", &faster)];
        variables.push(("REDIS_URL", eventbus_test::redis_url()));
        variables.extend(name.map(|name| ("KILL_NAME", name)));
        Self { actor: Actor::play("kill::the_consumer_that_dies", &variables), handled: Vec::new() }
    }

    /// Returns the number of events handled so far.
    fn count(&mut self) -> usize {
        self.handled.extend(handled(self.actor.printed()));
        self.handled.len()
    }

    /// Kills the process unless it has ended; returns the events that it handled.
    fn kill(mut self) -> Vec<String> {
        let printed = if self.actor.has_ended() { self.actor.wait().1 } else { self.actor.kill() };
        self.handled.extend(handled(printed));
        self.handled
    }
}

fn handled(printed: Vec<String>) -> impl Iterator<Item = String> {
    printed.into_iter().filter_map(|line| Some(line.split_once("handled ")?.1.to_owned()))
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), waiting).await;
    assert!(waited.is_ok(), "timed out waiting until {what}");
}

/// Returns the number of entries that the group has not finished.
async fn unfinished(bus: &RedisEventBus) -> u64 {
    let progress = bus.progress(bus.default_group()).await.unwrap();
    progress.unread + progress.pending
}

async fn is_finished(bus: &RedisEventBus) -> bool {
    unfinished(bus).await == 0
}

/// Waits until the group has finished all entries, however slow the machine is; fails if it makes no progress.
async fn until_finished(bus: &RedisEventBus) {
    const STANDS_STILL: Duration = Duration::from_secs(30);
    let (mut fewest, mut since) = (u64::MAX, Instant::now());
    loop {
        let left = unfinished(bus).await;
        if left == 0 {
            return;
        }
        if left < fewest {
            (fewest, since) = (left, Instant::now());
        }
        assert!(since.elapsed() < STANDS_STILL, "the group stands still with {left} entries left");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Returns the aggregates whose entries are pending on a consumer.
async fn in_flight(bus: &RedisEventBus, consumer: &str) -> BTreeSet<String> {
    let mut connection = eventbus_test::internal::redis_connection(eventbus_test::redis_url()).await;
    let (stream, group) = (bus.config().stream_name(), bus.default_group());
    let mut list = redis::cmd("XPENDING");
    list.arg(&stream).arg(group.as_str()).arg("-").arg("+").arg(10_000).arg(consumer);
    let rows: Vec<(String, String, u64, u64)> = list.query_async(&mut connection).await.unwrap();
    let mut ids = BTreeSet::new();
    for (id, ..) in rows {
        let mut range = redis::cmd("XRANGE");
        range.arg(&stream).arg(&id).arg(&id);
        let entries: Vec<(String, BTreeMap<String, String>)> = range.query_async(&mut connection).await.unwrap();
        ids.insert(entries[0].1["aggregate_id"].clone());
    }
    ids
}

/// Some number below a limit, different each time.
fn some(limit: usize) -> usize {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
    nanos as usize / 7 % limit
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_consumer_had_in_hand_is_handled_by_the_other_and_nothing_else_twice() {
    let began = Instant::now();
    let (mut had, mut repeated) = (0, Vec::new());
    for round in 1..=ROUNDS {
        let prefix = eventbus_test::unique_name("kill");
        let bus = RedisEventBus::connect(config(&prefix, Some("watcher".into()), 1)).await.unwrap();
        let mut victim = Consumer::spawn(&prefix, Some("victim"), 1);
        let other = Consumer::spawn(&prefix, Some("other"), 1);
        let ids: Vec<_> = (0..EVENTS).map(|number| number.to_string()).collect();
        for ids in ids.chunks(100) {
            bus.publish(&ids.iter().map(|id| event(id)).collect::<Vec<_>>()).await.unwrap();
        }
        let moment = 1 + some(EVENTS / 4);
        until("the victim is at work", async || victim.count() >= moment).await;
        let by_victim = victim.kill();
        let left = in_flight(&bus, "victim").await;
        until_finished(&bus).await;
        let by_other = other.kill();

        let mut times: BTreeMap<&str, usize> = BTreeMap::new();
        for id in by_victim.iter().chain(&by_other) {
            *times.entry(id).or_default() += 1;
        }
        let lost: Vec<_> = ids.iter().filter(|id| !times.contains_key(id.as_str())).collect();
        assert_eq!(lost, Vec::<&String>::new(), "round {round}");
        let twice: BTreeSet<_> =
            times.iter().filter(|(_, times)| **times > 1).map(|(id, _)| (*id).to_owned()).collect();
        assert!(twice.is_subset(&left), "round {round}: {:?}", twice.difference(&left));
        assert!(times.values().all(|times| *times <= 2), "round {round}: {times:?}");
        let dead = bus.list_dead_letters(&DeadLetterFilter::default(), None, 1).await.unwrap().letters;
        assert!(dead.is_empty(), "round {round}: {dead:?}");
        println!(
            "round {round}: victim handled {} before it was killed and had {} in flight, {} of them were handled twice",
            by_victim.len(),
            left.len(),
            twice.len()
        );
        had += left.len();
        repeated.push(twice.len());
    }
    println!("{ROUNDS} rounds of {EVENTS}: 0 lost, {had} in flight, twice {repeated:?}, {:?}", began.elapsed());
    // each success is acknowledged within milliseconds, unless the server stalls: so not in each round
    repeated.sort_unstable();
    assert!(repeated[ROUNDS / 2] <= 16, "in most rounds more than a few were handled twice: {repeated:?}");
    assert!(had > 0, "no victim was killed in the midst");
}

/// Returns the crash note of the event that ends its process, while the event is pending.
async fn note_of_killer(bus: &RedisEventBus) -> String {
    let mut connection = eventbus_test::internal::redis_connection(eventbus_test::redis_url()).await;
    let key = format!("{{{}}}:retry:{}", bus.config().stream_name(), bus.default_group());
    let notes: BTreeMap<String, String> = redis::cmd("HGETALL").arg(key).query_async(&mut connection).await.unwrap();
    notes.into_values().find(|note| note.contains("ended_alone")).unwrap_or_default()
}

/// Starts a consumer and waits until it has ended by itself; returns the events that it handled.
async fn run_until_ended(bus: &RedisEventBus, name: Option<&str>, concurrency: usize) -> Vec<String> {
    let mut consumer = Consumer::spawn(&bus.config().stream_prefix, name, concurrency);
    until("it has ended", async || consumer.actor.has_ended()).await;
    consumer.kill()
}

/// The first end is of a consumer that was handling more events; then the event ends a consumer alone after 1 s, 2 s
/// and 4 s. It becomes a dead letter after the fifth: `cargo run -p workspace-tests --bin fire -- --only killer`.
///
/// An event that was in flight at each end waits as long as the killer, and may be due after it: on a busy machine a
/// fifth consumer handles it.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_ends_its_process_is_found_out_and_takes_no_other_with_it() {
    let found_out = async |(name, concurrency): (Option<&'static str>, usize)| {
        let prefix = eventbus_test::unique_name("killer");
        let bus = RedisEventBus::connect(config(&prefix, Some("watcher".into()), 1)).await.unwrap();
        let mut ids: Vec<_> = (0..40).map(|number| number.to_string()).collect();
        ids.insert(17, KILLER.into());
        bus.publish(&ids.iter().map(|id| event(id)).collect::<Vec<_>>()).await.unwrap();
        let (mut ends, mut count, mut handled) = (0, 0, BTreeSet::new());
        while ends < 4 || (ends < 5 && handled.len() < 40) {
            let by_this = run_until_ended(&bus, name, concurrency).await;
            ends += 1;
            count += by_this.len();
            handled.extend(by_this);
        }
        let what = format!("{name:?}, {concurrency} at once");
        println!("{what}: {ends} ends, {} of 40 were handled twice", count.saturating_sub(40));
        ids.remove(17);
        assert_eq!(handled, ids.into_iter().collect::<BTreeSet<_>>(), "{what}: all other events are handled");
        let (note, alone) = (note_of_killer(&bus).await, ends - 1);
        let expected = format!(r#""process_ends":{alone},"ended_alone":{alone}"#);
        assert!(note.contains(&expected), "{what}: {note}");
        let dead = bus.list_dead_letters(&DeadLetterFilter::default(), None, 100).await.unwrap().letters;
        assert_eq!(dead.len(), 0, "{what}: not before the fifth");
    };
    tokio::join!(
        found_out((Some("stable"), 1)),
        found_out((Some("stable"), 4)),
        found_out((None, 1)),
        found_out((None, 4))
    );
}

/// As above, up to the dead letter: the delays add up to half a minute, of which the test waits a quarter.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_ends_its_process_five_times_alone_becomes_a_dead_letter_and_no_other_does() {
    let found_out = async |(name, concurrency): (Option<&'static str>, usize)| {
        let prefix = eventbus_test::unique_name("killer");
        let bus = RedisEventBus::connect(config(&prefix, Some("watcher".into()), 1)).await.unwrap();
        let mut ids: Vec<_> = (0..40).map(|number| number.to_string()).collect();
        ids.insert(17, KILLER.into());
        bus.publish(&ids.iter().map(|id| event(id)).collect::<Vec<_>>()).await.unwrap();
        let (what, mut ends, mut handled) = (format!("{name:?}, {concurrency} at once"), 0, BTreeSet::new());
        while !is_finished(&bus).await {
            let mut consumer = Consumer::spawn_with(&prefix, name, concurrency, 4);
            let ended = async || consumer.actor.has_ended() || is_finished(&bus).await;
            until("it has ended, or all is done", ended).await;
            ends += u64::from(consumer.actor.has_ended());
            assert!(ends <= 6, "{what}: it ended {ends} processes");
            handled.extend(consumer.kill());
        }
        assert_eq!(ends, 6, "{what}: once beside other events, five times alone");
        let dead_letters = bus.list_dead_letters(&DeadLetterFilter::default(), None, 100).await.unwrap().letters;
        let dead: Vec<_> = dead_letters.iter().flat_map(|dead_letter| &dead_letter.record).collect();
        let dead: Vec<_> = dead.iter().map(|event| event.metadata().aggregate_id().as_str()).collect();
        assert_eq!(dead, [KILLER], "{what}");
        ids.remove(17);
        assert_eq!(handled, ids.into_iter().collect::<BTreeSet<_>>(), "{what}: all other events are handled");
    };
    tokio::join!(found_out((Some("stable"), 4)), found_out((None, 4)), found_out((None, 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_that_are_killed_at_random_make_no_dead_letters() {
    const KILLS: usize = 12;
    let prefix = eventbus_test::unique_name("random");
    let bus = RedisEventBus::connect(config(&prefix, Some("watcher".into()), 1)).await.unwrap();
    let ids: BTreeSet<_> = (0..2_000).map(|number| number.to_string()).collect();
    for ids in ids.iter().collect::<Vec<_>>().chunks(100) {
        bus.publish(&ids.iter().map(|id| event(id)).collect::<Vec<_>>()).await.unwrap();
    }
    let (mut handled, mut count) = (BTreeSet::new(), 0);
    for _ in 0..KILLS {
        let mut consumer = Consumer::spawn(&prefix, Some("stable"), 4);
        let moment = some(150);
        until("it has handled some", async || consumer.count() >= moment || is_finished(&bus).await).await;
        let by_this = consumer.kill();
        count += by_this.len();
        handled.extend(by_this);
    }
    let last = Consumer::spawn(&prefix, Some("stable"), 4);
    until("all are handled", async || is_finished(&bus).await).await;
    handled.extend(last.kill());
    assert_eq!(handled, ids);
    let dead = bus.list_dead_letters(&DeadLetterFilter::default(), None, 100).await.unwrap().letters;
    assert!(dead.is_empty(), "{dead:?}");
    println!("{KILLS} kills, {count} events handled before the last, no dead letters");
}
