//! The runner: feeds one projection from a store's feed, live and rebuild alike.
//!
//! Every process feeds state in memory. One process at a time feeds a projection that keeps rows: the owner of the
//! lease `projection:{name}`; the rest stand by, and follow its checkpoint meanwhile.
//!
//! Invariant: the owner loads the checkpoint after it has acquired the lease, never before.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{
    ProjectionError,
    context::{RunnerContext, projection_role},
    fed_types::TypeCheck,
    handle::{ProjectionHandle, ProjectionState},
    sequential_feeder::{FeedStep, SequentialFeeder},
    transactional_writer::{TransactionalWriter, WriteOutcome},
};
use crate::{
    domain::{
        error::{BoxError, ErrorLine},
        stream::Position,
    },
    port::{CheckpointError, ReadError},
    runtime::{
        definition::{Projection, ProjectionKind},
        feed_poller::FeedPoller,
        held_lease::{HeldLease, LeaseOutage, LeaseRequest},
    },
};

/// Time limit for saving the checkpoint when the feed ends. Real time: it is the reply of a server.
const FINAL_SAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Feeds one projection.
///
/// A projection that keeps rows, in one process:
///
/// | State | Event | Next state |
/// |---|---|---|
/// | standby | another process holds the lease | standby; follows the checkpoint |
/// | standby | the lease is free, but the last owner knew more event types | standby until it was free for a minute |
/// | standby | the owner of the lease knows fewer event types | seizes the lease, then as if acquired |
/// | standby | acquires the lease, and no owner missed events of its types | live from the checkpoint |
/// | standby | acquires the lease, an owner missed events, and the tables are known | live, and rebuilds beside |
/// | standby | acquires the lease, an owner missed events, and no tables are known | stopped: `MissedEvents` |
/// | live | the store fails | live after a backoff; with rows in the store, loads the checkpoint again |
/// | live | the lease is lost, as to a rebuild that replaces the rows | standby; follows the checkpoint |
/// | live | a method fails for good, or an event cannot be read | stopped before the event; releases the lease |
/// | live | a rebuild of rows elsewhere restarts it | live from the first event |
/// | stopped | a minute has passed, or a rebuild or an operator resumes it | standby |
/// | stopped | another process has passed the event, or an operator has skipped it | standby |
/// | any | cancelled | ended; an owner releases the lease |
///
/// State in memory is live at once. A minute after a stop, it reads a damaged event again, or else is rebuilt in a new
/// instance; without a factory it stays stopped.
pub(super) struct ProjectionRunner<P> {
    pub(super) handle: ProjectionHandle<P>,
    pub(super) context: RunnerContext,
    pub(super) lease_request: LeaseRequest,
}

/// Feeds a projection until cancelled.
pub(super) async fn run<P: Projection>(runner: ProjectionRunner<P>, cancel: CancellationToken) {
    let _fed = runner.handle.feed_guard();
    runner.handle.set_app_state(runner.context.state.clone()).await;
    let mut feed = FeedPoller::new(&runner.context.store, runner.context.clock.clone());
    if P::definition().kind == ProjectionKind::InMemory {
        runner.handle.set_owner(true);
        while let FeedEnd::Stopped = runner.feed_in_memory(&mut feed, &cancel).await {
            if !runner.wait_for_retry_in_memory(&cancel).await {
                return;
            }
        }
        return;
    }
    while let Some(held_lease) = runner.wait_for_lease(&mut feed, &cancel).await {
        runner.handle.set_owner(true);
        let type_check = runner.check_types(&held_lease).await;
        if matches!(type_check, Ok(TypeCheck::Complete | TypeCheck::NeedsRebuild)) {
            runner.handle.resume_if(|stopped| matches!(stopped, ProjectionError::MissedEvents { .. }));
        }
        let feed_end = match type_check {
            Ok(TypeCheck::Complete) => runner.feed_with_lease(&held_lease, &mut feed).await,
            Ok(TypeCheck::NeedsRebuild) => {
                // concurrent: the live rows serve and advance while the rebuild fills its copies
                tokio::join!(
                    runner.feed_with_lease(&held_lease, &mut feed),
                    runner.rebuild_until_done(&held_lease, &cancel)
                )
                .0
            }
            Ok(TypeCheck::Stopped) => FeedEnd::Stopped,
            Err(error) => {
                runner.report_problem(&error);
                FeedEnd::Ended
            }
        };
        runner.handle.set_owner(false);
        held_lease.release().await;
        let more = match feed_end {
            // a standby may be able to handle the event
            FeedEnd::Stopped => runner.wait_for_retry(&cancel).await,
            FeedEnd::Ended => feed.wait_after_failure(&cancel).await,
        };
        if !more {
            return;
        }
    }
}

/// Reason why a projection is not fed any more.
enum FeedEnd {
    Stopped,
    /// Cancelled, or a different process holds the lease.
    Ended,
}

impl<P: Projection> ProjectionRunner<P> {
    pub(super) fn new(handle: ProjectionHandle<P>, context: RunnerContext) -> Self {
        let role = projection_role(P::definition().name);
        let lease_request = context.lease_request(role, context.owner.clone(), LeaseOutage::new(&context.clock));
        Self { handle, context, lease_request }
    }

    pub(super) async fn load_checkpoint(&self) -> Result<Position, CheckpointError> {
        self.context.load_checkpoint(&self.lease_request.role).await
    }

    async fn feed_in_memory(&self, feed: &mut FeedPoller, cancel: &CancellationToken) -> FeedEnd {
        let mut feeder =
            SequentialFeeder { runner: self, held_lease: None, saved_checkpoint: Position::START, stop: cancel };
        loop {
            let step = feeder.feed_available().await;
            if let Some(feed_end) = self.after_step(step, feed, cancel).await {
                return feed_end;
            }
        }
    }

    /// Feeds the projection while this process holds the lease.
    async fn feed_with_lease(&self, held_lease: &HeldLease, feed: &mut FeedPoller) -> FeedEnd {
        let stop = held_lease.ended();
        while !stop.is_cancelled() {
            let began = async {
                Ok::<_, BoxError>((self.load_checkpoint().await?, self.handle.skips(&*self.context.store).await?))
            };
            let feed_end = match began.await {
                Ok((saved, skips)) => {
                    self.handle.follow_checkpoint(saved);
                    match (self.handle.state(), self.context.store.transactions()) {
                        (ProjectionState::Unlocked(projection), Some(transactions))
                            if P::definition().kind == ProjectionKind::Transactional =>
                        {
                            let activity = self.handle.activity();
                            let writer = TransactionalWriter::new(
                                projection,
                                &*transactions,
                                None,
                                held_lease,
                                &self.context,
                                activity,
                                saved,
                            );
                            let writer = writer.with_skips(skips);
                            self.feed_in_transactions(writer, feed, stop).await
                        }
                        _ => {
                            self.feed_sequentially(
                                SequentialFeeder {
                                    runner: self,
                                    held_lease: Some(held_lease),
                                    saved_checkpoint: saved,
                                    stop,
                                },
                                feed,
                            )
                            .await
                        }
                    }
                }
                Err(error) => self.after_step(Err(error), feed, stop).await,
            };
            if let Some(feed_end) = feed_end {
                return feed_end;
            }
        }
        FeedEnd::Ended
    }

    async fn feed_sequentially(&self, mut feeder: SequentialFeeder<'_, P>, feed: &mut FeedPoller) -> Option<FeedEnd> {
        loop {
            let step = feeder.feed_available().await;
            if let Some(feed_end) = self.after_step(step, feed, feeder.stop).await {
                return Some(feed_end);
            }
        }
    }

    /// Returns `None` after a failure: the outcome of a commit may be unknown, the caller loads the checkpoint again.
    async fn feed_in_transactions(
        &self,
        mut writer: TransactionalWriter<'_, P>,
        feed: &mut FeedPoller,
        stop: &CancellationToken,
    ) -> Option<FeedEnd> {
        loop {
            let step = self.write_available(&mut writer).await;
            let failed = step.is_err();
            if let Some(feed_end) = self.after_step(step, feed, stop).await {
                // a failure is harmless: the next owner reads again the events that changed no rows
                let _ = tokio::time::timeout(FINAL_SAVE_TIMEOUT, writer.save_checkpoint(true)).await;
                return Some(feed_end);
            }
            if failed {
                return None;
            }
        }
    }

    async fn write_available(&self, writer: &mut TransactionalWriter<'_, P>) -> Result<FeedStep, BoxError> {
        let head = self.context.store.head().await?;
        if head <= writer.position() {
            return Ok(if writer.save_checkpoint(false).await? { FeedStep::CaughtUp } else { FeedStep::LeaseLost });
        }
        let handle = &self.handle;
        let generation = handle.progress().borrow().generation;
        let mut report = |events, position| handle.advance_by_owner(events, position);
        Ok(match writer.write_up_to(head, &*self.context.store, &mut report).await? {
            WriteOutcome::Complete if writer.save_checkpoint(false).await? => FeedStep::Handled,
            WriteOutcome::Complete | WriteOutcome::LeaseLost => FeedStep::LeaseLost,
            WriteOutcome::Cancelled => FeedStep::Handled,
            WriteOutcome::EventFailed(record, error) => {
                handle.stop_at(&record, &error, generation);
                FeedStep::Stopped
            }
            WriteOutcome::MissingTable(error) => {
                tracing::error!(%error, "projection stopped before its first event");
                handle.stop(error, generation);
                FeedStep::Stopped
            }
        })
    }

    /// Waits until the next pass can find events. Returns the reason if there is none.
    async fn after_step(
        &self,
        step: Result<FeedStep, BoxError>,
        feed: &mut FeedPoller,
        stop: &CancellationToken,
    ) -> Option<FeedEnd> {
        let more = match step {
            Ok(FeedStep::Handled) => {
                self.handle.set_problem(None);
                feed.reset();
                !stop.is_cancelled()
            }
            Ok(FeedStep::CaughtUp) => {
                self.handle.set_problem(None);
                self.handle.resume_if(|stopped| matches!(stopped, ProjectionError::Damaged { .. }));
                feed.wait_idle(stop).await
            }
            Ok(FeedStep::Stopped) => return Some(FeedEnd::Stopped),
            Ok(FeedStep::LeaseLost) => false,
            // a retry would read the same damaged event
            Err(error) if matches!(error.downcast_ref(), Some(ReadError::Corrupt { .. })) => {
                self.handle.stop_at_damage(&error);
                return Some(FeedEnd::Stopped);
            }
            Err(error) => {
                self.report_problem(&error);
                // an operator may have skipped the event meanwhile
                self.handle.clear_cached_skips();
                feed.wait_after_failure(stop).await
            }
        };
        (!more).then_some(FeedEnd::Ended)
    }

    pub(super) fn report_problem(&self, error: &BoxError) {
        let projection = P::definition().name;
        let fault = self.context.store.transactions().and_then(|transactions| transactions.server_fault(&**error));
        let error = ErrorLine(&**error).to_string();
        if self.handle.set_problem(Some((error.clone(), fault))) {
            tracing::warn!(projection, error, "projection cannot use its store, trying again");
        } else {
            tracing::debug!(projection, error, "projection still cannot use its store");
        }
    }
}
