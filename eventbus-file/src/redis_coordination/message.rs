//! Messages to the other workers, and values as Redis holds them.

use std::time::Duration;

use redis::Cmd;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A message to the other workers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Message {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) data: Map<String, Value>,
    pub(super) timestamp: String,
}

/// Returns a claim as Redis holds it.
pub(super) fn claim_value(worker_id: &str, created_at: OffsetDateTime, data: &Value) -> String {
    json!({"worker_id": worker_id, "created_at": timestamp(created_at), "data": data}).to_string()
}

/// Returns the command that sets a missing key for a time.
pub(super) fn set_if_missing(key: &str, value: &str, lasting: Duration) -> Cmd {
    let mut set = redis::cmd("SET");
    set.arg(key).arg(value).arg("NX").arg("PX").arg(millis(lasting));
    set
}

pub(super) fn timestamp(time: OffsetDateTime) -> String {
    // only a year of more than four digits has no such text, and no claim has such a year
    time.format(&Rfc3339).unwrap_or_default()
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}
