//! The relay's task: prepares the position, competes for the lease, and publishes while it holds the lease.
//!
//! Invariant: the leader saves the checkpoint only while its lease is valid. So after a pause it does not set back its
//! successor's checkpoint.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    RelayView,
    checkpoint_names::load_halt,
    publisher::{PublishEnd, Publisher},
    status::RelayStatusCell,
};
use crate::{
    domain::{error::BoxError, stream::Position},
    port::{EventBus, EventStore, RelayTarget, backoff::BackoffTimer},
    runtime::{
        feed_head::{FAILURE_BACKOFF, FeedHead},
        held_lease::{HeldLease, LeaseRequest},
    },
};

/// Interval at which the leader saves its position, and a standby tries to acquire the lease.
const LEASE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Interval at which a stopped relay acquires the lease for a retry; each acquisition raises the epoch.
const STOPPED_RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// Options of a relay.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RelayOptions {
    /// Set if the stream may carry the events of other stores.
    pub(crate) is_stream_shared: bool,
    /// The shortest time between two publications at the end of the feed.
    pub(crate) gather: Duration,
}

/// Publishes a store's feed to a bus, from the process that holds the lease.
///
/// | State | Event | Next state |
/// |---|---|---|
/// | standby | the lease is free or expired, or already this process's: acquired with a higher epoch | leader |
/// | standby | another process holds the lease | standby; next attempt after a second, or a third of the lease |
/// | standby | the store fails | standby with a problem; next attempt after a backoff |
/// | leader | the lease has ended, see [`HeldLease`] | standby; next attempt after a pause |
/// | leader | an error that only an operator can resolve ([`RelayError`](super::RelayError)) | stopped; releases the lease |
/// | stopped | halted (the store is behind the bus), and an operator has resolved the halt | standby; next attempt at once |
/// | stopped | not halted, and a minute has passed | standby; next attempt at once |
/// | stopped | another process holds the same lease in two checks in a row | standby; next attempt at once |
/// | any | cancelled | ended; a leader releases the lease |
pub(crate) struct Relay {
    store: Arc<dyn EventStore>,
    feed_head: FeedHead,
    bus: Arc<dyn EventBus>,
    options: RelayOptions,
    status: RelayStatusCell,
    lease_request: LeaseRequest,
}

/// Reason why a process is not the leader any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeadershipEnd {
    /// The app cancelled it.
    Cancelled,
    /// The lease has ended.
    TakenOver,
    /// Only an operator can help.
    Stopped,
}

impl Relay {
    /// Finds the position after which it publishes: its checkpoint in the store.
    pub(crate) async fn prepare(
        feed_head: FeedHead,
        bus: Arc<dyn EventBus>,
        options: RelayOptions,
        lease_request: LeaseRequest,
    ) -> Result<Self, BoxError> {
        let (store, clock) = (Arc::clone(feed_head.store()), feed_head.clock().clone());
        let role = &lease_request.role;
        let position = match store.load_checkpoint(role).await? {
            Some(position) => position,
            None => {
                // while this checkpoint exists, repositories refuse to publish the store's events themselves
                store.save_checkpoint(role, Position::START).await?;
                Position::START
            }
        };
        let status = RelayStatusCell::new(bus.destination().clone(), position, clock);
        Ok(Self { store, feed_head, bus, options, status, lease_request })
    }

    /// Returns the status of this relay as its app reads it.
    pub(crate) fn view(&self) -> RelayView {
        self.status.view(&self.store, &*self.bus)
    }

    /// Publishes whenever this process is the leader, until cancelled.
    pub(crate) async fn run(&self, cancel: &CancellationToken) {
        // the start of the app has refused a bus without one
        let Some(target) = self.bus.relay_target() else { return };
        let (mut failures, mut standby_count) = (BackoffTimer::new(FAILURE_BACKOFF), 0);
        while !cancel.is_cancelled() {
            match self.lease_request.acquire(cancel).await {
                Ok(Some(held_lease)) => {
                    failures.reset();
                    standby_count = 0;
                    match self.lead(target, held_lease, cancel).await {
                        LeadershipEnd::TakenOver => self.pause(cancel).await,
                        LeadershipEnd::Stopped => self.wait_while_stopped(cancel).await,
                        LeadershipEnd::Cancelled => {}
                    }
                }
                Ok(None) => {
                    failures.reset();
                    standby_count += 1;
                    self.status.set_standby(standby_count);
                    self.pause(cancel).await;
                }
                Err(error) => {
                    self.status.set_problem(&error.into());
                    cancel.run_until_cancelled(self.status.clock().sleep(failures.next_jittered())).await;
                }
            }
        }
    }

    /// Publishes while this process holds the lease.
    async fn lead(&self, target: &dyn RelayTarget, held_lease: HeldLease, cancel: &CancellationToken) -> LeadershipEnd {
        let (status, destination, epoch) = (&self.status, self.status.destination(), held_lease.lease().epoch);
        if status.is_stopped() {
            tracing::debug!(%destination, epoch, "this process checks whether the stopped relay can go on");
        } else {
            tracing::info!(%destination, epoch, "this process relays");
        }
        status.begin_leadership();
        let cancel_publishing = held_lease.ended().child_token();
        let publish = async {
            let mut publisher = Publisher::new(&*self.store, &*self.bus, status, target, self.options.is_stream_shared);
            let end = publisher.run(&self.feed_head, self.options.gather, &cancel_publishing).await;
            cancel_publishing.cancel();
            end
        };
        // a lost lease does not cut off the step that runs: the bus compares its record
        let (end, ()) = tokio::join!(publish, self.save_until(&cancel_publishing, &held_lease));
        status.set_owner(false);
        let end = match end {
            PublishEnd::Stopped(error) => {
                status.set_stopped(error);
                LeadershipEnd::Stopped
            }
            PublishEnd::Cancelled if cancel.is_cancelled() => LeadershipEnd::Cancelled,
            PublishEnd::Cancelled => {
                tracing::info!(%destination, "this process relays no longer and stands by");
                return LeadershipEnd::TakenOver;
            }
        };
        // a restored store has the right checkpoint; the lease may have passed on since its last renewal
        if !status.is_halted()
            && let Some(position) = status.known_position()
            && matches!(held_lease.renew().await, Ok(true))
        {
            self.save_checkpoint(position).await;
        }
        held_lease.release().await;
        end
    }

    /// Saves the position as the checkpoint, each second, until publishing ends.
    async fn save_until(&self, cancel_publishing: &CancellationToken, held_lease: &HeldLease) {
        let (interval, mut saved) = (self.check_interval(), None);
        while cancel_publishing.run_until_cancelled(self.status.clock().sleep(interval)).await.is_some() {
            if let Some(position) = self.status.known_position()
                && saved != Some(position)
                && !held_lease.may_have_expired()
                && self.save_checkpoint(position).await
            {
                saved = Some(position);
            }
        }
    }

    async fn save_checkpoint(&self, position: Position) -> bool {
        let saved = self.store.save_checkpoint(&self.lease_request.role, position).await;
        if let Err(error) = &saved {
            tracing::debug!(%error, "the relay's checkpoint was not saved, trying again");
        }
        saved.is_ok()
    }

    /// Sleeps until acquiring the lease is worth its epoch: an operator has resolved the halt, a different process
    /// relays, or [`STOPPED_RETRY_INTERVAL`] has passed.
    async fn wait_while_stopped(&self, cancel: &CancellationToken) {
        let (since, destination) = (self.status.clock().instant(), self.status.destination());
        let (is_halted, mut last_lease) = (self.status.is_halted(), None);
        while !cancel.is_cancelled() {
            self.pause(cancel).await;
            let may_go_on = match is_halted {
                true => matches!(load_halt(&*self.store, destination).await, Ok(None)),
                false => self.status.clock().elapsed(since) >= STOPPED_RETRY_INTERVAL,
            };
            let owner = self.store.lease_of(&self.lease_request.role).await.ok().flatten();
            // a stopped process that retries holds the lease for a moment only, a leader in two rounds
            if may_go_on || owner.is_some() && owner == last_lease {
                return;
            }
            last_lease = owner;
        }
    }

    async fn pause(&self, cancel: &CancellationToken) {
        cancel.run_until_cancelled(self.status.clock().sleep(self.check_interval())).await;
    }

    fn check_interval(&self) -> Duration {
        LEASE_CHECK_INTERVAL.min(self.lease_request.ttl / 3)
    }
}
