//! Results: one for each event, by the first worker that writes one.

use std::{path::PathBuf, sync::Arc};

use eventbus::port::from_json;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use time::OffsetDateTime;

use crate::{
    FileQueue,
    claim_store::Claim,
    coordination::message_kind,
    disk,
    error::{FileQueueError, Result},
    event::{self, now},
    inner::QueueInner,
    names,
};

/// Result of an event; an event has one result, which never changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EventResult {
    /// The event.
    pub event_id: u64,
    /// Set if the worker reported a success.
    pub success: bool,
    /// The worker that wrote it.
    pub worker_id: String,
    /// The epoch of its claim.
    pub epoch: u64,
    /// Time of writing.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Data of the worker.
    #[serde(default)]
    pub details: Value,
}

impl EventResult {
    /// Returns the decoded data of the worker.
    ///
    /// # Errors
    /// [`FileQueueError::Json`] if it is not of that type.
    pub fn details<T: DeserializeOwned>(&self) -> Result<T> {
        let what = || format!("the details of the result of event {}", self.event_id);
        from_json(self.details.to_string()).map_err(|source| FileQueueError::Json { what: what(), source })
    }
}

impl QueueInner {
    pub(crate) fn result_path(&self, event_id: u64) -> PathBuf {
        names::id_path(&self.disk.root().join(names::RESULTS), event_id)
    }

    pub(crate) fn has_result(&self, event_id: u64) -> Result<bool> {
        disk::exists(&self.result_path(event_id))
    }

    pub(crate) fn load_result(&self, event_id: u64) -> Result<Option<EventResult>> {
        let path = self.result_path(event_id);
        let Some(content) = disk::read(&path)? else {
            return Ok(None);
        };
        let result: Result<EventResult, _> = from_json(&content);
        let result = result.map_err(|error| FileQueueError::torn("result", &path, error))?;
        match result.event_id == event_id {
            true => Ok(Some(result)),
            false => Err(FileQueueError::torn("result", path, "it is of another event")),
        }
    }

    /// Writes the one result of an event, for the owner of its claim.
    pub(crate) async fn write_result(
        self: &Arc<Self>,
        event_id: u64,
        claim: Claim,
        success: bool,
        details: Value,
    ) -> Result<EventResult> {
        let (worker_id, epoch) = (self.worker_id.clone(), claim.epoch);
        let result = EventResult { event_id, success, worker_id, epoch, created_at: now(), details };
        let content = event::to_pretty_json("the result", &result)?;
        let claim_id = claim.claim_id.clone();
        let written = self.blocking(move |queue| queue.create_result_file(event_id, &claim, &content)).await;
        match &written {
            Ok(()) => self.metrics.results_written.add(1),
            Err(FileQueueError::ClaimLost { .. } | FileQueueError::HasResult { .. }) => {
                self.metrics.results_refused.add(1);
            }
            Err(_) => {}
        }
        written?;
        self.coordination.release(&claim_id).await;
        let about = serde_json::Map::from_iter([
            ("result_id".to_owned(), event_id.into()),
            ("event_id".to_owned(), event_id.into()),
        ]);
        self.coordination.broadcast(message_kind::ADD_RESULT, vec![about]).await;
        self.change_signal.send_replace(());
        Ok(result)
    }

    fn create_result_file(&self, event_id: u64, claim: &Claim, content: &[u8]) -> Result<()> {
        self.claims.check_owned(claim)?;
        if !self.disk.create(&self.result_path(event_id), content)? {
            return Err(FileQueueError::HasResult { event_id });
        }
        // only for readers of claims: the result already ends the claim
        if let Err(error) = self.claims.release(claim, claim.data.clone()) {
            tracing::debug!(claim = claim.claim_id, error = error.log(), "claim not released, it expires");
        }
        Ok(())
    }
}

impl FileQueue {
    /// Returns the result of an event; `None` if it has none yet.
    ///
    /// # Errors
    /// [`FileQueueError::Io`], [`FileQueueError::Torn`].
    pub async fn result(&self, event_id: u64) -> Result<Option<EventResult>> {
        self.inner.blocking(move |queue| queue.load_result(event_id)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FileQueueConfig;

    #[tokio::test]
    async fn of_two_who_believe_to_have_the_claim_one_writes_the_result() {
        let root = tempfile::tempdir().unwrap();
        let queue = FileQueue::open(FileQueueConfig::at(root.path().join("queue"))).await.unwrap();
        queue.publish(&"task").await.unwrap();
        let claim = queue.try_claim("event-1", &()).await.unwrap().unwrap();
        let write = async |text: &str| queue.inner.write_result(1, claim.clone(), true, text.into()).await;
        write("first").await.unwrap();
        assert!(matches!(write("second").await, Err(FileQueueError::HasResult { event_id: 1 })));
        assert_eq!(queue.result(1).await.unwrap().unwrap().details::<String>().unwrap(), "first");
        let metrics = queue.metrics();
        assert_eq!((metrics.results_written, metrics.results_refused), (1, 1));
    }
}
