//! The relay as an app sees it, whichever process is the leader.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{RelayProgress, RelayStatus, checkpoint_names::checkpoint_name};
use crate::{
    domain::{clock::SharedClock, name::Name, stream::Position},
    port::{EventBus, EventStore, Publisher},
    support::{relay_to, skipped_positions},
};

/// Interval at which a waiting caller polls the checkpoint of a relay in a different process.
const POSITION_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The relay of a destination, as seen from one process.
pub(crate) struct RelayView {
    store: Arc<dyn EventStore>,
    /// The relay's name as a reader that skips events.
    reader: Name,
    /// The checkpoint that the leader saves about once a second; `None` if no other process can relay to this bus.
    checkpoint: Option<Name>,
    progress: Option<watch::Receiver<RelayProgress>>,
}

/// Returns `true` if the bus itself confirms that all events up to `wanted` are published, or keeps no position: a
/// relay notices only with its next step that an operator has set the position back.
pub(crate) async fn is_published_on_bus(store: &dyn EventStore, bus: &dyn EventBus, wanted: Position) -> bool {
    let Some(target) = bus.relay_target() else {
        return true;
    };
    let Ok(store) = store.store_id().await else {
        return false;
    };
    let published_positions = target.published_positions(Publisher { store, epoch: 0 }).await;
    published_positions.is_ok_and(|positions| positions.iter().all(|published| published.position >= wanted))
}

/// State of the relay of this process.
#[derive(Default)]
struct LocalRelayState {
    position: Position,
    is_owner: bool,
    is_stopped: bool,
}

impl RelayView {
    /// Returns `None` if no process relays to this bus.
    pub(crate) fn for_bus(
        store: &Arc<dyn EventStore>,
        bus: &dyn EventBus,
        progress: Option<&watch::Receiver<RelayProgress>>,
    ) -> Option<Self> {
        let checkpoint = bus.is_durable().then(|| checkpoint_name(bus.destination()));
        (progress.is_some() || checkpoint.is_some()).then(|| Self {
            store: Arc::clone(store),
            reader: relay_to(bus.destination()),
            checkpoint,
            progress: progress.cloned(),
        })
    }

    /// Returns the position up to which all events are published, as far as this process can tell.
    pub(crate) async fn position(&self) -> Position {
        let local = self.local_state();
        let saved = if local.is_owner { None } else { self.load_saved_position().await };
        local.position.max(saved.unwrap_or_default())
    }

    /// Reads the progress of the relay of this process; the default if there is none.
    pub(crate) fn read_progress<T: Default>(&self, read: impl FnOnce(&RelayProgress) -> T) -> T {
        self.progress.as_ref().map(|progress| read(&progress.borrow())).unwrap_or_default()
    }

    pub(crate) fn is_owner(&self) -> bool {
        self.local_state().is_owner
    }

    fn local_state(&self) -> LocalRelayState {
        self.read_progress(|now| LocalRelayState {
            position: now.position,
            is_owner: now.is_owner,
            is_stopped: now.stopped.is_some(),
        })
    }

    async fn load_saved_position(&self) -> Option<Position> {
        self.store.load_checkpoint(self.checkpoint.as_ref()?).await.ok()?
    }

    /// Waits until all events up to `wanted` are published. Returns `false` if the relay ended, or has stopped until an
    /// operator resolves the error.
    pub(crate) async fn wait_for_position(&mut self, wanted: Position, clock: &SharedClock) -> bool {
        loop {
            let local = self.local_state();
            if local.position >= wanted
                || !local.is_owner && self.load_saved_position().await.is_some_and(|saved| saved >= wanted)
            {
                return true;
            }
            if local.is_stopped {
                return false;
            }
            let Some(progress) = &mut self.progress else {
                clock.sleep(POSITION_POLL_INTERVAL).await;
                continue;
            };
            // the relay of this process wakes the caller, that of a different one only saves its checkpoint
            tokio::select! {
                changed = progress.changed() => if changed.is_err() {
                    return progress.borrow().position >= wanted;
                },
                () = clock.sleep(POSITION_POLL_INTERVAL), if self.checkpoint.is_some() && !local.is_owner => {}
            }
        }
    }

    /// Returns how long the first event after `position` has been stored.
    async fn lag(&self, position: Position, clock: &SharedClock) -> Option<Duration> {
        let waits_since = self.store.first_recorded_after(position).await.ok()?;
        // the clock of the process that recorded it may be ahead
        Some(waits_since.map_or(Duration::ZERO, |since| (clock.now() - since).try_into().unwrap_or_default()))
    }

    pub(crate) async fn status(&self, clock: &SharedClock) -> RelayStatus {
        let (position, head, local) = (self.position().await, self.store.head().await.ok(), self.local_state());
        RelayStatus {
            position,
            head,
            is_owner: local.is_owner,
            lag: self.lag(position, clock).await,
            trouble: self.read_progress(|now| now.problem.clone()),
            stopped: self.read_progress(|now| now.stopped.clone()),
            since: self.read_progress(RelayProgress::since),
            skipped: skipped_positions(&*self.store, &self.reader).await.ok().map(|skips| skips.len() as u64),
        }
    }
}
