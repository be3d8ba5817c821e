//! The runner: feeds one projection from a store's feed, live and rebuild alike.
//!
//! Every process feeds state in memory. One process at a time feeds a projection that keeps rows: the owner of the
//! lease `projection:{name}`; the rest stand by, and follow its checkpoint meanwhile.
//!
//! Invariant: the owner loads the checkpoint after it has acquired the lease, never before.

use std::{panic::resume_unwind, sync::Arc, time::Duration};

use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    ProjectionError,
    context::{RunnerContext, projection_role},
    event_handling::FeedStop,
    fed_projection::FedProjection,
    feeder::Feeder,
    memory_check::MemoryCheck,
    note::{TypeCheck, check_types, record_stop},
    rebuild::rebuild_when_needed,
    standby::{wait_for_lease, wait_for_retry, wait_for_retry_in_memory},
};
use crate::{
    domain::error::BoxError,
    port::{BoxFuture, ReadError},
    runtime::{
        definition::ProjectionKind,
        feed_poller::FeedPoller,
        held_lease::{HeldLease, LeaseRequest},
    },
};

/// Time limit for saving the checkpoint when the feed ends. Real time: it is the reply of a server.
const FINAL_SAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Feeds one projection in one process. Its states, if the projection keeps rows:
///
/// | State | Event | Next state |
/// |---|---|---|
/// | standby | another process holds the lease | standby; follows the checkpoint |
/// | standby | the lease is free, but the last owner knew more types | standby until the lease was free for a minute |
/// | standby | the owner of the lease knows fewer event types | seizes the lease, then as if acquired |
/// | standby | acquires the lease, and no owner missed events of its types | live from the checkpoint |
/// | standby | acquires the lease, an owner missed events, and the tables are known | live, and rebuilds beside |
/// | standby | acquires the lease, an owner missed events, and no tables are known | stopped: `MissedEvents` |
/// | live | the store fails | live after a backoff; with rows in the store, loads the checkpoint again |
/// | live | the lease is lost, as to a rebuild that seizes it to switch the rows | standby; follows the checkpoint |
/// | live | a method fails for good, or an event cannot be read | stopped before the event; releases the lease |
/// | live, and rebuilds beside | any | as live; the rebuild goes on, and is retried while this process is live |
/// | live | a rebuild of rows that are kept outside the store restarts the feed | live from the first event |
/// | live, in memory | an older copy has replaced the store, which lacks an event that the state includes | stopped: `WentBack` |
/// | stopped: `WentBack` | at once, then each two seconds | live, in a new instance; stopped without a factory |
/// | stopped | a minute has passed, or a rebuild or an operator resumes it | standby |
/// | stopped | another process has passed the event, or an operator has skipped it | standby |
/// | any | cancelled | ended; an owner releases the lease |
///
/// State in memory is live at once. A minute after a stop at a damaged event, the runner reads that event again; a
/// minute after a stop at a failed event, it rebuilds the state in a new instance, or stays stopped without a factory,
/// also if it panics meanwhile and is restarted.
pub(super) struct ProjectionRunner {
    inner: Arc<dyn FedProjection>,
    context: RunnerContext,
    lease_request: LeaseRequest,
}

/// Reason why a projection is not fed any more.
enum FeedingEnd {
    Stopped,
    /// Cancelled, the lease is lost, or the check of the event types failed.
    Ended,
}

impl ProjectionRunner {
    pub(super) fn new(inner: Arc<dyn FedProjection>, context: RunnerContext) -> Self {
        let lease_request = context.lease_request(projection_role(inner.name()));
        Self { inner, context, lease_request }
    }

    /// Feeds a projection until cancelled.
    pub(super) fn run(self, cancel: CancellationToken) -> BoxFuture<'static, ()> {
        Box::pin(self.feed(cancel))
    }

    async fn feed(self, cancel: CancellationToken) {
        let _fed = self.inner.progress().feed_guard();
        self.inner.set_app_state(self.context.state.clone()).await;
        let mut feed = FeedPoller::new(&self.context.feed_head);
        if self.inner.definition().kind == ProjectionKind::InMemory {
            self.inner.progress().set_owner(true);
            let mut memory = MemoryCheck::new(&*self.context.store, self.inner.progress().position());
            // waits first: if it was restarted after a panic of its factory, it has stopped, and its state may hold
            // half an event
            while wait_for_retry_in_memory(&*self.inner, &self.context, &cancel).await {
                if let FeedingEnd::Ended = self.feed_until_end(None, Some(&mut memory), &mut feed, &cancel).await {
                    return;
                }
            }
            return;
        }
        let needs_rebuild = Arc::<Notify>::default();
        // at the same time: the live rows serve and advance while a rebuild fills its copies. In a task of its own, as
        // a store refuses statements of a task that has a transaction open
        let rebuild = AbortOnDropHandle::new(tokio::spawn({
            let (inner, context) = (Arc::clone(&self.inner), self.context.clone());
            let (needs_rebuild, cancel) = (Arc::clone(&needs_rebuild), cancel.clone());
            async move { rebuild_when_needed(&*inner, &context, &needs_rebuild, &cancel).await }
        }));
        let rebuilt = async {
            if let Err(ended) = rebuild.await
                && ended.is_panic()
            {
                resume_unwind(ended.into_panic());
            }
        };
        tokio::join!(self.feed_rows(&mut feed, &needs_rebuild, &cancel), rebuilt);
    }

    /// Feeds a projection that keeps rows, whenever this process holds the lease; notifies of a rebuild that it needs.
    async fn feed_rows(&self, feed: &mut FeedPoller, needs_rebuild: &Notify, cancel: &CancellationToken) {
        while let Some(held_lease) =
            wait_for_lease(&*self.inner, &self.context, &self.lease_request, feed, cancel).await
        {
            self.inner.progress().set_owner(true);
            // it may count the events of the whole feed
            let type_check = tokio::select! {
                type_check = check_types(&*self.inner, &self.context, &held_lease) => type_check,
                () = held_lease.ended().cancelled() => Ok(TypeCheck::Interrupted),
                () = cancel.cancelled() => Ok(TypeCheck::Interrupted),
            };
            if matches!(type_check, Ok(TypeCheck::Complete | TypeCheck::NeedsRebuild)) {
                self.inner.progress().resume_if(|stopped| matches!(stopped, ProjectionError::MissedEvents { .. }));
            }
            let feeding_end = match type_check {
                Ok(TypeCheck::Complete) => self.feed_until_end(Some(&held_lease), None, feed, held_lease.ended()).await,
                Ok(TypeCheck::NeedsRebuild) => {
                    needs_rebuild.notify_one();
                    self.feed_until_end(Some(&held_lease), None, feed, held_lease.ended()).await
                }
                Ok(TypeCheck::Stopped) => FeedingEnd::Stopped,
                Ok(TypeCheck::Interrupted) => FeedingEnd::Ended,
                Err(error) => {
                    self.inner.progress().report_problem(&error, &*self.context.store);
                    FeedingEnd::Ended
                }
            };
            self.inner.progress().set_owner(false);
            held_lease.release().await;
            let more = match feeding_end {
                // a standby may be able to handle the event
                FeedingEnd::Stopped => wait_for_retry(&*self.inner, &self.context, cancel).await,
                FeedingEnd::Ended => feed.wait_after_failure(cancel).await,
            };
            if !more {
                return;
            }
        }
    }

    /// Feeds the projection until it stops or `stop`, with a lease the end of the lease.
    async fn feed_until_end(
        &self,
        held_lease: Option<&HeldLease>,
        memory: Option<&mut MemoryCheck>,
        feed: &mut FeedPoller,
        stop: &CancellationToken,
    ) -> FeedingEnd {
        let mut feeder = Feeder::live(&*self.inner, &self.context, held_lease, memory, stop);
        while !stop.is_cancelled() {
            let step = feeder.feed_available(feed).await;
            let Some(feeding_end) = self.after_step(step, &feeder, held_lease, feed, stop).await else { continue };
            // a failure is harmless: the next owner reads again the events that changed no rows
            let _ = tokio::time::timeout(FINAL_SAVE_TIMEOUT, feeder.save_checkpoint(true)).await;
            return feeding_end;
        }
        FeedingEnd::Ended
    }

    /// Waits for the next pass. Returns the reason if there is no next pass. A stop holds for the progress of the
    /// feeder's generation only, the one at the beginning of the pass.
    async fn after_step(
        &self,
        step: Result<bool, FeedStop>,
        feeder: &Feeder<'_>,
        held_lease: Option<&HeldLease>,
        feed: &mut FeedPoller,
        stop: &CancellationToken,
    ) -> Option<FeedingEnd> {
        let (progress, generation) = (self.inner.progress(), feeder.generation());
        let more = match step {
            // after an interruption, too: `stop` tells whether it was the end
            Ok(true) | Err(FeedStop::Interrupted) => {
                progress.set_problem(None);
                feed.reset();
                !stop.is_cancelled()
            }
            Ok(false) => {
                progress.set_problem(None);
                progress.resume_if(|stopped| matches!(stopped, ProjectionError::Damaged { .. }));
                // a restart does not wait for the next event
                tokio::select! {
                    more = feed.wait_idle(feeder.save_due_in(), stop) => more,
                    () = progress.wait_for_restart(generation) => true,
                }
            }
            Err(FeedStop::LeaseLost) => false,
            Err(FeedStop::EventFailed(record, error)) => {
                // before the stop is seen here, so that other processes see it, too; of state in memory each has its own
                if let Some(held_lease) = held_lease {
                    let noted = stop.run_until_cancelled(record_stop(&self.context, held_lease, &record, &error)).await;
                    if let Some(Err(error)) = noted {
                        tracing::debug!(projection = self.inner.name(), %error, "the stop was not noted in the store");
                    }
                }
                progress.stop_at(&record, &error, generation);
                return Some(FeedingEnd::Stopped);
            }
            Err(FeedStop::MissingTable(error)) => {
                tracing::error!(%error, "projection stopped before its first event");
                progress.stop(error, generation);
                return Some(FeedingEnd::Stopped);
            }
            Err(FeedStop::WentBack(head)) => {
                progress.stop_behind(head, generation);
                return Some(FeedingEnd::Stopped);
            }
            Err(FeedStop::Store(error)) => return self.after_failure(&error, feed, stop).await,
        };
        (!more).then_some(FeedingEnd::Ended)
    }

    async fn after_failure(
        &self,
        error: &BoxError,
        feed: &mut FeedPoller,
        stop: &CancellationToken,
    ) -> Option<FeedingEnd> {
        // a retry would read the same damaged event
        if matches!(error.downcast_ref(), Some(ReadError::Corrupt { .. })) {
            self.inner.progress().stop_at_damage(error);
            return Some(FeedingEnd::Stopped);
        }
        self.inner.progress().report_problem(error, &*self.context.store);
        // an operator may have skipped the event meanwhile
        self.inner.clear_cached_skips();
        (!feed.wait_after_failure(stop).await).then_some(FeedingEnd::Ended)
    }
}
