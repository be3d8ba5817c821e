//! The relay's task: prepares the position, competes for the lease, and publishes while it holds the lease.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    RelayView,
    at_least_once::AtLeastOncePublisher,
    atomic::AtomicPublisher,
    checkpoint_names::load_halt,
    leadership::{LEASE_CHECK_INTERVAL, Leadership, LeadershipEnd, STOPPED_RETRY_INTERVAL},
    status::RelayStatusCell,
};
use crate::{
    domain::{error::BoxError, name::Name, stream::Position},
    port::{EventBus, EventStore, Lease, backoff::BackoffTimer, feed_claim::FeedClaim},
    runtime::{
        feed_head::{FAILURE_BACKOFF, FeedHead},
        held_lease::new_owner,
    },
    support::relay_to,
};

/// Options of a relay.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RelayOptions {
    /// Duration of the lease: the shortest time after the last renewal until a standby takes over.
    pub(crate) lease: Duration,
    /// Set if the stream may carry the events of other stores.
    pub(crate) is_stream_shared: bool,
    /// The shortest time between two publications at the end of the feed.
    pub(crate) gather: Duration,
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self { lease: Duration::from_secs(10), is_stream_shared: false, gather: Duration::ZERO }
    }
}

/// Publishes a store's feed to a bus.
///
/// The relay's leadership, in one process with [`RelayMode::ByLease`]:
///
/// | State | Event | Next state |
/// |---|---|---|
/// | standby | the lease is free or expired, or already this process's: acquired with a higher epoch | leader |
/// | standby | another process holds the lease | standby; next attempt after a second, or a third of the lease |
/// | standby | the store fails | standby with a problem; next attempt after a backoff |
/// | leader | another process has acquired the lease | standby; next attempt after a pause |
/// | leader | a renewal fails | leader; next renewal after a pause |
/// | leader | an error that only an operator can resolve ([`RelayError`]) | stopped; releases the lease |
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
    mode: RelayMode,
    /// Dropped with the relay: then the next app may feed the bus.
    #[allow(dead_code, reason = "it is held, not read")]
    claim: Arc<FeedClaim>,
}

/// Which process relays.
enum RelayMode {
    /// This one, always: the bus is not durable, and gets the events that are saved while this process runs.
    Always,
    /// The one that holds the lease.
    ByLease { role: Name, owner: Name },
}

impl Relay {
    /// Finds the position after which it publishes: the checkpoint for a durable bus, the head of the store for any other
    /// one. The relay holds the claim on the feed of the bus until it has ended.
    pub(crate) async fn prepare(
        feed_head: FeedHead,
        bus: Arc<dyn EventBus>,
        options: RelayOptions,
        claim: Arc<FeedClaim>,
    ) -> Result<Self, BoxError> {
        let (store, clock) = (Arc::clone(feed_head.store()), feed_head.clock().clone());
        let (mode, position) = if bus.is_durable() {
            let role = relay_to(bus.destination());
            let position = match store.load_checkpoint(&role).await? {
                Some(position) => position,
                None => {
                    // while this checkpoint exists, repositories refuse to publish the store's events themselves
                    store.save_checkpoint(&role, Position::START).await?;
                    Position::START
                }
            };
            (RelayMode::ByLease { role, owner: new_owner() }, position)
        } else {
            (RelayMode::Always, store.head().await?)
        };
        let status = RelayStatusCell::new(bus.destination().clone(), position, clock);
        Ok(Self { store, feed_head, bus, options, status, mode, claim })
    }

    /// Returns the status of this relay as its app reads it.
    pub(crate) fn view(&self) -> RelayView {
        self.status.view(&self.store, &*self.bus)
    }

    /// Publishes whenever this process is the leader, until cancelled.
    pub(crate) async fn run(&self, cancel: &CancellationToken) {
        let RelayMode::ByLease { role, owner } = &self.mode else {
            self.status.set_owner(true);
            let publisher = AtLeastOncePublisher::new(&*self.store, &*self.bus, &self.status);
            // ends a step that waits for room: the bus may be the next app's by then. No position is saved, and an event
            // that was not published is read again after the next start
            cancel.run_until_cancelled(publisher.run(&self.feed_head, self.options.gather, cancel)).await;
            return;
        };
        let (mut failures, mut standby_count) = (BackoffTimer::new(FAILURE_BACKOFF), 0);
        while !cancel.is_cancelled() {
            match self.store.acquire_lease(role, owner, self.options.lease).await {
                Ok(Some(lease)) => {
                    failures.reset();
                    standby_count = 0;
                    match self.lead(lease, cancel).await {
                        LeadershipEnd::TakenOver => self.pause(cancel).await,
                        LeadershipEnd::Stopped => self.wait_while_stopped(role, cancel).await,
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
    async fn lead(&self, lease: Lease, cancel: &CancellationToken) -> LeadershipEnd {
        let (store, bus, status) = (&*self.store, &*self.bus, &self.status);
        let RelayOptions { lease: ttl, gather, .. } = self.options;
        let leadership = Leadership { store, status, lease, ttl, gather, cancel };
        match self.bus.relay_target() {
            Some(target) => {
                let is_stream_shared = self.options.is_stream_shared;
                let publisher = AtomicPublisher::new(store, bus, status, target, is_stream_shared);
                leadership.run(publisher, &self.feed_head).await
            }
            None => leadership.run(AtLeastOncePublisher::new(store, bus, status), &self.feed_head).await,
        }
    }

    /// Sleeps until acquiring the lease is worth its epoch: an operator has resolved the halt, a different process
    /// relays, or [`STOPPED_RETRY_INTERVAL`] has passed.
    async fn wait_while_stopped(&self, role: &Name, cancel: &CancellationToken) {
        let (since, destination) = (self.status.clock().instant(), self.status.destination());
        let (is_halted, mut last_lease) = (self.status.is_halted(), None);
        while !cancel.is_cancelled() {
            self.pause(cancel).await;
            let may_go_on = match is_halted {
                true => matches!(load_halt(&*self.store, destination).await, Ok(None)),
                false => self.status.clock().elapsed(since) >= STOPPED_RETRY_INTERVAL,
            };
            let owner = self.store.lease_of(role).await.ok().flatten();
            // a stopped process that retries holds the lease for a moment only, a leader in two rounds
            if may_go_on || owner.is_some() && owner == last_lease {
                return;
            }
            last_lease = owner;
        }
    }

    async fn pause(&self, cancel: &CancellationToken) {
        cancel.run_until_cancelled(self.status.clock().sleep(LEASE_CHECK_INTERVAL.min(self.options.lease / 3))).await;
    }
}
