//! Runs the events that are suspected of ending their process: one at a time in a process, and alone.
//!
//! The row of such an event is saved before it runs: if the process dies now, it was this event. An event waits a limited
//! time for other runs to end. After that it runs beside them, and a death of the process does not count as its own.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Engine, handler_queue::HandlerQueue};

impl Engine {
    /// Runs events alone, until `cancel`.
    pub(super) async fn run_alone(self: Arc<Self>, cancel: CancellationToken) {
        loop {
            let next = self.queues().iter().find_map(|queue| {
                let wait = queue.wait_to_run_alone(self.clock())?;
                Some((Arc::clone(queue), wait))
            });
            match next {
                Some((queue, wait)) => {
                    let gate = self.clock().timeout(wait, self.gate.write());
                    let Some(gate) = cancel.run_until_cancelled(gate).await else { return };
                    let is_alone = gate.is_ok();
                    // tracked, so that a shutdown waits for it as for the workers
                    let (engine, abort) = (Arc::clone(&self), self.abort.clone());
                    let run = abort.run_until_cancelled_owned(engine.run_next_alone(&queue, is_alone));
                    self.workers.track_future(run).await;
                    drop(gate);
                }
                None => {
                    if cancel.run_until_cancelled(self.alone.notified()).await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    async fn run_next_alone(self: Arc<Self>, queue: &Arc<HandlerQueue>, is_alone: bool) {
        let Some(mut taken) = queue.take_alone(is_alone, self.clock()) else { return };
        while self.save_round(false).await.is_err() {
            self.clock().sleep(std::time::Duration::from_millis(100)).await;
        }
        // fenced by the save: another process runs it
        if !queue.owns(taken.shard, taken.epoch) {
            return;
        }
        let end = self.run_event(queue, &mut taken).await;
        queue.end(&taken, end, self.clock());
        self.save.note_change(false);
        self.start_workers(queue);
    }
}
