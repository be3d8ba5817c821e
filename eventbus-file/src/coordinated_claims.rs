//! Claims by name: the coordinator refuses fast, the files decide.

use std::sync::Arc;

use serde_json::Value;
use tokio::runtime::Handle;

use crate::{
    claim_store::{Claim, NewClaim},
    coordination::{message_data, message_kind},
    error::{FileQueueError, Result},
    inner::{QueueInner, join_task},
};

/// Acquires a free claim; if the caller drops this future, it runs to its end, and releases the claim.
pub(crate) async fn claim(queue: &Arc<QueueInner>, claim_id: &str, data: Value) -> Result<Option<Claim>> {
    let (queue, claim_id) = (Arc::clone(queue), claim_id.to_owned());
    let claiming = tokio::spawn(async move {
        let claim = claim_now(&queue, &claim_id, data).await?;
        Ok(ReleaseOnDrop { queue, claim })
    });
    Ok(join_task::<_, FileQueueError>(claiming).await?.claim.take())
}

/// A claim that is released if the caller drops its future before it gets the claim.
struct ReleaseOnDrop {
    queue: Arc<QueueInner>,
    claim: Option<Claim>,
}

impl Drop for ReleaseOnDrop {
    fn drop(&mut self) {
        if let Some(claim) = self.claim.take()
            && let Ok(runtime) = Handle::try_current()
        {
            let queue = Arc::clone(&self.queue);
            // if the release fails, the claim expires
            runtime.spawn(async move { release(&queue, claim).await });
        }
    }
}

/// Acquires a free claim; the caller must not drop this future, which may then have acquired it.
pub(crate) async fn claim_now(queue: &Arc<QueueInner>, claim_id: &str, data: Value) -> Result<Option<Claim>> {
    let ttl = queue.config().claim_expiration;
    queue.claims().folder_of(claim_id)?;
    let granted = queue.coordination().claim(claim_id, &data, ttl).await;
    // the coordinator may have missed a release
    if granted == Some(false) && has_live_claim(queue, claim_id).await? {
        queue.metrics().claims_refused.add(1);
        return Ok(None);
    }
    let id = claim_id.to_owned();
    let create = move |queue: &QueueInner| {
        let created = queue.claims().create(&id, data)?;
        if let Some(NewClaim { claim, previous: Some(_) }) = &created
            && let Err(error) = queue.claims().remove_epochs_before(claim)
        {
            // the next owner removes them, too
            tracing::debug!(claim = id, error = error.log(), "files of earlier epochs not removed");
        }
        Ok(created)
    };
    let claiming = queue.blocking(create).await;
    let Ok(Some(NewClaim { claim: now, previous: before })) = claiming else {
        // the files decide: withdraw what the coordinator granted
        queue.coordination().release(claim_id).await;
        queue.metrics().claims_refused.add(u64::from(claiming.is_ok()));
        return claiming.map(|_| None);
    };
    queue.metrics().claims_created.add(1);
    queue.metrics().claims_taken_over.add(u64::from(before.is_some_and(|before| before.released_at.is_none())));
    queue.coordination().broadcast(message_kind::ADD_CLAIM, vec![message_data("claim_id", claim_id)]).await;
    Ok(Some(now))
}

async fn has_live_claim(queue: &Arc<QueueInner>, claim_id: &str) -> Result<bool> {
    let id = claim_id.to_owned();
    let newest = queue.blocking(move |queue| queue.claims().load_newest(&id)).await?;
    Ok(newest.is_some_and(|claim| claim.is_live()))
}

/// Extends a claim by its TTL from now on.
pub(crate) async fn renew(queue: &Arc<QueueInner>, claim: &Claim) -> Result<Claim> {
    let old = claim.clone();
    let renewed = queue.blocking(move |queue| queue.claims().renew(&old)).await;
    match renewed {
        Ok(renewed) => {
            queue.metrics().claims_renewed.add(1);
            queue.coordination().renew(&renewed.claim_id, &renewed.data, renewed.remaining()).await;
            Ok(renewed)
        }
        Err(error) => {
            queue.metrics().claims_lost.add(u64::from(matches!(error, FileQueueError::ClaimLost { .. })));
            Err(error)
        }
    }
}

/// Releases a claim, and wakes the waiting tasks.
pub(crate) async fn release(queue: &Arc<QueueInner>, claim: Claim) -> Result<Claim> {
    let released = queue.blocking(move |queue| queue.claims().release(&claim)).await?;
    queue.coordination().release(&released.claim_id).await;
    queue.change_signal().send_replace(());
    Ok(released)
}
