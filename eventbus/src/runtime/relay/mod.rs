//! The relay: the one publisher of what a store holds.
//!
//! Reads the feed after its position and publishes it in order; a save only wakes it, so a bus outage delays handlers
//! but never fails a save. Of the processes of an app one relays, by a lease in the store; the others stand by.
//!
//! Keep: the lease only saves double work. What keeps anything from being published twice is that a
//! [`RelayTarget`](crate::port::RelayTarget) moves its position together with the events; any other bus gets events
//! again after a crash between publishing and the checkpoint. The other way round would lose them.

mod error;
mod fill;
mod groups;
mod plain;
mod progress;
mod range;
mod republish;
mod target;
mod turn;
mod view;

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::{
    error::{RelayError, RepublishError},
    progress::RelayStatus,
};
pub(crate) use self::{
    fill::{Unfilled, fill},
    groups::introduce,
    progress::RelayProgress,
    republish::republish,
    view::{RelayView, is_on_bus},
};
use self::{
    plain::{Forgetful, Plain},
    progress::Board,
    target::{ToTarget, halted},
    turn::{Ended, Turn},
};
use super::{feed::FeedWatch, tenure::new_owner};
use crate::{
    domain::{clock::SharedClock, error::BoxError, name::Name, stream::Position},
    port::{EventBus, EventStore, Lease},
};

/// How often the lease of the owner is looked after, and that of another tried.
const PACE: Duration = Duration::from_secs(1);

/// How often a relay that was stopped takes the lease to look whether it may go on: whoever takes it makes its epoch grow.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

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
    pub(crate) shared: bool,
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self { lease: Duration::from_secs(10), shared: false }
    }
}

/// Publishes a store's feed to a bus.
pub(crate) struct Relay {
    store: Arc<dyn EventStore>,
    bus: Arc<dyn EventBus>,
    options: RelayOptions,
    board: Board,
    turns: Turns,
}

/// Who relays.
enum Turns {
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
        let (turns, position) = if bus.is_durable() {
            let role = checkpoint_name(bus.destination());
            let position = match store.load_checkpoint(&role).await? {
                Some(position) => position,
                None => {
                    // from now on nobody else may publish what the store holds
                    store.save_checkpoint(&role, Position::START).await?;
                    Position::START
                }
            };
            (Turns::ByLease { role, owner: new_owner() }, position)
        } else {
            let position = match resumed {
                Some(position) => position,
                None => store.head().await?,
            };
            (Turns::Always, position)
        };
        let board = Board::new(bus.destination().clone(), position, clock);
        Ok(Self { store, bus, options, board, turns })
    }

    pub(crate) fn progress(&self) -> watch::Receiver<RelayProgress> {
        self.board.watch()
    }

    /// Publishes, whenever it is its turn, until cancelled.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let Turns::ByLease { role, owner } = &self.turns else {
            self.board.set_owner(true);
            Forgetful::new(&*self.store, &*self.bus, &self.board).run(&self.store, &cancel).await;
            return;
        };
        let (mut feed, mut stood_by) = (FeedWatch::new(&self.store, self.board.clock().clone()), 0);
        while !cancel.is_cancelled() {
            match self.store.acquire_lease(role, owner, self.options.lease).await {
                Ok(Some(lease)) => {
                    feed.made_progress();
                    stood_by = 0;
                    match self.take_turn(lease, &cancel).await {
                        Ended::Passed => self.wait(&cancel).await,
                        Ended::Stopped => self.wait_stopped(role, &cancel).await,
                        // a store that was restored has forgotten owners that the bus knows: it makes up for them, one by one
                        Ended::Forgotten | Ended::Cancelled => {}
                    }
                }
                Ok(None) => {
                    feed.made_progress();
                    stood_by += 1;
                    self.board.stands_by(stood_by);
                    self.wait(&cancel).await;
                }
                Err(error) => {
                    self.board.trouble(&error.into());
                    feed.failed(&cancel).await;
                }
            }
        }
    }

    /// Publishes while this process has the lease.
    async fn take_turn(&self, lease: Lease, cancel: &CancellationToken) -> Ended {
        let turn = Turn::new(&*self.store, &self.board, lease, self.options.lease, cancel);
        match self.bus.relay_target() {
            Some(target) => {
                let publishing = ToTarget::new(self, target, turn.epoch());
                turn.run(publishing, &self.store).await
            }
            None => turn.run(Plain::new(&*self.store, &*self.bus, &self.board), &self.store).await,
        }
    }

    /// Waits until a look is worth a lease: somebody decided, another process relays, or a while has passed.
    async fn wait_stopped(&self, role: &Name, cancel: &CancellationToken) {
        let (since, destination) = (self.board.clock().instant(), self.board.destination());
        let (is_halted, mut seen) = (self.board.is_halted(), None);
        while !cancel.is_cancelled() {
            self.wait(cancel).await;
            let may_go_on = match is_halted {
                true => matches!(halted(&*self.store, destination).await, Ok(None)),
                false => self.board.clock().elapsed(since) >= LOOK_AGAIN,
            };
            let owner = self.store.lease_of(role).await.ok().flatten();
            // others that look have it for a moment only
            if may_go_on || owner.is_some() && owner == seen {
                return;
            }
            seen = owner;
        }
    }

    async fn wait(&self, cancel: &CancellationToken) {
        cancel.run_until_cancelled(self.board.clock().sleep(PACE.min(self.options.lease / 3))).await;
    }
}
