//! The wire format, as it was captured from the Python library, and what that library accepts.

use eventbus::{
    Attributes, EventContext, EventId, Metadata, Name, NewEvent, Position, RecordedEvent, StreamId,
    Version,
};
use proptest::prelude::*;
use time::{OffsetDateTime, macros::datetime};
use uuid::{Uuid, uuid};

use super::{decode::Undecodable, encode::encode};

/// An entry of the Python library, byte for byte.
const CAPTURED: [(&str, &str); 7] = [
    ("event_id", "2376693e-5be9-4a85-a652-862d4b54c52d"),
    ("event_type", "OrderCreated"),
    ("aggregate_id", "feaf2364-cce1-4ed3-9a63-624520185ae3"),
    ("aggregate_type", "Order"),
    ("tenant_id", ""),
    ("occurred_at", "2026-11-20T06:57:24.243021+00:00"),
    (
        "payload",
        r#"{"event_id":"2376693e-5be9-4a85-a652-862d4b54c52d","event_type":"OrderCreated","event_version":1,"occurred_at":"2026-11-20T06:57:24.243021Z","aggregate_id":"feaf2364-cce1-4ed3-9a63-624520185ae3","aggregate_type":"Order","aggregate_version":1,"tenant_id":null,"actor_id":null,"correlation_id":"cd78027b-d3ec-44e7-8c0a-2d37ca2beef6","causation_id":null,"metadata":{},"customer_id":"cust-0","total_amount":100.0}"#,
    ),
];

fn captured_event() -> RecordedEvent {
    let metadata = Metadata::new(
        EventId::from(uuid!("2376693e-5be9-4a85-a652-862d4b54c52d")),
        Name::from_static("OrderCreated"),
        StreamId::parse("Order", "feaf2364-cce1-4ed3-9a63-624520185ae3").unwrap(),
        Version::FIRST,
        datetime!(2026-11-20 06:57:24.243_021 UTC),
    )
    .with_correlation_id(uuid!("cd78027b-d3ec-44e7-8c0a-2d37ca2beef6"));
    RecordedEvent::new(metadata, r#"{"customer_id":"cust-0","total_amount":100.0}"#)
}

fn decode(fields: &[(&str, &str)]) -> Result<RecordedEvent, Undecodable> {
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
        .collect();
    super::decode(&fields)
}

/// Decodes the captured entry with another payload.
fn decode_payload(payload: &str) -> Result<RecordedEvent, Undecodable> {
    let mut fields = CAPTURED;
    fields[6].1 = payload;
    decode(&fields)
}

/// Decodes the captured entry with one value of the payload replaced, or taken out.
fn decode_with(key: &str, value: Option<&str>) -> Result<RecordedEvent, Undecodable> {
    let mut payload: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(CAPTURED[6].1).unwrap();
    match value {
        Some(value) => payload.insert(key.into(), serde_json::from_str(value).unwrap()),
        None => payload.remove(key),
    };
    decode_payload(&serde_json::to_string(&payload).unwrap())
}

#[test]
fn a_captured_entry_is_written_byte_for_byte() {
    let fields = encode(&captured_event()).unwrap();
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    assert_eq!(fields, CAPTURED);
}

#[test]
fn a_captured_entry_is_read() {
    assert_eq!(decode(&CAPTURED).unwrap(), captured_event());
}

#[test]
fn every_field_has_its_place() {
    let context = EventContext::default()
        .with_correlation(Uuid::from_u128(1))
        .with_causation(Uuid::from_u128(2))
        .with_tenant(Uuid::from_u128(3))
        .with_actor("Zoë \"x\"\n")
        .with_attributes(Attributes::parse(r#"{"b":1.50,"a":null}"#).unwrap());
    let event = NewEvent::new(
        Name::from_static("Type"),
        2,
        r#" { "z" : [1, 2], "a": "é" } "#,
    )
    .with_event_id(EventId::from(Uuid::from_u128(4)))
    .with_occurred_at(datetime!(2026-01-02 03:04:05 UTC))
    .with_context(context)
    .recorded_as(
        StreamId::parse("Order", "12/34").unwrap(),
        Version::new(9),
        Some(Position::new(77)),
    );
    let fields = encode(&event).unwrap();
    let names: Vec<_> = fields.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        [
            "event_id",
            "event_type",
            "aggregate_id",
            "aggregate_type",
            "tenant_id",
            "occurred_at",
            "payload",
            "position"
        ]
    );
    assert_eq!(fields[4].1, "00000000-0000-0000-0000-000000000003");
    assert_eq!(fields[5].1, "2026-01-02T03:04:05+00:00");
    assert_eq!(fields[7].1, "77");
    assert_eq!(
        fields[6].1,
        concat!(
            r#"{"event_id":"00000000-0000-0000-0000-000000000004","event_type":"Type","event_version":2,"#,
            r#""occurred_at":"2026-01-02T03:04:05Z","aggregate_id":"12/34","aggregate_type":"Order","#,
            r#""aggregate_version":9,"tenant_id":"00000000-0000-0000-0000-000000000003","#,
            r#""actor_id":"Zoë \"x\"\n","correlation_id":"00000000-0000-0000-0000-000000000001","#,
            r#""causation_id":"00000000-0000-0000-0000-000000000002","metadata":{"b":1.50,"a":null},"#,
            r#""z" : [1, 2], "a": "é"}"#
        )
    );
}

#[test]
fn a_payload_that_is_no_object_is_refused() {
    for payload in ["", "[]", "5", "null", "{", "{}x"] {
        let event = RecordedEvent::new(captured_event().metadata().clone(), payload);
        assert!(encode(&event).is_err(), "{payload:?}");
    }
}

#[test]
fn the_payload_counts_and_the_other_fields_only_stand_in() {
    let mut fields = CAPTURED;
    fields[0].1 = "00000000-0000-0000-0000-000000000009";
    fields[2].1 = "other";
    fields[3].1 = "Other";
    fields[4].1 = "00000000-0000-0000-0000-000000000009";
    fields[5].1 = "1999-01-01T00:00:00+00:00";
    assert_eq!(decode(&fields).unwrap(), captured_event());

    fields[1].1 = "OrderRenamed";
    assert_eq!(decode(&fields).unwrap().event_type(), &"OrderRenamed");
    fields[1].1 = "";
    assert_eq!(decode(&fields).unwrap().event_type(), &"OrderCreated");

    fields[6].1 = "{}";
    let event = decode(&fields);
    assert_eq!(event.unwrap_err().to_string(), "`event_type` is missing");
    fields[1].1 = "OrderRenamed";
    let event = decode(&fields).unwrap();
    assert_eq!(event.metadata().aggregate_id().as_str(), "other");
    assert_eq!(event.metadata().tenant_id(), Some(Uuid::from_u128(9)));
    assert_eq!(
        event.metadata().occurred_at(),
        datetime!(1999-01-01 0:00 UTC)
    );
    assert_eq!(event.payload(), "{}");
}

#[test]
fn base_fields_and_own_fields_may_be_mixed_and_escaped() {
    let event = decode_payload(concat!(
        r#" {"b": 9007199254740993 ,"event\u005fid":"2376693e-5be9-4a85-a652-862d4b54c52d","#,
        r#""aggregate_id":"a","a":"\u00e9","a":2,"nested":{"event_id":[1,  2]},"aggregate_type":"Order","#,
        r#""occurred_at":"2026-11-20T06:57:24Z"}"#
    ))
    .unwrap();
    assert_eq!(
        event.payload(),
        r#"{"b":9007199254740993,"a":"\u00e9","a":2,"nested":{"event_id":[1,  2]}}"#
    );
    assert_eq!(
        event.metadata().event_id().as_uuid(),
        uuid!("2376693e-5be9-4a85-a652-862d4b54c52d")
    );
}

#[test]
fn times_are_read_as_tolerantly_as_in_python() {
    let at = |text: &str| -> Result<OffsetDateTime, Undecodable> {
        Ok(decode_with("occurred_at", Some(text))?
            .metadata()
            .occurred_at())
    };
    for (text, expected) in [
        (
            r#""2026-01-02T03:04:05Z""#,
            datetime!(2026-01-02 03:04:05 UTC),
        ),
        (
            r#""2026-01-02T03:04:05.123Z""#,
            datetime!(2026-01-02 03:04:05.123 UTC),
        ),
        (
            r#""2026-01-02T03:04:05.123456789Z""#,
            datetime!(2026-01-02 03:04:05.123_456 UTC),
        ),
        (
            r#""2026-01-02T03:04:05.9999999+00:00""#,
            datetime!(2026-01-02 03:04:05.999_999 UTC),
        ),
        (
            r#""2026-01-02T03:04:05+05:30""#,
            datetime!(2026-01-01 21:34:05 UTC),
        ),
        (
            r#""2026-01-02T03:04:05-0800""#,
            datetime!(2026-01-02 11:04:05 UTC),
        ),
        (
            r#""2026-01-02T03:04:05.5""#,
            datetime!(2026-01-02 03:04:05.5 UTC),
        ),
        (r#""2026-01-02 03:04""#, datetime!(2026-01-02 03:04:00 UTC)),
        (r#""2026-01-02""#, datetime!(2026-01-02 0:00 UTC)),
        (r#""1767323045""#, datetime!(2026-01-02 03:04:05 UTC)),
        ("1767323045", datetime!(2026-01-02 03:04:05 UTC)),
        ("1767323045.25", datetime!(2026-01-02 03:04:05.25 UTC)),
        ("1767323045123", datetime!(2026-01-02 03:04:05.123 UTC)),
    ] {
        assert_eq!(at(text).unwrap(), expected, "{text}");
    }
    for text in [
        r#""""#,
        "null",
        r#""yesterday""#,
        r#""2026-13-02T03:04:05Z""#,
        r#""2026-01-02T25:04:05Z""#,
        r#""2026-01-02T03:04:05.Z""#,
        r#""2026-01-02T03:04:05+24:00""#,
        r#""2026-01-02T03:04:05+05""#,
        r#""nan""#,
        r#""inf""#,
        r#""2026-01-02T03:04:05é""#,
        "1e300",
    ] {
        assert!(at(text).is_err(), "{text}");
    }
}

#[test]
fn ids_and_numbers_are_read_as_tolerantly_as_in_python() {
    let id = uuid!("2376693e-5be9-4a85-a652-862d4b54c52d");
    for text in [
        r#""2376693E-5BE9-4A85-A652-862D4B54C52D""#,
        r#""2376693e5be94a85a652862d4b54c52d""#,
        r#""urn:uuid:2376693e-5be9-4a85-a652-862d4b54c52d""#,
    ] {
        for key in ["event_id", "tenant_id", "correlation_id", "causation_id"] {
            let event = decode_with(key, Some(text)).unwrap();
            let metadata = event.metadata();
            let read = match key {
                "event_id" => Some(metadata.event_id().as_uuid()),
                "tenant_id" => metadata.tenant_id(),
                "correlation_id" => Some(metadata.correlation_id()),
                _ => metadata.causation_id(),
            };
            assert_eq!(read, Some(id), "{key} {text}");
        }
    }
    for (text, expected) in [("3", 3), (r#"" 3 ""#, 3), ("3.0", 3), (r#""3.0""#, 3)] {
        let event = decode_with("event_version", Some(text)).unwrap();
        assert_eq!(event.metadata().schema_version(), expected, "{text}");
        let event = decode_with("aggregate_version", Some(text)).unwrap();
        assert_eq!(event.version(), u64::from(expected), "{text}");
    }
    let event = decode_with("correlation_id", None).unwrap();
    assert_eq!(
        event.metadata().correlation_id(),
        id,
        "its own conversation"
    );
    for key in [
        "event_version",
        "aggregate_version",
        "tenant_id",
        "actor_id",
        "metadata",
    ] {
        assert_eq!(
            decode_with(key, None).unwrap(),
            captured_event(),
            "without {key}"
        );
    }
}

#[test]
fn what_python_refuses_is_refused() {
    for (key, value) in [
        ("aggregate_version", "0"),
        ("event_version", "0"),
        ("event_version", "-1"),
        ("event_version", "1.5"),
        ("event_version", "4294967296"),
        ("correlation_id", "null"),
        ("metadata", "null"),
        ("metadata", "[]"),
        ("tenant_id", r#""""#),
        ("actor_id", "7"),
        ("event_id", "null"),
        ("event_id", r#""x""#),
        ("aggregate_id", "7"),
        ("aggregate_id", r#""""#),
    ] {
        let refused = decode_with(key, Some(value));
        assert!(refused.is_err(), "{key} {value} became {refused:?}");
    }
    for payload in ["", "x", "[]", "null", "{", r#"{"a":NaN}"#, r#"{"a":1}{}"#] {
        assert!(decode_payload(payload).is_err(), "{payload:?}");
    }
    assert!(decode(&CAPTURED[..6]).is_err(), "no payload");
    assert!(decode(&[]).is_err(), "no fields");
    assert!(
        super::decode(&[("payload".into(), vec![0xFF])]).is_err(),
        "no text"
    );
}

#[test]
fn a_foreign_field_called_position_means_nothing() {
    let with = |position| {
        let fields = [&CAPTURED[..], &[("position", position)]].concat();
        decode(&fields).unwrap().position()
    };
    assert_eq!(with("12"), Some(Position::new(12)));
    for position in ["", "north", "-1", "1.5"] {
        assert_eq!(with(position), None, "{position}");
    }
}

fn arbitrary_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

fn arbitrary_object() -> impl Strategy<Value = String> {
    prop::collection::btree_map(any::<String>(), arbitrary_json(), 0..5).prop_map(|map| {
        let own = map
            .into_iter()
            .filter(|(key, _)| !eventbus::RESERVED_FIELDS.contains(&key.as_str()));
        serde_json::Value::from(own.collect::<serde_json::Map<_, _>>()).to_string()
    })
}

prop_compose! {
    fn arbitrary_event()(
        ids in any::<(u128, u128, Option<u128>, Option<u128>)>(),
        event_type in "\\PC{1,60}",
        stream in ("\\PC{1,60}", "\\PC{1,60}"),
        versions in (1_u64.., 1_u32.., prop::option::of(any::<u64>())),
        micros in -62_135_596_800_000_000_i64..253_402_300_800_000_000,
        actor in any::<Option<String>>(),
        attributes in arbitrary_object(),
        payload in arbitrary_object(),
    ) -> Option<RecordedEvent> {
        let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).ok()?;
        let metadata = Metadata::new(
            EventId::from(Uuid::from_u128(ids.0)),
            Name::new("event type", event_type).ok()?,
            StreamId::parse(&stream.0, &stream.1).ok()?,
            Version::new(versions.0),
            at,
        )
        .with_schema_version(versions.1)
        .with_position(versions.2.map(Position::new))
        .with_correlation_id(Uuid::from_u128(ids.1))
        .with_causation_id(ids.2.map(Uuid::from_u128))
        .with_tenant_id(ids.3.map(Uuid::from_u128))
        .with_actor_id(actor)
        .with_attributes(Attributes::parse(&attributes).ok()?);
        Some(RecordedEvent::new(metadata, payload))
    }
}

proptest! {
    #[test]
    fn every_event_comes_back_as_it_went(event in arbitrary_event()) {
        prop_assume!(event.is_some());
        let event = event.unwrap();
        let fields: Vec<_> = encode(&event).unwrap().into_iter()
            .map(|(name, value)| (name.to_owned(), value.into_bytes()))
            .collect();
        prop_assert_eq!(super::decode(&fields).unwrap(), event);
    }

    #[test]
    fn no_payload_makes_reading_panic(payload in "\\PC{0,80}", key in "[a-z_]{1,20}", value in arbitrary_json()) {
        let _ = decode_payload(&payload);
        let _ = decode_payload(&serde_json::json!({ key.clone(): value.clone() }).to_string());
        let value = value.to_string();
        let _ = decode_with(&key, Some(&value));
        for base in eventbus::RESERVED_FIELDS {
            let _ = decode_with(base, Some(&value));
        }
    }

    #[test]
    fn no_time_makes_reading_panic(text in "\\PC{0,40}", at in "[0-9]{1,4}-[0-9]{2}-[0-9]{2}[T ][0-9:.+Zé-]{0,30}") {
        let _ = super::timestamp::parse(&text);
        let _ = super::timestamp::parse(&at);
    }
}
