//! The number and the times of a failing handler's runs, and the final disposition of its event.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use crate::common::{
    actor::{
        Act, Actor, connect, dead_letter_count, give, kill, named, never, notes, numbered, pending, publish_all,
        publish_numbered, quick, read_as, retry_key, until_finished,
    },
    seen::{command, make_group, start},
    until,
};
use eventbus::{
    DomainEvent, EventBusExt, HandlerError, Name, NewEvent, StreamId, Version,
    event::EventFilter,
    handler::HandlerOptions,
    port::{DeadLetterFilter, DeadLetters, EventBus},
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig, Trim, TrimBlockReason};
use serde::{Deserialize, Serialize};

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

fn options(retries: Option<u32>, timeout_ms: Option<u64>) -> HandlerOptions {
    let options = retries.map_or(HandlerOptions::NONE, |retries| HandlerOptions::NONE.retries(retries));
    timeout_ms.map_or(options, |millis| options.timeout_ms(millis))
}

/// Fails for the aggregate `bad` only.
fn picky() -> Actor {
    Actor::new(|id, _| if id == "bad" { Act::Fail("told to".into()) } else { Act::Succeed })
}

/// The contents of the dead letters, oldest first.
async fn letters(bus: &RedisEventBus) -> Vec<(String, Fields)> {
    command(bus, "XRANGE", &[&bus.config().dlq_stream_name(), "-", "+"]).await
}

async fn until_dead(bus: &RedisEventBus, count: u64) {
    until("the dead letters are there", async || dead_letter_count(bus).await == count).await;
}

fn text<'a>(fields: &'a Fields, name: &str) -> &'a str {
    let (_, value) = fields.iter().find(|(found, _)| found == name.as_bytes()).unwrap();
    std::str::from_utf8(value).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_handler_runs_once_and_as_often_again_as_it_may() {
    let bus = connect(&RedisEventBusConfig { max_retries: Some(3), ..quick() }).await;
    let (failing, own, never_again) = (Actor::failing(), Actor::failing(), Actor::failing());
    failing.join(&bus);
    own.join_as(&bus, "own", EventFilter::All, options(Some(5), None));
    never_again.join_as(&bus, "never", EventFilter::All, options(Some(0), None));
    publish_all(&bus, &["bad"]).await;
    start(&bus).await;
    until_dead(&bus, 1).await;
    until_finished(&bus).await;
    assert_eq!((failing.begun().len(), own.begun().len(), never_again.begun().len()), (4, 6, 1));
    let attempts: Vec<_> = own.runs().iter().map(|run| run.attempt).collect();
    assert_eq!(attempts, [1, 2, 3, 4, 5, 6]);
    let letter = bus.list_dead_letters(&DeadLetterFilter::default(), None, 1).await.unwrap().letters.remove(0);
    assert_eq!(letter.handler.as_deref(), Some("act,never,own"));
    assert_eq!((letter.attempts, letter.retry_count), (Some(6), Some(5)));
    assert_eq!(bus.stats().messages_sent_to_dlq, 1);
    assert_eq!(notes(&bus).await.len(), 0);
    bus.stop_consuming().await;
}

/// The server moves the entry itself: it breaks the connection of a client that sends more than it accepts.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_a_server_with_a_lower_limit_holds_becomes_a_dead_letter() {
    let server = eventbus_test::private_redis();
    let config = RedisEventBusConfig { redis_url: server.url().into(), max_retries: Some(0), ..quick() };
    let bus = connect(&config).await;
    let payload = format!(r#"{{"text":"{}"}}"#, "x".repeat(2 << 20));
    let event = NewEvent::new(Name::from_static("OrderCreated"), 1, payload);
    let event = event.recorded_as(StreamId::parse("Order", "bad").unwrap(), Version::FIRST, None);
    bus.publish(&[event]).await.unwrap();
    let _: String = command(&bus, "CONFIG", &["SET", "proto-max-bulk-len", "1mb"]).await;
    Actor::failing().join(&bus);
    start(&bus).await;
    until_dead(&bus, 1).await;
    until_finished(&bus).await;
    bus.stop_consuming().await;
}

/// The bus reads them again in several steps, as they have more bytes than one step reads.
#[tokio::test(flavor = "multi_thread")]
async fn large_events_that_failed_at_the_same_time_are_all_tried_again() {
    let server = eventbus_test::private_redis();
    let config = RedisEventBusConfig { redis_url: server.url().into(), ..quick() };
    let bus = connect(&config).await;
    let later = || HandlerError::retry_after(Duration::from_secs(1), "later");
    let actor = Actor::new(move |_, attempt| if attempt == 1 { Act::Fail(later()) } else { Act::Succeed });
    actor.join(&bus);
    let payload = format!(r#"{{"text":"{}"}}"#, "x".repeat(512 * 1024));
    for id in numbered(20) {
        let event = NewEvent::new(Name::from_static("OrderCreated"), 1, payload.clone());
        let event = event.recorded_as(StreamId::parse("Order", &id).unwrap(), Version::FIRST, None);
        bus.publish(&[event]).await.unwrap();
    }
    start(&bus).await;
    until_finished(&bus).await;
    let mut done = actor.done();
    done.sort();
    assert_eq!(done, numbered(20));
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_midst_and_a_takeover_continue_the_count() {
    for (heir, is_clean) in [("stable", true), ("stable", false), ("heir", true), ("heir", false)] {
        let config = RedisEventBusConfig { max_retries: Some(3), pending_idle_ms: 300, retry_delay_ms: 150, ..quick() };
        let config = RedisEventBusConfig { retry_max_delay_ms: 600, ..config };
        let bus = connect(&config).await;
        let (failing, fine) = (Actor::failing(), Actor::willing());
        failing.join_as(&bus, "fails", EventFilter::All, HandlerOptions::default());
        fine.join_as(&bus, "fine", EventFilter::All, HandlerOptions::default());
        publish_all(&bus, &["bad"]).await;
        let consumer = start(&bus).await;
        until("it has failed twice", async || notes(&bus).await.values().any(|note| note.contains("\"attempts\":2")))
            .await;
        match is_clean {
            true => bus.stop_consuming().await,
            false => kill(consumer).await,
        }
        let next = named(&bus, heir).await;
        failing.join_as(&next, "fails", EventFilter::All, HandlerOptions::default());
        fine.join_as(&next, "fine", EventFilter::All, HandlerOptions::default());
        start(&next).await;
        until_dead(&next, 1).await;
        until_finished(&next).await;
        assert_eq!((failing.begun().len(), fine.begun().len()), (4, 1), "{heir}, clean: {is_clean}");
        let attempts: Vec<_> = failing.runs().iter().map(|run| run.attempt).collect();
        assert_eq!(attempts, [1, 2, 3, 4]);
        assert_eq!(notes(&next).await.len(), 0);
        next.stop_consuming().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn permanent_errors_are_not_tried_again_and_others_may_ask_for_a_delay() {
    let bus = connect(&RedisEventBusConfig { max_retries: Some(2), ..quick() }).await;
    let delay = Duration::from_millis(700);
    let actor = Actor::new(move |id, attempt| match (id, attempt) {
        ("never", _) => Act::Fail(HandlerError::permanent("never")),
        ("later", 1) => Act::Fail(HandlerError::retry_after(delay, "later")),
        _ => Act::Succeed,
    });
    actor.join(&bus);
    publish_all(&bus, &["never", "later"]).await;
    start(&bus).await;
    until_finished(&bus).await;
    assert_eq!((actor.runs_of("never"), actor.runs_of("later")), (1, 2));
    assert_eq!(dead_letter_count(&bus).await, 1);
    let times: Vec<_> = actor.runs().into_iter().filter(|run| run.id == "later").map(|run| run.began).collect();
    assert!(times[1] - times[0] >= delay, "{:?}", times[1] - times[0]);
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asked_delay_holds_for_whoever_takes_over() {
    let config = RedisEventBusConfig { max_retries: Some(2), pending_idle_ms: 200, ..quick() };
    let bus = connect(&config).await;
    let delay = Duration::from_millis(1_500);
    let later = move |_: &str, attempt| match attempt {
        1 => Act::Fail(HandlerError::retry_after(delay, "later")),
        _ => Act::Succeed,
    };
    let actor = Actor::new(later);
    actor.join(&bus);
    publish_all(&bus, &["one"]).await;
    let consumer = start(&bus).await;
    until("it is noted", async || notes(&bus).await.len() == 1).await;
    kill(consumer).await;
    let heir = named(&bus, "heir").await;
    actor.join(&heir);
    start(&heir).await;
    until_finished(&heir).await;
    let times: Vec<_> = actor.runs().into_iter().map(|run| run.began).collect();
    assert_eq!(times.len(), 2);
    // processes compare their clocks by milliseconds
    assert!(times[1] - times[0] + Duration::from_millis(5) >= delay, "{:?}", times[1] - times[0]);
    heir.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delays_grow_while_other_aggregates_flow_and_the_same_one_waits() {
    let config =
        RedisEventBusConfig { max_retries: Some(3), retry_delay_ms: 200, retry_max_delay_ms: 10_000, ..quick() };
    let bus = connect(&config).await;
    let actor = Actor::new(|id, attempt| match id {
        "bad" if attempt <= 3 => Act::Fail("told to".into()),
        _ => Act::Succeed,
    });
    actor.join(&bus);
    start(&bus).await;
    publish_all(&bus, &["bad"]).await;
    until("it has failed", async || actor.begun().len() == 1).await;
    publish_all(&bus, &["bad"]).await;
    publish_numbered(&bus, 300).await;
    until("the others are done", async || actor.done().len() == 300).await;
    assert!(!actor.done().contains(&"bad".into()), "they did not wait for it");
    until_finished(&bus).await;
    let bad: Vec<_> = actor.runs().into_iter().filter(|run| run.id == "bad").collect();
    let attempts: Vec<_> = bad.iter().map(|run| run.attempt).collect();
    assert_eq!(attempts, [1, 2, 3, 4, 1, 2, 3, 4], "the second of its aggregate waited for the end of the first");
    for (retry, delay) in [100, 200, 400].into_iter().enumerate() {
        // jitter shortens a delay to half of the configured one at most
        let waited = bad[retry + 1].began - bad[retry].began;
        assert!(waited >= Duration::from_millis(delay), "retry {retry} after {waited:?}");
    }
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn order_holds_over_a_retry_and_a_restart() {
    let config = RedisEventBusConfig { max_retries: Some(5), retry_delay_ms: 300, retry_max_delay_ms: 300, ..quick() };
    let bus = connect(&config).await;
    let versions: Arc<std::sync::Mutex<Vec<u64>>> = Arc::default();
    let is_well = Arc::new(AtomicBool::new(false));
    let join = |bus: &RedisEventBus| {
        let (versions, is_well) = (Arc::clone(&versions), Arc::clone(&is_well));
        let handler = eventbus::port::Subscriber::new(Name::from_static("order"), EventFilter::All, move |delivery| {
            let version = delivery.metadata().version().get();
            let (versions, fails) = (Arc::clone(&versions), version == 2 && !is_well.load(Ordering::SeqCst));
            Box::pin(async move {
                if fails {
                    return Err("told to".into());
                }
                versions.lock().unwrap().push(version);
                Ok(())
            })
        });
        bus.add_subscriber(bus.default_group().clone(), handler);
    };
    join(&bus);
    let events: Vec<_> = (1..=20)
        .map(|version| {
            let event = NewEvent::new(Name::from_static("OrderCreated"), 1, "{}");
            event.recorded_as(StreamId::parse("Order", "one").unwrap(), Version::new(version), None)
        })
        .collect();
    bus.publish(&events).await.unwrap();
    let consumer = start(&bus).await;
    until("the second has failed", async || notes(&bus).await.len() == 1).await;
    kill(consumer).await;
    assert_eq!(*versions.lock().unwrap(), [1]);
    is_well.store(true, Ordering::SeqCst);
    let next = connect(bus.config()).await;
    join(&next);
    start(&next).await;
    until_finished(&next).await;
    let seen = versions.lock().unwrap().clone();
    // an event that was unacknowledged when its process died may come twice
    let after: Vec<_> = seen.iter().copied().skip_while(|version| *version == 1).collect();
    assert_eq!(after, (2..=20).collect::<Vec<_>>(), "{seen:?}");
    next.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_hand_stops_the_reading_and_it_goes_on_later() {
    let config = RedisEventBusConfig { max_in_flight: Some(12), batch_size: 5, concurrency: 12, ..quick() };
    let bus = connect(&config).await;
    let actor = Actor::waiting();
    actor.join(&bus);
    publish_numbered(&bus, 60).await;
    start(&bus).await;
    until("the hand is full", async || pending(&bus).await.len() == 12).await;
    never("it reads on", Duration::from_millis(500), async || pending(&bus).await.len() > 12).await;
    actor.let_go(60);
    until_finished(&bus).await;
    assert_eq!(actor.done().len(), 60);
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_retry_takes_no_place_in_a_full_hand() {
    let config = RedisEventBusConfig { max_in_flight: Some(2), batch_size: 2, ..quick() };
    let bus = connect(&config).await;
    let is_well = Arc::new(AtomicBool::new(false));
    let well = Arc::clone(&is_well);
    let actor = Actor::new(move |id, _| match id == "last" || well.load(Ordering::SeqCst) {
        true => Act::Succeed,
        false => Act::Fail(HandlerError::retry_after(Duration::from_millis(100), "not yet")),
    });
    actor.join(&bus);
    publish_numbered(&bus, 60).await;
    publish_all(&bus, &["last"]).await;
    start(&bus).await;
    until("the last one is handled", async || actor.done() == ["last"]).await;
    is_well.store(true, Ordering::SeqCst);
    until_finished(&bus).await;
    assert_eq!(actor.done().len(), 61);
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn timeouts_and_panics_are_failures_of_that_delivery() {
    let bus = connect(&RedisEventBusConfig { max_retries: Some(1), ..quick() }).await;
    let actor = Actor::new(|id, _| match id {
        "slow" => Act::Wait,
        "panics" => Act::Panic,
        _ => Act::Succeed,
    });
    actor.join_as(&bus, "act", EventFilter::All, options(None, Some(80)));
    publish_all(&bus, &["slow", "panics", "good"]).await;
    start(&bus).await;
    until_dead(&bus, 2).await;
    until_finished(&bus).await;
    assert_eq!((actor.runs_of("slow"), actor.runs_of("panics"), actor.done()), (2, 2, vec!["good".to_owned()]));
    assert_eq!(actor.cancelled(), 2, "those that took too long");
    let errors: BTreeMap<_, _> = letters(&bus)
        .await
        .iter()
        .map(|(_, fields)| (text(fields, "aggregate_id").to_owned(), text(fields, "error").to_owned()))
        .collect();
    assert_eq!(errors["slow"], "handler took longer than 80ms");
    assert_eq!(errors["panics"], "handler panicked: told to panic");
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_event_becomes_a_dead_letter_byte_by_byte() {
    let bus = connect(&quick()).await;
    let actor = Actor::willing();
    actor.join(&bus);
    let mut connection = eventbus_test::internal::redis_connection(&bus.config().redis_url).await;
    let original: Fields = vec![
        (b"event_type".to_vec(), b"OrderCreated".to_vec()),
        (b"payload".to_vec(), vec![0xff, 0, 0x80, b'\n']),
        (vec![0xfe], vec![]),
        (b"payload".to_vec(), b"twice".to_vec()),
    ];
    let mut add = redis::cmd("XADD");
    add.arg(bus.config().stream_name()).arg("*");
    for (name, value) in &original {
        add.arg(name).arg(value);
    }
    let id: String = add.query_async(&mut connection).await.unwrap();
    start(&bus).await;
    until_dead(&bus, 1).await;
    until_finished(&bus).await;
    let (_, letter) = letters(&bus).await.remove(0);
    assert_eq!(letter[..4], original);
    let names: Vec<_> = letter[4..].iter().map(|(name, _)| std::str::from_utf8(name).unwrap()).collect();
    let three = ["original_message_id", "retry_count", "dlq_timestamp"];
    let ours = ["error", "handler", "group", "attempts", "first_failed_at", "last_failed_at", "done_handlers"];
    assert_eq!(names, [&three[..], &ours].concat());
    assert_eq!(text(&letter, "original_message_id"), id);
    assert_eq!((text(&letter, "retry_count"), text(&letter, "attempts"), text(&letter, "handler")), ("0", "0", ""));
    assert_eq!(text(&letter, "error"), "`payload` is not UTF-8");
    assert_eq!(text(&letter, "group"), "default");
    assert!(text(&letter, "dlq_timestamp").ends_with("+00:00"));
    assert_eq!(actor.begun().len(), 0);
    bus.stop_consuming().await;
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Order")]
struct OrderCreated {
    cents: u64,
}

#[tokio::test(flavor = "multi_thread")]
async fn own_fields_that_do_not_fit_are_not_tried_again() {
    let bus = connect(&quick()).await;
    bus.subscribe(|_: OrderCreated| async {});
    let fine = Actor::willing();
    fine.join(&bus);
    publish_all(&bus, &["one"]).await; // without cents
    start(&bus).await;
    until_dead(&bus, 1).await;
    until_finished(&bus).await;
    let (_, letter) = letters(&bus).await.remove(0);
    assert_eq!((text(&letter, "attempts"), fine.begun().len()), ("1", 1));
    assert!(text(&letter, "error").contains("cents"), "{}", text(&letter, "error"));
    assert_eq!(text(&letter, "done_handlers"), r#"["act"]"#);
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_with_more_fields_than_a_script_can_pass_on_holds_up_no_other() {
    let bus = connect(&RedisEventBusConfig { max_retries: Some(0), ..quick() }).await;
    picky().join(&bus);
    let stream = bus.config().stream_name();
    let names: Vec<_> = (0..5_000).map(|number| format!("field{number}")).collect();
    let mut arguments = vec![stream.as_str(), "*", "payload", "no json"];
    arguments.extend(names.iter().flat_map(|name| [name.as_str(), "value"]));
    let huge: String = command(&bus, "XADD", &arguments).await;
    let bad = publish_all(&bus, &["bad"]).await.remove(0);
    start(&bus).await;
    until_dead(&bus, 2).await;
    let letters = letters(&bus).await;
    assert_eq!(letters.iter().map(|(_, fields)| text(fields, "original_message_id")).collect::<Vec<_>>(), [huge, bad]);
    let huge = &letters[0].1;
    assert_eq!((text(huge, "payload"), text(huge, "field0"), text(huge, "group")), ("no json", "value", "default"));
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_keeps_the_event_and_says_what_happened() {
    let bus = connect(&RedisEventBusConfig { max_retries: Some(2), ..quick() }).await;
    let (failing, fine) = (Actor::failing(), Actor::willing());
    failing.join_as(&bus, "fails", EventFilter::All, HandlerOptions::default());
    fine.join_as(&bus, "fine", EventFilter::All, HandlerOptions::default());
    let id = publish_all(&bus, &["bad"]).await.remove(0);
    let before: Vec<(String, Fields)> = command(&bus, "XRANGE", &[&bus.config().stream_name(), "-", "+"]).await;
    let began = time::OffsetDateTime::now_utc();
    start(&bus).await;
    until_dead(&bus, 1).await;
    until_finished(&bus).await;
    let (_, fields) = letters(&bus).await.remove(0);
    assert_eq!(fields[..before[0].1.len()], before[0].1);
    assert_eq!(fields.len(), before[0].1.len() + 10);
    let said: Vec<_> = ["original_message_id", "retry_count", "error", "handler", "group", "attempts", "done_handlers"]
        .map(|name| text(&fields, name))
        .into();
    assert_eq!(said, [id.as_str(), "2", "told to", "fails", "default", "3", r#"["fine"]"#]);
    let letter = bus.list_dead_letters(&DeadLetterFilter::default(), None, 1).await.unwrap().letters.remove(0);
    let (first, last) = (letter.first_failed_at.unwrap(), letter.last_failed_at.unwrap());
    let earliest = began - time::Duration::milliseconds(1); // the dead letter has the time in milliseconds
    assert!(earliest <= first && first < last && last <= letter.dead_lettered_at.unwrap(), "{letter:?}");
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_entry_is_in_exactly_one_place_at_any_time() {
    let bus = connect(&RedisEventBusConfig { max_retries: Some(0), ..quick() }).await;
    Actor::failing().join(&bus);
    let (stream, group) = (bus.config().stream_name(), bus.default_group().to_string());
    let dead = bus.config().dlq_stream_name();
    let count: i64 = 400;
    // the group is watched from the first moment on
    make_group(&bus).await;
    publish_numbered(&bus, 400).await;
    start(&bus).await;
    let look = redis::Script::new(
        "local unread
         for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
           for i = 1, #info, 2 do if info[i] == 'lag' then unread = info[i + 1] end end
         end
         return { unread, redis.call('XPENDING', KEYS[1], ARGV[1])[1], redis.call('XLEN', KEYS[2]) }",
    );
    let mut connection = eventbus_test::internal::redis_connection(&bus.config().redis_url).await;
    let mut between = 0;
    loop {
        let (unread, pending, dead): (i64, i64, i64) =
            look.key(&stream).key(&dead).arg(&group).invoke_async(&mut connection).await.unwrap();
        assert_eq!(unread + pending + dead, count, "{unread} unread, {pending} pending, {dead} dead");
        between += i64::from(dead > 0 && dead < count);
        if dead == count {
            break;
        }
    }
    assert!(between > 10, "it was watched {between} times in between");
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_runs_the_failed_handler_of_the_failed_group_and_nothing_else() {
    let bus = connect(&RedisEventBusConfig { max_retries: Some(0), ..quick() }).await;
    let is_well = Arc::new(AtomicBool::new(false));
    let well = Arc::clone(&is_well);
    let failing = Actor::new(move |_, _| match well.load(Ordering::SeqCst) {
        true => Act::Succeed,
        false => Act::Fail("told to".into()),
    });
    let (fine, elsewhere) = (Actor::willing(), Actor::willing());
    failing.join_as(&bus, "fails", EventFilter::All, HandlerOptions::default());
    fine.join_as(&bus, "fine", EventFilter::All, HandlerOptions::default());
    let other = Name::from_static("other");
    elsewhere.join_group(&bus, &other, "elsewhere", EventFilter::All, HandlerOptions::default());
    publish_all(&bus, &["bad"]).await;
    start(&bus).await;
    until_dead(&bus, 1).await;
    is_well.store(true, Ordering::SeqCst);
    assert_eq!(bus.replay_all(&DeadLetterFilter::default()).await.unwrap(), 1);
    until("it is handled", async || failing.done().len() == 1).await;
    until_finished(&bus).await;
    until("the other group is done", async || bus.progress(&other).await.unwrap().pending == 0).await;
    until("the other group has read it", async || bus.progress(&other).await.unwrap().unread == 0).await;
    assert_eq!((failing.begun().len(), fine.begun().len(), elsewhere.begun().len()), (2, 1, 1));
    assert_eq!(failing.runs()[1].attempt, 1, "with a fresh budget");
    let entries: Vec<(String, Fields)> = command(&bus, "XRANGE", &[&bus.config().stream_name(), "-", "+"]).await;
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[1].1[..7], entries[0].1[..7], "what other programs see is as it was");
    assert_eq!(dead_letter_count(&bus).await, 0);
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_fails_again_says_so_once_more() {
    let bus = connect(&RedisEventBusConfig { max_retries: Some(1), ..quick() }).await;
    let (failing, fine) = (Actor::failing(), Actor::willing());
    failing.join_as(&bus, "fails", EventFilter::All, HandlerOptions::default());
    fine.join_as(&bus, "fine", EventFilter::All, HandlerOptions::default());
    publish_all(&bus, &["bad"]).await;
    start(&bus).await;
    for round in 1..=3 {
        until_dead(&bus, 1).await;
        until_finished(&bus).await;
        assert_eq!((failing.begun().len(), fine.begun().len()), (2 * round, 1));
        let (_, fields) = letters(&bus).await.remove(0);
        assert_eq!((text(&fields, "done_handlers"), text(&fields, "attempts")), (r#"["fine"]"#, "2"));
        if round < 3 {
            bus.replay_all(&DeadLetterFilter::default()).await.unwrap();
        }
    }
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_dead_letters_an_entry_stays_pending_and_is_left_alone() {
    let config = RedisEventBusConfig { max_retries: Some(1), enable_dlq: false, pending_idle_ms: 200, ..quick() };
    let bus = connect(&config).await;
    let actor = picky();
    actor.join(&bus);
    let bad = publish_all(&bus, &["bad", "bad", "good"]).await.remove(0);
    let stream = bus.config().stream_name();
    let no_event: String = command(&bus, "XADD", &[&stream, "*", "payload", "no json"]).await;
    let consumer = start(&bus).await;
    until("they are exhausted", async || bus.stats().messages_exhausted == 3).await;
    until("the group is settled", async || bus.progress(bus.default_group()).await.unwrap().is_settled()).await;
    let progress = bus.progress(bus.default_group()).await.unwrap();
    assert_eq!((progress.pending, progress.exhausted, actor.runs_of("bad")), (3, 3, 4));
    assert_eq!(dead_letter_count(&bus).await, 0);
    kill(consumer).await;

    // neither the next process of its name nor the one that reclaims them handles them again
    for name in ["stable", "heir"] {
        let next = named(&bus, name).await;
        actor.join(&next);
        start(&next).await;
        let mine = async || pending(&next).await.iter().filter(|(_, consumer)| consumer == name).count() == 3;
        until("they are on its name", mine).await;
        let handled = async || actor.runs_of("bad") > 4;
        never("they are handled again", Duration::from_millis(500), handled).await;
        let progress = next.progress(next.default_group()).await.unwrap();
        assert_eq!((progress.pending, progress.exhausted), (3, 3));
        assert_eq!(next.stats().messages_exhausted, 0, "counted once");
        let held = next.trim(Trim { max_length: Some(0), max_age: None }).await.unwrap().held_by.unwrap();
        assert_eq!(
            (held.group.as_str(), held.reason, held.oldest.as_str()),
            ("default", TrimBlockReason::Pending, &*bad)
        );
        next.stop_consuming().await;
    }

    // with dead letters enabled they become dead letters, still without being handled
    let with = connect(&RedisEventBusConfig { enable_dlq: true, ..bus.config().clone() }).await;
    actor.join(&with);
    start(&with).await;
    until_dead(&with, 3).await;
    until_finished(&with).await;
    assert_eq!(actor.runs_of("bad"), 4);
    let originals: Vec<_> =
        letters(&with).await.iter().map(|(_, fields)| text(fields, "original_message_id").to_owned()).collect();
    assert!(originals.contains(&bad) && originals.contains(&no_event));
    with.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_of_entries_is_written_down_within_two_seconds_though_a_handler_hangs() {
    // with the default times the consumer does its periodic work every second
    let config = RedisEventBusConfig { pending_idle_ms: 60_000, block_ms: 5_000, ..quick() };
    let bus = connect(&config).await;
    let actor = Actor::new(|id, _| if id == "hangs" { Act::Wait } else { Act::Succeed });
    actor.join(&bus);
    publish_all(&bus, &["one", "two", "hangs", "after"]).await;
    start(&bus).await;
    until("it hangs", async || actor.begun().len() == 3).await;
    let began = Instant::now();
    until("the others are acknowledged", async || pending(&bus).await.len() == 2).await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    actor.let_go(1);
    until_finished(&bus).await;
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_note_that_comes_too_late_ends_the_retries_here() {
    let config = RedisEventBusConfig { pending_idle_ms: 60_000, max_retries: Some(10), ..quick() };
    let bus = connect(&config).await;
    let tries = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&tries);
    let actor = Actor::new(move |_, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        Act::WaitAndFail
    });
    actor.join(&bus);
    let entry = publish_all(&bus, &["one"]).await.remove(0);
    start(&bus).await;
    until("it runs", async || actor.begun().len() == 1).await;
    give(&bus, "thief", &entry).await;
    actor.let_go(10);
    until("the failure is counted", async || bus.stats().events_processed_failed == 1).await;
    never("it is tried again", Duration::from_millis(400), async || tries.load(Ordering::SeqCst) > 1).await;
    bus.stop_consuming().await;
}

/// Moves an entry to the dead letters by the script, as its consumer does; replies with the dead letter's id.
async fn move_to_dead_letters(bus: &RedisEventBus, entry: &str, at: &str, failed_at: &str) -> Option<String> {
    let script = redis::Script::new(include_str!("../../src/script/consumer/move_to_dead_letters.lua"));
    let own = [("original_message_id", entry), ("dlq_timestamp", at), ("last_failed_at", failed_at)];
    let mut script = script.key(bus.config().stream_name());
    script.key(retry_key(bus)).key(bus.config().dlq_stream_name());
    script.arg(bus.default_group().as_str()).arg("stable").arg(entry).arg(own.len() * 2);
    for (name, value) in own {
        script.arg(name).arg(value);
    }
    script.arg(1).arg("event_type").arg("OrderCreated");
    let mut connection = eventbus_test::internal::redis_connection(&bus.config().redis_url).await;
    script.invoke_async(&mut connection).await.unwrap()
}

/// Fails if a script repeated after a lost reply writes a second dead letter.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_written_once_though_its_script_runs_twice() {
    let bus = connect(&quick()).await;
    let entry = publish_all(&bus, &["there"]).await.remove(0);
    read_as(&bus, "stable", 1).await;
    assert!(move_to_dead_letters(&bus, &entry, "1", "1").await.is_some());
    assert_eq!(move_to_dead_letters(&bus, &entry, "2", "1").await, None);
    assert_eq!(dead_letter_count(&bus).await, 1);
}
