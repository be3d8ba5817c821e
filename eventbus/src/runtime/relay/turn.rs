//! The time in which this process relays: it keeps the lease, saves the checkpoint, and publishes until it is told to
//! stop or somebody else has taken over.
//!
//! Keep: a lease that has passed on is noticed before the checkpoint is saved, so that a process that was paused does
//! not set back what its successor saved.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    PACE, RelayError,
    error::{is_shut_down, stopped_by_damage},
    progress::Board,
};
use crate::{
    domain::{error::BoxError, stream::Position},
    port::{EventStore, Lease},
    runtime::feed::FeedWatch,
};

/// Publishes a feed, step by step.
pub(super) trait Publish: Send {
    /// Whether it saves the checkpoint by itself.
    const SAVES_CHECKPOINT: bool;

    /// Publishes what is next.
    fn step(&mut self) -> impl Future<Output = Result<Step, BoxError>> + Send;
}

/// What came of one step.
#[derive(Debug)]
pub(super) enum Step {
    /// There may be more.
    Done,
    /// Everything is published.
    CaughtUp,
    /// The bus knows a later owner.
    Fenced,
    /// Only an operator can help.
    Stopped(RelayError),
}

/// Why a process relays no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was told to stop.
    Cancelled,
    /// Somebody else has taken over.
    Passed,
    /// The bus knows a later owner, and the store does not: it has forgotten it.
    Forgotten,
    /// Only an operator can help.
    Stopped,
}

/// Publishes until `ended`; the step is the last one.
pub(super) async fn publish_until(
    ended: &CancellationToken,
    publishing: &mut impl Publish,
    store: &Arc<dyn EventStore>,
    board: &Board,
) -> Step {
    let mut feed = FeedWatch::new(store, board.clock().clone());
    while !ended.is_cancelled() {
        match publishing.step().await {
            Ok(Step::Done) => feed.made_progress(),
            Ok(Step::CaughtUp) => {
                board.recovered();
                feed.idle(ended).await;
            }
            Ok(last) => return last,
            // trying again reads the same
            Err(error) => match stopped_by_damage(error, board.destination(), board.position()) {
                Ok(damaged) => return Step::Stopped(damaged),
                Err(error) => {
                    // an app that stops shuts its bus down first, and ends the relay right after
                    if is_shut_down(&error) && ended.run_until_cancelled(board.clock().sleep(PACE)).await.is_none() {
                        return Step::Done;
                    }
                    board.trouble(&error);
                    feed.failed(ended).await;
                }
            },
        }
    }
    Step::Done
}

/// The lease, and what is to be done while it is held.
pub(super) struct Turn<'a> {
    store: &'a dyn EventStore,
    board: &'a Board,
    lease: Lease,
    ttl: Duration,
    cancel: &'a CancellationToken,
}

impl<'a> Turn<'a> {
    pub(super) fn new(
        store: &'a dyn EventStore,
        board: &'a Board,
        lease: Lease,
        ttl: Duration,
        cancel: &'a CancellationToken,
    ) -> Self {
        Self { store, board, lease, ttl, cancel }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.lease.epoch
    }

    /// Publishes while the lease is held.
    pub(super) async fn run<P: Publish>(self, mut publishing: P, store: &Arc<dyn EventStore>) -> Ended {
        let (destination, epoch) = (self.board.destination(), self.lease.epoch);
        if self.board.is_stopped() {
            tracing::debug!(%destination, epoch, "this process looks whether the relay may go on");
        } else {
            tracing::info!(%destination, epoch, "this process relays");
        }
        self.board.set_owner(true);
        let ended = self.cancel.child_token();
        let publish = async {
            let last = publish_until(&ended, &mut publishing, store, self.board).await;
            ended.cancel();
            last
        };
        let (last, is_held) = tokio::join!(publish, self.keep(&ended, P::SAVES_CHECKPOINT));
        self.board.set_owner(false);
        match last {
            _ if !is_held => self.passed(),
            Step::Fenced => match self.store.renew_lease(&self.lease, self.ttl).await {
                Ok(true) => Ended::Forgotten,
                _ => self.passed(),
            },
            Step::Stopped(error) => {
                self.board.stopped(error);
                self.give_back(P::SAVES_CHECKPOINT).await;
                Ended::Stopped
            }
            Step::Done | Step::CaughtUp => {
                self.give_back(P::SAVES_CHECKPOINT).await;
                Ended::Cancelled
            }
        }
    }

    /// Saves how far it came, and releases the lease.
    async fn give_back(&self, publishing_saves: bool) {
        // it may have passed on since it was looked after
        if !publishing_saves && matches!(self.store.renew_lease(&self.lease, self.ttl).await, Ok(true)) {
            self.save_checkpoint(self.board.position()).await;
        }
        if let Err(error) = self.store.release_lease(&self.lease).await {
            tracing::debug!(role = %self.lease.role, %error, "the lease runs out by itself");
        }
    }

    fn passed(&self) -> Ended {
        tracing::info!(destination = %self.board.destination(), "another process relays now, this one stands by");
        Ended::Passed
    }

    /// Keeps the lease until `ended`. False: it has passed to somebody else.
    async fn keep(&self, ended: &CancellationToken, publishing_saves: bool) -> bool {
        let renew_after = self.ttl / 3;
        let clock = self.board.clock();
        let (mut renewed, mut saved) = (clock.instant(), None);
        loop {
            let tick = clock.sleep(PACE.min(renew_after));
            if ended.run_until_cancelled(tick).await.is_none() {
                return true;
            }
            if clock.elapsed(renewed) >= renew_after {
                match self.store.renew_lease(&self.lease, self.ttl).await {
                    Ok(true) => renewed = clock.instant(),
                    Ok(false) => {
                        ended.cancel();
                        return false;
                    }
                    Err(error) => {
                        tracing::debug!(role = %self.lease.role, %error, "the lease is not renewed, trying again");
                        continue;
                    }
                }
            }
            let position = self.board.position();
            if !publishing_saves && saved != Some(position) && self.save_checkpoint(position).await {
                saved = Some(position);
            }
        }
    }

    async fn save_checkpoint(&self, position: Position) -> bool {
        let saved = self.store.save_checkpoint(&self.lease.role, position).await;
        if let Err(error) = &saved {
            tracing::debug!(%error, "how far the relay has come is not saved, trying again");
        }
        saved.is_ok()
    }
}
