//! What workers tell each other beside the files; it makes them fast, the files decide.
//!
//! Keep: no answer from here is needed. Whoever coordinates may be away at any time, and may have lost everything.

#[cfg(feature = "redis")]
pub(crate) mod redis;

use std::{fmt, ops::Range, time::Duration};

use async_trait::async_trait;
use serde::Serialize;
use serde_json::{Map, Value};

/// Whether a queue's workers reach each other beside the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[non_exhaustive]
pub enum CoordinationStatus {
    /// There is nothing but the files.
    Alone,
    /// Redis answers.
    Connected,
    /// Redis does not answer; the files decide alone, and it is tried again and again.
    Away {
        /// What went wrong last.
        error: String,
    },
    /// Redis answers and refuses this worker: a wrong password, or a right is missing. The files decide alone until
    /// an operator changes that; the worker keeps trying to connect.
    Refused {
        /// What the server said.
        error: String,
    },
}

impl fmt::Display for CoordinationStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alone => f.write_str("alone"),
            Self::Connected => f.write_str("connected"),
            Self::Away { error } => write!(f, "away: {error}"),
            Self::Refused { error } => write!(f, "refused: {error}"),
        }
    }
}

/// A message to the other workers.
#[cfg(feature = "redis")]
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub(crate) struct Message {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) data: Map<String, Value>,
    pub(crate) timestamp: String,
}

/// The kinds of messages.
#[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "without Redis nobody is told"))]
pub(crate) mod message_kind {
    pub(crate) const ADD_EVENT: &str = "add_event";
    pub(crate) const ADD_CLAIM: &str = "add_claim";
    pub(crate) const ADD_RESULT: &str = "add_result";
    pub(crate) const REPLAY_EVENT: &str = "replay_event";
    pub(crate) const CREATE_SUBSCRIBER: &str = "create_subscriber";
    pub(crate) const REMOVE_SUBSCRIBER: &str = "remove_subscriber";
    pub(crate) const RESYNC: &str = "resync";
    pub(crate) const STATE: &str = "state";
}

/// What came of drawing ids.
#[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "without Redis nobody draws"))]
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum IdReservation {
    /// These are ours to try.
    Reserved(Range<u64>),
    /// The counter is not there: say what the files tell.
    CounterMissing,
    /// The files decide alone.
    Away,
}

/// What coordinates the workers of a queue.
#[async_trait]
pub(crate) trait Coordinator: Send + Sync + fmt::Debug {
    /// Draws ids, all above `floor` if that is given.
    async fn reserve_ids(&self, count: u64, floor: Option<u64>) -> IdReservation {
        let _ = (count, floor);
        IdReservation::Away
    }

    /// Lowers the counter, if it is still what it was.
    async fn lower_counter(&self, from: u64, to: u64) {
        let _ = (from, to);
    }

    /// Takes a claim, if nobody has it. `None`: the files decide alone.
    async fn claim(&self, claim_id: &str, data: &Value, ttl: Duration) -> Option<bool> {
        let _ = (claim_id, data, ttl);
        None
    }

    /// Makes a claim of this worker last.
    async fn renew(&self, claim_id: &str, data: &Value, ttl: Duration) {
        let _ = (claim_id, data, ttl);
    }

    /// Gives a claim of this worker back.
    async fn release(&self, claim_id: &str) {
        let _ = claim_id;
    }

    /// Tells the other workers.
    async fn broadcast(&self, kind: &'static str, data: Vec<Map<String, Value>>) {
        let _ = (kind, data);
    }

    /// Whether it answers.
    fn status(&self) -> CoordinationStatus {
        CoordinationStatus::Alone
    }
}

/// Nothing but the files.
#[derive(Debug)]
pub(crate) struct FilesOnly;

impl Coordinator for FilesOnly {}

/// `{key: value}`.
pub(crate) fn message_data(key: &str, value: impl Into<Value>) -> Map<String, Value> {
    Map::from_iter([(key.to_owned(), value.into())])
}
