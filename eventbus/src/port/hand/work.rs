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
    Desk, Hand,
    desk::RunGuard,
    places::Place,
    state::{Job, Turn},
};
use crate::port::{Delivery, Outcome, StopSignal, Subscriber, dispatch, watchdog};

impl Hand {
    /// Handles entries until it is to stop, as many at once as the handlers allow; ends when the last is handled.
    pub async fn work(self: &Arc<Self>, desk: &Desk, stop: &StopSignal) {
        let _ = self.group.set((desk.group.clone(), desk.subscribers.clone()));
        self.is_worked.store(true, Ordering::Release);
        desk.subscribers.add_hand(&desk.group, self);
        let mut changes = desk.subscribers.watch();
        let mut free_places = watchdog::free_places().subscribe();
        let (mut workers, mut alone) = (JoinSet::new(), JoinSet::new());
        {
            let (hand, desk, stop) = (Arc::clone(self), desk.clone(), stop.clone());
            alone.spawn(async move { hand.work_on_suspects(&desk, &stop).await });
        }
        loop {
            changes.mark_unchanged();
            while !stop.is_stopped() && workers.len() < self.workers(desk) {
                let (hand, desk, stop) = (Arc::clone(self), desk.clone(), stop.clone());
                workers.spawn(async move { hand.work_alone(&desk, &stop).await });
            }
            tokio::select! {
                _ = changes.changed() => {}
                _ = free_places.changed() => self.work.notify_waiters(), // those that had no place
                ended = workers.join_next() => match ended {
                    Some(ended) => propagate(ended),
                    None => break,
                },
                Some(ended) = alone.join_next() => propagate(ended),
            }
        }
        while let Some(ended) = alone.join_next().await {
            propagate(ended);
        }
        self.is_worked.store(false, Ordering::Release);
    }

    /// How many workers it takes; more than it holds entries would have nothing to do. One whose handler takes long, or
    /// blocks its thread for longer than it may take, is replaced.
    fn workers(&self, desk: &Desk) -> usize {
        desk.workers().saturating_add(desk.subscribers.without_place(&desk.group)).min(self.bounds.entries)
    }

    async fn work_alone(&self, desk: &Desk, stop: &StopSignal) {
        let taken_over = Arc::new(Notify::new());
        let mut handlers = Handlers::new(desk);
        while let Some((job, _running)) = self.next_job(desk, &taken_over, &mut handlers, stop).await {
            // whoever was woken by taking it waits behind this task, and would wait for a handler that blocks its thread
            tokio::task::yield_now().await;
            self.handle(job, desk, &handlers, &taken_over).await;
        }
    }

    /// Hands an entry to the handlers, until they have ended or another consumer has it.
    pub(super) async fn handle(&self, job: Job, desk: &Desk, handlers: &Handlers, taken_over: &Notify) {
        let attempt = job.tries.attempts.saturating_add(1);
        let delivery = Delivery::new(job.record, desk.group.clone()).with_attempt(attempt).with_message_id(job.id);
        desk.counters.events_consumed(1);
        let handling = dispatch(&handlers.now, &delivery, &job.tries, &desk.limits, &self.clock, &*desk.span);
        let outcome = tokio::select! {
            biased;
            outcome = handling => outcome,
            () = self.until_taken_over(taken_over, job.number) => return,
        };
        desk.counters.count(&outcome);
        self.settle(job.number, outcome, desk);
    }

    /// The next entry to handle; nothing when it is to stop.
    async fn next_job(
        &self,
        desk: &Desk,
        worker: &Arc<Notify>,
        handlers: &mut Handlers,
        stop: &StopSignal,
    ) -> Option<(Job, (RunGuard, Place))> {
        let mut lacks_place = false;
        loop {
            if stop.is_stopped() {
                return None;
            }
            let mut changed = pin!(self.work.notified());
            changed.as_mut().enable();
            let mut freed = pin!(self.places.freed());
            if lacks_place {
                freed.as_mut().enable();
            }
            handlers.refresh(desk);
            // before it is taken: what waits for something that runs alone may still be given back
            let beside = tokio::select! {
                beside = desk.run_lock.beside() => beside,
                () = stop.stopped() => return None,
            };
            let (due, no_place) = match self.take(desk, worker, handlers) {
                Turn::Work(job, place) => return Some((job, (beside, place))),
                Turn::Idle(due) => (due, false),
                Turn::NoPlace(due) => (due, true),
            };
            drop(beside);
            let was_told = std::mem::replace(&mut lacks_place, no_place);
            if lacks_place && !was_told {
                continue; // one may have been freed meanwhile
            }
            tokio::select! {
                () = changed => {}
                () = freed, if lacks_place => {}
                () = self.until(due) => {}
                _ = handlers.changes.changed() => handlers.is_stale = true,
                () = stop.stopped() => {}
            }
        }
    }

    fn take(&self, desk: &Desk, worker: &Arc<Notify>, handlers: &Handlers) -> Turn {
        if handlers.now.is_empty() {
            return Turn::Idle(None);
        }
        let workers = self.workers(desk);
        let mut state = self.state();
        let place = if state.startable() > 0 { self.places.take(workers) } else { None };
        let turn = state.take(worker, place, workers, self.clock.instant(), self.bounds);
        self.tell(state);
        turn
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

    pub(super) async fn until(&self, due: Option<Instant>) {
        match due {
            Some(at) => self.clock.sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    fn settle(&self, number: u64, outcome: Outcome, desk: &Desk) {
        let mut state = self.state();
        state.settle(number, outcome, &desk.retry, self.clock.instant());
        self.tell(state);
    }
}

/// A worker panics only if we have made a mistake: let it be seen, and the consumer begin anew.
fn propagate(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

/// The handlers of a group, as they were last.
pub(super) struct Handlers {
    pub(super) now: Vec<Subscriber>,
    pub(super) changes: watch::Receiver<()>,
    pub(super) is_stale: bool,
}

impl Handlers {
    pub(super) fn new(desk: &Desk) -> Self {
        Self { now: Vec::new(), changes: desk.subscribers.watch(), is_stale: true }
    }

    /// Notices subscribers that came or went.
    pub(super) fn refresh(&mut self, desk: &Desk) {
        if self.is_stale || self.changes.has_changed().unwrap_or_default() {
            self.is_stale = false;
            self.changes.mark_unchanged();
            self.now = desk.subscribers.of_group(&desk.group);
        }
    }
}
