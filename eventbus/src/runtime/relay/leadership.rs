//! One term of the relay's leadership: this process renews the lease, saves the checkpoint, and publishes until it is
//! cancelled or a different process has taken over.
//!
//! Invariant: the leader renews its lease before it saves the checkpoint, if a third of the lease has passed. So after
//! a pause it does not set back its successor's checkpoint. A publisher that saves the checkpoint by itself makes no
//! such check: after a pause it may set the checkpoint back, and the next leader publishes those events again.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{
    RelayError,
    error::{is_shut_down, relay_error_of_read},
    status::RelayStatusCell,
};
use crate::{
    domain::{error::BoxError, stream::Position},
    port::{EventStore, Lease},
    runtime::{feed_head::FeedHead, feed_poller::FeedPoller},
};

/// Interval at which the leader checks its lease, and a standby tries to acquire it.
pub(super) const LEASE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Interval at which a stopped relay acquires the lease for a retry; each acquisition raises the epoch.
pub(super) const STOPPED_RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// Publishes a feed, step by step.
pub(super) trait FeedPublisher: Send {
    /// `true` if the leadership saves no checkpoint: the publisher does, or the bus needs none.
    const SAVES_CHECKPOINT: bool;

    /// The longest time between two steps; `None` if only new events make work.
    const IDLE_INTERVAL: Option<Duration>;

    /// Notes that the store could not be reached: meanwhile it may have been restored from an older copy.
    fn note_failure(&mut self) {}

    /// Publishes the next range, which ends at or before `head`.
    fn step(&mut self, head: Position) -> impl Future<Output = Result<PublishStep, BoxError>> + Send;
}

/// Outcome of one step.
#[derive(Debug)]
pub(super) enum PublishStep {
    /// The relay goes on at once: there may be more events to publish.
    Published,
    /// All events are published.
    CaughtUp,
    /// Only an operator can help.
    Stopped(RelayError),
}

/// Reason why publishing ended.
#[derive(Debug)]
pub(super) enum PublishEnd {
    /// The app or the leadership cancelled it.
    Cancelled,
    /// Only an operator can help.
    Stopped(RelayError),
}

/// Reason why a process is not the leader any more; [`Relay`](super::task::Relay) has the transition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeadershipEnd {
    /// The app cancelled it.
    Cancelled,
    /// A different process has taken over.
    TakenOver,
    /// Only an operator can help.
    Stopped,
}

/// Publishes until cancelled or stopped. At the end of the feed, `gather` passes between two publications.
pub(super) async fn publish_until<P: FeedPublisher>(
    cancel_publishing: &CancellationToken,
    publisher: &mut P,
    feed_head: &FeedHead,
    status: &RelayStatusCell,
    gather: Duration,
) -> PublishEnd {
    let mut feed = FeedPoller::new(feed_head);
    while !cancel_publishing.is_cancelled() {
        let head = feed.head().await;
        if feed.take_failure() {
            publisher.note_failure();
        }
        let end = head.as_ref().copied().unwrap_or_default();
        let step = match head {
            Ok(head) => publisher.step(head).await,
            Err(error) => Err(error.into()),
        };
        match step {
            Ok(PublishStep::Published) => {
                feed.reset();
                if status.position() >= end && gather > Duration::ZERO {
                    cancel_publishing.run_until_cancelled(status.clock().sleep(gather)).await;
                }
            }
            Ok(PublishStep::CaughtUp) => {
                status.set_caught_up();
                feed.wait_idle(P::IDLE_INTERVAL, cancel_publishing).await;
            }
            Ok(PublishStep::Stopped(error)) => return PublishEnd::Stopped(error),
            // a retry would read the same damaged event
            Err(error) => match relay_error_of_read(error, status.destination(), status.position()) {
                Ok(damaged) => return PublishEnd::Stopped(damaged),
                Err(error) => {
                    // an app that shuts down stops its bus first and cancels the relay right after: that is no outage
                    if is_shut_down(&error)
                        && cancel_publishing
                            .run_until_cancelled(status.clock().sleep(LEASE_CHECK_INTERVAL))
                            .await
                            .is_none()
                    {
                        return PublishEnd::Cancelled;
                    }
                    status.set_problem(&error);
                    feed.wait_after_failure(cancel_publishing).await;
                }
            },
        }
    }
    PublishEnd::Cancelled
}

/// The relay's lease, and the work while this process holds it.
pub(super) struct Leadership<'a> {
    pub(super) store: &'a dyn EventStore,
    pub(super) status: &'a RelayStatusCell,
    pub(super) lease: Lease,
    pub(super) ttl: Duration,
    pub(super) gather: Duration,
    pub(super) cancel: &'a CancellationToken,
}

impl Leadership<'_> {
    /// Publishes while this process holds the lease.
    pub(super) async fn run<P: FeedPublisher>(self, mut publisher: P, feed_head: &FeedHead) -> LeadershipEnd {
        let (destination, epoch) = (self.status.destination(), self.lease.epoch);
        if self.status.is_stopped() {
            tracing::debug!(%destination, epoch, "this process checks whether the stopped relay can go on");
        } else {
            tracing::info!(%destination, epoch, "this process relays");
        }
        self.status.begin_leadership();
        let cancel_publishing = self.cancel.child_token();
        let publish = async {
            let end = publish_until(&cancel_publishing, &mut publisher, feed_head, self.status, self.gather).await;
            cancel_publishing.cancel();
            end
        };
        // concurrent: while the bus is slow, the lease is renewed all the same. A lost lease does not cut off the step
        // that runs: the bus compares its record, or carries the events twice
        let (end, is_lease_held) = tokio::join!(publish, self.renew_until(&cancel_publishing, P::SAVES_CHECKPOINT));
        self.status.set_owner(false);
        match end {
            _ if !is_lease_held => self.taken_over(),
            PublishEnd::Stopped(error) => {
                self.status.set_stopped(error);
                self.release(P::SAVES_CHECKPOINT).await;
                LeadershipEnd::Stopped
            }
            PublishEnd::Cancelled => {
                self.release(P::SAVES_CHECKPOINT).await;
                LeadershipEnd::Cancelled
            }
        }
    }

    /// Saves the position, and releases the lease.
    async fn release(&self, publisher_saves: bool) {
        // the lease may have passed on since its last renewal
        if !publisher_saves
            && let Some(position) = self.status.known_position()
            && matches!(self.store.renew_lease(&self.lease, self.ttl).await, Ok(true))
        {
            self.save_checkpoint(position).await;
        }
        if let Err(error) = self.store.release_lease(&self.lease).await {
            tracing::debug!(role = %self.lease.role, %error, "the lease was not released, it expires by itself");
        }
    }

    fn taken_over(&self) -> LeadershipEnd {
        tracing::info!(destination = %self.status.destination(), "this process relays no longer and stands by");
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
            if !publisher_saves
                && let Some(position) = self.status.known_position()
                && saved != Some(position)
                && self.save_checkpoint(position).await
            {
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
