//! Workers: the tasks that run handlers for in-flight entries.

use std::{pin::pin, sync::Arc};

use tokio::{
    sync::Notify,
    task::{JoinError, JoinSet},
};

use super::{
    entries::InFlight,
    group_context::{GroupContext, GroupHandlers, RunGuard},
    job::handle,
    state::{Job, NextJob},
    suspects::SuspectRunner,
    worker_slots::WorkerSlot,
};
use crate::delivery::{StopSignal, watchdog};

/// Handles the in-flight entries of a consumer until `stop`, as many at once as the handlers allow; returns when the last
/// run has ended. At the deadline of a shutdown it aborts the runs.
pub async fn run_workers(in_flight: &Arc<InFlight>, context: &GroupContext, stop: &StopSignal) {
    in_flight.begin_work(context);
    let (mut workers, mut alone) = (JoinSet::new(), JoinSet::new());
    stop.until_deadline(run_until_stopped(in_flight, context, stop, &mut workers, &mut alone)).await;
    // aborts what still runs, and waits: a handler that does not await goes on until it does
    workers.shutdown().await;
    alone.shutdown().await;
    in_flight.end_work();
}

/// Runs the workers until `stop`; returns when the last run has ended.
async fn run_until_stopped(
    in_flight: &Arc<InFlight>,
    context: &GroupContext,
    stop: &StopSignal,
    workers: &mut JoinSet<()>,
    alone: &mut JoinSet<()>,
) {
    let mut changes = context.subscribers.watch();
    let mut freed_slots = watchdog::freed_slots().subscribe();
    let suspects = SuspectRunner::new(Arc::clone(in_flight), context.clone(), stop.clone());
    alone.spawn(async move { suspects.run().await });
    loop {
        changes.mark_unchanged();
        while !stop.is_stopped() && workers.len() < in_flight.workers(context) {
            let worker = Worker { in_flight: Arc::clone(in_flight), context: context.clone(), stop: stop.clone() };
            workers.spawn(async move { worker.run().await });
        }
        // a long run and a change of subscribers both may call for more workers
        tokio::select! {
            _ = changes.changed() => {}
            _ = freed_slots.changed() => in_flight.wake_workers(), // the workers without a slot
            ended = workers.join_next() => match ended {
                Some(ended) => propagate_panic(ended),
                None => break,
            },
            Some(ended) = alone.join_next() => propagate_panic(ended),
        }
    }
    while let Some(ended) = alone.join_next().await {
        propagate_panic(ended);
    }
}

/// An entry to handle, and what its worker holds meanwhile.
struct NextRun {
    job: Job,
    /// Set if taking the entry woke a task of the bus.
    has_woken: bool,
    _beside: RunGuard,
    _slot: WorkerSlot,
}

/// A task that handles entries one after the other.
struct Worker {
    in_flight: Arc<InFlight>,
    context: GroupContext,
    stop: StopSignal,
}

impl Worker {
    async fn run(&self) {
        let taken_over = Arc::new(Notify::new());
        let mut handlers = GroupHandlers::new(&self.context);
        let mut has_woken = false;
        while let Some(next) = self.next_job(&taken_over, &mut handlers).await {
            has_woken |= next.has_woken;
            if has_woken {
                // the woken task may wait behind this one: it runs before a handler that may block the thread
                tokio::task::yield_now().await;
            }
            has_woken = handle(&self.in_flight, next.job, &self.context, &handlers, &taken_over).await;
        }
    }

    /// Returns the next entry to handle; `None` once stopped.
    async fn next_job(&self, worker: &Arc<Notify>, handlers: &mut GroupHandlers) -> Option<NextRun> {
        let mut lacks_slot = false;
        loop {
            if self.stop.is_stopped() {
                return None;
            }
            // before the state is read: a wake-up between reading and waiting is not lost
            let mut changed = pin!(self.in_flight.woken());
            changed.as_mut().enable();
            let mut freed = pin!(self.in_flight.freed_slot());
            if lacks_slot {
                freed.as_mut().enable();
            }
            handlers.refresh(&self.context);
            // before taking an entry: while a suspect runs alone, an entry that no worker has taken can be nacked
            let beside = self.stop.run_until_stopped(self.context.run_lock.shared()).await?;
            let (next, has_woken) = self.in_flight.take(&self.context, worker, handlers);
            let (due, no_slot) = match next {
                NextJob::Work(job, slot) => return Some(NextRun { job, has_woken, _beside: beside, _slot: slot }),
                NextJob::Idle(due) => (due, false),
                NextJob::NoSlot(due) => (due, true),
            };
            drop(beside);
            let was_enabled = std::mem::replace(&mut lacks_slot, no_slot);
            if lacks_slot && !was_enabled {
                continue; // a slot may have been freed before `freed` was enabled
            }
            tokio::select! {
                () = changed => {}
                () = freed, if lacks_slot => {}
                () = self.in_flight.sleep_until(due) => {}
                _ = handlers.changes.changed() => handlers.is_stale = true,
                () = self.stop.stopped() => {}
            }
        }
    }
}

/// Resumes the panic of a worker. Only a bug in this crate causes one: the consumer fails visibly and is restarted.
fn propagate_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}
