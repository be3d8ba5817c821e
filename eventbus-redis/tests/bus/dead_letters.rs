//! Reading, replaying and discarding dead letters, of this library and of others.

use crate::common::{config_on, fresh_bus, seen::command};
use eventbus::{
    Name,
    port::{DeadLetterError, DeadLetterFilter, DeadLetters, EventBus, MessageId},
};
use eventbus_redis::{GroupStart, RedisEventBus, RedisEventBusConfig};
use time::macros::datetime;

const ID: &str = "2376693e-5be9-4a85-a652-862d4b54c52d";
const PAYLOAD: &str = r#"{"event_id":"2376693e-5be9-4a85-a652-862d4b54c52d","event_type":"OrderCreated","event_version":1,"occurred_at":"2026-11-20T06:57:24.243021Z","aggregate_id":"order-1","aggregate_type":"Order","aggregate_version":1,"tenant_id":null,"actor_id":null,"correlation_id":"cd78027b-d3ec-44e7-8c0a-2d37ca2beef6","causation_id":null,"metadata":{},"total_amount":100.0}"#;

/// The names and values of an entry.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;

fn fields(pairs: &[(&str, &str)]) -> Fields {
    pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

/// The seven fields that every publisher writes.
fn seven() -> Vec<(&'static str, &'static str)> {
    vec![
        ("event_id", ID),
        ("event_type", "OrderCreated"),
        ("aggregate_id", "order-1"),
        ("aggregate_type", "Order"),
        ("tenant_id", ""),
        ("occurred_at", "2026-11-20T06:57:24.243021+00:00"),
        ("payload", PAYLOAD),
    ]
}

/// The fields that the Python library adds.
const OF_PYTHON: [(&str, &str); 3] = [
    ("original_message_id", "1795157870693-0"),
    ("retry_count", "3"),
    ("dlq_timestamp", "2026-11-20T06:57:54.605409+00:00"),
];

const MAILS: Name = Name::from_static("mails");

/// The fields that this library adds to those.
const OURS: [(&str, &str); 7] = [
    ("error", "mail server said no"),
    ("handler", "send_receipt"),
    ("group", "mails"),
    ("attempts", "4"),
    ("first_failed_at", "2026-11-20T06:57:30+00:00"),
    ("last_failed_at", "2026-11-20T06:57:54.605+00:00"),
    ("done_handlers", r#"["audit","count"]"#),
];

async fn connection(bus: &RedisEventBus) -> redis::aio::MultiplexedConnection {
    eventbus_test::internal::redis_connection(&bus.config().redis_url).await
}

async fn add(bus: &RedisEventBus, stream: &str, id: &str, fields: &Fields) -> MessageId {
    let mut add = redis::cmd("XADD");
    add.arg(stream).arg(id);
    for (name, value) in fields {
        add.arg(name).arg(value);
    }
    let id: String = add.query_async(&mut connection(bus).await).await.unwrap();
    MessageId::new(id)
}

/// Adds a dead letter, perhaps of the group `mails`.
async fn bury(bus: &RedisEventBus, parts: &[&[(&str, &str)]]) -> MessageId {
    bus.create_group(&MAILS, GroupStart::Now).await.unwrap();
    add(bus, &bus.config().dlq_stream_name(), "*", &fields(&parts.concat())).await
}

/// The entries of the stream, without the ids.
async fn stream(bus: &RedisEventBus) -> Vec<Fields> {
    let mut range = redis::cmd("XRANGE");
    range.arg(bus.config().stream_name()).arg("-").arg("+");
    let entries: Vec<(String, Fields)> = range.query_async(&mut connection(bus).await).await.unwrap();
    entries.into_iter().map(|(_, fields)| fields).collect()
}

async fn all(bus: &RedisEventBus) -> Vec<eventbus::port::DeadLetter> {
    bus.list_dead_letters(&DeadLetterFilter::default(), None, 1_000).await.unwrap().letters
}

#[tokio::test]
async fn a_dead_letter_is_shown_with_all_that_is_known_about_it() {
    let bus = fresh_bus().await;
    let id = bury(&bus, &[&seven(), &[("position", "7")], &OF_PYTHON, &OURS]).await;
    let letter = bus.find_dead_letter(&id).await.unwrap().unwrap();
    assert_eq!(letter.id, id);
    assert_eq!(letter.original_message_id, Some(MessageId::new("1795157870693-0")));
    let record = letter.record.unwrap();
    assert_eq!(record.payload(), r#"{"total_amount":100.0}"#);
    assert_eq!(record.metadata().event_id().to_string(), ID);
    assert_eq!(letter.event_type.as_deref(), Some("OrderCreated"));
    assert_eq!(letter.aggregate_id.as_deref(), Some("order-1"));
    assert_eq!(letter.error.as_deref(), Some("mail server said no"));
    assert_eq!(letter.handler.as_deref(), Some("send_receipt"));
    assert_eq!(letter.group.as_deref(), Some("mails"));
    assert_eq!((letter.attempts, letter.retry_count), (Some(4), Some(3)));
    assert_eq!(letter.first_failed_at, Some(datetime!(2026-11-20 06:57:30 UTC)));
    assert_eq!(letter.last_failed_at, Some(datetime!(2026-11-20 06:57:54.605 UTC)));
    assert_eq!(letter.dead_lettered_at, Some(datetime!(2026-11-20 06:57:54.605409 UTC)));
    assert_eq!(letter.done_handlers, ["audit", "count"]);
    let shown: Vec<_> = letter.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(shown, [&seven()[..], &[("position", "7")]].concat(), "what was delivered, and nothing else");
}

#[tokio::test]
async fn a_dead_letter_of_python_is_replayed_to_every_group_as_it_was() {
    let bus = fresh_bus().await;
    let id = bury(&bus, &[&seven(), &OF_PYTHON]).await;
    let letter = all(&bus).await.remove(0);
    assert_eq!((letter.error, letter.handler, letter.group, letter.attempts), (None, None, None, None));
    assert_eq!((letter.retry_count, letter.record.is_some()), (Some(3), true));
    assert!(bus.replay(&id).await.unwrap());
    assert_eq!(stream(&bus).await, [fields(&seven())]);
    assert!(all(&bus).await.is_empty());
    assert!(!bus.replay(&id).await.unwrap(), "it is not there any more");
    assert_eq!(stream(&bus).await.len(), 1);
}

#[tokio::test]
async fn a_replay_of_ours_goes_to_its_group_without_the_handlers_that_had_succeeded() {
    let bus = fresh_bus().await;
    let before = [("position", "7"), ("traceparent", "00-ab")];
    let id = bury(&bus, &[&seven(), &before, &OF_PYTHON, &OURS]).await;
    assert!(bus.replay(&id).await.unwrap());
    let added = [
        ("original_position", "7"),
        ("traceparent", "00-ab"),
        ("replay_group", "mails"),
        ("replay_done", r#"["audit","count"]"#),
    ];
    assert_eq!(stream(&bus).await, [fields(&[&seven()[..], &added].concat())]);
}

#[tokio::test]
async fn what_died_again_after_a_replay_is_replayed_for_the_group_it_died_in_now() {
    let bus = fresh_bus().await;
    let replayed = [("original_position", "7"), ("replay_group", "old"), ("replay_done", r#"["old"]"#)];
    let id = bury(&bus, &[&seven(), &replayed, &OF_PYTHON, &[("group", "mails")]]).await;
    assert!(bus.replay(&id).await.unwrap());
    let added = [("original_position", "7"), ("replay_group", "mails")];
    assert_eq!(stream(&bus).await, [fields(&[&seven()[..], &added].concat())]);
}

#[tokio::test]
async fn a_publishers_own_fields_survive_though_they_are_named_like_ours() {
    let bus = fresh_bus().await;
    let own = [("group", "theirs"), ("error", "none"), ("attempts", "many")];
    let id = bury(&bus, &[&seven(), &own, &OF_PYTHON]).await;
    let letter = bus.find_dead_letter(&id).await.unwrap().unwrap();
    assert_eq!((letter.group, letter.error), (None, None), "Python says nothing about them");
    assert!(bus.replay(&id).await.unwrap());
    assert_eq!(stream(&bus).await, [fields(&[&seven()[..], &own].concat())]);
}

#[tokio::test]
async fn what_cannot_be_decoded_is_shown_and_replayed_byte_by_byte() {
    let bus = fresh_bus().await;
    let dead_letters = bus.config().dlq_stream_name();
    let bytes: Vec<u8> = (0..=255).rev().collect();
    let mut binary = fields(&[("event_type", "Odd")]);
    binary.push((b"payload".to_vec(), bytes.clone()));
    binary.push((bytes.clone(), b"\r\n\0".to_vec()));
    add(&bus, &dead_letters, "*", &[&binary[..], &fields(&OF_PYTHON)].concat()).await;
    bury(&bus, &[&[("event_type", "Bare"), ("aggregate_id", "order-2")], &OF_PYTHON]).await;
    // no mark that shows where the dead letter's own fields begin
    bury(&bus, &[&[("group", "mails"), ("payload", "{"), ("retry_count", "many")]]).await;

    let letters = all(&bus).await;
    assert!(letters.iter().all(|letter| letter.record.is_none()), "{letters:?}");
    let types: Vec<_> = letters.iter().map(|letter| letter.event_type.as_deref()).collect();
    assert_eq!(types, [Some("Odd"), Some("Bare"), None]);
    assert_eq!(letters[1].aggregate_id.as_deref(), Some("order-2"));
    assert_eq!(letters[2].group.as_deref(), Some("mails"));
    assert_eq!(letters[2].retry_count, None, "it is no number");
    assert!(letters[2].dead_lettered_at.is_some(), "the server knows when it was added");

    assert_eq!(bus.replay_all(&DeadLetterFilter::default()).await.unwrap(), 3);
    let bare = fields(&[("event_type", "Bare"), ("aggregate_id", "order-2")]);
    assert_eq!(stream(&bus).await, [binary, bare, fields(&[("payload", "{"), ("replay_group", "mails")])]);
}

#[tokio::test]
async fn dead_letters_are_read_in_pages_and_picked_by_what_they_say() {
    let bus = fresh_bus().await;
    for n in 0..250 {
        let (group, id) = (if n % 50 == 0 { "rare" } else { "common" }, format!("order-{n}"));
        let at = format!("2026-11-20T06:{:02}:{:02}+00:00", n / 60, n % 60);
        let said = [("original_message_id", "1-0"), ("dlq_timestamp", &at), ("group", group), ("handler", "mail")];
        bury(&bus, &[&[("event_type", "OrderCreated"), ("aggregate_id", &id)], &said]).await;
    }
    let read = async |filter: &DeadLetterFilter, limit| {
        let (mut sizes, mut ids, mut after) = (Vec::new(), Vec::new(), None);
        loop {
            let page = bus.list_dead_letters(filter, after.as_ref(), limit).await.unwrap();
            sizes.push(page.letters.len());
            ids.extend(page.letters.into_iter().filter_map(|letter| letter.aggregate_id));
            after = page.next;
            if after.is_none() {
                return (sizes, ids);
            }
        }
    };
    let (sizes, ids) = read(&DeadLetterFilter::default(), 125).await;
    assert_eq!(sizes, [125, 125]);
    assert_eq!(ids, (0..250).map(|n| format!("order-{n}")).collect::<Vec<_>>());
    let rare = DeadLetterFilter { group: Some("rare".into()), ..Default::default() };
    assert_eq!(read(&rare, 2).await.0, [2, 2, 1]);
    assert_eq!(read(&rare, 0).await.0, [1; 5], "a page is never empty before the end");
    let (from, before) = (Some(datetime!(2026-11-20 06:00:59 UTC)), Some(datetime!(2026-11-20 06:01:02 UTC)));
    let (_, ids) = read(&DeadLetterFilter { from, before, ..Default::default() }, 10).await;
    assert_eq!(ids, ["order-59", "order-60", "order-61"]);
    let nobody = DeadLetterFilter { handler: Some("mail".into()), event_type: Some("Other".into()), ..rare.clone() };
    assert_eq!(read(&nobody, 10).await.0, [0]);
    let one = DeadLetterFilter { aggregate_id: Some("order-100".into()), ..rare };
    assert_eq!(bus.discard_all(&one).await.unwrap(), 1);
    assert_eq!(bus.replay_all(&one).await.unwrap(), 0, "it was discarded");
    assert_eq!(bus.stream_info().await.dlq_messages, 249);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_dies_again_meanwhile_is_not_replayed_again() {
    let bus = fresh_bus().await;
    for _ in 0..300 {
        bury(&bus, &[&seven(), &OF_PYTHON]).await;
    }
    // each entry of the stream becomes a dead letter at once
    let dies = tokio::spawn({
        let (bus, mut connection) = (bus.clone(), connection(&bus).await);
        async move {
            let mut after = "0".to_owned();
            loop {
                let mut read = redis::cmd("XRANGE");
                read.arg(bus.config().stream_name()).arg(format!("({after}")).arg("+");
                let entries: Vec<(String, Fields)> = read.query_async(&mut connection).await.unwrap();
                for (id, entry) in entries {
                    let letter = [&entry[..], &fields(&OF_PYTHON)].concat();
                    add(&bus, &bus.config().dlq_stream_name(), "*", &letter).await;
                    after = id;
                }
                tokio::task::yield_now().await;
            }
        }
    });
    assert_eq!(bus.replay_all(&DeadLetterFilter::default()).await.unwrap(), 300);
    dies.abort();
    drop(dies.await);
    assert_eq!(bus.stream_info().await.stream.length, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_replayed_by_one_of_those_who_try() {
    let bus = fresh_bus().await;
    for _ in 0..150 {
        bury(&bus, &[&seven(), &OF_PYTHON]).await;
    }
    let all = DeadLetterFilter::default();
    let (a, b, c) = tokio::join!(bus.replay_all(&all), bus.replay_all(&all), bus.replay_all(&all));
    assert_eq!(a.unwrap() + b.unwrap() + c.unwrap(), 150);
    let info = bus.stream_info().await;
    assert_eq!((info.stream.length, info.dlq_messages), (150, 0));
}

/// No consumer would get the entry, and trimming would remove it.
#[tokio::test]
async fn a_dead_letter_whose_group_is_gone_stays_one() {
    let bus = fresh_bus().await;
    let prefix = eventbus_test::unique_name("gone");
    let config = RedisEventBusConfig { stream_prefix: prefix, ..bus.config().clone() };
    let bus = RedisEventBus::connect(config).await.unwrap();
    let id = bury(&bus, &[&seven(), &OF_PYTHON, &OURS]).await;
    bus.retire_group(&MAILS).await.unwrap();
    let error = bus.replay(&id).await.unwrap_err();
    assert!(matches!(&error, DeadLetterError::NoGroup { group, .. } if group == "mails"), "{error:?}");
    assert_eq!(bus.replay_all(&DeadLetterFilter::default()).await.unwrap(), 0);
    assert_eq!(all(&bus).await.len(), 1);
    bus.create_group(&MAILS, GroupStart::Now).await.unwrap();
    assert!(bus.replay(&id).await.unwrap());
    assert!(all(&bus).await.is_empty());
}

#[tokio::test]
async fn a_discarded_dead_letter_is_gone() {
    let bus = fresh_bus().await;
    let id = bury(&bus, &[&seven(), &OF_PYTHON]).await;
    assert!(bus.discard(&id).await.unwrap());
    assert!(!bus.discard(&id).await.unwrap());
    assert!(bus.find_dead_letter(&id).await.unwrap().is_none());
    assert!(stream(&bus).await.is_empty());
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let bus = fresh_bus().await;
    for id in ["", "-", "+", "0", "abc", "1-0; DEL x"] {
        let (id, all) = (MessageId::new(id), DeadLetterFilter::default());
        for error in [
            bus.replay(&id).await.unwrap_err(),
            bus.discard(&id).await.unwrap_err(),
            bus.find_dead_letter(&id).await.unwrap_err(),
            bus.list_dead_letters(&all, Some(&id), 1).await.unwrap_err(),
        ] {
            assert!(matches!(&error, DeadLetterError::InvalidId { id: said, .. } if *said == id), "{error:?}");
        }
    }
    let empty = bury(&bus, &[&OF_PYTHON]).await;
    let error = bus.replay(&empty).await.unwrap_err();
    assert!(matches!(&error, DeadLetterError::Empty { id, .. } if *id == empty), "{error:?}");
    assert_eq!(bus.replay_all(&DeadLetterFilter::default()).await.unwrap(), 0);
    assert!(bus.find_dead_letter(&empty).await.unwrap().is_some(), "it stays");

    let taken = RedisEventBusConfig { dlq_stream_suffix: "_taken".into(), ..bus.config().clone() };
    let _: String = command(&bus, "SET", &[&taken.dlq_stream_name(), "something"]).await;
    let taken = RedisEventBus::connect(taken).await.unwrap();
    let error = taken.replay(&MessageId::new("1-0")).await.unwrap_err();
    assert!(matches!(error, DeadLetterError::Refused { .. }), "{error:?}");

    bus.disconnect().await;
    let error = bus.replay(&empty).await.unwrap_err();
    assert!(matches!(error, DeadLetterError::ShutDown { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_that_is_gone_is_typed_and_one_that_forgot_the_script_is_told_it() {
    let mut server = eventbus_test::private_redis();
    let bus = RedisEventBus::connect(config_on(server.url())).await.unwrap();
    let (first, second) = (bury(&bus, &[&seven(), &OF_PYTHON]).await, bury(&bus, &[&seven(), &OF_PYTHON]).await);
    assert!(bus.replay(&first).await.unwrap());
    let _: String = command(&bus, "SCRIPT", &["FLUSH"]).await;
    assert!(bus.replay(&second).await.unwrap());
    server.stop();
    let error = bus.replay(&first).await.unwrap_err();
    assert!(matches!(error, DeadLetterError::OutcomeUnknown { .. }), "the connection broke: {error:?}");
    let error = bus.replay(&first).await.unwrap_err();
    assert!(matches!(error, DeadLetterError::Unavailable { .. }), "nothing was sent: {error:?}");
    assert!(error.is_retryable());
}
