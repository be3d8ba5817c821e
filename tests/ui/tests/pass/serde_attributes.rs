//! Serde's attributes mean for an event what they mean elsewhere.

use std::collections::BTreeMap;

use eventbus::{NewEvent, RecordedEvent, Version, prelude::*};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Opened {
    account_owner: String,
    #[serde(default)]
    limit: Option<u64>,
    /// On the wire it is `actorId`, which is no field of the envelope.
    actor_id: u8,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Annotated {
    #[serde(rename = "note", alias = "metadata")]
    metadata: String,
    #[serde(with = "as_text", rename(serialize = "count", deserialize = "count"))]
    event_version: u64,
    #[serde(flatten)]
    others: BTreeMap<String, u64>,
}

/// Each field is read under the name that is written, or without a value where it may be left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Sparse {
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    owners: Vec<String>,
    #[serde(rename(serialize = "memo"), alias = "memo")]
    note: String,
    #[serde(rename(deserialize = "amount"), alias = "cents")]
    cents: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
#[serde(default, rename_all(serialize = "camelCase", deserialize = "camelCase"))]
struct Noted {
    #[serde(skip_serializing_if = "String::is_empty")]
    first_note: String,
}

mod as_text {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&value.to_string())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[test]
fn runs() {
    let opened = Opened { account_owner: "Ada".into(), limit: None, actor_id: 1 };
    assert_eq!(NewEvent::from_event(&opened).unwrap().payload(), r#"{"accountOwner":"Ada","limit":null,"actorId":1}"#);
    let record = RecordedEvent::from_event(&opened, AggregateId::new(), Version::FIRST).unwrap();
    assert_eq!(record.decode::<Opened>().unwrap(), opened);
    let annotated =
        Annotated { metadata: "paid".into(), event_version: 5, others: BTreeMap::from([("a".to_owned(), 1)]) };
    let record = RecordedEvent::from_event(&annotated, AggregateId::new(), Version::FIRST).unwrap();
    assert_eq!(record.payload(), r#"{"note":"paid","count":"5","a":1}"#);
    assert_eq!(record.decode::<Annotated>().unwrap(), annotated);
    let sparse = Sparse { limit: None, owners: Vec::new(), note: "paid".into(), cents: 5 };
    let record = RecordedEvent::from_event(&sparse, AggregateId::new(), Version::FIRST).unwrap();
    assert_eq!(record.payload(), r#"{"memo":"paid","cents":5}"#);
    assert_eq!(record.decode::<Sparse>().unwrap(), sparse);
    let record = RecordedEvent::from_event(&Noted::default(), AggregateId::new(), Version::FIRST).unwrap();
    assert_eq!(record.payload(), "{}");
    assert_eq!(record.decode::<Noted>().unwrap(), Noted::default());
}
