use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Everything {
    event_id: String,
    event_type: String,
    event_version: u32,
    occurred_at: String,
    aggregate_id: String,
    aggregate_type: String,
    aggregate_version: u32,
    tenant_id: Option<String>,
    actor_id: Option<String>,
    correlation_id: String,
    causation_id: Option<String>,
    metadata: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Renamed {
    #[serde(default, rename = "metadata")]
    notes: String,
    #[serde(rename(serialize = "tenant_id", deserialize = "tenant_id"))]
    tenant: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
#[serde(rename_all = "camelCase")]
struct Camel {
    actor_id: String,
    metadata: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
#[serde(tag = "event_type")]
struct Tagged {
    amount: u64,
}

fn main() {}
