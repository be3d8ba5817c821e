//! Events and texts of any kind.

use eventbus::{EventId, Metadata, Name, Position, RecordedEvent, StreamId, Version, event::Attributes};
use proptest::{
    arbitrary::any,
    collection, option, prop_assert_eq, prop_assume, prop_compose, prop_oneof, proptest,
    strategy::{Just, Strategy},
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{decode_payload, decode_with};
use crate::wire::{decode, encode, timestamp};

/// The microseconds of the years 1 to 9999.
const MICROS: std::ops::Range<i64> = -62_135_596_800_000_000..253_402_300_800_000_000;

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
            collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

fn arbitrary_object() -> impl Strategy<Value = String> {
    collection::btree_map(any::<String>(), arbitrary_json(), 0..5).prop_map(|map| {
        let own = map.into_iter().filter(|(key, _)| !eventbus::event::RESERVED_FIELDS.contains(&key.as_str()));
        serde_json::Value::from(own.collect::<serde_json::Map<_, _>>()).to_string()
    })
}

prop_compose! {
    fn arbitrary_event()(
        ids in any::<(u128, u128, Option<u128>, Option<u128>)>(),
        event_type in "\\PC{1,60}",
        stream in ("\\PC{1,60}", "\\PC{1,60}"),
        versions in (1..1_u64 << 63, 1..1_u32 << 31, option::of(any::<u64>())),
        recorded in (option::of(MICROS), option::of(MICROS), any::<bool>()),
        micros in MICROS,
        actor in any::<Option<String>>(),
        attributes in arbitrary_object(),
        payload in arbitrary_object(),
    ) -> Option<RecordedEvent> {
        let time = |micros: i64| OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).ok();
        let metadata = Metadata::new(
            EventId::from(Uuid::from_u128(ids.0)),
            Name::new("event type", event_type).ok()?,
            StreamId::parse(&stream.0, &stream.1).ok()?.with_tenant_id(ids.3.map(Uuid::from_u128)),
            Version::new(versions.0),
            time(micros)?,
        )
        .with_schema_version(versions.1)
        .with_position(versions.2.map(Position::new))
        .with_recorded_at(recorded.0.and_then(time))
        .with_original_recorded_at(recorded.1.and_then(time))
        .with_sealed_fields(recorded.2)
        .with_correlation_id(Uuid::from_u128(ids.1))
        .with_causation_id(ids.2.map(Uuid::from_u128))
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
        prop_assume!(event.check().is_ok());
        let fields = encode(&event).unwrap();
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_bytes(), &**value)).collect();
        prop_assert_eq!(decode(&fields).unwrap(), event);
    }

    #[test]
    fn no_payload_makes_reading_panic(payload in "\\PC{0,80}", key in "[a-z_]{1,20}", value in arbitrary_json()) {
        let _ = decode_payload(&payload);
        let _ = decode_payload(&serde_json::json!({ key.clone(): value.clone() }).to_string());
        let value = value.to_string();
        let _ = decode_with(&key, Some(&value));
        for base in eventbus::event::RESERVED_FIELDS {
            let _ = decode_with(base, Some(&value));
        }
    }

    #[test]
    fn no_time_makes_reading_panic(text in "\\PC{0,40}", at in "[0-9]{1,4}-[0-9]{2}-[0-9]{2}[T ][0-9:.+Zé-]{0,30}") {
        let _ = timestamp::parse(&text);
        let _ = timestamp::parse(&at);
    }
}
