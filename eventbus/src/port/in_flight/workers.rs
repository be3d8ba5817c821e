//! Workers: the tasks that run handlers for in-flight entries.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering},
};

use tokio::{
    sync::Notify,
    task::{JoinError, JoinSet},
    time::Instant,
};

use super::{
    GroupContext, InFlight,
    group_context::{GroupHandlers, RunGuard},
    state::{Job, NextJob},
    worker_slots::WorkerSlot,
};
use crate::port::{Delivery, Outcome, StopSignal, dispatch, watchdog};

impl InFlight {
    /// Handles entries until `stop`, as many at once as the handlers allow; returns when the last run has ended.
    pub async fn work(self: &Arc<Self>, context: &GroupContext, stop: &StopSignal) {
        let _ = self.group.set((context.group.clone(), context.subscribers.clone()));
        self.is_worked.store(true, Ordering::Release);
        let report = Arc::downgrade(self);
        context.subscribers.add_in_flight(&context.group, report);
        let mut changes = context.subscribers.watch();
        let mut freed_slots = watchdog::freed_slots().subscribe();
        let (mut workers, mut alone) = (JoinSet::new(), JoinSet::new());
        {
            let (in_flight, context, stop) = (Arc::clone(self), context.clone(), stop.clone());
            alone.spawn(async move { in_flight.run_suspects(&context, &stop).await });
        }
        loop {
            changes.mark_unchanged();
            while !stop.is_stopped() && workers.len() < self.workers(context) {
                let (in_flight, context, stop) = (Arc::clone(self), context.clone(), stop.clone());
                workers.spawn(async move { in_flight.run_worker(&context, &stop).await });
            }
            // a long run and a change of subscribers both may call for more workers
            tokio::select! {
                _ = changes.changed() => {}
                _ = freed_slots.changed() => self.work.notify_waiters(), // the workers without a slot
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
        self.is_worked.store(false, Ordering::Release);
    }

    /// Returns the number of workers, at most one per entry that fits. Each worker whose handler takes long, or blocks
    /// its thread past its time limit, gets a replacement.
    fn workers(&self, context: &GroupContext) -> usize {
        context.workers().saturating_add(context.subscribers.without_slot(&context.group)).min(self.bounds.entries)
    }

    async fn run_worker(&self, context: &GroupContext, stop: &StopSignal) {
        let taken_over = Arc::new(Notify::new());
        let mut handlers = GroupHandlers::new(context);
        while let Some((job, _running)) = self.next_job(context, &taken_over, &mut handlers, stop).await {
            // taking the entry woke tasks that wait behind this one: they run before a handler that may block the
            // thread
            tokio::task::yield_now().await;
            self.handle(job, context, &handlers, &taken_over).await;
        }
    }

    /// Runs the handlers for an entry, until they end or the entry is released.
    pub(super) async fn handle(&self, job: Job, context: &GroupContext, handlers: &GroupHandlers, taken_over: &Notify) {
        let attempt = job.attempts.attempts.saturating_add(1);
        let delivery = Delivery::new(job.record, context.group.clone()).with_attempt(attempt).with_message_id(job.id);
        context.counters.events_consumed(1);
        let handling =
            dispatch(&handlers.current, &delivery, &job.attempts, &context.limits, &self.clock, &*context.span);
        let outcome = tokio::select! {
            biased; // a run that has ended counts, also if its entry is released at the same moment
            outcome = handling => outcome,
            () = self.until_taken_over(taken_over, job.number) => return,
        };
        outcome.count_in(&context.counters);
        self.record_outcome(job.number, outcome, context);
    }

    /// Returns the next entry to handle, and the guards to hold meanwhile; `None` once stopped.
    async fn next_job(
        &self,
        context: &GroupContext,
        worker: &Arc<Notify>,
        handlers: &mut GroupHandlers,
        stop: &StopSignal,
    ) -> Option<(Job, (RunGuard, WorkerSlot))> {
        let mut lacks_slot = false;
        loop {
            if stop.is_stopped() {
                return None;
            }
            // before the state is read: a wake-up between reading and waiting is not lost
            let mut changed = pin!(self.work.notified());
            changed.as_mut().enable();
            let mut freed = pin!(self.worker_slots.freed());
            if lacks_slot {
                freed.as_mut().enable();
            }
            handlers.refresh(context);
            // before taking an entry: while a suspect runs alone, an entry that no worker has taken can be nacked
            let beside = tokio::select! {
                beside = context.run_lock.shared() => beside,
                () = stop.stopped() => return None,
            };
            let (due, no_slot) = match self.take(context, worker, handlers) {
                NextJob::Work(job, slot) => return Some((job, (beside, slot))),
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
                () = self.sleep_until(due) => {}
                _ = handlers.changes.changed() => handlers.is_stale = true,
                () = stop.stopped() => {}
            }
        }
    }

    fn take(&self, context: &GroupContext, worker: &Arc<Notify>, handlers: &GroupHandlers) -> NextJob {
        if handlers.current.is_empty() {
            return NextJob::Idle(None);
        }
        let workers = self.workers(context);
        let mut state = self.state();
        let slot = if state.startable() > 0 { self.worker_slots.take(workers) } else { None };
        let next_job = state.next_job(worker, slot, workers, self.clock.instant(), self.bounds);
        self.notify_waiters(state);
        next_job
    }

    /// Waits until an entry does not run any more, as the consumer has released it.
    async fn until_taken_over(&self, taken_over: &Notify, number: u64) {
        loop {
            taken_over.notified().await;
            // the notification may be for an earlier entry of this worker
            if !self.state().is_running(number) {
                return;
            }
        }
    }

    pub(super) async fn sleep_until(&self, due: Option<Instant>) {
        match due {
            Some(at) => self.clock.sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    fn record_outcome(&self, number: u64, outcome: Outcome, context: &GroupContext) {
        let mut state = self.state();
        state.record_outcome(number, outcome, &context.retry, self.clock.instant());
        self.notify_waiters(state);
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
