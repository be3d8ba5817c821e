//! Rules of events that every store refuses, because some store cannot keep them, some reader cannot decode them or the
//! wire cannot carry them.

use std::sync::Arc;

use time::macros::datetime;

use super::store_under_test::{StoreUnderTest, event, stream};
use crate::{
    EventContext, ExpectedVersion, Name, NewEvent,
    domain::{attributes::Attributes, validity::RESERVED_FIELDS},
    port::{Append, AppendError, EventStore},
};

/// Returns an event with this payload.
fn with_payload(payload: impl Into<Arc<str>>) -> NewEvent {
    NewEvent::new(Name::from_static("Given"), 1, payload)
}

/// Returns an object nested `levels` deep.
fn nested(levels: usize) -> String {
    format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels))
}

/// Returns an object that contains arrays, nested `levels` deep together.
fn nested_arrays(levels: usize) -> String {
    format!(r#"{{"a":{}{}}}"#, "[".repeat(levels - 1), "]".repeat(levels - 1))
}

/// Returns attributes nested `levels` deep, built as a value: the parser might refuse them as text.
fn attributes(levels: usize) -> Attributes {
    let inner = (1..levels).fold(serde_json::Value::from(1), |value, _| serde_json::json!({ "a": value }));
    Attributes::from(serde_json::Map::from_iter([("a".to_owned(), inner)]))
}

async fn assert_refused<S: EventStore>(store: &StoreUnderTest<S>, what: &str, bad: &NewEvent) {
    let stream = stream();
    let names = |error: &AppendError| match error {
        AppendError::Refused { stream: named, source } => {
            *named == stream && source.to_string().contains(&bad.event_id().to_string())
        }
        _ => false,
    };
    let events = [event(), bad.clone()];
    let error = store.refused(&stream, ExpectedVersion::Any, &events).await;
    store.check(names(&error), format_args!("{what}: the refusal does not name stream and event: {error:?}"));
    let append = Append { stream: stream.clone(), expected: ExpectedVersion::NoStream, events: events.to_vec() };
    match &*store.append_many(vec![append]).await {
        [Err(error)] if names(error) => {}
        other => store.fail(format_args!("{what}: `append_many` does not refuse it: {other:?}")),
    }
    store.holds(&stream, &[]).await;
}

/// A payload with a field named like a field of the envelope is refused: on the wire it would replace that field.
pub async fn payload_that_hides_the_envelope_is_refused<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("payload_that_hides_the_envelope_is_refused", store);
    for field in RESERVED_FIELDS {
        let escaped = format!("\\u{:04x}{}", u32::from(field.as_bytes()[0]), &field[1..]);
        for payload in [
            format!(r#"{{"{field}":"mallory"}}"#),
            format!(r#" {{ "a": {{}}, "{field}" : null, "z": 1 }}"#),
            format!(r#"{{"{escaped}":"mallory"}}"#),
        ] {
            assert_refused(&store, &payload, &with_payload(&*payload)).await;
        }
    }
}

/// An event that some store, the wire or a reader cannot keep is refused by every store: null characters, unpaired
/// surrogates, nesting beyond 127 levels, schema versions and times out of range.
pub async fn what_not_every_store_can_keep_is_refused<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("what_not_every_store_can_keep_is_refused", store);
    let null_attribute = || Attributes::from(serde_json::Map::from_iter([("a".to_owned(), "\0".into())]));
    for (what, bad) in [
        ("null character in a text", with_payload(r#"{"a":["\u0000"]}"#)),
        ("null character in a key", with_payload(r#"{"\\\u0000":1}"#)),
        ("surrogate alone", with_payload(r#"{"a":"\ud83e"}"#)),
        ("surrogates in the wrong order", with_payload(r#"{"a":"\udd80\ud83e"}"#)),
        ("objects too deep", with_payload(nested(128))),
        ("arrays too deep", with_payload(nested_arrays(128))),
        ("far too deep", with_payload(nested(100_000))),
        ("null character in the actor", event().with_context(EventContext::default().with_actor("a\0"))),
        (
            "null character in the attributes",
            event().with_context(EventContext::default().with_attributes(null_attribute())),
        ),
        ("attributes too deep", event().with_context(EventContext::default().with_attributes(attributes(128)))),
        ("schema version 0", NewEvent::new(Name::from_static("Given"), 0, "{}")),
        ("schema version 2^31", NewEvent::new(Name::from_static("Given"), 1 << 31, "{}")),
        ("year 0", event().with_occurred_at(datetime!(0000-12-31 23:59:59.999_999 UTC))),
        ("year -1", event().with_occurred_at(datetime!(-0001-06-01 00:00 UTC))),
        ("year 0 in UTC", event().with_occurred_at(datetime!(0001-01-01 00:30 +01:00))),
        ("year 10000 in UTC", event().with_occurred_at(datetime!(9999-12-31 23:30 -01:00))),
        ("year 0 of an import", event().with_original_recorded_at(datetime!(0000-12-31 23:59:59.999_999 UTC))),
        ("year 10000 of an import", event().with_original_recorded_at(datetime!(9999-12-31 23:30 -01:00))),
    ] {
        assert_refused(&store, what, &bad).await;
    }
}

/// Events just within those bounds are kept as they were given.
pub async fn what_every_store_can_keep_is_kept<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("what_every_store_can_keep_is_kept", store);
    let stream = stream();
    let actor = EventContext::default().with_actor("\u{1}\u{7f}\u{80}\u{2028}");
    let given = [
        with_payload(r#"{"a":"\u0001\u001f\u007f\\u0000 \\\\u0000 \ud83e\udd80 \uFFFF"}"#),
        with_payload(r#"{"of":{"event_id":1,"metadata":null},"Event_id":1,"event_id ":2,"":3}"#),
        with_payload(format!(r#"{{"a":"{}"}}"#, "[{".repeat(200))),
        with_payload(format!(r#"{{"a":[{}1]}}"#, "[],{},".repeat(200))),
        with_payload(nested(127)),
        with_payload(nested_arrays(127)),
        event().with_context(actor),
        event().with_context(EventContext::default().with_attributes(attributes(127))),
        NewEvent::new(Name::from_static("Given"), (1 << 31) - 1, "{}"),
        event().with_occurred_at(datetime!(0001-01-01 00:00 UTC)),
        event().with_occurred_at(datetime!(9999-12-31 23:59:59.999_999 UTC)),
    ];
    let recorded = store.add(&stream, ExpectedVersion::NoStream, &given).await;
    for (given, recorded) in given.into_iter().zip(&recorded) {
        let wanted = given.recorded_as(stream.clone(), recorded.version(), recorded.position());
        let wanted = wanted.with_recorded_at(recorded.metadata().recorded_at());
        store.same(recorded, &wanted, "append returned an event that differs from the given one");
    }
    store.holds(&stream, &recorded).await;
}
