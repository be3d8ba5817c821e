use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Skipped {
    #[serde(skip)]
    note: String,
    #[serde(skip_serializing, default)]
    event_id: String,
    #[serde(default)]
    #[serde(skip_deserializing)]
    cents: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Renamed {
    #[serde(rename(serialize = "memo"))]
    note: String,
    #[serde(default, rename(deserialize = "amount"))]
    cents: u64,
    #[serde(rename(serialize = "by", deserialize = "from"), alias = "sender")]
    owner: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
#[serde(rename_all(serialize = "camelCase"))]
struct AllRenamed {
    account_owner: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct LeftOut {
    #[serde(skip_serializing_if = "String::is_empty")]
    note: String,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "serde::Deserialize::deserialize")]
    limit: Option<u64>,
}

fn main() {}
