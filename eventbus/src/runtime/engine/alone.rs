//! Runs the events that are suspected of ending their process: one at a time in a process, and alone.
//!
//! The row of such an event is saved before it runs: if the process dies now, it was this event. An event waits a limited
//! time for other runs to end. After that it runs beside them, and a death of the process does not count as its own.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{handler_queue::HandlerQueue, saver::Saver, shared::Shared, workers::Workers};

/// The delay before a row is saved again that could not be saved.
const SAVE_AGAIN: Duration = Duration::from_millis(100);

/// Runs events alone, until `cancel`.
pub(super) async fn run_alone(shared: &Shared, saver: &Saver, workers: &Arc<Workers>, cancel: &CancellationToken) {
    loop {
        let next = shared.queues().iter().find_map(|queue| {
            let wait = queue.wait_to_run_alone()?;
            Some((Arc::clone(queue), wait))
        });
        match next {
            Some((queue, wait)) => {
                let gate = shared.clock().timeout(wait, shared.gate.write());
                let Some(gate) = cancel.run_until_cancelled(gate).await else { return };
                let is_alone = gate.is_ok();
                workers.run_tracked(run_next(shared, saver, workers, &queue, is_alone)).await;
                drop(gate);
            }
            None => {
                if cancel.run_until_cancelled(shared.alone.notified()).await.is_none() {
                    return;
                }
            }
        }
    }
}

async fn run_next(shared: &Shared, saver: &Saver, workers: &Arc<Workers>, queue: &Arc<HandlerQueue>, is_alone: bool) {
    let Some(mut taken) = queue.take_alone(is_alone) else { return };
    while saver.save(false).await.is_err() {
        shared.clock().sleep(SAVE_AGAIN).await;
    }
    // fenced by the save: another process runs it
    if !queue.owns(taken.shard, taken.epoch) {
        return;
    }
    let end = workers.run_event(queue, &mut taken).await;
    queue.end(&taken, end, shared.clock());
    // before other events run: if one of them ends the process, this one has ended
    if saver.save(false).await.is_err() {
        shared.note_change(false);
    }
    workers.start(queue);
}
