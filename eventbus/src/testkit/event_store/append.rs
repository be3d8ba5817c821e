//! Rules of appends and of the records they store.

use std::time::Duration;

use time::{OffsetDateTime, macros::datetime};
use uuid::Uuid;

use super::store_under_test::{StoreUnderTest, event, events, positions_grow, stream, versions};
use crate::{
    EventContext, ExpectedVersion, Name, NewEvent, Position, StreamId, Version,
    domain::attributes::Attributes,
    port::{Append, AppendError, Direction, EventStore},
};

/// The first event of a stream has version 1, and each further event the next version.
pub async fn versions_start_at_one_and_are_contiguous<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("versions_start_at_one_and_are_contiguous", store);
    let stream = stream();
    let mut all = store.add(&stream, ExpectedVersion::Any, &events(1)).await;
    all.extend(store.add(&stream, ExpectedVersion::Any, &events(3)).await);
    all.extend(store.add(&stream, ExpectedVersion::Any, &events(2)).await);
    store.same(versions(&all), (1..=6).collect(), "versions as returned by append");
    store.holds(&stream, &all).await;
}

/// Later events have higher positions, within an append, a stream and the store.
pub async fn positions_grow_in_append_order<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("positions_grow_in_append_order", store);
    let (one, two) = (stream(), stream());
    let mut all = Vec::new();
    for count in [1, 3, 2] {
        for stream in [&one, &two] {
            all.extend(store.add(stream, ExpectedVersion::Any, &events(count)).await);
        }
    }
    store.check(positions_grow(&all), format_args!("positions as returned by append: {all:#?}"));
}

/// Append returns the given events with their version and position, and reading returns the same, in every field.
pub async fn append_returns_what_is_read_back<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("append_returns_what_is_read_back", store);
    let tenant_id = Some(Uuid::max());
    let stream = stream().with_tenant_id(tenant_id);
    let attributes = r#"{ "z": [1,  2.50], "a":"\u00fc ü 漢", "big":18446744073709551617 }"#;
    let full = EventContext {
        correlation_id: Some(Uuid::now_v7()),
        causation_id: Some(Uuid::from_u128(1)),
        tenant_id,
        actor_id: Some("o'brien \"7\" %_\\ ünï 漢 🦀\n".into()),
        attributes: store.ok(Attributes::parse(attributes), "parsing attributes"),
    };
    let plain = EventContext::default();
    let partly = EventContext::default().with_actor("");
    let given: Vec<_> = [full, plain, partly]
        .into_iter()
        .map(|context| event().with_context(context))
        .chain([NewEvent::new(Name::from_static("order.naïve 漢"), 7, "{}")
            .with_event_id(Uuid::from_u128(0x1234_5678_9abc_4def_8123_4567_89ab_cdef).into())])
        .collect();

    let recorded = store.add(&stream, ExpectedVersion::NoStream, &given).await;
    store.same(recorded.len(), given.len(), "number of events returned");
    for (given, recorded) in given.into_iter().zip(&recorded) {
        let (context, metadata) = (given.context(), recorded.metadata());
        store.same(metadata.event_id(), given.event_id(), "event id");
        store.same(metadata.event_type(), given.event_type(), "event type");
        store.same(metadata.schema_version(), given.schema_version(), "schema version");
        store.same(metadata.correlation_id(), given.correlation_id(), "correlation id");
        store.same(metadata.causation_id(), context.causation_id, "causation id");
        store.same(metadata.tenant_id(), tenant_id, "tenant id");
        store.same(metadata.actor_id(), context.actor_id.as_deref(), "actor id");
        store.same(metadata.attributes(), &context.attributes, "attributes");
        let wanted = given.recorded_as(stream.clone(), recorded.version(), recorded.position());
        let wanted = wanted.with_recorded_at(metadata.recorded_at());
        store.same(recorded, &wanted, "append returned an event that differs from the given one");
        store.same(
            recorded.metadata().attributes().as_json(),
            wanted.metadata().attributes().as_json(),
            "attributes are not the same text",
        );
    }
    store.holds(&stream, &recorded).await;
}

/// The bytes of a payload are kept: key order, white space, escapes, numbers of any size.
pub async fn payloads_are_kept_byte_for_byte<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("payloads_are_kept_byte_for_byte", store);
    let stream = stream();
    let payloads = [
        "{}",
        " {\n\t\"z\" : 1,\r\n \"a\":2 } ",
        r#"{"a":1,"a":2,"":3}"#,
        r#"{"text":"\u0001 \ud83e\udd80 \/ \" ' % ; -- ü 漢 🦀"}"#,
        r#"{"n":[9007199254740993,18446744073709551617,-0.0,1.10,1E5,0.1000000000000000055511151231257827]}"#,
        r#"{"deep":[[[[[[[[{"a":[null,true,false]}]]]]]]]]}"#,
    ];
    let given: Vec<_> = payloads.iter().map(|payload| NewEvent::new(Name::from_static("Kept"), 1, *payload)).collect();
    let recorded = store.add(&stream, ExpectedVersion::NoStream, &given).await;
    for (recorded, payload) in store.read(&stream).await.iter().zip(payloads) {
        store.same(recorded.payload(), payload, "payload read back");
    }
    store.holds(&stream, &recorded).await;
}

/// The time of an event is kept to the microsecond, also long ago and far ahead.
pub async fn times_are_kept_to_the_microsecond<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("times_are_kept_to_the_microsecond", store);
    let stream = stream();
    let times = [
        datetime!(2026-07-01 12:00:00.123_456 UTC),
        datetime!(2026-07-01 12:00:00.000_001 UTC),
        datetime!(1969-12-31 23:59:59.999_999 UTC),
        datetime!(0001-01-01 00:00:00.000_001 UTC),
        datetime!(9999-12-31 23:59:59.999_999 UTC),
        datetime!(2026-07-01 12:00:00.123_456_789 +05:30),
        OffsetDateTime::UNIX_EPOCH,
    ];
    let given: Vec<_> = times.into_iter().map(|time| event().with_occurred_at(time)).collect();
    let recorded = store.add(&stream, ExpectedVersion::NoStream, &given).await;
    for (given, recorded) in given.iter().zip(&recorded) {
        store.same(recorded.metadata().occurred_at(), given.occurred_at(), "time as returned by append");
    }
    store.holds(&stream, &recorded).await;
}

/// Each event has the time at which the store recorded it, and the store finds the recorded time of the first event
/// after a position.
pub async fn recorded_times_are_kept_and_found<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("recorded_times_are_kept_and_found", store);
    let store = &store;
    let first = |after| {
        let found = store.first_recorded_after(after);
        async move { store.ok(found.await, format_args!("asking for the first event after {after}")) }
    };
    store.same(first(Position::START).await, None, "an empty store");
    let stream = stream();
    let long_ago = datetime!(1999-12-31 23:59:59 UTC);
    let mut all = Vec::new();
    for count in [1, 3, 1] {
        let given: Vec<_> = events(count).into_iter().map(|event| event.with_occurred_at(long_ago)).collect();
        all.extend(store.add(&stream, ExpectedVersion::Any, &given).await);
    }
    let now = OffsetDateTime::now_utc();
    let mut after = Position::START;
    for event in &all {
        let recorded_at = event.metadata().recorded_at();
        let is_now = recorded_at.is_some_and(|at| (now - at).abs() < time::Duration::minutes(5));
        store.check(is_now, format_args!("recorded at {recorded_at:?}, and now it is {now}"));
        store.same(first(after).await, recorded_at, format_args!("the first event after {after}"));
        after = event.position().unwrap_or_default();
    }
    store.same(first(after).await, None, "after the last event");
    store.same(first(u64::MAX.into()).await, None, "beyond the end");
    store.holds(&stream, &all).await;
}

/// An imported event keeps the time at which its original store recorded it, to the microsecond, beside the time of the
/// import.
pub async fn original_recorded_times_are_kept<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("original_recorded_times_are_kept", store);
    let stream = stream();
    let times = [
        datetime!(2019-05-17 08:30:00.123_456 UTC),
        datetime!(1969-12-31 23:59:59.999_999 UTC),
        datetime!(0001-01-01 00:00 UTC),
        datetime!(9999-12-31 23:59:59.999_999 UTC),
        datetime!(2019-05-17 08:30:00.123_456_789 +05:30),
    ];
    let mut given: Vec<_> = times.into_iter().map(|time| event().with_original_recorded_at(time)).collect();
    given.push(event());
    let before = OffsetDateTime::now_utc() - time::Duration::minutes(5);
    let recorded = store.add(&stream, ExpectedVersion::NoStream, &given).await;
    for (given, recorded) in given.iter().zip(&recorded) {
        let original = recorded.metadata().original_recorded_at();
        store.same(original, given.original_recorded_at(), "original recorded time as returned by append");
        let recorded_at = recorded.metadata().recorded_at();
        store.check(recorded_at > Some(before), format_args!("imported at {recorded_at:?}, after {before}"));
    }
    store.same(recorded[4].metadata().original_recorded_at(), Some(datetime!(2019-05-17 03:00:00.123_456 UTC)), "UTC");
    store.holds(&stream, &recorded).await;
}

/// Along one stream no event is recorded before the previous one, also after the store's clock was set back; the events
/// of other streams follow the clock.
///
/// `set_clock_back` has the same effect on recorded times as setting the store's clock back by that duration. No macro
/// lists this rule; a backend that supports it calls it.
pub async fn recorded_times_never_decrease<S: EventStore>(store: S, set_clock_back: impl AsyncFn(Duration)) {
    let store = StoreUnderTest::new("recorded_times_never_decrease", store);
    let hour = Duration::from_secs(3_600);
    let (one, two) = (stream(), stream());
    for stream in [&one, &two] {
        store.add(stream, ExpectedVersion::NoStream, &events(2)).await;
    }
    let last_time = async |stream: &StreamId| {
        let last = store.read(stream).await.pop();
        last.and_then(|event| event.metadata().recorded_at())
    };
    for _ in 0..3 {
        set_clock_back(hour).await;
        let (of_one, of_two, new) = (last_time(&one).await, last_time(&two).await, stream());
        let alone = store.add(&one, ExpectedVersion::Any, &events(2)).await;
        let append =
            |stream: &StreamId| Append { stream: stream.clone(), expected: ExpectedVersion::Any, events: events(2) };
        let results = store.append_many(vec![append(&two), append(&one), append(&two), append(&new)]).await;
        let batch: Vec<_> = results.into_iter().map(|result| store.ok(result, "one of many appends")).collect();
        for (event, last) in [(&alone[0], of_one), (&batch[0][0], of_two)] {
            let recorded_at = event.metadata().recorded_at();
            store.same(recorded_at, last, "recorded, as the event before it, when the clock is set back");
        }
        let mut wanted = alone;
        wanted.extend(batch[1].iter().cloned());
        let read = store.read(&one).await;
        store.same(&read[read.len() - 4..], &wanted, "events as read");
        for stream in [&one, &two, &new] {
            let times: Vec<_> = store.read(stream).await.iter().map(|event| event.metadata().recorded_at()).collect();
            store.check(times.is_sorted(), format_args!("times along {stream} decrease: {times:?}"));
        }
        let (of_one, of_new) = (last_time(&one).await, last_time(&new).await);
        store.check(of_new < of_one, format_args!("a new stream at {of_new:?} follows another, at {of_one:?}"));
    }
}

/// An append without events has no effect, whichever version it expects.
pub async fn empty_append_does_nothing<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("empty_append_does_nothing", store);
    let stream = stream();
    for expected in [
        ExpectedVersion::Any,
        ExpectedVersion::NoStream,
        ExpectedVersion::StreamExists,
        ExpectedVersion::Exact(7.into()),
    ] {
        let recorded = store.add(&stream, expected, &[]).await;
        store.same(recorded, Vec::new(), "events returned");
    }
    store.holds(&stream, &[]).await;
}

/// If one event of an append cannot be stored, none is, and the stream continues as if the append had not been made.
pub async fn several_events_are_stored_all_or_none<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("several_events_are_stored_all_or_none", store);
    let stream = stream();
    let mut kept = store.add(&stream, ExpectedVersion::NoStream, &events(1)).await;

    for place in 0..3 {
        let mut bad = events(3);
        bad[place] = event().with_event_id(kept[0].metadata().event_id());
        store.refused(&stream, ExpectedVersion::Any, &bad).await;
        store.holds(&stream, &kept).await;
        let mut bad = events(3);
        bad[place] = NewEvent::new(Name::from_static("Broken"), 1, "{");
        store.refused(&stream, ExpectedVersion::Any, &bad).await;
        store.holds(&stream, &kept).await;
    }
    kept.extend(store.add(&stream, ExpectedVersion::Exact(1.into()), &events(3)).await);
    store.holds(&stream, &kept).await;
}

/// A payload that is not a JSON object is refused, the error names the stream, and no event of its append is stored.
pub async fn payload_that_is_no_json_object_is_refused<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("payload_that_is_no_json_object_is_refused", store);
    let stream = stream();
    for payload in ["", "not json", "{", "{'a':1}", r#"{"a":1,}"#, "{} {}", "5", "[1]", "null"] {
        let bad = NewEvent::new(Name::from_static("Broken"), 1, payload);
        match store.refused(&stream, ExpectedVersion::Any, &[event(), bad]).await {
            AppendError::Refused { stream: named, .. } => {
                store.same(&named, &stream, "the refusal names another stream");
            }
            other => store.fail(format_args!("payload `{payload}` is not refused: {other:?}")),
        }
    }
    store.holds(&stream, &[]).await;
}

/// An append of a thousand events, and an event of a megabyte among others, are stored whole.
pub async fn large_appends_are_stored_whole<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("large_appends_are_stored_whole", store);
    let stream = stream();
    let any = ExpectedVersion::Any;
    let mut all = store.add(&stream, any, &events(1_000)).await;
    let payload = format!(r#"{{"text":"{}"}}"#, "ü".repeat(512 * 1024));
    let large = NewEvent::new(Name::from_static("Large"), 1, payload);
    all.extend(store.add(&stream, any, &[event(), large, event()]).await);
    all.extend(store.add(&stream, any, &events(2)).await);
    store.holds(&stream, &all).await;
    all.reverse();
    let read = store.read_from(&stream, Version::MAX, Direction::Backward).await;
    store.same(&*read, &*all, "backward from the end");
}
