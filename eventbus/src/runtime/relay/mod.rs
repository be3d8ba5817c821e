//! The relay: the one publisher of what a store holds.
//!
//! Reads the feed after its position and publishes it in order; a save only wakes it, so a bus outage delays handlers
//! but never fails a save. Of the processes of an app one relays, by a lease in the store; the others stand by.
//!
//! Keep: the lease only saves double work. What keeps anything from being published twice is that a
//! [`RelayTarget`](crate::port::RelayTarget) moves its position together with the events; any other bus gets events
//! again after a crash between publishing and the checkpoint. The other way round would lose them.

mod at_least_once;
mod atomic;
mod backlog_filler;
mod error;
mod group_floors;
mod leadership;
mod range;
mod republish;
mod status;
mod view;

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::{
    at_least_once::{AtLeastOncePublisher, VolatileBusPublisher},
    atomic::{AtomicPublisher, load_halt},
    leadership::{Leadership, LeadershipEnd},
    status::RelayStatusCell,
};
pub(crate) use self::{
    backlog_filler::{Unfilled, fill_backlogs},
    group_floors::register_groups,
    republish::republish,
    status::RelayProgress,
    view::{RelayView, is_published_on_bus},
};
pub use self::{
    error::{RelayError, RepublishError},
    status::RelayStatus,
};
use super::{feed_poller::FeedPoller, held_lease::new_owner};
use crate::{
    domain::{clock::SharedClock, error::BoxError, name::Name, stream::Position},
    port::{EventBus, EventStore, Lease},
};

/// How often the lease of the owner is looked after, and that of another tried.
const LEASE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How often a relay that was stopped takes the lease to look whether it may go on: whoever takes it makes its epoch grow.
const STOPPED_RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// The checkpoint in the store that says how far a destination was fed; also the role of its relay.
pub(crate) fn checkpoint_name(destination: &Name) -> Name {
    Name::prefixed("relay:", destination)
}

/// How a relay is to work.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RelayOptions {
    /// For how long nobody else takes over after the last sign of life.
    pub(crate) lease: Duration,
    /// Whether the stream may carry the events of other stores.
    pub(crate) is_stream_shared: bool,
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self { lease: Duration::from_secs(10), is_stream_shared: false }
    }
}

/// Publishes a store's feed to a bus.
pub(crate) struct Relay {
    store: Arc<dyn EventStore>,
    bus: Arc<dyn EventBus>,
    options: RelayOptions,
    status: RelayStatusCell,
    mode: RelayMode,
}

/// Who relays.
enum RelayMode {
    /// This process: the bus forgets, and its groups keep their own progress in the store.
    Always,
    /// Whoever has the lease.
    ByLease { role: Name, owner: Name },
}

impl Relay {
    /// Finds out from where the bus needs the feed.
    ///
    /// Call it after the handlers are subscribed: a bus that forgets goes back to its slowest group.
    pub(crate) async fn prepare(
        store: Arc<dyn EventStore>,
        bus: Arc<dyn EventBus>,
        options: RelayOptions,
        clock: SharedClock,
    ) -> Result<Self, BoxError> {
        let resumed = bus.resume_from(Arc::clone(&store)).await?;
        let (mode, position) = if bus.is_durable() {
            let role = checkpoint_name(bus.destination());
            let position = match store.load_checkpoint(&role).await? {
                Some(position) => position,
                None => {
                    // from now on nobody else may publish what the store holds
                    store.save_checkpoint(&role, Position::START).await?;
                    Position::START
                }
            };
            (RelayMode::ByLease { role, owner: new_owner() }, position)
        } else {
            let position = match resumed {
                Some(position) => position,
                None => store.head().await?,
            };
            (RelayMode::Always, position)
        };
        let status = RelayStatusCell::new(bus.destination().clone(), position, clock);
        Ok(Self { store, bus, options, status, mode })
    }

    pub(crate) fn progress(&self) -> watch::Receiver<RelayProgress> {
        self.status.subscribe()
    }

    /// Publishes, whenever it is its turn, until cancelled.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let RelayMode::ByLease { role, owner } = &self.mode else {
            self.status.set_owner(true);
            VolatileBusPublisher::new(&*self.store, &*self.bus, &self.status).run(&self.store, &cancel).await;
            return;
        };
        let (mut feed, mut standby_count) = (FeedPoller::new(&self.store, self.status.clock().clone()), 0);
        while !cancel.is_cancelled() {
            match self.store.acquire_lease(role, owner, self.options.lease).await {
                Ok(Some(lease)) => {
                    feed.reset();
                    standby_count = 0;
                    match self.lead(lease, &cancel).await {
                        LeadershipEnd::TakenOver => self.pause(&cancel).await,
                        LeadershipEnd::Stopped => self.wait_while_stopped(role, &cancel).await,
                        // a store that was restored has forgotten owners that the bus knows: it makes up for them, one by one
                        LeadershipEnd::EpochBehindBus | LeadershipEnd::Cancelled => {}
                    }
                }
                Ok(None) => {
                    feed.reset();
                    standby_count += 1;
                    self.status.set_standby(standby_count);
                    self.pause(&cancel).await;
                }
                Err(error) => {
                    self.status.set_problem(&error.into());
                    feed.wait_after_failure(&cancel).await;
                }
            }
        }
    }

    /// Publishes while this process has the lease.
    async fn lead(&self, lease: Lease, cancel: &CancellationToken) -> LeadershipEnd {
        let leadership = Leadership::new(&*self.store, &self.status, lease, self.options.lease, cancel);
        match self.bus.relay_target() {
            Some(target) => {
                let publisher = AtomicPublisher::new(self, target, leadership.epoch());
                leadership.run(publisher, &self.store).await
            }
            None => {
                leadership.run(AtLeastOncePublisher::new(&*self.store, &*self.bus, &self.status), &self.store).await
            }
        }
    }

    /// Waits until a look is worth a lease: somebody decided, another process relays, or a while has passed.
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
            // others that look have it for a moment only
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
