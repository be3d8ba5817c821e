//! What whoever follows a feed is told from elsewhere, and tells.

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::domain::{clock::SharedClock, stream::Position};

/// How far someone who follows a feed has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct FollowStatus {
    /// Everything up to here was handed out, or not asked for.
    pub position: Position,
    /// Whether it has once come to the end of what there was.
    pub is_live: bool,
    /// Why the store cannot be read at the moment.
    pub trouble: Option<String>,
}

/// Pauses, resumes and stops a [`Following`](super::Following) from elsewhere. Cloning shares it.
#[derive(Clone)]
pub struct FollowControl(Arc<FollowInner>);

struct FollowInner {
    cancel: CancellationToken,
    is_paused: watch::Sender<bool>,
    status: watch::Sender<FollowStatus>,
    clock: SharedClock,
}

impl FollowControl {
    /// Of someone who has come so far.
    pub(super) fn new(position: Position, clock: SharedClock) -> Self {
        Self(Arc::new(FollowInner {
            cancel: CancellationToken::new(),
            is_paused: watch::Sender::new(false),
            status: watch::Sender::new(FollowStatus { position, ..FollowStatus::default() }),
            clock,
        }))
    }

    /// Hands out nothing more until it is resumed.
    pub fn pause(&self) {
        self.0.is_paused.send_replace(true);
    }

    /// Goes on where it was paused.
    pub fn resume(&self) {
        self.0.is_paused.send_replace(false);
    }

    /// Ends the stream; what was read and not handed out yet is not handed out any more.
    pub fn stop(&self) {
        self.0.cancel.cancel();
    }

    /// How far it has come.
    #[must_use]
    pub fn status(&self) -> FollowStatus {
        self.0.status.borrow().clone()
    }

    /// Waits until it has once come to the end of what there was. False: it did not within `timeout`.
    ///
    /// Somebody else has to take the events meanwhile.
    pub async fn wait_until_live(&self, timeout: Duration) -> bool {
        let mut status = self.0.status.subscribe();
        self.0.clock.timeout(timeout, status.wait_for(|status| status.is_live)).await.is_ok()
    }

    pub(super) fn clock(&self) -> &SharedClock {
        &self.0.clock
    }

    /// Cancelled when it is stopped.
    pub(super) fn cancel(&self) -> &CancellationToken {
        &self.0.cancel
    }

    /// Waits while it is paused. False: it was stopped.
    pub(super) async fn wait_while_paused(&self) -> bool {
        let mut is_paused = self.0.is_paused.subscribe();
        let resumed = is_paused.wait_for(|is_paused| !is_paused);
        self.0.cancel.run_until_cancelled(resumed).await.is_some()
    }

    pub(super) fn update(&self, update: impl FnOnce(&mut FollowStatus)) {
        self.0.status.send_modify(update);
    }
}

impl fmt::Debug for FollowControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FollowControl").field("status", &self.status()).finish_non_exhaustive()
    }
}
