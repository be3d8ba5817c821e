//! Waiting: for the lease of feeding a projection, and for the repair of an event that stopped it.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{ProjectionError, RebuildError, fed_types::TypeComparison, runner::ProjectionRunner};
use crate::{
    domain::error::BoxError,
    runtime::{definition::Projection, feed_poller::FeedPoller, held_lease::HeldLease},
};

/// Shortest interval at which a standby polls the checkpoint, however fast events come.
const CHECKPOINT_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Limits of the interval at which a standby tries to acquire the lease.
const LEASE_REQUEST_INTERVAL_MIN: Duration = Duration::from_millis(20);
const LEASE_REQUEST_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// Delay until a stopped projection retries by itself.
const STOPPED_RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// Time limit for guards of its state to be dropped before such a retry.
const GUARD_TIMEOUT: Duration = Duration::from_secs(10);

impl<P: Projection> ProjectionRunner<P> {
    /// Waits for the lease, and follows its owner's checkpoint meanwhile. Returns `None` if cancelled.
    pub(super) async fn wait_for_lease(&self, feed: &mut FeedPoller, cancel: &CancellationToken) -> Option<HeldLease> {
        let clock = &self.context.clock;
        let (mut next_request_at, mut pause) = (clock.instant(), LEASE_REQUEST_INTERVAL_MIN);
        let mut free_since = None;
        loop {
            if cancel.is_cancelled() {
                return None;
            }
            if next_request_at <= clock.instant() {
                match self.try_acquire_lease(&mut free_since, cancel).await {
                    Ok(Some(held_lease)) => return Some(held_lease),
                    Ok(None) => {}
                    Err(error) => {
                        self.report_problem(&error);
                        feed.wait_after_failure(cancel).await;
                        continue;
                    }
                }
                next_request_at = clock.after(pause);
                pause = (pause * 2).min(LEASE_REQUEST_INTERVAL_MAX).min(self.context.lease_ttl / 3);
            }
            match self.load_checkpoint().await {
                Ok(position) => {
                    self.handle.set_problem(None);
                    if self.handle.follow_checkpoint(position) {
                        feed.reset();
                    }
                    clock.sleep(CHECKPOINT_POLL_INTERVAL).await;
                    feed.wait_idle(cancel).await;
                }
                Err(error) => {
                    self.report_problem(&error.into());
                    feed.wait_after_failure(cancel).await;
                }
            }
        }
    }

    /// Acquires the lease if it is free, or seizes it from an owner that knows fewer event types.
    async fn try_acquire_lease(
        &self,
        free_since: &mut Option<Instant>,
        cancel: &CancellationToken,
    ) -> Result<Option<HeldLease>, BoxError> {
        let comparison = self.compare_types().await?;
        if comparison == TypeComparison::KnowsLess && !self.is_lease_free_for_long(free_since).await? {
            return Ok(None);
        }
        let acquired = self.lease_request.acquire(cancel).await?;
        if acquired.is_some() || comparison != TypeComparison::KnowsMore {
            return Ok(acquired);
        }
        let projection = P::definition().name;
        tracing::info!(
            projection,
            "this process knows more event types than the one that feeds the projection: it takes over"
        );
        Ok(Some(self.lease_request.seize(cancel).await?))
    }

    /// Waits until a rebuild or an operator has resumed the projection. Returns `false` if cancelled meanwhile.
    async fn wait_until_resumed(&self, cancel: &CancellationToken) -> bool {
        let mut progress = self.handle.progress().subscribe();
        let restarted = progress.wait_for(|progress| progress.stopped.is_none());
        cancel.run_until_cancelled(restarted).await.is_some_and(|restarted| restarted.is_ok())
    }

    /// Waits until the projection is resumed, also because a different process has passed the event or an operator has
    /// skipped it, or until a retry is due. Returns `false` if cancelled meanwhile.
    pub(super) async fn wait_for_retry(&self, cancel: &CancellationToken) -> bool {
        let other_owner_progress = async {
            loop {
                self.context.clock.sleep(LEASE_REQUEST_INTERVAL_MAX).await;
                if let Ok(position) = self.load_checkpoint().await {
                    self.handle.resume_past(position);
                }
                self.handle.resume_if_skipped(&*self.context.store).await;
            }
        };
        // the second branch never ends: it resumes the projection, which ends the first one
        tokio::select! {
            resumed = self.wait_until_resumed(cancel) => resumed,
            () = other_owner_progress => false,
            () = self.context.clock.sleep(STOPPED_RETRY_INTERVAL) => true,
        }
    }

    /// Waits until state in memory is resumed, or until a retry is due and has rebuilt it in a new instance: a failed
    /// event may be half handled, so without a factory it stays stopped. An event that cannot be read has changed no
    /// state, so the feed just reads it again. Returns `false` if cancelled meanwhile.
    pub(super) async fn wait_for_retry_in_memory(&self, cancel: &CancellationToken) -> bool {
        let (clock, name) = (&self.context.clock, P::definition().name);
        let mut pause = STOPPED_RETRY_INTERVAL;
        loop {
            // a rebuild or an operator need not wait for the next retry
            tokio::select! {
                resumed = self.wait_until_resumed(cancel) => return resumed,
                () = clock.sleep(pause) => {}
            }
            if matches!(self.handle.progress().borrow().stopped, Some(ProjectionError::Damaged { .. })) {
                // an operator may have skipped the event meanwhile
                self.handle.clear_cached_skips();
                return true;
            }
            let began = clock.instant();
            match self.handle.rebuild_in_app(&self.context, cancel, Box::new(drop), GUARD_TIMEOUT).await {
                Ok(rebuilt) => {
                    tracing::info!(
                        projection = name,
                        events = rebuilt.events,
                        "projection was rebuilt in a new instance and goes on"
                    );
                    return true;
                }
                Err(RebuildError::NoFactory { .. }) => return self.wait_until_resumed(cancel).await,
                Err(error) => {
                    tracing::warn!(projection = name, %error, "projection still cannot be rebuilt in a new instance")
                }
            }
            // a projection with a long history spends at most a tenth of its time on retries
            pause = STOPPED_RETRY_INTERVAL.max(clock.elapsed(began).saturating_mul(10));
        }
    }
}
