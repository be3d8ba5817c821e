//! The wire format, as captured from the Python library, and the entries that this library accepts.

mod python;
mod random;
mod tolerance;

use eventbus::{
    EventContext, EventId, Metadata, Name, NewEvent, Position, RecordedEvent, StreamId, Version, event::Attributes,
};
use time::macros::datetime;
use uuid::{Uuid, uuid};

use super::{decode::Undecodable, encode::encode, wire_payload};

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
    let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    super::decode(&fields)
}

/// Decodes the captured entry with a different payload.
fn decode_payload(payload: &str) -> Result<RecordedEvent, Undecodable> {
    let mut fields = CAPTURED;
    fields[6].1 = payload;
    decode(&fields)
}

/// Decodes the captured entry with one value of the payload replaced, or taken out.
fn decode_with(key: &str, value: Option<&str>) -> Result<RecordedEvent, Undecodable> {
    let mut payload: serde_json::Map<String, serde_json::Value> = serde_json::from_str(CAPTURED[6].1).unwrap();
    match value {
        Some(value) => payload.insert(key.into(), serde_json::from_str(value).unwrap()),
        None => payload.remove(key),
    };
    decode_payload(&serde_json::to_string(&payload).unwrap())
}

#[test]
fn a_captured_entry_is_written_byte_for_byte() {
    let event = captured_event();
    let fields = encode(&event).unwrap();
    let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, std::str::from_utf8(value).unwrap())).collect();
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
    let event = NewEvent::new(Name::from_static("Type"), 2, r#" { "z" : [1, 2], "a": "é" } "#)
        .with_event_id(EventId::from(Uuid::from_u128(4)))
        .with_occurred_at(datetime!(2026-01-02 03:04:05 UTC))
        .with_context(context)
        .recorded_as(StreamId::parse("Order", "12/34").unwrap(), Version::new(9), Some(Position::new(77)));
    let fields = encode(&event).unwrap();
    let names: Vec<_> = fields.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        ["event_id", "event_type", "aggregate_id", "aggregate_type", "tenant_id", "occurred_at", "payload", "position"]
    );
    assert_eq!(&*fields[4].1, b"00000000-0000-0000-0000-000000000003");
    assert_eq!(&*fields[5].1, b"2026-01-02T03:04:05+00:00");
    assert_eq!(&*fields[7].1, b"77");
    assert_eq!(
        std::str::from_utf8(&fields[6].1).unwrap(),
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
    for payload in ["", "[]", "5", "null", "{", "{}x", r#"{"a"}"#, r#"{"event_id":1}"#] {
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
    assert_eq!(event.metadata().occurred_at(), datetime!(1999-01-01 0:00 UTC));
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
    assert_eq!(event.payload(), r#"{"b":9007199254740993,"a":"\u00e9","a":2,"nested":{"event_id":[1,  2]}}"#);
    assert_eq!(event.metadata().event_id().as_uuid(), uuid!("2376693e-5be9-4a85-a652-862d4b54c52d"));
}

#[test]
fn a_base_field_that_is_there_twice_is_refused() {
    let before = CAPTURED[6].1.replacen('{', r#"{"aggregate_id":"first","#, 1);
    let behind = CAPTURED[6].1.replacen(r#""customer_id""#, r#""tenant\u005fid""#, 1);
    for (payload, field) in [(before, "aggregate_id"), (behind, "tenant_id")] {
        let error = decode_payload(&payload).unwrap_err().to_string();
        assert!(error.starts_with(&format!("`payload` does not parse: `{field}` is there twice")), "{error}");
    }
}

#[test]
fn what_is_not_published_is_not_read_from_the_stream_either() {
    for (payload, problem) in [
        (r#"{"a":"\ud800"}"#, "its payload: field `a`: half a surrogate pair"),
        (r#"{"event_version":2147483648}"#, "its schema version"),
        (r#"{"aggregate_version":9223372036854775808}"#, "its version in the stream"),
        (r#"{"actor_id":"a\u0000"}"#, "its actor"),
        (r#"{"metadata":{"a":"\udc00"}}"#, "`metadata` is no object"),
        (r#"{"occurred_at":"0000-06-01T00:00:00Z"}"#, "its time"),
        (r#"{"occurred_at":"0001-01-01T00:30:00+01:00"}"#, "its time"),
    ] {
        let names = |field: &&str| payload.contains(*field);
        let base = ["event_version", "aggregate_version", "actor_id", "metadata", "occurred_at"];
        let taken = base.iter().find(|field| names(field)).unwrap_or(&"none");
        let given = &payload[1..payload.len() - 1];
        let mut rest: serde_json::Map<String, serde_json::Value> = serde_json::from_str(CAPTURED[6].1).unwrap();
        rest.remove(*taken);
        let rest = serde_json::to_string(&rest).unwrap();
        let error = decode_payload(&rest.replacen('{', &format!("{{{given},"), 1)).unwrap_err().to_string();
        assert!(error.starts_with(problem), "{payload}: {error}");
    }
}

/// The payload is that of the Python library, byte for byte: what is ours stands beside it.
#[test]
fn recorded_times_and_the_mark_of_sealed_fields_stand_beside_the_payload() {
    let event = captured_event();
    let metadata = event
        .metadata()
        .clone()
        .with_position(Some(Position::new(12)))
        .with_recorded_at(Some(datetime!(2026-11-20 06:57:24.5 UTC)))
        .with_original_recorded_at(Some(datetime!(2019-05-17 08:30 UTC)))
        .with_sealed_fields(true);
    let event = RecordedEvent::new(metadata, event.payload());
    let fields = encode(&event).unwrap();
    let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, std::str::from_utf8(value).unwrap())).collect();
    assert_eq!(fields[..7], CAPTURED);
    let ours = [
        ("position", "12"),
        ("recorded_at", "2026-11-20T06:57:24.500000+00:00"),
        ("original_recorded_at", "2019-05-17T08:30:00+00:00"),
        ("has_sealed_fields", "1"),
    ];
    assert_eq!(fields[7..], ours);
    assert_eq!(decode(&fields).unwrap(), event);
    assert_eq!(wire_payload(&event).unwrap(), CAPTURED[6].1);
}

#[test]
fn a_foreign_field_called_like_a_recorded_time_means_nothing() {
    for name in ["recorded_at", "original_recorded_at", "has_sealed_fields"] {
        for value in ["", "yesterday", "true", "0", "-0001-01-01T00:00:00Z", "1e300"] {
            let fields = [&CAPTURED[..], &[(name, value)]].concat();
            let event = decode(&fields).unwrap();
            let epoch = (value == "0" && name != "has_sealed_fields").then_some(time::OffsetDateTime::UNIX_EPOCH);
            let metadata = event.metadata();
            assert_eq!(metadata.recorded_at().or(metadata.original_recorded_at()), epoch, "{name} {value}");
            assert!(!metadata.has_sealed_fields(), "{name} {value}");
        }
    }
    let own = decode_with("recorded_at", Some(r#""2026-01-02T03:04:05Z""#)).unwrap();
    assert_eq!(own.metadata().recorded_at(), None, "a field of the event itself");
    assert!(own.payload().contains(r#""recorded_at":"2026-01-02T03:04:05Z""#), "{}", own.payload());
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
