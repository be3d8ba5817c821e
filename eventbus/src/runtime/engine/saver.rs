//! Saves the progress of all handlers of a process: one save at a time, of all shards that have changed.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::Engine;
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
/// The interval at which the checkpoints of idle shards are saved.
const LAZY_INTERVAL: Duration = Duration::from_secs(1);
const FAILURE_BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// Requests for saves.
#[derive(Debug, Default)]
pub(super) struct SaveState {
    changed: Notify,
    due: Notify,
    /// Held during a save.
    saving: tokio::sync::Mutex<()>,
    /// From a save that failed until one that did not.
    outage: parking_lot::Mutex<Outage>,
}

impl SaveState {
    /// Asks for a save soon; with `is_due`, at once.
    pub(super) fn note_change(&self, is_due: bool) {
        self.changed.notify_one();
        if is_due {
            self.due.notify_one();
        }
    }

    /// Returns `true` from a save that failed until one that did not.
    pub(super) fn is_failing(&self) -> bool {
        self.outage.lock().lasts()
    }

    /// Returns `true` while a save is under way.
    pub(super) fn is_saving(&self) -> bool {
        self.saving.try_lock().is_err()
    }
}

impl Engine {
    /// Saves what has changed, until `cancel`.
    pub(super) async fn save_changes(self: Arc<Self>, cancel: CancellationToken) {
        let (mut failures, mut last_lazy) = (BackoffTimer::new(FAILURE_BACKOFF), Instant::now());
        loop {
            let lazy_at = last_lazy + LAZY_INTERVAL;
            let is_changed = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = self.save.changed.notified() => true,
                () = tokio::time::sleep_until(lazy_at) => false,
            };
            if !is_changed {
                last_lazy = Instant::now();
            }
            let began = Instant::now();
            if self.save_round(is_changed).await.is_err() {
                self.save.note_change(false);
                if cancel.run_until_cancelled(self.clock().sleep(failures.next_jittered())).await.is_none() {
                    return;
                }
                continue;
            }
            failures.reset();
            if !is_changed {
                continue;
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.save.due.notified() => {}
                () = tokio::time::sleep_until(began + SAVE_INTERVAL) => {}
            }
        }
    }

    /// Saves once what has changed; `is_lazy` leaves out shards of which only the checkpoint moves.
    ///
    /// # Errors
    /// The error of the store; the changes are part of the next save.
    pub(super) async fn save_round(&self, is_lazy: bool) -> Result<(), HandlerProgressError> {
        let _saving = self.save.saving.lock().await;
        let saves: Vec<ShardSave> = self.queues().iter().flat_map(|queue| queue.save(is_lazy)).collect();
        if saves.is_empty() {
            return Ok(());
        }
        let last_read = *self.last_read.lock();
        let unsaved = UnsavedOnDrop { engine: self, saves: Some(saves) };
        let answer = self.progress()?.save_shards(&self.member, last_read, unsaved.saves()).await;
        {
            let mut outage = self.save.outage.lock();
            match &answer {
                Err(error) if outage.begins() => {
                    tracing::warn!(error = %ErrorLine(error), "progress not saved, trying again");
                }
                Err(_) => {}
                Ok(_) => {
                    if let Some(lasted) = outage.ends() {
                        tracing::info!(?lasted, "progress is saved again");
                    }
                }
            }
        }
        match answer? {
            Saved::WentBack => {
                drop(unsaved.take());
                self.forget_all();
            }
            Saved::Held(held) => {
                for save in unsaved.take() {
                    let Some(queue) = self.queue(&save.shard.handler) else { continue };
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
}

/// Gives the changes of a save back that failed, or whose future was dropped.
struct UnsavedOnDrop<'e> {
    engine: &'e Engine,
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
            if let Some(queue) = self.engine.queue(&save.shard.handler) {
                queue.unsave(save);
            }
        }
    }
}
