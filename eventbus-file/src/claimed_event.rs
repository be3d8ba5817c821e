//! Claimed events: one worker processes each until it writes the result.
//!
//! Invariant: an event has one result. A worker that lost its claim writes none; of two workers that believe to own it,
//! one does.
//!
//! Real time, not the given clock: other workers read the claims in files.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use eventbus::port::Outage;
use serde::Serialize;
use serde_json::Value;
use tokio::{runtime::Handle, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    FileQueue,
    claim_store::Claim,
    error::{FileQueueError, Result},
    event::{self, QueueEvent},
    inner::{QueueInner, join_task},
    log::LogEntry,
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
    renewal: ClaimRenewal,
}

/// Background renewal of a claim, until this value is dropped or the claim is lost.
#[derive(Debug)]
struct ClaimRenewal {
    claim: Arc<Mutex<Claim>>,
    lost: CancellationToken,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Drop for ClaimRenewal {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) fn event_claim_id(event_id: u64) -> String {
    format!("event-{event_id}")
}

/// Returns the event of an event's claim; `None` for other claims.
#[cfg(feature = "redis")]
pub(crate) fn event_of_claim(claim: &str) -> Option<u64> {
    claim.strip_prefix("event-")?.parse().ok()
}

impl ClaimedEvent {
    fn new(queue: Arc<QueueInner>, event: QueueEvent, claim: Claim) -> Self {
        let (claim, lost, stop) = (Arc::new(Mutex::new(claim)), CancellationToken::new(), CancellationToken::new());
        let task =
            tokio::spawn(renew_until_stopped(Arc::clone(&queue), Arc::clone(&claim), lost.clone(), stop.clone()));
        Self { event, queue, renewal: ClaimRenewal { claim, lost, stop, task } }
    }

    /// Returns the event.
    #[must_use]
    pub const fn event(&self) -> &QueueEvent {
        &self.event
    }

    /// Returns the claim as it is now.
    #[must_use]
    pub fn claim(&self) -> Claim {
        self.renewal.claim.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the claim is lost, which may never happen: from then on, a second worker may process the event.
    pub async fn claim_lost(&self) {
        self.renewal.lost.cancelled().await;
    }

    /// Returns `true` if the claim is lost, or expired: a second worker may process the event.
    #[must_use]
    pub fn is_claim_lost(&self) -> bool {
        self.renewal.lost.is_cancelled() || !self.claim().is_live()
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
        self.queue.release(claim).await.map(drop)
    }

    async fn finish<T: Serialize + ?Sized>(mut self, success: bool, details: &T) -> Result<EventResult> {
        let details = event::to_value("the details", details)?;
        let claim = self.stop_renewing().await;
        self.queue.write_result(self.event.id(), claim, success, details).await
    }

    /// Stops the renewal and returns the claim: from then on only the caller writes its file.
    async fn stop_renewing(&mut self) -> Claim {
        self.renewal.stop.cancel();
        // the task ends by itself, or a runtime that shuts down aborts it
        let _ = (&mut self.renewal.task).await;
        self.claim()
    }
}

/// Delay before the retry of a failed renewal.
const RENEW_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Renews a claim after each third of its lifetime, until it is lost or `stop`; completes a renewal that has begun.
async fn renew_until_stopped(
    queue: Arc<QueueInner>,
    claim: Arc<Mutex<Claim>>,
    lost: CancellationToken,
    stop: CancellationToken,
) {
    let third = queue.config.claim_expiration / 3;
    let (mut wait, mut outage) = (third, Outage::new(queue.config.clock.clone()));
    while stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
        let now = claim.lock().unwrap_or_else(PoisonError::into_inner).clone();
        wait = match queue.renew(&now).await {
            Ok(renewed) => {
                *claim.lock().unwrap_or_else(PoisonError::into_inner) = renewed;
                if let Some(lasted) = outage.ends() {
                    tracing::info!(claim = now.claim_id, ?lasted, "claim is renewed again");
                }
                third
            }
            Err(FileQueueError::ClaimLost { .. }) => {
                if let Some(lasted) = outage.ends() {
                    tracing::warn!(claim = now.claim_id, ?lasted, "claim was lost before it could be renewed");
                }
                return lost.cancel();
            }
            Err(error) => {
                if outage.begins() {
                    tracing::warn!(claim = now.claim_id, error = error.log(), "claim not renewed, trying again");
                }
                RENEW_RETRY_DELAY
            }
        };
    }
}

/// Result of the search for the first claimable event.
enum ClaimCandidate {
    /// The first event that a worker may claim.
    Claimable(QueueEvent),
    /// No event up to the newest is claimable.
    Nothing,
}

impl QueueInner {
    /// Returns the first event after an id that has neither a result nor a live claim.
    fn find_claimable(&self, after: u64) -> Result<ClaimCandidate> {
        let (head, mut id) = (self.log.head()?, after);
        loop {
            id = self.finished_events().next_unfinished(id);
            if id > head {
                return Ok(ClaimCandidate::Nothing);
            }
            match self.event_status(id)? {
                EventStatus::Finished => self.finished_events().insert(id),
                EventStatus::FinishedThrough(through) => self.finished_events().insert_through(through),
                EventStatus::Claimed => {}
                EventStatus::Claimable(event) => return Ok(ClaimCandidate::Claimable(event)),
            }
        }
    }

    fn event_status(&self, id: u64) -> Result<EventStatus> {
        if self.has_result(id)? {
            return Ok(EventStatus::Finished);
        }
        match self.log.read(id)? {
            LogEntry::Removed(through) => Ok(EventStatus::FinishedThrough(through)),
            LogEntry::Gap => Ok(EventStatus::Finished),
            LogEntry::Missing => {
                self.log.fill_overdue_gap(id)?;
                Ok(EventStatus::Claimed)
            }
            LogEntry::Torn(error) => {
                tracing::error!(id, error = error.log(), "torn event passed over");
                Ok(EventStatus::Finished)
            }
            LogEntry::Event(event) => match self.claims.load_newest(&event_claim_id(id)) {
                Ok(Some(claim)) if claim.is_live() => Ok(EventStatus::Claimed),
                Ok(_) => Ok(EventStatus::Claimable(event)),
                Err(error @ FileQueueError::Torn { .. }) => {
                    tracing::error!(id, error = error.log(), "event with a torn claim passed over");
                    Ok(EventStatus::Claimed)
                }
                Err(error) => Err(error),
            },
        }
    }

    async fn try_claim_next(self: &Arc<Self>) -> Result<Option<ClaimedEvent>> {
        let queue = Arc::clone(self);
        let claiming = tokio::spawn(async move { queue.claim_first().await.map(ReleaseOnDrop) });
        Ok(join_task(claiming).await?.0.take())
    }

    async fn claim_first(self: &Arc<Self>) -> Result<Option<ClaimedEvent>> {
        let mut after = 0;
        loop {
            let ClaimCandidate::Claimable(event) = self.blocking(move |queue| queue.find_claimable(after)).await?
            else {
                return Ok(None);
            };
            let id = event.id();
            after = id;
            let Some(claim) = self.claim(&event_claim_id(id), Value::Null).await? else {
                continue;
            };
            // the owner before may have written the result since the search
            if self.blocking(move |queue| queue.has_result(id)).await? {
                match self.release(claim).await {
                    Ok(_) | Err(FileQueueError::ClaimLost { .. }) => continue,
                    Err(error) => return Err(error),
                }
            }
            return Ok(Some(ClaimedEvent::new(Arc::clone(self), event, claim)));
        }
    }
}

/// A claimed event that is released if the caller drops its future before it gets the event.
struct ReleaseOnDrop(Option<ClaimedEvent>);

impl Drop for ReleaseOnDrop {
    fn drop(&mut self) {
        if let Some(work) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            // if the release fails, the claim expires
            runtime.spawn(work.release());
        }
    }
}

/// State of an id for the workers that claim events.
///
/// | state | event | next state |
/// |---|---|---|
/// | claimable | a worker creates its claim | claimed |
/// | claimed | its claim is released or expires | claimable |
/// | claimed | its owner writes the result | finished |
///
/// A gap and a torn event count as finished; a missing id, and an event whose claim is torn, count as claimed.
enum EventStatus {
    Finished,
    /// All events up to this id were removed.
    FinishedThrough(u64),
    Claimed,
    Claimable(QueueEvent),
}

impl FileQueue {
    /// Claims the first event that has neither a result nor a live claim; `None` if there is none now.
    ///
    /// # Errors
    /// [`FileQueueError::Io`].
    pub async fn try_claim_next(&self) -> Result<Option<ClaimedEvent>> {
        self.inner.try_claim_next().await
    }

    /// Claims as [`try_claim_next`](Self::try_claim_next), but waits while there is no event, or the folder is missing.
    /// If the caller drops the future, in a `select!` for example, no event stays claimed.
    ///
    /// # Errors
    /// [`FileQueueError::ShutDown`] once the queue is shut down; [`FileQueueError::Io`].
    pub async fn claim_next(&self) -> Result<ClaimedEvent> {
        let mut poll_backoff = PollBackoff::new(&self.inner);
        let mut outage = Outage::new(self.inner.config.clock.clone());
        let folder = &*self.inner.disk.root().to_string_lossy();
        loop {
            if self.inner.consuming.is_closed() {
                return Err(FileQueueError::ShutDown);
            }
            match self.try_claim_next().await {
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
}
