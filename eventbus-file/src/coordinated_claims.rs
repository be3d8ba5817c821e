//! Claims by name: the coordinator refuses fast, the files decide.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use crate::{
    FileQueue,
    claim_store::{Claim, NewClaim},
    coordination::{message_data, message_kind},
    error::{FileQueueError, Result},
    event,
    inner::{QueueInner, join_task},
};

impl QueueInner {
    /// Acquires a free claim; runs to its end even if the caller drops this future.
    pub(crate) async fn claim(self: &Arc<Self>, claim_id: &str, data: Value) -> Result<Option<Claim>> {
        let (queue, claim_id) = (Arc::clone(self), claim_id.to_owned());
        join_task(tokio::spawn(async move { queue.claim_with_coordination(&claim_id, data).await })).await
    }

    async fn claim_with_coordination(self: &Arc<Self>, claim_id: &str, data: Value) -> Result<Option<Claim>> {
        let ttl = self.config.claim_expiration;
        self.claims.folder_of(claim_id)?;
        let granted = self.coordination.claim(claim_id, &data, ttl).await;
        // the coordinator may have missed a release
        if granted == Some(false) && self.has_live_claim(claim_id).await? {
            self.metrics.claims_refused.add(1);
            return Ok(None);
        }
        let id = claim_id.to_owned();
        let claiming = self.blocking(move |queue| queue.claims.create(&id, data, false)).await;
        let Ok(Some(NewClaim { claim: now, previous: before })) = claiming else {
            // the files decide: withdraw what the coordinator granted
            self.coordination.release(claim_id).await;
            self.metrics.claims_refused.add(1);
            return claiming.map(|_| None);
        };
        self.metrics.claims_created.add(1);
        self.metrics.claims_taken_over.add(u64::from(before.is_some_and(|before| before.released_at.is_none())));
        self.coordination.broadcast(message_kind::ADD_CLAIM, vec![message_data("claim_id", claim_id)]).await;
        Ok(Some(now))
    }

    async fn has_live_claim(self: &Arc<Self>, claim_id: &str) -> Result<bool> {
        let id = claim_id.to_owned();
        let newest = self.blocking(move |queue| queue.claims.load_newest(&id)).await?;
        Ok(newest.is_some_and(|claim| claim.is_live()))
    }

    /// Extends a claim by its lifetime from now on.
    pub(crate) async fn renew(self: &Arc<Self>, claim: &Claim) -> Result<Claim> {
        let old = claim.clone();
        let renewed = self.blocking(move |queue| queue.claims.renew(&old, old.data.clone())).await;
        match renewed {
            Ok(renewed) => {
                self.metrics.claims_renewed.add(1);
                self.coordination.renew(&renewed.claim_id, &renewed.data, renewed.remaining()).await;
                Ok(renewed)
            }
            Err(error) => {
                self.metrics.claims_lost.add(u64::from(matches!(error, FileQueueError::ClaimLost { .. })));
                Err(error)
            }
        }
    }

    /// Releases a claim, and wakes the waiting tasks.
    pub(crate) async fn release(self: &Arc<Self>, claim: Claim) -> Result<Claim> {
        let released = self.blocking(move |queue| queue.claims.release(&claim, claim.data.clone())).await?;
        self.coordination.release(&released.claim_id).await;
        self.change_signal.send_replace(());
        Ok(released)
    }
}

impl FileQueue {
    /// Acquires a claim by name, until [`claim_expiration`](crate::FileQueueConfig::claim_expiration) has passed.
    /// Returns `false` if a worker owns it already, this one included.
    ///
    /// # Errors
    /// [`FileQueueError::InvalidName`], [`FileQueueError::Io`], [`FileQueueError::Torn`].
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let queue = eventbus_file::FileQueue::open(eventbus_file::FileQueueConfig::at(folder.path())).await?;
    /// if queue.create_claim("task_1", "worker_data").await? {
    ///     let claim = queue.get_claim("task_1").await?.expect("this worker owns it");
    ///     println!("claimed by worker {}", claim.worker_id);
    ///     queue.renew_claim(&claim).await?; // for a task that takes long
    /// }
    /// assert!(!queue.create_claim("task_1", "worker_data").await?);
    /// # Ok(()) }
    /// ```
    pub async fn create_claim<T: Serialize + ?Sized>(&self, claim_id: &str, data: &T) -> Result<bool> {
        Ok(self.try_claim(claim_id, data).await?.is_some())
    }

    /// Acquires a claim as [`create_claim`](Self::create_claim) does, and returns it, to be renewed and released.
    ///
    /// # Errors
    /// As [`create_claim`](Self::create_claim).
    pub async fn try_claim<T: Serialize + ?Sized>(&self, claim_id: &str, data: &T) -> Result<Option<Claim>> {
        let data = event::to_value("the data", data)?;
        self.inner.claim(claim_id, data).await
    }

    /// Returns the newest claim of a name, live or not; `None` if there never was one.
    ///
    /// # Errors
    /// [`FileQueueError::InvalidName`], [`FileQueueError::Io`], [`FileQueueError::Torn`].
    pub async fn get_claim(&self, claim_id: &str) -> Result<Option<Claim>> {
        let claim_id = claim_id.to_owned();
        self.inner.blocking(move |queue| queue.claims.load_newest(&claim_id)).await
    }

    /// Extends a claim of this worker by its lifetime from now on.
    ///
    /// # Errors
    /// [`FileQueueError::ClaimLost`] if it expired or a different worker owns it; [`FileQueueError::Io`].
    pub async fn renew_claim(&self, claim: &Claim) -> Result<Claim> {
        self.inner.renew(claim).await
    }

    /// Releases a claim: any worker may acquire it now.
    ///
    /// # Errors
    /// [`FileQueueError::ClaimLost`] if a different worker owns it; [`FileQueueError::Io`].
    pub async fn release_claim(&self, claim: Claim) -> Result<()> {
        self.inner.release(claim).await.map(drop)
    }
}
