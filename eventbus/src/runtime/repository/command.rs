//! The command of a client: its key, what it asks for, and its answer, as the store notes it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

use super::error::OnceError;
use crate::{
    domain::{
        idempotency_key::IdempotencyKey,
        stream::{ExpectedVersion, StreamId, Version},
    },
    port::{Append, multi_stream_append::HandledCommand},
};

/// A command with its key, under which it is to take effect once.
#[derive(Debug, Clone)]
pub(super) struct KeyedCommand {
    key: IdempotencyKey,
    /// The JSON of the command, or why there is none.
    json: Result<Vec<u8>, String>,
}

/// The answer of a command, as the store keeps it: the aggregate, its version afterwards, and how many events were added.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    id: String,
    version: u64,
    events: u64,
}

/// The events that a command has saved.
#[derive(Debug)]
pub(super) struct SavedEvents {
    pub(super) stream: StreamId,
    /// The version after them.
    pub(super) version: Version,
    pub(super) events: u64,
}

impl KeyedCommand {
    pub(super) fn new(key: IdempotencyKey, command: &(impl Serialize + ?Sized)) -> Self {
        Self { key, json: serde_json::to_vec(command).map_err(|error| error.to_string()) }
    }

    pub(super) const fn key(&self) -> &IdempotencyKey {
        &self.key
    }

    /// Returns a fingerprint of the command for an aggregate; `id` is empty if the command names none.
    pub(super) fn fingerprint(&self, aggregate_type: &str, id: &str) -> Result<Uuid, OnceError> {
        let json = self.json.as_ref().map_err(|reason| OnceError::Unwritable { reason: reason.clone() })?;
        // names and ids have no control characters, so a zero byte separates
        let parts = [aggregate_type.as_bytes(), id.as_bytes(), json];
        Ok(Uuid::from_u128(xxh3_128(&parts.join(&0))))
    }

    /// Returns what the store notes if the command saves `events` to a stream that is at version `before`.
    pub(super) fn handled(
        &self,
        fingerprint: Uuid,
        stream: &StreamId,
        before: Version,
        events: usize,
    ) -> Result<HandledCommand, OnceError> {
        let id = stream.aggregate_id().to_string();
        let answer = Answer { id, version: before.plus(events).get(), events: events as u64 };
        let answer = serde_json::to_string(&answer).map_err(|error| self.damaged(error.to_string()))?;
        Ok(HandledCommand { tenant_id: stream.tenant_id(), key: self.key.clone(), request: fingerprint, answer })
    }

    /// Reads what [`handled`](Self::handled) has returned for the same command, to an aggregate of the same type.
    pub(super) fn answer(
        &self,
        fingerprint: Uuid,
        aggregate_type: &str,
        found: &HandledCommand,
    ) -> Result<SavedEvents, OnceError> {
        if found.request != fingerprint {
            return Err(OnceError::KeyReused { key: self.key.clone() });
        }
        let Answer { id, version, events } =
            serde_json::from_str(&found.answer).map_err(|error| self.damaged(error.to_string()))?;
        let stream = StreamId::parse(aggregate_type, &id).map_err(|error| self.damaged(error.to_string()))?;
        Ok(SavedEvents { stream: stream.with_tenant_id(found.tenant_id), version: Version::new(version), events })
    }

    /// Returns what the store notes if the command saves these appends, whose streams are at exact versions.
    pub(super) fn handled_together(
        &self,
        fingerprint: Uuid,
        tenant_id: Option<Uuid>,
        appends: &[Append],
    ) -> Result<HandledCommand, OnceError> {
        let answers = appends.iter().map(|Append { stream, expected, events }| {
            let ExpectedVersion::Exact(before) = expected else {
                return Err(self.damaged("a stream is at no exact version".into()));
            };
            let (version, events) = (before.plus(events.len()).get(), events.len() as u64);
            let answer = Answer { id: stream.aggregate_id().to_string(), version, events };
            Ok((stream.aggregate_type().to_string(), answer))
        });
        let answers: Vec<_> = answers.collect::<Result<_, _>>()?;
        let answer = serde_json::to_string(&answers).map_err(|error| self.damaged(error.to_string()))?;
        Ok(HandledCommand { tenant_id, key: self.key.clone(), request: fingerprint, answer })
    }

    /// Reads what [`handled_together`](Self::handled_together) has returned for the same command.
    pub(super) fn answers(&self, fingerprint: Uuid, found: &HandledCommand) -> Result<Vec<SavedEvents>, OnceError> {
        if found.request != fingerprint {
            return Err(OnceError::KeyReused { key: self.key.clone() });
        }
        let answers: Vec<(String, Answer)> =
            serde_json::from_str(&found.answer).map_err(|error| self.damaged(error.to_string()))?;
        let saved = answers.into_iter().map(|(aggregate_type, Answer { id, version, events })| {
            let stream = StreamId::parse(&aggregate_type, &id).map_err(|error| self.damaged(error.to_string()))?;
            Ok(SavedEvents { stream: stream.with_tenant_id(found.tenant_id), version: Version::new(version), events })
        });
        saved.collect()
    }

    pub(super) fn damaged(&self, reason: String) -> OnceError {
        OnceError::Answer { key: self.key.clone(), reason }
    }
}
