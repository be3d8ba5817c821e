//! The workers that handle what is in hand.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering},
};

use tokio::{
    sync::{Notify, watch},
    task::{JoinError, JoinSet},
    time::Instant,
};

use super::{
    GroupContext, InFlight,
    group_context::RunGuard,
    state::{Job, NextJob},
    worker_slots::WorkerSlot,
};
use crate::port::{Delivery, Outcome, StopSignal, Subscriber, dispatch, watchdog};

impl InFlight {
    /// Handles entries until it is to stop, as many at once as the handlers allow; ends when the last is handled.
    pub async fn work(self: &Arc<Self>, context: &GroupContext, stop: &StopSignal) {
        let _ = self.group.set((context.group.clone(), context.subscribers.clone()));
        self.is_worked.store(true, Ordering::Release);
        context.subscribers.add_in_flight(&context.group, self);
        let mut changes = context.subscribers.watch();
        let mut free_places = watchdog::freed_slots().subscribe();
        let (mut workers, mut alone) = (JoinSet::new(), JoinSet::new());
        {
            let (hand, desk, stop) = (Arc::clone(self), context.clone(), stop.clone());
            alone.spawn(async move { hand.run_suspects(&desk, &stop).await });
        }
        loop {
            changes.mark_unchanged();
            while !stop.is_stopped() && workers.len() < self.workers(context) {
                let (hand, desk, stop) = (Arc::clone(self), context.clone(), stop.clone());
                workers.spawn(async move { hand.run_worker(&desk, &stop).await });
            }
            tokio::select! {
                _ = changes.changed() => {}
                _ = free_places.changed() => self.work.notify_waiters(), // those that had no place
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

    /// How many workers it takes; more than it holds entries would have nothing to do. One whose handler takes long, or
    /// blocks its thread for longer than it may take, is replaced.
    fn workers(&self, context: &GroupContext) -> usize {
        context.workers().saturating_add(context.subscribers.without_slot(&context.group)).min(self.bounds.entries)
    }

    async fn run_worker(&self, context: &GroupContext, stop: &StopSignal) {
        let taken_over = Arc::new(Notify::new());
        let mut handlers = GroupHandlers::new(context);
        while let Some((job, _running)) = self.next_job(context, &taken_over, &mut handlers, stop).await {
            // whoever was woken by taking it waits behind this task, and would wait for a handler that blocks its thread
            tokio::task::yield_now().await;
            self.handle(job, context, &handlers, &taken_over).await;
        }
    }

    /// Hands an entry to the handlers, until they have ended or another consumer has it.
    pub(super) async fn handle(&self, job: Job, context: &GroupContext, handlers: &GroupHandlers, taken_over: &Notify) {
        let attempt = job.attempts.attempts.saturating_add(1);
        let delivery = Delivery::new(job.record, context.group.clone()).with_attempt(attempt).with_message_id(job.id);
        context.counters.events_consumed(1);
        let handling =
            dispatch(&handlers.current, &delivery, &job.attempts, &context.limits, &self.clock, &*context.span);
        let outcome = tokio::select! {
            biased;
            outcome = handling => outcome,
            () = self.until_taken_over(taken_over, job.number) => return,
        };
        context.counters.count(&outcome);
        self.record_outcome(job.number, outcome, context);
    }

    /// The next entry to handle; nothing when it is to stop.
    async fn next_job(
        &self,
        context: &GroupContext,
        worker: &Arc<Notify>,
        handlers: &mut GroupHandlers,
        stop: &StopSignal,
    ) -> Option<(Job, (RunGuard, WorkerSlot))> {
        let mut lacks_place = false;
        loop {
            if stop.is_stopped() {
                return None;
            }
            let mut changed = pin!(self.work.notified());
            changed.as_mut().enable();
            let mut freed = pin!(self.worker_slots.freed());
            if lacks_place {
                freed.as_mut().enable();
            }
            handlers.refresh(context);
            // before it is taken: what waits for something that runs alone may still be given back
            let beside = tokio::select! {
                beside = context.run_lock.shared() => beside,
                () = stop.stopped() => return None,
            };
            let (due, no_place) = match self.take(context, worker, handlers) {
                NextJob::Work(job, slot) => return Some((job, (beside, slot))),
                NextJob::Idle(due) => (due, false),
                NextJob::NoSlot(due) => (due, true),
            };
            drop(beside);
            let was_told = std::mem::replace(&mut lacks_place, no_place);
            if lacks_place && !was_told {
                continue; // one may have been freed meanwhile
            }
            tokio::select! {
                () = changed => {}
                () = freed, if lacks_place => {}
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

    /// Waits until a worker does not have an entry any more, as somebody else has it.
    async fn until_taken_over(&self, taken_over: &Notify, number: u64) {
        loop {
            taken_over.notified().await;
            // the word may be about an entry before
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

/// A worker panics only if we have made a mistake: let it be seen, and the consumer begin anew.
fn propagate_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

/// The handlers of a group, as they were last.
pub(super) struct GroupHandlers {
    pub(super) current: Vec<Subscriber>,
    pub(super) changes: watch::Receiver<()>,
    pub(super) is_stale: bool,
}

impl GroupHandlers {
    pub(super) fn new(context: &GroupContext) -> Self {
        Self { current: Vec::new(), changes: context.subscribers.watch(), is_stale: true }
    }

    /// Notices subscribers that came or went.
    pub(super) fn refresh(&mut self, context: &GroupContext) {
        if self.is_stale || self.changes.has_changed().unwrap_or_default() {
            self.is_stale = false;
            self.changes.mark_unchanged();
            self.current = context.subscribers.of_group(&context.group);
        }
    }
}
