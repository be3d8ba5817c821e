//! Workers: the tasks that run handlers for in-flight entries.

use std::sync::Arc;

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{entries::InFlight, group_context::GroupContext, state::Job};
use crate::{
    delivery::{ActiveSubscriber, StopSignal, dispatch, run::LONG_RUN_AFTER, watchdog},
    port::delivery::Delivery,
};

/// Handles the in-flight entries of a consumer until `stop`, as many at once as the handlers allow; returns when the last
/// run has ended. At the deadline of a shutdown it aborts the runs.
pub async fn run_workers(in_flight: &Arc<InFlight>, context: &GroupContext, stop: &StopSignal) {
    in_flight.begin_work(context);
    let mut workers = JoinSet::new();
    stop.until_deadline(run_until_stopped(in_flight, context, stop, &mut workers)).await;
    // aborts what still runs, and waits: a handler that does not await goes on until it does
    workers.shutdown().await;
}

/// Runs the workers until `stop`; returns when the last run has ended.
async fn run_until_stopped(
    in_flight: &Arc<InFlight>,
    context: &GroupContext,
    stop: &StopSignal,
    workers: &mut JoinSet<()>,
) {
    let mut changes = context.subscribers.watch();
    let mut freed_slots = watchdog::freed_slots().subscribe();
    loop {
        changes.mark_unchanged();
        while !stop.is_stopped() && workers.len() < in_flight.workers(context) {
            let worker = Worker { in_flight: Arc::clone(in_flight), context: context.clone(), stop: stop.clone() };
            workers.spawn(async move { worker.run().await });
        }
        // a long run and a change of subscribers both may call for more workers, or let an idle one run
        tokio::select! {
            _ = changes.changed() => in_flight.wake_worker(),
            _ = freed_slots.changed() => in_flight.wake_worker(),
            () = in_flight.run_waits() => {}
            ended = workers.join_next() => match ended {
                Some(ended) => propagate_panic(ended),
                None => break,
            },
        }
    }
}

/// A task that handles entries one after the other.
struct Worker {
    in_flight: Arc<InFlight>,
    context: GroupContext,
    stop: StopSignal,
}

impl Worker {
    async fn run(&self) {
        let mut released = CancellationToken::new();
        let mut changes = self.context.subscribers.watch();
        let mut handlers = self.context.subscribers.of_group(&self.context.group);
        while !self.stop.is_stopped() {
            if released.is_cancelled() {
                released = CancellationToken::new();
            }
            if changes.has_changed().unwrap_or_default() {
                changes.mark_unchanged();
                handlers = self.context.subscribers.of_group(&self.context.group);
            }
            let job = if handlers.is_empty() { None } else { self.in_flight.take(&self.context, &released) };
            let Some(job) = job else {
                self.stop.run_until_stopped(self.in_flight.work()).await;
                continue;
            };
            self.in_flight.yield_to_bus().await;
            self.handle(job, &handlers, &released).await;
        }
    }

    /// Ends the turn of a suspect that runs for [`LONG_RUN_AFTER`], unless dropped before: its handler may never end. A
    /// task of its own does so, because the handler may block the thread of the worker.
    fn release_permit_of_long_run(&self, number: u64) -> JoinSet<()> {
        let (mut ending, in_flight) = (JoinSet::new(), Arc::clone(&self.in_flight));
        ending.spawn(async move {
            in_flight.clock().sleep(LONG_RUN_AFTER).await;
            in_flight.release_permit(number);
        });
        ending
    }

    /// Runs the handlers for an entry, until they end or the entry is released.
    async fn handle(&self, job: Job, handlers: &[Arc<ActiveSubscriber>], released: &CancellationToken) {
        let Self { in_flight, context, .. } = self;
        let _releases_permit = job.is_suspect.then(|| self.release_permit_of_long_run(job.number));
        let attempt = job.attempts.attempts.saturating_add(1);
        let delivery = Delivery::new(job.record, context.group.clone()).with_attempt(attempt).with_message_id(job.id);
        context.counters.events_consumed(1);
        let handling = dispatch(handlers, &delivery, &job.attempts, &context.limits, in_flight.clock(), &*context.span);
        let outcome = tokio::select! {
            biased; // a run that has ended counts, also if its entry is released at the same moment
            outcome = handling => outcome,
            () = released.cancelled() => return,
        };
        outcome.count_in(&context.counters);
        in_flight.record_outcome(job.number, outcome, context);
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
