//! Workers: the tasks that claim jobs and run the handlers of this process.
//!
//! | outcome of a job | what the worker writes |
//! |---|---|
//! | all handlers succeeded, or none takes the type | the result, a success |
//! | a handler failed and has attempts left | the attempts into the claim, which it releases until the retry |
//! | a handler failed for good, or five workers died with the job | the dead letter, then the result, a failure |
//! | the handlers left, or a shutdown aborted them | the release of the claim |
//! | the claim was lost | nothing: a second worker may run the job |
//!
//! Real time, not the given clock: other workers read the claims in files.

use std::{sync::Arc, time::Duration};

use eventbus::{
    clock::SharedClock,
    delivery::{DeliveryAttempts, Disposition, Limits, Outcome, StopSignal, dispatch, handler_span},
    handler::Delivery,
    support::Outage,
};
use serde_json::Value;
use tokio::{sync::Mutex, task::JoinSet};

use crate::{
    claim_store::Claim,
    claimed_event::{self, ClaimedEvent, ReleaseOnDrop, write_result},
    coordinated_claims,
    error::{FileQueueError, Result},
    event::{QueueEvent, to_value},
    inner::QueueInner,
};

/// Delay before the retry after the file system refused.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// Number of workers that die with a job in a row before it becomes a dead letter.
const WORKER_ENDS_MAX: u32 = 5;

/// Maximum number of workers: each is a task, and more would only take memory.
const WORKERS_MAX: usize = 10_000;

/// Runs as many workers as the handlers allow runs at once, until `stop`; returns when the last job has ended.
pub(super) async fn run_workers(queue: Arc<QueueInner>, stop: StopSignal) {
    let (mut workers, search) = (JoinSet::new(), Arc::new(Mutex::new(Outage::new(queue.config().clock.clone()))));
    let mut changes = queue.subscribers().watch();
    loop {
        changes.mark_unchanged();
        while !stop.is_stopped() && workers.len() < count_workers(&queue) {
            let worker = Worker { queue: Arc::clone(&queue), stop: stop.clone(), search: Arc::clone(&search) };
            workers.spawn(worker.run());
        }
        // new handlers may allow more runs at once; a worker ends only after a stop
        tokio::select! {
            _ = changes.changed() => {}
            ended = workers.join_next() => match ended {
                Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Some(_) => {}
                None => return,
            },
        }
    }
}

/// Returns the highest concurrency of a handler, at most [`WORKERS_MAX`].
fn count_workers(queue: &QueueInner) -> usize {
    let handlers = queue.subscribers().of_group(queue.name());
    let own = handlers.iter().filter_map(|handler| handler.options().concurrency).max().unwrap_or_default();
    queue.config().concurrency.max(own as usize).clamp(1, WORKERS_MAX)
}

struct Worker {
    queue: Arc<QueueInner>,
    stop: StopSignal,
    /// Locked while a worker waits for a job: the workers of a process do not search for the same one.
    search: Arc<Mutex<Outage>>,
}

impl Worker {
    async fn run(self) {
        let _token = self.queue.jobs().token();
        while let Some(job) = self.stop.run_until_stopped(self.next_job()).await {
            self.process(ReleaseOnDrop(Some(job))).await;
        }
    }

    /// Claims the next job; waits while there is none.
    async fn next_job(&self) -> ClaimedEvent {
        let mut outage = self.search.lock().await;
        loop {
            match claimed_event::claim_next(&self.queue).await {
                Ok(job) => {
                    if let Some(lasted) = outage.ends() {
                        tracing::info!(queue = %self.queue.name(), ?lasted, "jobs are claimed again");
                    }
                    return job;
                }
                Err(FileQueueError::ShutDown) => std::future::pending().await,
                Err(error) => {
                    if outage.begins() {
                        tracing::warn!(queue = %self.queue.name(), error = error.log(), "cannot claim a job, trying again");
                    }
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
        }
    }

    /// Runs the handlers for a job, and records what followed.
    async fn process(&self, mut held: ReleaseOnDrop) {
        let Some(job) = &held.0 else { return };
        let clock = &self.queue.config().clock;
        let mut attempts = claimed_event::attempts_of(&job.claim(), job.event());
        let disposition = if attempts.process_ends >= WORKER_ENDS_MAX {
            Some(Disposition::DeadLetter(died_with_workers(&attempts, clock)))
        } else {
            let outcome = tokio::select! {
                biased; // a run that has ended counts, also if the claim is lost at the same moment
                outcome = self.run_handlers(job, &attempts) => outcome,
                () = job.claim_lost() => return,
            };
            outcome.count_in(self.queue.counters());
            Disposition::from_outcome(outcome, &mut attempts, &self.queue.config().retry, clock)
        };
        if let Some(mut job) = held.0.take() {
            let claim = job.stop_renewing().await;
            self.record(job.event(), claim, disposition).await;
        }
    }

    async fn run_handlers(&self, job: &ClaimedEvent, attempts: &DeliveryAttempts) -> Outcome {
        let (queue, event) = (&*self.queue, job.event());
        let delivery = Delivery::new(event.record().clone(), queue.name().clone())
            .with_attempt(attempts.attempts.saturating_add(1))
            .with_message_id(event.message_id());
        let limits = Limits { concurrency: queue.config().concurrency, ..Limits::default() };
        queue.counters().events_consumed(1);
        let handlers = queue.subscribers().of_group(queue.name());
        dispatch(&handlers, &delivery, attempts, &limits, &queue.config().clock, &handler_span).await
    }

    /// Records what followed from a job; tries again while the file system refuses and the claim is live.
    async fn record(&self, event: &QueueEvent, claim: Claim, disposition: Option<Disposition>) {
        let (mut outage, id, queue) = (Outage::new(self.queue.config().clock.clone()), event.id(), self.queue.name());
        // before the result: callers that wait for it then read the counters
        match &disposition {
            Some(Disposition::Skip) => self.queue.counters().events_skipped(1),
            Some(Disposition::DeadLetter(_)) => self.queue.counters().messages_sent_to_dlq(1),
            _ => {}
        }
        loop {
            match self.try_record(event, claim.clone(), disposition.as_ref()).await {
                Ok(()) | Err(FileQueueError::HasResult { .. }) => break,
                Err(error) if error.is_retryable() && claim.is_live() => {
                    if outage.begins() {
                        tracing::warn!(%queue, id, error = error.log(), "the outcome of a job cannot be written, trying again");
                    }
                    tokio::time::sleep(RETRY_DELAY).await;
                }
                Err(error) => {
                    tracing::warn!(%queue, id, error = error.log(), "the outcome of a job is not written: it may run again");
                    break;
                }
            }
        }
        if let Some(lasted) = outage.ends() {
            tracing::info!(%queue, id, ?lasted, "outcomes of jobs are written again");
        }
    }

    async fn try_record(&self, event: &QueueEvent, claim: Claim, disposition: Option<&Disposition>) -> Result<()> {
        let (queue, id) = (&self.queue, event.id());
        match disposition {
            Some(Disposition::Acknowledge { .. }) => write_result(queue, id, claim, true, Value::Null).await.map(drop),
            Some(Disposition::Skip) => {
                write_result(queue, id, claim, true, "no handler takes the type of the event".into()).await.map(drop)
            }
            Some(Disposition::Retry { attempts, .. }) => {
                let data = to_value("the attempts", attempts)?;
                coordinated_claims::release(queue, Claim { data, ..claim }).await.map(drop)
            }
            Some(Disposition::DeadLetter(attempts)) => {
                let (record, owned, error) = (event.record().clone(), claim.clone(), attempts.errors());
                let attempts = attempts.clone();
                let write = move |queue: &QueueInner| {
                    queue.claims().check_owned(&owned)?;
                    queue.dead_letters().write(id, &record, attempts)
                };
                queue.blocking(write).await?;
                write_result(queue, id, claim, false, error.into()).await.map(drop)
            }
            // only a bus that holds entries in flight lets one begin; a job begins with its claim
            None | Some(Disposition::Begin(_)) => coordinated_claims::release(queue, claim).await.map(drop),
        }
    }
}

/// Returns the attempts of a job that ended its workers, as a dead letter has them.
fn died_with_workers(attempts: &DeliveryAttempts, clock: &SharedClock) -> DeliveryAttempts {
    let error = format!("{} workers in a row died while they ran the job", attempts.process_ends);
    let mut given_up = DeliveryAttempts::undecodable(error, clock);
    given_up.done.clone_from(&attempts.done);
    given_up
}
