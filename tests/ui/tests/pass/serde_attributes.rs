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
    #[serde(skip)]
    tenant_id: u8,
    #[serde(with = "as_text", rename(serialize = "count", deserialize = "count"))]
    event_version: u64,
    #[serde(flatten)]
    others: BTreeMap<String, u64>,
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
    let annotated = Annotated {
        metadata: "paid".into(),
        tenant_id: 0,
        event_version: 5,
        others: BTreeMap::from([("a".to_owned(), 1)]),
    };
    let record = RecordedEvent::from_event(&annotated, AggregateId::new(), Version::FIRST).unwrap();
    assert_eq!(record.payload(), r#"{"note":"paid","count":"5","a":1}"#);
    assert_eq!(record.decode::<Annotated>().unwrap(), annotated);
}
