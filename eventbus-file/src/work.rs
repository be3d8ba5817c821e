//! Work: an event, claimed, until it has its result.
//!
//! Keep: an event has one result. Whoever loses its claim writes none, and of two who believe to have it, one does.
//!
//! Real time, not the given clock: claims that other workers read in files.

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
    claims::Claim,
    error::{FileQueueError, Result},
    event::{self, QueueEvent},
    log::Slot,
    patience::Patience,
    queue::{Shared, joined},
    results::EventResult,
};

/// An event that this worker has claimed, to be processed.
///
/// The claim is renewed in the background for as long as this value lives. Dropping it without a result lets the claim
/// run out; then another worker gets the event.
#[derive(Debug)]
pub struct Work {
    event: QueueEvent,
    shared: Arc<Shared>,
    renewal: Renewal,
}

/// Renews a claim in the background, until it is dropped or the claim is lost.
#[derive(Debug)]
struct Renewal {
    claim: Arc<Mutex<Claim>>,
    lost: CancellationToken,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The name of an event's claim.
pub(crate) fn claim_id(event_id: u64) -> String {
    format!("event-{event_id}")
}

/// The event that a claim of that name is on, if it is on one.
#[cfg(feature = "redis")]
pub(crate) fn event_of(claim: &str) -> Option<u64> {
    claim.strip_prefix("event-")?.parse().ok()
}

impl Work {
    fn new(shared: Arc<Shared>, event: QueueEvent, claim: Claim) -> Self {
        let (claim, lost, stop) = (Arc::new(Mutex::new(claim)), CancellationToken::new(), CancellationToken::new());
        let task = tokio::spawn(keep(Arc::clone(&shared), Arc::clone(&claim), lost.clone(), stop.clone()));
        Self { event, shared, renewal: Renewal { claim, lost, stop, task } }
    }

    /// The event.
    #[must_use]
    pub const fn event(&self) -> &QueueEvent {
        &self.event
    }

    /// The claim as it is now.
    #[must_use]
    pub fn claim(&self) -> Claim {
        self.renewal.claim.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the claim is lost, which may never happen: work that goes on then is in vain.
    pub async fn lost(&self) {
        self.renewal.lost.cancelled().await;
    }

    /// Whether the claim is lost: no result of ours counts any more.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.renewal.lost.is_cancelled() || !self.claim().is_live()
    }

    /// Writes the result: it went well.
    ///
    /// # Errors
    /// [`FileQueueError::ClaimLost`] or [`FileQueueError::HasResult`] if another worker has taken the event over;
    /// [`FileQueueError::Io`].
    pub async fn succeed<T: Serialize + ?Sized>(self, details: &T) -> Result<EventResult> {
        self.finish(true, details).await
    }

    /// Writes the result: it failed, for good.
    ///
    /// # Errors
    /// As [`succeed`](Self::succeed).
    pub async fn fail<T: Serialize + ?Sized>(self, details: &T) -> Result<EventResult> {
        self.finish(false, details).await
    }

    /// Gives the event back without a result: anybody may have it now.
    ///
    /// # Errors
    /// [`FileQueueError::ClaimLost`] if another worker has taken the event over; [`FileQueueError::Io`].
    pub async fn give_back(mut self) -> Result<()> {
        let claim = self.stop_renewing().await;
        self.shared.release(claim).await.map(drop)
    }

    async fn finish<T: Serialize + ?Sized>(mut self, success: bool, details: &T) -> Result<EventResult> {
        let details = event::value("the details", details)?;
        let claim = self.stop_renewing().await;
        self.shared.write_result(self.event.id(), claim, success, details).await
    }

    /// From here on nobody else writes our claim's file.
    async fn stop_renewing(&mut self) -> Claim {
        self.renewal.stop.cancel();
        // it ends by itself; a runtime that ends aborts it
        let _ = (&mut self.renewal.task).await;
        self.claim()
    }
}

/// How soon a renewal that failed is tried again.
const AGAIN: Duration = Duration::from_millis(100);

/// Renews a claim whenever a third of its time has passed, until it is lost or somebody says stop; never stops half-way.
async fn keep(shared: Arc<Shared>, claim: Arc<Mutex<Claim>>, lost: CancellationToken, stop: CancellationToken) {
    let third = shared.config.claim_expiration / 3;
    let (mut wait, mut outage) = (third, Outage::new(shared.config.clock.clone()));
    while stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
        let now = claim.lock().unwrap_or_else(PoisonError::into_inner).clone();
        wait = match shared.renew(&now).await {
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
                AGAIN
            }
        };
    }
}

/// What stands at the front of the queue.
enum Look {
    /// This may be claimed.
    Open(QueueEvent),
    /// Nothing to claim up to the newest event.
    Nothing,
}

impl Shared {
    /// The first event after an id that has no result and no live claim.
    fn first_open(&self, after: u64) -> Result<Look> {
        let (head, mut id) = (self.log.head()?, after);
        loop {
            id = self.done().next_after(id);
            if id > head {
                return Ok(Look::Nothing);
            }
            match self.look(id)? {
                Standing::Done => self.done().add(id),
                Standing::Through(through) => self.done().add_through(through),
                Standing::Busy => {}
                Standing::Open(event) => return Ok(Look::Open(event)),
            }
        }
    }

    fn look(&self, id: u64) -> Result<Standing> {
        if self.has_result(id)? {
            return Ok(Standing::Done);
        }
        match self.log.read(id)? {
            Slot::Removed(through) => Ok(Standing::Through(through)),
            Slot::Gap => Ok(Standing::Done),
            Slot::Missing => {
                self.log.fill_overdue(id, &self.worker)?;
                Ok(Standing::Busy)
            }
            Slot::Torn(error) => {
                tracing::error!(id, error = error.log(), "passed over and left alone");
                Ok(Standing::Done)
            }
            Slot::Event(event) => match self.claims.newest(&claim_id(id)) {
                Ok(Some(claim)) if claim.is_live() => Ok(Standing::Busy),
                Ok(_) => Ok(Standing::Open(event)),
                Err(error @ FileQueueError::Torn { .. }) => {
                    tracing::error!(id, error = error.log(), "event passed over");
                    Ok(Standing::Busy)
                }
                Err(error) => Err(error),
            },
        }
    }

    async fn try_next_work(self: &Arc<Self>) -> Result<Option<Work>> {
        let shared = Arc::clone(self);
        let taken = tokio::spawn(async move { shared.take_next_work().await.map(Undelivered) });
        Ok(joined(taken).await?.0.take())
    }

    async fn take_next_work(self: &Arc<Self>) -> Result<Option<Work>> {
        let mut after = 0;
        loop {
            let Look::Open(event) = self.blocking(move |shared| shared.first_open(after)).await? else {
                return Ok(None);
            };
            let id = event.id();
            after = id;
            let Some(claim) = self.claim(&claim_id(id), Value::Null).await? else {
                continue;
            };
            // whoever had it before may have ended it since we looked
            if self.blocking(move |shared| shared.has_result(id)).await? {
                match self.release(claim).await {
                    Ok(_) | Err(FileQueueError::ClaimLost { .. }) => continue,
                    Err(error) => return Err(error),
                }
            }
            return Ok(Some(Work::new(Arc::clone(self), event, claim)));
        }
    }
}

/// Work that is given back if nobody waits for it any more.
struct Undelivered(Option<Work>);

impl Drop for Undelivered {
    fn drop(&mut self) {
        if let Some(work) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            // if that fails, the claim runs out
            runtime.spawn(work.give_back());
        }
    }
}

/// How it stands with an event.
enum Standing {
    Done,
    /// Everything up to here is done.
    Through(u64),
    Busy,
    Open(QueueEvent),
}

impl FileQueue {
    /// Claims the first event that has no result and that nobody has claimed; `None` if there is none now.
    ///
    /// # Errors
    /// [`FileQueueError::Io`].
    pub async fn try_next_work(&self) -> Result<Option<Work>> {
        self.shared.try_next_work().await
    }

    /// The same, waiting for an event; also for the folder, if it was removed. Nothing stays claimed if it is dropped, in a
    /// `select!` for example.
    ///
    /// # Errors
    /// [`FileQueueError::ShutDown`] once the queue is shut down; [`FileQueueError::Io`].
    pub async fn next_work(&self) -> Result<Work> {
        let mut patience = Patience::new(&self.shared);
        let mut outage = Outage::new(self.shared.config.clock.clone());
        let folder = &*self.shared.disk.root().to_string_lossy();
        loop {
            if self.shared.consuming.is_closed() {
                return Err(FileQueueError::ShutDown);
            }
            match self.try_next_work().await {
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
            patience.wait().await;
        }
    }
}
