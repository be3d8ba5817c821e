//! Entries whose consumer has died, or that no consumer has in flight.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use crate::common::{
    actor::{
        Act, Actor, connect, consumers, dead_letter_count, give, kill, members_key, named, never, notes, numbered,
        pending, publish_all, publish_numbered, quick, read_as, retry_key, until_finished,
    },
    proxy::{Network, Proxy},
    seen::{command, make_group, start},
    until,
};
use eventbus::{Name, NewEvent, StreamId, Version, port::EventBus};
use eventbus_redis::{Recovery, RecoveryStats, RedisEventBus, RedisEventBusConfig};
use redis::Value;

fn of(ids: &[String]) -> Vec<&str> {
    ids.iter().map(String::as_str).collect()
}

/// A bus on which the consumer has left `left` entries, oldest first, with a handler that only records its runs.
async fn left_by(consumer: &str, left: usize, config: &RedisEventBusConfig) -> (RedisEventBus, Actor, Vec<String>) {
    let bus = connect(config).await;
    let entries = publish_numbered(&bus, left).await;
    read_as(&bus, consumer, left).await;
    let actor = Actor::willing();
    actor.join(&bus);
    (bus, actor, entries)
}

/// Marks a consumer as one that left its group when it ended.
async fn has_left(bus: &RedisEventBus, consumer: &str) {
    let at = time::OffsetDateTime::now_utc().unix_timestamp() * 1_000;
    let member = format!(r#"{{"at":{at},"live_ms":60000,"event_types":"\"*\"","instance":"before","left":true}}"#);
    let _: u64 = command(bus, "HSET", &[&members_key(bus), consumer, &member]).await;
}

async fn stats_of(bus: &RedisEventBus, recovery: Recovery) -> [u64; 5] {
    let RecoveryStats { checked, claimed, reprocessed, dlq, failed, .. } =
        bus.recover_pending_messages(recovery).await.unwrap();
    [checked, claimed, reprocessed, dlq, failed]
}

/// A stream and the entries that were read from it.
type Read = (String, Vec<(String, Value)>);

/// Stops a bus, then lets the running handlers end.
async fn stop_in_the_midst(bus: &RedisEventBus, actor: &Actor, running: usize) {
    tokio::join!(biased; bus.stop_consuming(), async { actor.let_go(running) });
}

const AT_ONCE: Recovery = Recovery { min_idle_time_ms: Some(0), max_retries: None, batch_size: None };

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_under_the_same_name_begins_with_what_it_had_in_order_before_anything_new() {
    let config = RedisEventBusConfig { batch_size: 20, max_in_flight: Some(50), pending_idle_ms: 60_000, ..quick() };
    let (bus, actor, _) = left_by("stable", 130, &config).await;
    has_left(&bus, "stable").await;
    let new: Vec<_> = (200..250).map(|number| format!("{number:05}")).collect();
    publish_all(&bus, &of(&new)).await;
    start(&bus).await;
    until_finished(&bus).await;
    assert_eq!(actor.begun(), [numbered(130), new].concat());
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_after_a_long_time_keeps_the_order_too() {
    for _ in 0..10 {
        // all are so old that the consumer would reclaim them from itself
        let config =
            RedisEventBusConfig { batch_size: 50, max_in_flight: Some(1_000), pending_idle_ms: 130, ..quick() };
        let (bus, actor, _) = left_by("stable", 400, &config).await;
        has_left(&bus, "stable").await;
        let idle = Instant::now() + Duration::from_millis(150);
        until("all are old", async || Instant::now() > idle).await;
        start(&bus).await;
        until_finished(&bus).await;
        assert_eq!(actor.begun(), numbered(400));
        bus.stop_consuming().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_taken_over_before_everything_of_its_own_is_in_hand() {
    let config = RedisEventBusConfig { batch_size: 20, max_in_flight: Some(100), pending_idle_ms: 120, ..quick() };
    let bus = connect(&config).await;
    publish_numbered(&bus, 70).await;
    read_as(&bus, "dead", 10).await;
    read_as(&bus, "stable", 60).await;
    has_left(&bus, "stable").await;
    let actor = Actor::waiting();
    actor.join(&bus);
    start(&bus).await;
    until("it is at work", async || actor.begun().len() == 1).await;
    let left = async || pending(&bus).await.iter().filter(|(_, consumer)| consumer == "dead").count();
    never("the dead one's are taken over", Duration::from_millis(500), async || left().await < 10).await;
    actor.let_go(70);
    until_finished(&bus).await;
    let begun = actor.begun();
    assert_eq!((&begun[..60], begun.len()), (&numbered(70)[10..], 70));
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_consumer_had_is_taken_over_page_by_page() {
    let config = RedisEventBusConfig { batch_size: 7, max_in_flight: Some(10), pending_idle_ms: 300, ..quick() };
    let bus = connect(&config).await;
    publish_numbered(&bus, 40).await;
    read_as(&bus, "dead", 40).await;
    let actor = Actor::waiting();
    actor.join(&bus);
    start(&bus).await;
    let mine = async || pending(&bus).await.iter().filter(|(_, consumer)| consumer == "stable").count();
    // suspects wait, and a waiting entry takes no room
    until("all are taken over", async || mine().await == 40).await;
    actor.let_go(40);
    until_finished(&bus).await;
    let done: BTreeSet<_> = actor.done().into_iter().collect();
    assert_eq!((done.len(), actor.begun().len()), (40, 40), "each once");
    assert_eq!(bus.stats().messages_recovered, 40);
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cursor_walks_past_what_is_alive() {
    let config = RedisEventBusConfig { batch_size: 20, max_in_flight: Some(20), pending_idle_ms: 300, ..quick() };
    let keeper =
        connect(&RedisEventBusConfig { consumer_name: Some("keeper".into()), concurrency: 20, ..config.clone() }).await;
    publish_numbered(&keeper, 50).await;
    let held = Actor::waiting();
    held.join(&keeper);
    start(&keeper).await;
    until("the keeper holds the oldest", async || pending(&keeper).await.len() == 20).await;
    read_as(&keeper, "dead", 30).await;
    // with so small a batch the server scans ten entries at a time
    let bus = connect(&RedisEventBusConfig { batch_size: 1, max_in_flight: Some(5), ..config }).await;
    let actor = Actor::willing();
    actor.join(&bus);
    start(&bus).await;
    until("the rest is done", async || actor.done().len() == 30).await;
    never("what is alive is taken over", Duration::from_millis(400), async || actor.begun().len() > 30).await;
    held.let_go(20);
    until_finished(&bus).await;
    let mut done = held.done();
    done.sort();
    assert_eq!((done, held.begun().len()), (numbered(20), 20));
    keeper.stop_consuming().await;
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_entries_are_counted_once_and_never_looped_on() {
    for consumer in ["stable", "dead"] {
        let config = RedisEventBusConfig { pending_idle_ms: 200, ..quick() };
        let (bus, actor, entries) = left_by(consumer, 10, &config).await;
        let stream = bus.config().stream_name();
        let gone = [&[stream.as_str()], &of(&entries)[2..5]].concat();
        let _: u64 = command(&bus, "XDEL", &gone).await;
        let _: u64 = command(&bus, "XTRIM", &[&stream, "MINID", "=", &entries[2]]).await;
        start(&bus).await;
        until_finished(&bus).await;
        // they belong to different aggregates, which have no order among each other
        let mut done = actor.done();
        done.sort();
        assert_eq!(done, numbered(10)[5..], "{consumer}");
        until("they were counted", async || bus.stats().messages_deleted == 5).await;
        let again = async || bus.stats().messages_deleted > 5;
        never("they are counted again", Duration::from_millis(500), again).await;
        assert_eq!(notes(&bus).await.len(), 0);
        bus.stop_consuming().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_handler_keeps_its_claim_while_another_consumer_is_looking() {
    // a consumer without room claims no entry, not even its own
    let config = RedisEventBusConfig { max_in_flight: Some(2), pending_idle_ms: 300, ..quick() };
    let (bus, slow) = (connect(&config).await, Actor::waiting());
    slow.join(&bus);
    publish_all(&bus, &["slow", "behind"]).await;
    start(&bus).await;
    until("the handler runs", async || slow.begun().len() == 1).await;
    until("both are in hand", async || pending(&bus).await.len() == 2).await;
    let (other, looking) = (named(&bus, "other").await, Actor::willing());
    looking.join(&other);
    start(&other).await;
    let taken = async || !looking.begun().is_empty() || pending(&bus).await.iter().any(|(_, on)| on != "stable");
    never("the other one takes it over", Duration::from_millis(1_200), taken).await;
    slow.let_go(2);
    until_finished(&bus).await;
    assert_eq!((slow.done(), slow.begun().len()), (vec!["slow".into(), "behind".into()], 2));
    bus.stop_consuming().await;
    other.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_has_claimed_is_let_go_and_its_failure_writes_nothing() {
    let config = RedisEventBusConfig { pending_idle_ms: 600, max_retries: Some(0), ..quick() };
    let (bus, actor) = (connect(&config).await, Actor::waiting());
    actor.join(&bus);
    let entry = publish_all(&bus, &["one"]).await.remove(0);
    start(&bus).await;
    until("the handler runs", async || actor.begun().len() == 1).await;
    give(&bus, "thief", &entry).await;
    until("the handler is cancelled", async || actor.cancelled() == 1).await;
    assert_eq!(pending(&bus).await, [(entry, "thief".into())], "the heartbeat took nothing back");
    assert_eq!(notes(&bus).await.len(), 0);
    // the consumer that took the entry shows no further sign of life
    actor.let_go(1);
    until_finished(&bus).await;
    assert_eq!((actor.begun().len(), actor.done().len()), (2, 1));
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_comes_too_late_writes_nothing() {
    for max_retries in [0, 3] {
        // the heartbeat is too slow to notice the claim
        let config = RedisEventBusConfig { pending_idle_ms: 60_000, max_retries: Some(max_retries), ..quick() };
        let (bus, actor) = (connect(&config).await, Actor::new(|_, _| Act::WaitAndFail));
        actor.join(&bus);
        let entry = publish_all(&bus, &["one"]).await.remove(0);
        start(&bus).await;
        until("the handler runs", async || actor.begun().len() == 1).await;
        give(&bus, "thief", &entry).await;
        actor.let_go(1);
        until("the failure is counted", async || bus.stats().events_processed_failed == 1).await;
        bus.stop_consuming().await; // writes all dispositions
        assert_eq!(pending(&bus).await, [(entry, "thief".into())]);
        assert_eq!((notes(&bus).await.len(), dead_letter_count(&bus).await), (0, 0));
        assert_eq!((bus.stats().messages_sent_to_dlq, bus.stats().messages_exhausted), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn using_up_attempts_too_late_is_not_counted_where_there_are_no_dead_letters() {
    let config = RedisEventBusConfig { pending_idle_ms: 60_000, max_retries: Some(0), enable_dlq: false, ..quick() };
    let (bus, actor) = (connect(&config).await, Actor::new(|_, _| Act::WaitAndFail));
    actor.join(&bus);
    let entry = publish_all(&bus, &["one"]).await.remove(0);
    start(&bus).await;
    until("the handler runs", async || actor.begun().len() == 1).await;
    give(&bus, "thief", &entry).await;
    actor.let_go(1);
    until("the failure is counted", async || bus.stats().events_processed_failed == 1).await;
    bus.stop_consuming().await;
    assert_eq!(bus.stats().messages_exhausted, 0);
    assert_eq!(notes(&bus).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pending_on_it_without_being_in_hand_is_found() {
    let config = RedisEventBusConfig { pending_idle_ms: 60_000, ..quick() };
    let (bus, actor) =
        (connect(&config).await, Actor::new(|id, _| if id == "held" { Act::Wait } else { Act::Succeed }));
    actor.join(&bus);
    start(&bus).await;
    publish_all(&bus, &["held"]).await;
    until("something is in hand", async || actor.begun().len() == 1).await;
    // the bus has no room to read while the handler runs, so the test may read in its name
    actor.let_go(1);
    until_finished(&bus).await;
    bus.stop_consuming().await;
    let entries = publish_all(&bus, &["given", "lost"]).await;
    read_as(&bus, "somebody", 1).await;
    let began = Instant::now();
    start(&bus).await;
    until("the unread one is done", async || actor.done().contains(&"lost".into())).await;
    give(&bus, "stable", &entries[0]).await;
    until("the given one is done", async || actor.done().contains(&"given".into())).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    until_finished(&bus).await;
    assert_eq!(actor.done(), ["held", "lost", "given"]);
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_left_pending_for_good_do_not_hide_those_that_are_lost() {
    let config = RedisEventBusConfig { pending_idle_ms: 2_000, max_retries: Some(0), enable_dlq: false, ..quick() };
    let bus = connect(&config).await;
    let actor = Actor::new(|id, _| if id == "bad" { Act::Fail("told to".into()) } else { Act::Succeed });
    actor.join(&bus);
    start(&bus).await;
    let bad = publish_all(&bus, &["bad"]).await.remove(0);
    until("it is exhausted", async || bus.stats().messages_exhausted == 1).await;
    let taken = async || pending(&bus).await != [(bad.clone(), "stable".to_owned())];
    let other = named(&bus, "other").await;
    Actor::willing().join(&other);
    start(&other).await;
    never("it is taken over from a consumer that lives", Duration::from_millis(3_000), taken).await;
    other.stop_consuming().await;
    // now a different consumer claims it by hand
    give(&bus, "somebody", &bad).await;
    publish_all(&bus, &["good"]).await;
    until("the good one is done", async || actor.done() == ["good"]).await;
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_left_pending_for_good_that_are_deleted_do_not_hide_those_that_are_lost() {
    // a heartbeat each second
    let config = RedisEventBusConfig { pending_idle_ms: 3_000, max_retries: Some(0), enable_dlq: false, ..quick() };
    let bus = connect(&config).await;
    let actor = Actor::new(|id, _| if id == "bad" { Act::Fail("told to".into()) } else { Act::Succeed });
    actor.join(&bus);
    start(&bus).await;
    let entries = publish_all(&bus, &["bad", "good"]).await;
    until("it is exhausted", async || bus.stats().messages_exhausted == 1).await;
    until("the good one is done", async || pending(&bus).await.len() == 1).await;
    let (stream, group) = (bus.config().stream_name(), bus.default_group().to_string());
    let _: u64 = command(&bus, "XDEL", &[&stream, &entries[0]]).await;
    until("a heartbeat has come by", async || pending(&bus).await.is_empty()).await;
    never("anything is handled again", Duration::from_millis(1_500), async || actor.begun().len() > 2).await;
    // the reply to the read of a copy is lost
    let lose = "local entry = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1] \
                local id = redis.call('XADD', KEYS[1], '*', unpack(entry[2])) \
                redis.call('XREADGROUP', 'GROUP', ARGV[2], ARGV[3], 'STREAMS', KEYS[1], '>') \
                return id";
    let _: String = command(&bus, "EVAL", &[lose, "1", &stream, &entries[1], &group, "stable"]).await;
    until("it is found", async || actor.runs_of("good") == 2).await;
    assert_eq!(bus.stats().messages_recovered, 0, "before anybody could have taken it for a dead consumer's");
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_consumer_has_not_begun_when_it_stops_is_taken_over_at_once() {
    for consumer_name in [None, Some("stable".to_owned())] {
        let config = RedisEventBusConfig { consumer_name, pending_idle_ms: 60_000, ..quick() };
        let (bus, actor) = (connect(&config).await, Actor::waiting());
        actor.join(&bus);
        publish_numbered(&bus, 2).await;
        let consumer = start(&bus).await;
        until("all are in hand", async || pending(&bus).await.len() == 2).await;
        until("the first runs", async || actor.begun().len() == 1).await;
        stop_in_the_midst(&bus, &actor, 1).await;
        consumer.await.unwrap();
        assert_eq!(actor.done(), ["00000"], "it ended what it was in");
        assert_eq!(pending(&bus).await.len(), 1);
        let (other, next) = (named(&bus, "other").await, Actor::willing());
        next.join(&other);
        let began = Instant::now();
        start(&other).await;
        until_finished(&other).await;
        assert!(began.elapsed() < Duration::from_secs(10), "no idle time passes: {:?}", began.elapsed());
        assert_eq!(next.done(), numbered(2)[1..]);
        other.stop_consuming().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passing_name_disappears_at_a_clean_stop_and_a_stable_one_recovers() {
    let config = RedisEventBusConfig { pending_idle_ms: 60_000, ..quick() };
    let passing = connect(&RedisEventBusConfig { consumer_name: None, ..config.clone() }).await;
    let actor = Actor::willing();
    actor.join(&passing);
    publish_numbered(&passing, 5).await;
    start(&passing).await;
    until_finished(&passing).await;
    let name = passing.config().consumer_name.clone().unwrap();
    assert_eq!(consumers(&passing).await, [name]);
    passing.stop_consuming().await;
    assert_eq!(consumers(&passing).await, Vec::<String>::new());

    let (stable, slow) = (connect(&config).await, Actor::waiting());
    let stable = named(&stable, "stable").await;
    slow.join(&stable);
    publish_numbered(&stable, 2).await;
    start(&stable).await;
    until("all are in hand", async || pending(&stable).await.len() == 2).await;
    until("the first runs", async || slow.begun().len() == 1).await;
    stop_in_the_midst(&stable, &slow, 1).await;
    assert_eq!(consumers(&stable).await, ["stable"]);
    slow.let_go(1);
    start(&stable).await;
    until_finished(&stable).await;
    assert_eq!(slow.done(), numbered(2));
    stable.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_of_a_process_counts_though_the_next_one_takes_long_to_read() {
    let server = eventbus_test::private_redis();
    let proxy = Proxy::before(server.port()).await;
    let config = RedisEventBusConfig { redis_url: proxy.url(), pending_idle_ms: 60, ..quick() };
    let bus = connect(&config).await;
    let watcher = connect(&RedisEventBusConfig { redis_url: server.url().into(), ..config }).await;
    publish_numbered(&watcher, 1).await;
    read_as(&watcher, "stable", 1).await;
    proxy.set(Network::Waits);
    let actor = Actor::waiting();
    actor.join(&bus);
    start(&bus).await;
    let shows_itself = async || command::<u64>(&watcher, "HEXISTS", &[&members_key(&bus), "stable"]).await == 1;
    never("it shows itself before it knows what became of the former", Duration::from_millis(500), shows_itself).await;
    proxy.set(Network::Works);
    until("the end is noted", async || notes(&watcher).await.values().any(|note| note.contains(r#""process_ends":1"#)))
        .await;
    actor.let_go(1);
    until_finished(&watcher).await;
    bus.stop_consuming().await;
}

/// Fails if an entry that is read again after its process ended, and that has not started, is in flight.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_that_was_not_begun_is_no_more_suspect_when_its_process_ends() {
    let config = RedisEventBusConfig { pending_idle_ms: 60_000, concurrency: 2, ..quick() };
    let watcher = connect(&config).await;
    publish_numbered(&watcher, 2).await;
    read_as(&watcher, "stable", 2).await;
    for ends in [[1, 1], [1, 2]] {
        let bus = connect(&config).await;
        let slow = Actor::waiting();
        slow.join(&bus);
        let consumer = start(&bus).await;
        until("one runs", async || slow.begun().len() == 1).await;
        never("both run", Duration::from_millis(300), async || slow.begun().len() > 1).await;
        kill(consumer).await;
        let noted = notes(&watcher).await;
        let count = |note: &String| (1..9).find(|ends| note.contains(&format!(r#""process_ends":{ends}"#)));
        let mut counted: Vec<_> = noted.values().filter_map(count).collect();
        counted.sort_unstable();
        assert_eq!(counted, ends, "{noted:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clean_stops_are_no_ends_of_processes() {
    // an entry that was in flight when its process ended is noted before it starts; a stop after that must not count
    let config = RedisEventBusConfig { pending_idle_ms: 60_000, concurrency: 2, ..quick() };
    let bus = connect(&config).await;
    publish_numbered(&bus, 6).await;
    read_as(&bus, "stable", 6).await;
    for _ in 0..6 {
        let slow = Actor::waiting();
        let place = slow.join(&bus);
        let consumer = start(&bus).await;
        until("one runs", async || slow.begun().len() == 1).await;
        // the running one ends, and the next may start
        stop_in_the_midst(&bus, &slow, 1).await;
        consumer.await.unwrap();
        place.cancel();
        for note in notes(&bus).await.values() {
            assert!(note.contains(r#""process_ends":1"#) && !note.contains("ended_alone"), "{note}");
        }
    }
    assert_eq!((pending(&bus).await.len(), dead_letter_count(&bus).await), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_dead_consumers_are_swept_when_nothing_is_pending_on_them() {
    let config = RedisEventBusConfig { pending_idle_ms: 60, ..quick() };
    let bus = connect(&config).await;
    let ids = publish_numbered(&bus, 2).await;
    read_as(&bus, "finished", 1).await;
    let (stream, group) = (bus.config().stream_name(), bus.default_group().to_string());
    let _: u64 = command(&bus, "XACK", &[&stream, &group, &ids[0]]).await;
    read_as(&bus, "left something", 1).await;
    let actor = Actor::willing();
    actor.join(&bus);
    start(&bus).await;
    until("both names are gone", async || consumers(&bus).await == ["stable"]).await;
    assert_eq!(actor.done(), ["00001"], "not before what it had was taken over");
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sweeping_loses_nothing_of_readers_that_come_and_go() {
    let bus = connect(&quick()).await;
    make_group(&bus).await;
    let (stream, group) = (bus.config().stream_name(), bus.default_group().to_string());
    let is_over = AtomicBool::new(false);
    let sweep = redis::Script::new(concat!(
        include_str!("../../../eventbus-redis-core/src/lua/entry_ids.lua"),
        include_str!("../../src/script/consumer/collect_garbage.lua")
    ));
    let sweeping = async {
        let mut connection = eventbus_test::internal::redis_connection(&bus.config().redis_url).await;
        let mut swept = 0;
        while !is_over.load(Ordering::SeqCst) {
            let mut script = sweep.key(&stream);
            script.key(retry_key(&bus)).arg(&group).arg("sweeper").arg(0).arg(0).arg(0);
            let reply: Vec<String> = script.invoke_async(&mut connection).await.unwrap();
            swept += reply.len() - 1;
        }
        swept
    };
    let reading = async {
        let readers = (0..4).map(|reader| {
            let (url, stream, group) = (bus.config().redis_url.clone(), stream.clone(), group.clone());
            tokio::spawn(async move {
                let mut connection = eventbus_test::internal::redis_connection(&url).await;
                let (mut left, mut handled) = (0, 0);
                for round in 0..300 {
                    let mut pipe = redis::pipe();
                    for _ in 0..3 {
                        pipe.cmd("XADD").arg(&stream).arg("*").arg("some").arg("thing").ignore();
                    }
                    pipe.cmd("XREADGROUP").arg("GROUP").arg(&group).arg(format!("{reader}-{}", round % 3));
                    pipe.arg("COUNT").arg(3).arg("STREAMS").arg(&stream).arg(">");
                    let reply: Vec<Value> = pipe.query_async(&mut connection).await.unwrap();
                    let read: Option<Vec<Read>> = redis::from_redis_value(reply.into_iter().next().unwrap()).unwrap();
                    for (id, _) in read.unwrap_or_default().remove(0).1 {
                        if (round + id.len()) % 3 == 0 {
                            left += 1;
                            continue;
                        }
                        handled += 1;
                        let mut ack = redis::cmd("XACK");
                        ack.arg(&stream).arg(&group).arg(id);
                        let _: u64 = ack.query_async(&mut connection).await.unwrap();
                    }
                }
                (left, handled)
            })
        });
        let mut sum = (0, 0);
        for reader in readers.collect::<Vec<_>>() {
            let (left, handled) = reader.await.unwrap();
            sum = (sum.0 + left, sum.1 + handled);
        }
        is_over.store(true, Ordering::SeqCst);
        sum
    };
    let (swept, (left, handled)) = tokio::join!(sweeping, reading);
    assert!(swept > 0 && left > 0, "{swept} names swept, {left} entries left");
    assert_eq!(left + handled, 3_600);
    assert_eq!(pending(&bus).await.len(), left, "all that was left is pending");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_noted_about_entries_that_are_not_pending_is_swept_after_its_time() {
    let config = RedisEventBusConfig { retry_key_expiry_seconds: 3, pending_idle_ms: 60_000, ..quick() };
    let config = RedisEventBusConfig { pending_idle_ms: 2_000, ..config };
    let bus = connect(&config).await;
    let bad = Actor::new(|_, _| Act::Fail(eventbus::HandlerError::retry_after(Duration::from_secs(600), "later")));
    bad.join(&bus);
    let entries = publish_all(&bus, &["orphan", "waiting"]).await;
    start(&bus).await;
    until("both are noted", async || notes(&bus).await.len() == 2).await;
    let began = Instant::now();
    // a foreign consumer acknowledges one
    let (stream, group) = (bus.config().stream_name(), bus.default_group().to_string());
    let _: u64 = command(&bus, "XACK", &[&stream, &group, &entries[0]]).await;
    until("one is swept", async || notes(&bus).await.len() == 1).await;
    assert!(began.elapsed() > Duration::from_millis(2_500), "not before its time: {:?}", began.elapsed());
    assert!(notes(&bus).await.contains_key(&entries[1]));
    bus.stop_consuming().await;
}

#[tokio::test]
async fn recovery_by_hand_tells_honest_counts() {
    let config = RedisEventBusConfig { pending_idle_ms: 60_000, max_retries: Some(3), ..quick() };
    let bus = connect(&config).await;
    let actor = Actor::new(|id, _| match id {
        "good" => Act::Succeed,
        "bad" => Act::Fail("told to".into()),
        _ => Act::Fail(eventbus::HandlerError::permanent("never")),
    });
    let stream = bus.config().stream_name();
    publish_all(&bus, &["good", "bad", "hopeless"]).await;
    let _: String = command(&bus, "XADD", &[&stream, "*", "payload", "no json"]).await;
    let gone = publish_all(&bus, &["gone"]).await.remove(0);
    read_as(&bus, "dead", 10).await;
    let _: u64 = command(&bus, "XDEL", &[&stream, &gone]).await;

    assert_eq!(stats_of(&bus, AT_ONCE).await, [5, 0, 0, 0, 0], "without subscribers");
    assert!(pending(&bus).await.iter().all(|(_, consumer)| consumer == "dead"));
    actor.join(&bus);
    assert_eq!(stats_of(&bus, Recovery::default()).await, [5, 0, 0, 0, 0], "none has waited long enough");
    assert_eq!(bus.stats().messages_deleted, 1, "what is gone need not wait");
    assert_eq!(stats_of(&bus, AT_ONCE).await, [4, 4, 1, 2, 1]);
    assert_eq!((pending(&bus).await.len(), dead_letter_count(&bus).await), (1, 2));
    for _ in 0..2 {
        assert_eq!(stats_of(&bus, AT_ONCE).await, [1, 1, 0, 0, 1]);
    }
    assert_eq!(stats_of(&bus, AT_ONCE).await, [1, 1, 0, 1, 0], "the fourth try was the last");
    assert_eq!(actor.runs_of("bad"), 4);
    assert_eq!(stats_of(&bus, AT_ONCE).await, [0; 5]);
    assert_eq!(bus.stats().messages_recovered, 4 + 3);
    assert_eq!(consumers(&bus).await, ["dead"], "no name is left behind");
}

#[tokio::test]
async fn recovery_by_hand_without_retries_gives_up_at_once() {
    let bus = connect(&quick()).await;
    let actor = Actor::failing();
    actor.join(&bus);
    publish_all(&bus, &["one"]).await;
    read_as(&bus, "dead", 1).await;
    let without = Recovery { max_retries: Some(0), ..AT_ONCE };
    assert_eq!(stats_of(&bus, without).await, [1, 1, 0, 1, 0]);
    assert_eq!(actor.begun().len(), 1);
}

#[tokio::test]
async fn recovery_by_hand_takes_no_more_than_it_was_told() {
    let (bus, actor, entries) = left_by("dead", 130, &quick()).await;
    let some = |size| Recovery { batch_size: Some(size), ..AT_ONCE };
    assert_eq!(stats_of(&bus, some(3)).await, [130, 3, 3, 0, 0]);
    assert_eq!(stats_of(&bus, some(120)).await, [127, 120, 120, 0, 0]);
    assert_eq!(actor.done(), numbered(130)[..123]);
    // entries that have waited long stand behind many newer ones
    let (stream, group) = (bus.config().stream_name(), bus.default_group().to_string());
    publish_numbered(&bus, 130).await;
    read_as(&bus, "busy", 130).await;
    let mut old = vec![stream.as_str(), &group, "dead", "0"];
    let rows = pending(&bus).await;
    let last: Vec<_> = rows.iter().rev().take(2).map(|(id, _)| id.as_str()).collect();
    old.extend(&last);
    old.extend(["IDLE", "100000", "JUSTID"]);
    let _: Value = command(&bus, "XCLAIM", &old).await;
    let one = Recovery { min_idle_time_ms: Some(90_000), batch_size: Some(1), ..Recovery::default() };
    assert_eq!(stats_of(&bus, one).await, [137, 1, 1, 0, 0]);
    assert_eq!(entries.len(), 130);
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_by_hand_leaves_alone_what_a_consumer_has_in_hand() {
    let config = RedisEventBusConfig { pending_idle_ms: 300, ..quick() };
    let (bus, slow) = (connect(&config).await, Actor::waiting());
    slow.join(&bus);
    publish_all(&bus, &["one", "two"]).await;
    start(&bus).await;
    until("the first runs", async || slow.begun().len() == 1).await;
    let (other, hand) = (named(&bus, "other").await, Actor::willing());
    hand.join(&other);
    let claimed = async || stats_of(&other, Recovery::default()).await[1] > 0;
    never("it takes something over", Duration::from_millis(900), claimed).await;
    slow.let_go(2);
    until_finished(&bus).await;
    assert_eq!((slow.done().len(), hand.begun().len()), (2, 0));
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_deleted_while_it_is_handled_is_handled_from_memory() {
    let config = RedisEventBusConfig { pending_idle_ms: 200, max_retries: Some(1), ..quick() };
    let bus = connect(&config).await;
    let actor = Actor::new(|id, _| if id == "bad" { Act::WaitAndFail } else { Act::Wait });
    actor.join(&bus);
    let entries = publish_all(&bus, &["good", "bad"]).await;
    start(&bus).await;
    until("both are in hand", async || pending(&bus).await.len() == 2).await;
    let stream = bus.config().stream_name();
    let _: u64 = command(&bus, "XDEL", &[&stream, &entries[0], &entries[1]]).await;
    until("the heartbeat has come by", async || pending(&bus).await.is_empty()).await;
    actor.let_go(3);
    until("both have ended", async || actor.begun().len() == 3).await;
    assert_eq!((actor.begun(), actor.done()), (["good", "bad", "bad"].map(Into::into).into(), vec!["good".to_owned()]));
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_consumer_had_is_taken_over_by_the_others() {
    let config = RedisEventBusConfig { pending_idle_ms: 300, ..quick() };
    let (bus, hangs) = (connect(&config).await, Actor::waiting());
    hangs.join(&bus);
    publish_numbered(&bus, 2).await;
    let consumer = start(&bus).await;
    until("all are in hand", async || pending(&bus).await.len() == 2).await;
    let (other, next) = (named(&bus, "other").await, Actor::willing());
    next.join(&other);
    start(&other).await;
    kill(consumer).await;
    until_finished(&other).await;
    // events of different aggregates come in any order
    let mut done = next.done();
    done.sort();
    assert_eq!(done, numbered(2));
    assert_eq!(other.stats().messages_recovered, 2);
    assert_eq!(notes(&bus).await.len(), 0);
    other.stop_consuming().await;
}

/// Fails if the bus limits reclaimed entries by their number only.
#[tokio::test(flavor = "multi_thread")]
async fn no_more_bytes_are_taken_over_than_a_consumer_holds() {
    let server = eventbus_test::private_redis();
    let config = RedisEventBusConfig { redis_url: server.url().into(), ..quick() };
    let bus = connect(&config).await;
    let payload = format!(r#"{{"text":"{}"}}"#, "x".repeat(1 << 20));
    for id in numbered(60) {
        let event = NewEvent::new(Name::from_static("OrderCreated"), 1, payload.clone());
        let event = event.recorded_as(StreamId::parse("Order", &id).unwrap(), Version::FIRST, None);
        bus.publish(&[event]).await.unwrap();
    }
    read_as(&bus, "left", 60).await;
    has_left(&bus, "left").await;
    let actor = Actor::waiting();
    actor.join(&bus);
    start(&bus).await;
    until("some are taken over", async || bus.stats().messages_recovered > 0).await;
    let looks = async || -> usize {
        let stats: String = command(&bus, "INFO", &["commandstats"]).await;
        let calls =
            stats.lines().find_map(|line| line.strip_prefix("cmdstat_xinfo|consumers:calls=")?.split(',').next());
        calls.map_or(0, |calls| calls.parse().unwrap())
    };
    let before = looks().await;
    until("it has looked around while they are handled", async || looks().await >= before + 3).await;
    let taken = bus.stats().messages_recovered;
    assert!(taken <= 20, "{taken} of 1 MiB were taken over");
    actor.let_go(60);
    until_finished(&bus).await;
    assert_eq!(actor.done().len(), 60);
    bus.stop_consuming().await;
}
