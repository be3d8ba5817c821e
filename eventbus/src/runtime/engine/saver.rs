//! Saves the progress of all handlers of a process: one save at a time, of all shards that have changed.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::shared::Shared;
use crate::{
    domain::error::ErrorLine,
    port::{
        backoff::{Backoff, BackoffTimer},
        handler_progress::{HandlerProgressError, Saved, ShardSave},
    },
    support::Outage,
};

/// The shortest time between the begins of two saves, unless many runs have ended. Real time, as it limits the load of a
/// server.
const SAVE_INTERVAL: Duration = Duration::from_millis(20);
/// The interval at which the checkpoints of idle shards are saved. Real time for the same reason.
const LAZY_INTERVAL: Duration = Duration::from_secs(1);
const FAILURE_BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// Saves the progress of the handlers of a process.
pub(super) struct Saver {
    shared: Arc<Shared>,
    /// Held during a save, so that the answers come in the order of the saves.
    saving: tokio::sync::Mutex<()>,
    /// From a save that failed until one that did not; held for moments.
    outage: Mutex<Outage>,
}

impl Saver {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, saving: tokio::sync::Mutex::default(), outage: Mutex::default() }
    }

    /// Returns `true` from a save that failed until one that did not.
    pub(super) fn is_failing(&self) -> bool {
        self.outage.lock().lasts()
    }

    /// Returns `true` while a save is under way.
    pub(super) fn is_saving(&self) -> bool {
        self.saving.try_lock().is_err()
    }

    /// Saves what has changed, until `cancel`.
    pub(super) async fn run(&self, cancel: &CancellationToken) {
        let (mut failures, mut last_lazy) = (BackoffTimer::new(FAILURE_BACKOFF), Instant::now());
        loop {
            let lazy_at = last_lazy + LAZY_INTERVAL;
            // a notification that is lost with its branch is one of progress that the save below contains
            let is_changed = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = self.shared.changed.notified() => true,
                () = tokio::time::sleep_until(lazy_at) => false,
            };
            if !is_changed {
                last_lazy = Instant::now();
            }
            let began = Instant::now();
            if self.save(is_changed).await.is_err() {
                self.shared.note_change(false);
                let pause = self.shared.clock().sleep(failures.next_jittered());
                if cancel.run_until_cancelled(pause).await.is_none() {
                    return;
                }
                continue;
            }
            failures.reset();
            if !is_changed {
                continue;
            }
            // each branch only ends the pause
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.shared.save_due.notified() => {}
                () = tokio::time::sleep_until(began + SAVE_INTERVAL) => {}
            }
        }
    }

    /// Saves once what has changed; `is_lazy` leaves out shards of which only the checkpoint moves.
    ///
    /// # Errors
    /// The error of the store; the changes are part of the next save.
    pub(super) async fn save(&self, is_lazy: bool) -> Result<(), HandlerProgressError> {
        let _saving = self.saving.lock().await;
        let saves: Vec<ShardSave> = self.shared.queues().iter().flat_map(|queue| queue.save(is_lazy)).collect();
        if saves.is_empty() {
            return Ok(());
        }
        self.save_all(saves).await
    }

    /// Forgets all shards if the store lacks the last event that was read: an older copy has replaced it.
    ///
    /// # Errors
    /// The error of the store.
    pub(super) async fn check_store(&self) -> Result<(), HandlerProgressError> {
        // no save is under way, which could take the place that is forgotten here for none
        let _saving = self.saving.lock().await;
        self.save_all(Vec::new()).await
    }

    async fn save_all(&self, saves: Vec<ShardSave>) -> Result<(), HandlerProgressError> {
        let shared = &*self.shared;
        let unsaved = UnsavedOnDrop { shared, saves: Some(saves) };
        let answer = shared.progress()?.save_shards(&shared.member, shared.last_read(), unsaved.saves()).await;
        self.note_answer(answer.as_ref().err());
        match answer? {
            Saved::WentBack => {
                drop(unsaved.take());
                shared.forget_all();
            }
            Saved::Held(held) => {
                for save in unsaved.take() {
                    let Some(queue) = shared.queue(&save.shard.handler) else { continue };
                    if held.contains(&save.shard) {
                        queue.saved(&save);
                    } else {
                        tracing::warn!(shard = %save.shard, "another process owns the shard now");
                        queue.forget(save.shard.number, save.epoch);
                    }
                }
            }
        }
        Ok(())
    }

    fn note_answer(&self, error: Option<&HandlerProgressError>) {
        let mut outage = self.outage.lock();
        match error {
            Some(error) if outage.begins() => {
                tracing::warn!(error = %ErrorLine(error), "progress not saved, trying again");
            }
            Some(_) => {}
            None => {
                if let Some(lasted) = outage.ends() {
                    tracing::info!(?lasted, "progress is saved again");
                }
            }
        }
    }
}

/// Gives the changes of a save back that failed, or whose future was dropped.
struct UnsavedOnDrop<'e> {
    shared: &'e Shared,
    saves: Option<Vec<ShardSave>>,
}

impl UnsavedOnDrop<'_> {
    fn saves(&self) -> &[ShardSave] {
        self.saves.as_deref().unwrap_or_default()
    }

    fn take(mut self) -> Vec<ShardSave> {
        self.saves.take().unwrap_or_default()
    }
}

impl Drop for UnsavedOnDrop<'_> {
    fn drop(&mut self) {
        for save in self.saves.take().into_iter().flatten() {
            if let Some(queue) = self.shared.queue(&save.shard.handler) {
                queue.unsave(save);
            }
        }
    }
}
