//! Entries of the Python library with every kind of value, byte for byte.
//!
//! `tests/tests/python` captured them, and documents how to capture them again.

use std::{borrow::Cow, collections::BTreeMap};

use eventbus::{RecordedEvent, Uuid};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    wire::{decode, encode},
    wire_payload,
};

/// The names and values of the entries.
fn captured() -> Vec<Vec<(String, String)>> {
    let entries: Vec<_> =
        include_str!("python.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries.len(), 3);
    entries
}

fn decoded(fields: &[(String, String)]) -> RecordedEvent {
    let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    decode(&fields).unwrap()
}

#[test]
fn every_entry_is_written_as_it_was_read() {
    for entry in captured() {
        let record = decoded(&entry);
        let text = |value: Cow<'_, [u8]>| String::from_utf8(value.into_owned()).unwrap();
        let written = encode(&record).unwrap().into_iter().map(|(name, value)| (name.to_owned(), text(value)));
        let written: Vec<_> = written.collect();
        assert_eq!(written, entry);
        let payload = entry.iter().find(|(name, _)| name == "payload").map(|(_, payload)| payload.clone());
        assert_eq!(wire_payload(&record).ok(), payload);
    }
}

#[test]
fn the_metadata_are_those_that_python_gave() {
    let events: Vec<_> = captured().iter().map(|entry| decoded(entry)).collect();
    let metadata = events[0].metadata();
    assert_eq!(metadata.event_id().as_uuid(), Uuid::from_u128(1));
    assert_eq!((metadata.event_type().as_str(), metadata.schema_version()), ("AllKinds", 2));
    let (id, tenant) = (Uuid::from_u128(100), Uuid::from_u128(200));
    assert_eq!(metadata.stream().to_string(), format!("Sample/{id}@{tenant}"));
    assert_eq!(metadata.version(), 7);
    assert_eq!(metadata.occurred_at(), time::macros::datetime!(2026-01-02 03:04:05.678_9 UTC));
    assert_eq!(metadata.tenant_id(), Some(Uuid::from_u128(200)));
    assert_eq!(metadata.actor_id(), Some("Zoë \"x\"\n"));
    assert_eq!(metadata.correlation_id(), Uuid::from_u128(300));
    assert_eq!(metadata.causation_id(), Some(Uuid::from_u128(400)));
    assert_eq!(metadata.attributes().get("größe").unwrap()["日本"], "🦀");
    let metadata = events[1].metadata();
    assert_eq!((metadata.tenant_id(), metadata.actor_id(), metadata.causation_id()), (None, None, None));
    assert!(metadata.attributes().is_empty());
}

/// Reads a field as `T` and writes it again.
fn check<T: Serialize + DeserializeOwned>(field: &str) {
    for entry in &captured()[..2] {
        let event = decoded(entry);
        let own: BTreeMap<&str, &RawValue> = serde_json::from_str(event.payload()).unwrap();
        let value: T = serde_json::from_str(own[field].get()).unwrap();
        assert_eq!(serde_json::to_string(&value).unwrap(), own[field].get(), "{field}");
    }
}

#[test]
fn every_kind_of_value_is_written_as_python_wrote_it() {
    for text in ["text", "data", "day", "at", "second", "micros", "elsewhere", "naive", "size"] {
        check::<String>(text);
    }
    check::<bool>("yes");
    check::<i64>("count");
    check::<u64>("beyond_float");
    check::<i128>("beyond_64_bits");
    check::<Vec<f64>>("floats");
    check::<Vec<String>>("amounts");
    check::<Vec<String>>("spans");
    check::<u8>("grade");
    check::<Uuid>("owner");
    check::<(i64, String)>("pair");
    check::<BTreeMap<String, String>>("prices");
    check::<Option<String>>("maybe");
}
