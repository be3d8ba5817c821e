//! The control of a follower, and its status.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::domain::{clock::SharedClock, stream::Position};

/// The progress of a follower.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct FollowStatus {
    /// The stream has yielded all selected events up to here.
    pub position: Position,
    /// Set once the follower has reached the end of the feed.
    pub is_live: bool,
    /// The error of the store, while it cannot be read.
    pub trouble: Option<String>,
}

/// Pauses, resumes and stops a [`Following`](super::Following) from elsewhere. Cloning shares it.
#[derive(Clone, derive_more::Debug)]
#[debug("FollowControl {{ status: {:?}, .. }}", self.status())]
pub struct FollowControl(Arc<FollowInner>);

struct FollowInner {
    cancel: CancellationToken,
    is_paused: watch::Sender<bool>,
    status: watch::Sender<FollowStatus>,
    clock: SharedClock,
}

impl FollowControl {
    /// Creates the control of a follower that begins after `position`.
    pub(super) fn new(position: Position, clock: SharedClock) -> Self {
        Self(Arc::new(FollowInner {
            cancel: CancellationToken::new(),
            is_paused: watch::Sender::new(false),
            status: watch::Sender::new(FollowStatus { position, ..FollowStatus::default() }),
            clock,
        }))
    }

    /// Pauses the stream: it yields no event until it is resumed.
    pub fn pause(&self) {
        self.0.is_paused.send_replace(true);
    }

    /// Resumes the stream where it was paused.
    pub fn resume(&self) {
        self.0.is_paused.send_replace(false);
    }

    /// Ends the stream; it drops events that it has read and not yielded.
    pub fn stop(&self) {
        self.0.cancel.cancel();
    }

    /// Returns the progress.
    #[must_use]
    pub fn status(&self) -> FollowStatus {
        self.0.status.borrow().clone()
    }

    /// Waits until the follower has once reached the end of the feed. Returns `false` if it did not within `timeout`.
    ///
    /// A different task has to poll the stream.
    pub async fn wait_until_live(&self, timeout: Duration) -> bool {
        let mut status = self.0.status.subscribe();
        self.0.clock.timeout(timeout, status.wait_for(|status| status.is_live)).await.is_ok()
    }

    pub(super) fn clock(&self) -> &SharedClock {
        &self.0.clock
    }

    /// Returns the token that [`stop`](Self::stop) cancels.
    pub(super) fn cancel(&self) -> &CancellationToken {
        &self.0.cancel
    }

    /// Waits while it is paused. Returns `false` if it was stopped.
    pub(super) async fn wait_while_paused(&self) -> bool {
        let mut is_paused = self.0.is_paused.subscribe();
        let resumed = is_paused.wait_for(|is_paused| !is_paused);
        self.0.cancel.run_until_cancelled(resumed).await.is_some()
    }

    pub(super) fn update(&self, update: impl FnOnce(&mut FollowStatus)) {
        self.0.status.send_modify(update);
    }
}
