//! Claimed events: one worker processes each until it writes the result.
//!
//! Invariant: an event has one result. A worker that lost its claim writes none; of two workers that both believe they
//! own it, one writes the result.
//!
//! Real time, not the given clock: other workers read the claims in files.

use std::{sync::Arc, time::Duration};

use eventbus::{delivery::DeliveryAttempts, support::Outage};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;
use tokio::{runtime::Handle, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    claim_store::{Claim, event_claim_id},
    coordinated_claims,
    coordination::message_kind,
    error::{FileQueueError, Result},
    event::{self, QueueEvent, now},
    inner::{QueueInner, join_task},
    poll_backoff::PollBackoff,
    results::EventResult,
};

/// An event that this worker has claimed and processes.
///
/// The queue renews the claim in the background for as long as this value lives. If the worker drops it without a
/// result, the claim expires; then the next worker gets the event.
#[derive(Debug)]
pub struct ClaimedEvent {
    event: QueueEvent,
    queue: Arc<QueueInner>,
    /// The claim as it is now. Locked: the renewal writes it, and the owner of the event reads it.
    claim: Arc<Mutex<Claim>>,
    lost: CancellationToken,
    /// The background renewal of the claim, until the claim is lost or this value is dropped.
    renewal: JoinHandle<()>,
    stop: DropGuard,
}

impl ClaimedEvent {
    fn new(queue: Arc<QueueInner>, event: QueueEvent, claim: Claim) -> Self {
        let (claim, lost, stop) = (Arc::new(Mutex::new(claim)), CancellationToken::new(), CancellationToken::new());
        let renewing = renew_until_stopped(Arc::clone(&queue), Arc::clone(&claim), lost.clone(), stop.clone());
        Self { event, queue, claim, lost, renewal: tokio::spawn(renewing), stop: stop.drop_guard() }
    }

    /// Returns the event.
    #[must_use]
    pub const fn event(&self) -> &QueueEvent {
        &self.event
    }

    /// Returns the claim as it is now.
    #[must_use]
    pub fn claim(&self) -> Claim {
        self.claim.lock().clone()
    }

    /// Waits until the claim is lost, which may never happen: from then on, a second worker may process the event.
    pub async fn claim_lost(&self) {
        self.lost.cancelled().await;
    }

    /// Returns `true` if the claim is lost, or expired: a second worker may process the event.
    #[must_use]
    pub fn is_claim_lost(&self) -> bool {
        self.lost.is_cancelled() || !self.claim().is_live()
    }

    /// Writes the result of a success.
    ///
    /// # Errors
    /// [`FileQueueError::ClaimLost`] or [`FileQueueError::HasResult`] if the event has passed to a different worker;
    /// [`FileQueueError::Io`].
    pub async fn succeed<T: Serialize + ?Sized>(self, details: &T) -> Result<EventResult> {
        self.finish(true, details).await
    }

    /// Writes the result of a final failure.
    ///
    /// # Errors
    /// As [`succeed`](Self::succeed).
    pub async fn fail<T: Serialize + ?Sized>(self, details: &T) -> Result<EventResult> {
        self.finish(false, details).await
    }

    /// Releases the event without a result: any worker may claim it now.
    ///
    /// # Errors
    /// [`FileQueueError::ClaimLost`] if the event has passed to a different worker; [`FileQueueError::Io`].
    pub async fn release(mut self) -> Result<()> {
        let claim = self.stop_renewing().await;
        coordinated_claims::release(&self.queue, claim).await.map(drop)
    }

    async fn finish<T: Serialize + ?Sized>(mut self, success: bool, details: &T) -> Result<EventResult> {
        let details = event::to_value("the details", details)?;
        let claim = self.stop_renewing().await;
        write_result(&self.queue, self.event.id(), claim, success, details).await
    }

    /// Stops the renewal and returns the claim: from then on only the caller writes its file.
    pub(crate) async fn stop_renewing(&mut self) -> Claim {
        self.stop.token().cancel();
        // the task ends by itself, or a runtime that shuts down aborts it
        let _ = (&mut self.renewal).await;
        self.claim()
    }
}

/// Writes the one result of an event, for the owner of its claim.
pub(crate) async fn write_result(
    queue: &Arc<QueueInner>,
    event_id: u64,
    claim: Claim,
    success: bool,
    details: Value,
) -> Result<EventResult> {
    let (worker_id, epoch) = (queue.worker_id().to_owned(), claim.epoch);
    let result = EventResult { event_id, success, worker_id, epoch, created_at: now(), details };
    let content = event::to_pretty_json("the result", &result)?;
    let claim_id = claim.claim_id.clone();
    let written = queue.blocking(move |queue| queue.results().create(event_id, &claim, &content)).await;
    match &written {
        Ok(()) => queue.metrics().results_written.add(1),
        Err(FileQueueError::ClaimLost { .. } | FileQueueError::HasResult { .. }) => {
            queue.metrics().results_refused.add(1);
        }
        Err(_) => {}
    }
    written?;
    queue.coordination().release(&claim_id).await;
    let about = serde_json::Map::from_iter([
        ("result_id".to_owned(), event_id.into()),
        ("event_id".to_owned(), event_id.into()),
    ]);
    queue.coordination().broadcast(message_kind::ADD_RESULT, vec![about]).await;
    queue.change_signal().send_replace(());
    Ok(result)
}

/// Delay before the retry of a failed renewal.
const RENEW_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Renews a claim after each third of its TTL, until it is lost or `stop`; completes a renewal that has begun, unless the
/// claim expires meanwhile.
async fn renew_until_stopped(
    queue: Arc<QueueInner>,
    claim: Arc<Mutex<Claim>>,
    lost: CancellationToken,
    stop: CancellationToken,
) {
    let third = queue.config().claim_expiration / 3;
    let (mut wait, mut outage) = (third, Outage::new(queue.config().clock.clone()));
    while stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
        let now = claim.lock().clone();
        // so that the owner learns of the expiry even if the file system does not answer
        wait = match tokio::time::timeout(now.remaining(), coordinated_claims::renew(&queue, &now)).await {
            Ok(Ok(renewed)) => {
                *claim.lock() = renewed;
                if let Some(lasted) = outage.ends() {
                    tracing::info!(claim = now.claim_id, ?lasted, "claim is renewed again");
                }
                third
            }
            Ok(Err(FileQueueError::ClaimLost { .. })) | Err(_) => {
                if let Some(lasted) = outage.ends() {
                    tracing::warn!(claim = now.claim_id, ?lasted, "claim was lost before it could be renewed");
                }
                return lost.cancel();
            }
            Ok(Err(error)) => {
                if outage.begins() {
                    tracing::warn!(claim = now.claim_id, error = error.log(), "claim not renewed, trying again");
                }
                RENEW_RETRY_DELAY.min(now.remaining())
            }
        };
    }
}

pub(crate) async fn try_claim_next(queue: &Arc<QueueInner>) -> Result<Option<ClaimedEvent>> {
    let queue = Arc::clone(queue);
    let claiming = tokio::spawn(async move { claim_first(&queue).await.map(ReleaseOnDrop) });
    Ok(join_task(claiming).await?.0.take())
}

async fn claim_first(queue: &Arc<QueueInner>) -> Result<Option<ClaimedEvent>> {
    let mut after = 0;
    loop {
        let clock = queue.config().clock.clone();
        let find = move |queue: &QueueInner| queue.results().find_claimable(queue.log(), after, &clock);
        let Some((event, previous)) = queue.blocking(find).await? else {
            return Ok(None);
        };
        let id = event.id();
        after = id;
        let data = next_claim_data(previous.as_ref(), &event)?;
        let Some(claim) = coordinated_claims::claim_now(queue, &event_claim_id(id), data).await? else {
            continue;
        };
        // the previous owner may have written the result since the search
        if queue.blocking(move |queue| queue.results().has_result(id)).await? {
            match coordinated_claims::release(queue, claim).await {
                Ok(_) | Err(FileQueueError::ClaimLost { .. }) => continue,
                Err(error) => return Err(error),
            }
        }
        return Ok(Some(ClaimedEvent::new(Arc::clone(queue), event, claim)));
    }
}

/// Returns the attempts at a job so far, which its claim keeps.
pub(crate) fn attempts_of(claim: &Claim, event: &QueueEvent) -> DeliveryAttempts {
    match claim.data {
        Value::Null => DeliveryAttempts::replayed(event.done_handlers().to_vec()),
        _ => claim.data().unwrap_or_default(),
    }
}

/// Returns the data of the next claim on an event: the attempts so far, and whether the previous owner died with it.
fn next_claim_data(previous: Option<&Claim>, event: &QueueEvent) -> Result<Value> {
    let Some(previous) = previous else { return Ok(Value::Null) };
    let mut attempts = attempts_of(previous, event);
    attempts.process_ends += u32::from(previous.released_at.is_none());
    event::to_value("the attempts", &attempts)
}

/// Claims the first claimable event; waits while there is none, or the folder is missing.
pub(crate) async fn claim_next(queue: &Arc<QueueInner>) -> Result<ClaimedEvent> {
    let mut poll_backoff = PollBackoff::new(queue);
    let mut outage = Outage::new(queue.config().clock.clone());
    let folder = &*queue.disk().root().to_string_lossy();
    loop {
        if queue.consuming().is_closed() {
            return Err(FileQueueError::ShutDown);
        }
        match try_claim_next(queue).await {
            Ok(Some(work)) => return Ok(work),
            Ok(None) => {
                if let Some(lasted) = outage.ends() {
                    tracing::info!(folder, ?lasted, "the folder of the queue is there again");
                }
            }
            Err(error) if error.is_folder_missing() => {
                if outage.begins() {
                    tracing::warn!(folder, error = error.log(), "the folder of the queue is gone, waiting for it");
                }
            }
            Err(error) => return Err(error),
        }
        poll_backoff.wait().await;
    }
}

/// A claimed event that is released when it is dropped: its caller's future was dropped, or a shutdown aborted its
/// handlers.
pub(crate) struct ReleaseOnDrop(pub(crate) Option<ClaimedEvent>);

impl Drop for ReleaseOnDrop {
    fn drop(&mut self) {
        if let Some(work) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            let queue = Arc::clone(&work.queue);
            // if the release fails, the claim expires
            queue.jobs().spawn_on(work.release(), &runtime);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FileQueue, FileQueueConfig};

    #[tokio::test]
    async fn of_two_who_believe_to_have_the_claim_one_writes_the_result() {
        let root = tempfile::tempdir().unwrap();
        let queue = FileQueue::open(FileQueueConfig::at(root.path().join("queue"))).await.unwrap();
        queue.publish(&"task").await.unwrap();
        let claim = queue.try_claim("event-1", &()).await.unwrap().unwrap();
        let write = async |text: &str| write_result(queue.inner(), 1, claim.clone(), true, text.into()).await;
        write("first").await.unwrap();
        assert!(matches!(write("second").await, Err(FileQueueError::HasResult { event_id: 1 })));
        assert_eq!(queue.result(1).await.unwrap().unwrap().details::<String>().unwrap(), "first");
        let metrics = queue.metrics();
        assert_eq!((metrics.results_written, metrics.results_refused), (1, 1));
    }
}
