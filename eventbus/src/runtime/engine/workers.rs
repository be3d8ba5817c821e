//! Runs the events that handlers hold.

use std::{sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    dead_letters::id_of,
    handler_queue::HandlerQueue,
    handler_run::run_handler,
    shard::{End, Taken},
    shared::Shared,
};
use crate::domain::record::RecordedEvent;

/// The time after which an event that cannot be read is read again, in milliseconds.
const REREAD_MILLIS: u64 = 1_000;
/// The number of runs after which a worker lets other tasks run.
const YIELD_EVERY: u32 = 16;

/// The workers of all handlers of a process.
pub(super) struct Workers {
    shared: Arc<Shared>,
    tracker: TaskTracker,
    abort: CancellationToken,
}

impl Workers {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, tracker: TaskTracker::new(), abort: CancellationToken::new() }
    }

    /// Starts workers for the events of a handler that are ready.
    pub(super) fn start(self: &Arc<Self>, queue: &Arc<HandlerQueue>) {
        for _ in 0..queue.claim_workers(self.shared.clock()) {
            let (workers, queue) = (Arc::clone(self), Arc::clone(queue));
            let abort = self.abort.clone();
            self.tracker.spawn(async move { abort.run_until_cancelled(workers.work(&queue)).await });
        }
        self.wake_alone(queue);
    }

    /// Starts workers for the events of all handlers that are ready.
    pub(super) fn start_all(self: &Arc<Self>) {
        self.shared.queues().iter().for_each(|queue| self.start(queue));
    }

    fn wake_alone(&self, queue: &HandlerQueue) {
        if queue.wait_to_run_alone().is_some() {
            self.shared.alone.notify_one();
        }
    }

    /// Ends the running handlers: their events run again in the next process.
    pub(super) fn abort(&self) {
        self.abort.cancel();
    }

    /// Waits until all runs have ended, or were aborted; starts none after that.
    pub(super) async fn join(&self) {
        self.tracker.close();
        self.abort.run_until_cancelled(self.tracker.wait()).await;
        // an aborted run ends at its next await
        self.tracker.wait().await;
    }

    /// Runs events of a handler as long as there are any.
    async fn work(&self, queue: &HandlerQueue) {
        let (mut ended, mut runs) = (None, 0_u32);
        loop {
            let next = queue.next(ended.take(), self.shared.clock());
            if next.wants_more {
                self.shared.backlog.notify_one();
            }
            self.shared.note_change(next.is_save_due);
            let Some(mut taken) = next.taken else { break };
            let end = {
                let _beside = self.shared.gate.read().await;
                // the lease may be over after a long wait
                if queue.may_start(taken.shard, taken.epoch) {
                    self.run_event(queue, &mut taken).await
                } else {
                    End::Again(taken.attempts.clone())
                }
            };
            ended = Some((taken, end));
            // a handler that does nothing never yields
            runs = (runs + 1) % YIELD_EVERY;
            if runs == 0 {
                tokio::task::yield_now().await;
            }
        }
        if queue.next_due().is_some() {
            self.shared.due.notify_one();
        }
        self.wake_alone(queue);
    }

    /// Runs an event outside of a worker, in a way that a shutdown waits for it as for the workers; `None` if it was aborted.
    pub(super) async fn run_tracked<T>(&self, run: impl Future<Output = T>) -> Option<T> {
        self.tracker.track_future(self.abort.run_until_cancelled(run)).await
    }

    /// Runs a taken event; reads it first if it has waited behind a failed one.
    pub(super) async fn run_event(&self, queue: &HandlerQueue, taken: &mut Taken) -> End {
        let event = match taken.event.take() {
            Some(event) => event,
            None => match self.read_taken(queue, taken).await {
                Ok(event) => event,
                Err(end) => return end,
            },
        };
        self.shared.counters.events_consumed(1);
        let end = run_handler(queue, taken, event.clone(), self.shared.clock()).await;
        self.count(&end);
        if let End::Dead { attempts, since, .. } = &end {
            let dead_letter = id_of(&queue.spec.name, taken.position, *since);
            let (event_type, aggregate) = (event.event_type(), event.metadata().stream());
            tracing::error!(
                handler = %queue.spec.name, group = %queue.spec.group, %dead_letter, error = attempts.errors(),
                attempts = attempts.most_attempts(), %event_type, %aggregate,
                "delivery given up: it is a dead letter now"
            );
        }
        end
    }

    /// Reads a taken event; how it ends instead if it cannot be read.
    async fn read_taken(&self, queue: &HandlerQueue, taken: &Taken) -> Result<RecordedEvent, End> {
        let (handler, position) = (&queue.spec.name, taken.position);
        match self.shared.store().read_events_at(&[position]).await.pop() {
            Some(Ok(Some(event))) => Ok(event),
            Some(Ok(None)) => {
                tracing::warn!(%handler, %position, "an event was removed from the store, the handler does not get it");
                Err(End::Done)
            }
            other => {
                if let Some(Err(error)) = other {
                    self.shared.note_feed_error(&error);
                }
                let due = self.shared.clock().unix_millis().saturating_add(REREAD_MILLIS);
                Err(End::Retry(taken.attempts.clone(), due))
            }
        }
    }

    fn count(&self, end: &End) {
        let counters = &self.shared.counters;
        match end {
            End::Done => counters.events_processed_success(1),
            End::Again(_) => {}
            failed => {
                counters.events_processed_failed(1);
                counters.handler_errors(1);
                counters.messages_sent_to_dlq(u64::from(matches!(failed, End::Dead { .. })));
            }
        }
    }

    /// Makes events ready when their time comes, until `cancel`.
    pub(super) async fn wake_due(self: &Arc<Self>, cancel: &CancellationToken) {
        let shared = &self.shared;
        loop {
            let next = shared.queues().iter().filter_map(|queue| queue.next_due()).min();
            let until_due = async {
                match next {
                    Some(due) => {
                        let left = due.saturating_sub(shared.clock().unix_millis());
                        shared.clock().sleep(Duration::from_millis(left)).await;
                    }
                    None => std::future::pending().await,
                }
            };
            // the next round computes the time again
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = until_due => {
                    // what has waited is due, also where a test stops the time of the machine or of the tasks
                    shared.queues().iter().for_each(|queue| queue.wake_due(next.unwrap_or_default()));
                    self.start_all();
                }
                () = shared.due.notified() => {}
            }
        }
    }

    /// Starts further workers when a long run gives its slot back, until `cancel`.
    pub(super) async fn start_in_freed_slots(self: &Arc<Self>, cancel: &CancellationToken) {
        let mut freed = crate::delivery::slots_freed();
        while let Some(Ok(())) = cancel.run_until_cancelled(freed.changed()).await {
            self.start_all();
        }
    }
}
