//! Coordination of workers beside the files: it makes the workers fast, but the files decide.
//!
//! Invariant: the queue depends on no answer of the coordinator, which may be away at any time, and may have lost all
//! its data.

use std::{fmt, ops::Range, time::Duration};

use async_trait::async_trait;
use serde::Serialize;
use serde_json::{Map, Value};

/// State of the coordination beside the files.
///
/// | state | event | next state |
/// |---|---|---|
/// | `Alone` | none: the queue was opened without Redis | `Alone` |
/// | `Connected` | a command loses the connection, times out or meets a read-only replica | `Away` |
/// | `Connected` | the connection for messages ends | `Away` |
/// | `Connected` | Redis refuses a command, because a right is missing | `Connected`; the files decide for that call |
/// | `Away`, `Refused` | Redis accepts both connections and takes writes | `Connected`; the worker resyncs |
/// | `Away`, `Refused` | connecting fails, takes too long or leads to a read-only replica | `Away` |
/// | `Away`, `Refused` | Redis answers, but refuses the password or a right | `Refused` |
#[derive(Debug, Clone, PartialEq, Eq, derive_more::Display, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[non_exhaustive]
pub enum CoordinationStatus {
    /// The queue was opened without Redis; the files decide alone.
    #[display("alone")]
    Alone,
    /// Redis answers.
    #[display("connected")]
    Connected,
    /// Redis does not answer, or is a replica, which takes no writes; the files decide alone, and the worker keeps trying
    /// to connect.
    #[display("away: {error}")]
    Away {
        /// The last error.
        error: String,
    },
    /// Redis answers and refuses this worker: a wrong password, or a right is missing. The files decide alone until
    /// an operator changes that; the worker keeps trying to connect.
    #[display("refused: {error}")]
    Refused {
        /// The answer of the server.
        error: String,
    },
}

/// The kinds of messages.
#[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "only Redis sends messages"))]
pub(crate) mod message_kind {
    pub(crate) const ADD_EVENT: &str = "add_event";
    pub(crate) const ADD_CLAIM: &str = "add_claim";
    pub(crate) const ADD_RESULT: &str = "add_result";
    pub(crate) const CREATE_SUBSCRIBER: &str = "create_subscriber";
    pub(crate) const REMOVE_SUBSCRIBER: &str = "remove_subscriber";
    pub(crate) const RESYNC: &str = "resync";
    pub(crate) const STATE: &str = "state";
}

/// Outcome of reserving ids.
#[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "only Redis reserves ids"))]
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum IdReservation {
    /// This worker may try these ids.
    Reserved(Range<u64>),
    /// The coordinator has no counter: the caller repeats the request with the newest id of the files as the floor.
    CounterMissing,
    /// The files decide alone.
    Away,
}

/// Coordinates the workers of a queue beside the files.
#[async_trait]
pub(crate) trait Coordinator: Send + Sync + fmt::Debug {
    /// Reserves ids; all are above `floor` if that is given.
    async fn reserve_ids(&self, count: u64, floor: Option<u64>) -> IdReservation {
        let _ = (count, floor);
        IdReservation::Away
    }

    /// Lowers the counter to `to` if it is still `from`.
    async fn lower_counter(&self, from: u64, to: u64) {
        let _ = (from, to);
    }

    /// Acquires a claim; `Some(false)` if a worker owns it. `None`: the files decide alone.
    async fn claim(&self, claim_id: &str, data: &Value, ttl: Duration) -> Option<bool> {
        let _ = (claim_id, data, ttl);
        None
    }

    /// Extends a claim of this worker.
    async fn renew(&self, claim_id: &str, data: &Value, ttl: Duration) {
        let _ = (claim_id, data, ttl);
    }

    /// Releases a claim of this worker.
    async fn release(&self, claim_id: &str) {
        let _ = claim_id;
    }

    /// Sends messages to the other workers.
    async fn broadcast(&self, kind: &'static str, data: Vec<Map<String, Value>>) {
        let _ = (kind, data);
    }

    /// Returns the state of the coordination.
    fn status(&self) -> CoordinationStatus {
        CoordinationStatus::Alone
    }
}

/// No coordination: the files decide alone.
#[derive(Debug)]
pub(crate) struct FilesOnly;

impl Coordinator for FilesOnly {}

/// Returns `{key: value}`.
pub(crate) fn message_data(key: &str, value: impl Into<Value>) -> Map<String, Value> {
    Map::from_iter([(key.to_owned(), value.into())])
}
