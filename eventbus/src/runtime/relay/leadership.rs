//! One term of the relay's leadership: this process renews the lease, saves the checkpoint, and publishes until it is
//! cancelled or a different process has taken over.
//!
//! Invariant: the leader notices a lost lease before it saves the checkpoint, so that a process that was paused does
//! not set back its successor's checkpoint.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    RelayError,
    error::{classify_read_error, is_shut_down},
    status::RelayStatusCell,
};
use crate::{
    domain::{error::BoxError, stream::Position},
    port::{EventStore, Lease},
    runtime::feed_poller::FeedPoller,
};

/// Interval at which the leader checks its lease, and a standby tries to acquire it.
pub(super) const LEASE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Interval at which a stopped relay acquires the lease for a retry; each acquisition raises the epoch.
pub(super) const STOPPED_RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// Publishes a feed, step by step.
pub(super) trait FeedPublisher: Send {
    /// Set if the publisher saves the checkpoint by itself.
    const SAVES_CHECKPOINT: bool;

    /// Publishes the next range.
    fn step(&mut self) -> impl Future<Output = Result<PublishStep, BoxError>> + Send;
}

/// Outcome of one step.
#[derive(Debug)]
pub(super) enum PublishStep {
    /// There may be more events to publish.
    Done,
    /// All events are published.
    CaughtUp,
    /// The bus knows a higher epoch.
    Fenced,
    /// Only an operator can help.
    Stopped(RelayError),
}

/// Reason why a process is not the leader any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeadershipEnd {
    /// The app cancelled it.
    Cancelled,
    /// A different process has taken over.
    TakenOver,
    /// The bus knows a higher epoch than the store, which has forgotten it.
    EpochBehindBus,
    /// Only an operator can help.
    Stopped,
}

/// Publishes until cancelled, fenced or stopped; returns the last step.
pub(super) async fn publish_until(
    cancel_publishing: &CancellationToken,
    publisher: &mut impl FeedPublisher,
    store: &Arc<dyn EventStore>,
    status: &RelayStatusCell,
) -> PublishStep {
    let mut feed = FeedPoller::new(store, status.clock().clone());
    while !cancel_publishing.is_cancelled() {
        match publisher.step().await {
            Ok(PublishStep::Done) => feed.reset(),
            Ok(PublishStep::CaughtUp) => {
                status.set_caught_up();
                feed.wait_idle(cancel_publishing).await;
            }
            Ok(last_step) => return last_step,
            // a retry would read the same damaged event
            Err(error) => match classify_read_error(error, status.destination(), status.position()) {
                Ok(damaged) => return PublishStep::Stopped(damaged),
                Err(error) => {
                    // an app that shuts down stops its bus first and cancels the relay right after: that is no outage
                    if is_shut_down(&error)
                        && cancel_publishing
                            .run_until_cancelled(status.clock().sleep(LEASE_CHECK_INTERVAL))
                            .await
                            .is_none()
                    {
                        return PublishStep::Done;
                    }
                    status.set_problem(&error);
                    feed.wait_after_failure(cancel_publishing).await;
                }
            },
        }
    }
    PublishStep::Done
}

/// The relay's lease, and the work while this process holds it.
pub(super) struct Leadership<'a> {
    store: &'a dyn EventStore,
    status: &'a RelayStatusCell,
    lease: Lease,
    ttl: Duration,
    cancel: &'a CancellationToken,
}

impl<'a> Leadership<'a> {
    pub(super) fn new(
        store: &'a dyn EventStore,
        relay_status: &'a RelayStatusCell,
        lease: Lease,
        ttl: Duration,
        cancel: &'a CancellationToken,
    ) -> Self {
        Self { store, status: relay_status, lease, ttl, cancel }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.lease.epoch
    }

    /// Publishes while this process holds the lease.
    pub(super) async fn run<P: FeedPublisher>(self, mut publisher: P, store: &Arc<dyn EventStore>) -> LeadershipEnd {
        let (destination, epoch) = (self.status.destination(), self.lease.epoch);
        if self.status.is_stopped() {
            tracing::debug!(%destination, epoch, "this process checks whether the stopped relay can go on");
        } else {
            tracing::info!(%destination, epoch, "this process relays");
        }
        self.status.set_owner(true);
        let cancel_publishing = self.cancel.child_token();
        let publish = async {
            let last_step = publish_until(&cancel_publishing, &mut publisher, store, self.status).await;
            cancel_publishing.cancel();
            last_step
        };
        // concurrent: while the bus is slow, the lease is renewed all the same
        let (last_step, is_lease_held) =
            tokio::join!(publish, self.renew_until(&cancel_publishing, P::SAVES_CHECKPOINT));
        self.status.set_owner(false);
        match last_step {
            _ if !is_lease_held => self.taken_over(),
            PublishStep::Fenced => match self.store.renew_lease(&self.lease, self.ttl).await {
                Ok(true) => LeadershipEnd::EpochBehindBus,
                _ => self.taken_over(),
            },
            PublishStep::Stopped(error) => {
                self.status.set_stopped(error);
                self.release(P::SAVES_CHECKPOINT).await;
                LeadershipEnd::Stopped
            }
            PublishStep::Done | PublishStep::CaughtUp => {
                self.release(P::SAVES_CHECKPOINT).await;
                LeadershipEnd::Cancelled
            }
        }
    }

    /// Saves the position, and releases the lease.
    async fn release(&self, publisher_saves: bool) {
        // the lease may have passed on since its last renewal
        if !publisher_saves && matches!(self.store.renew_lease(&self.lease, self.ttl).await, Ok(true)) {
            self.save_checkpoint(self.status.position()).await;
        }
        if let Err(error) = self.store.release_lease(&self.lease).await {
            tracing::debug!(role = %self.lease.role, %error, "the lease was not released, it expires by itself");
        }
    }

    fn taken_over(&self) -> LeadershipEnd {
        tracing::info!(destination = %self.status.destination(), "another process relays now, this one stands by");
        LeadershipEnd::TakenOver
    }

    /// Renews the lease and saves the checkpoint until publishing ends. Returns `false` if a different owner holds the
    /// lease.
    async fn renew_until(&self, cancel_publishing: &CancellationToken, publisher_saves: bool) -> bool {
        let renew_after = self.ttl / 3;
        let clock = self.status.clock();
        let (mut renewed, mut saved) = (clock.instant(), None);
        loop {
            let tick = clock.sleep(LEASE_CHECK_INTERVAL.min(renew_after));
            if cancel_publishing.run_until_cancelled(tick).await.is_none() {
                return true;
            }
            if clock.elapsed(renewed) >= renew_after {
                match self.store.renew_lease(&self.lease, self.ttl).await {
                    Ok(true) => renewed = clock.instant(),
                    Ok(false) => {
                        cancel_publishing.cancel();
                        return false;
                    }
                    Err(error) => {
                        tracing::debug!(role = %self.lease.role, %error, "the lease is not renewed, trying again");
                        continue;
                    }
                }
            }
            let position = self.status.position();
            if !publisher_saves && saved != Some(position) && self.save_checkpoint(position).await {
                saved = Some(position);
            }
        }
    }

    async fn save_checkpoint(&self, position: Position) -> bool {
        let saved = self.store.save_checkpoint(&self.lease.role, position).await;
        if let Err(error) = &saved {
            tracing::debug!(%error, "the relay's checkpoint was not saved, trying again");
        }
        saved.is_ok()
    }
}
