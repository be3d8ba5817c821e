//! Messages to the other workers, and values as Redis holds them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A message to the other workers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Message {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) data: Map<String, Value>,
    pub(super) timestamp: String,
}

pub(super) fn timestamp(time: OffsetDateTime) -> String {
    // only a year of more than four digits has no such text, and no claim was read with one
    time.format(&Rfc3339).unwrap_or_default()
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}
