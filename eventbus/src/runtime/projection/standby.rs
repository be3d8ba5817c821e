//! Waiting: for the lease of feeding a projection, and for the repair of an event that stopped it.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    ProjectionError, RebuildError,
    context::{RunnerContext, projection_role},
    fed_projection::FedProjection,
    note::{TypeComparison, compare_types},
    progress::ProgressCell,
    rebuild::rebuild_in_app,
};
use crate::{
    domain::error::BoxError,
    port::backoff::{Backoff, BackoffTimer},
    runtime::{
        definition::ProjectionDefinition,
        feed_poller::{FOLLOW_BACKOFF, FeedPoller},
        held_lease::{HeldLease, LeaseRequest},
    },
};

/// Shortest interval at which a standby polls lease and checkpoint, however fast events come.
const STANDBY_POLL_INTERVAL_MIN: Duration = Duration::from_millis(20);

/// Limits of the interval at which a standby tries to acquire a lease that is free, or has a new owner. A standby at
/// the end of the feed polls at the longer one.
const LEASE_REQUEST_INTERVAL_MIN: Duration = Duration::from_millis(20);
const LEASE_REQUEST_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// Interval at which a standby tries to acquire a lease whose owner stays the same: the owner may have changed the note
/// of its event types after it acquired the lease.
const HELD_LEASE_REQUEST_INTERVAL: Duration = Duration::from_secs(30);

/// How long the lease must be free before a process that knows fewer types than the last owner acquires it: that owner
/// may only be restarting.
const FREE_LEASE_WAIT: Duration = Duration::from_secs(60);

/// Delay until a stopped projection retries by itself.
const STOPPED_RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// The same for state in memory beside a store that went back: its process is not ready meanwhile.
const WENT_BACK_RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// Time limit for guards of its state to be dropped before such a retry.
const GUARD_TIMEOUT: Duration = Duration::from_secs(10);

/// Waits for the lease, and follows its owner's checkpoint meanwhile. Returns `None` if cancelled.
pub(super) async fn wait_for_lease(
    inner: &dyn FedProjection,
    context: &RunnerContext,
    lease_request: &LeaseRequest,
    feed: &mut FeedPoller,
    cancel: &CancellationToken,
) -> Option<HeldLease> {
    let clock = &context.clock;
    let interval_max = LEASE_REQUEST_INTERVAL_MAX.min(context.lease_ttl / 3);
    let mut requests = BackoffTimer::new(Backoff::new(LEASE_REQUEST_INTERVAL_MIN, interval_max));
    let mut polls = BackoffTimer::new(FOLLOW_BACKOFF);
    let role = context.standby_roles.add(&lease_request.role);
    let (mut next_request_at, mut free_since) = (clock.instant(), None);
    // the epoch of the lease at the last poll, and at the last request
    let (mut epoch, mut requested_epoch) = (None, None);
    let mut age_max = STANDBY_POLL_INTERVAL_MIN;
    loop {
        if cancel.is_cancelled() {
            return None;
        }
        if next_request_at <= clock.instant() {
            match try_acquire_lease(&inner.definition(), context, lease_request, &mut free_since, cancel).await {
                Ok(Some(held_lease)) => return Some(held_lease),
                Ok(None) => {}
                Err(error) => {
                    inner.progress().report_problem(&error, &*context.store);
                    feed.wait_after_failure(cancel).await;
                    continue;
                }
            }
            requested_epoch = epoch;
            next_request_at = clock.after(HELD_LEASE_REQUEST_INTERVAL);
            if epoch.is_none() {
                // another process may have acquired it since the last poll
                age_max = STANDBY_POLL_INTERVAL_MIN;
            }
        }
        let loaded = async { Ok::<_, BoxError>((role.load(age_max).await?, feed.head().await?)) };
        // a joint request of another standby may take long
        match cancel.run_until_cancelled(loaded).await {
            None => return None,
            Some(Ok((state, head))) => {
                inner.progress().set_problem(None);
                if inner.progress().follow_checkpoint(state.checkpoint) {
                    feed.reset();
                    polls.reset();
                }
                epoch = state.epoch;
                if epoch.is_none() || epoch != requested_epoch {
                    next_request_at = next_request_at.min(clock.after(requests.next_delay()));
                } else {
                    requests.reset();
                }
                clock.sleep(STANDBY_POLL_INTERVAL_MIN).await;
                if state.checkpoint < head {
                    age_max = polls.next_delay().max(STANDBY_POLL_INTERVAL_MIN);
                } else {
                    polls.reset();
                    age_max = interval_max;
                }
                let next_at = next_request_at.min(state.sent_at + age_max);
                feed.wait_idle(Some(next_at.saturating_duration_since(clock.instant())), cancel).await;
            }
            Some(Err(error)) => {
                // the lease may be free all the same
                next_request_at = next_request_at.min(clock.after(requests.next_delay()));
                inner.progress().report_problem(&error, &*context.store);
                feed.wait_after_failure(cancel).await;
            }
        }
    }
}

/// Acquires the lease if it is free, or seizes it from an owner that knows fewer event types.
async fn try_acquire_lease(
    definition: &ProjectionDefinition,
    context: &RunnerContext,
    lease_request: &LeaseRequest,
    free_since: &mut Option<Instant>,
    cancel: &CancellationToken,
) -> Result<Option<HeldLease>, BoxError> {
    let (projection, comparison) = (definition.name, compare_types(definition, context).await?);
    if comparison == TypeComparison::KnowsLess && !is_free_for_long(projection, lease_request, free_since).await? {
        return Ok(None);
    }
    let acquired = lease_request.acquire(cancel).await?;
    if acquired.is_some() || comparison != TypeComparison::KnowsMore {
        return Ok(acquired);
    }
    tracing::info!(
        projection,
        "this process knows more event types than the one that feeds the projection: it takes over"
    );
    Ok(Some(lease_request.seize(cancel).await?))
}

/// Returns `true` if the lease was free for so long that a process with fewer types than the last owner may acquire
/// it. Logs that it waits.
async fn is_free_for_long(
    projection: &str,
    lease_request: &LeaseRequest,
    free_since: &mut Option<Instant>,
) -> Result<bool, BoxError> {
    let clock = &lease_request.clock;
    if lease_request.store.lease_of(&lease_request.role).await?.is_some() {
        *free_since = None;
        return Ok(false);
    }
    let since = *free_since.get_or_insert_with(|| {
        tracing::warn!(
            projection, wait = ?FREE_LEASE_WAIT,
            "the last process that fed the projection knew more event types than this one, which feeds it once no other \
             has come back for this time"
        );
        clock.instant()
    });
    Ok(clock.elapsed(since) >= FREE_LEASE_WAIT)
}

/// Waits until a rebuild or an operator has resumed the projection. Returns `false` if cancelled meanwhile.
async fn wait_until_resumed(progress: &ProgressCell, cancel: &CancellationToken) -> bool {
    let mut progress = progress.subscribe();
    let restarted = progress.wait_for(|progress| progress.stopped.is_none());
    cancel.run_until_cancelled(restarted).await.is_some_and(|restarted| restarted.is_ok())
}

/// Waits until the projection is resumed, also because a different process has passed the event or an operator has
/// skipped it, or until a retry is due. Returns `false` if cancelled meanwhile.
pub(super) async fn wait_for_retry(
    inner: &dyn FedProjection,
    context: &RunnerContext,
    cancel: &CancellationToken,
) -> bool {
    let role = projection_role(inner.name());
    let other_owner_progress = async {
        loop {
            context.clock.sleep(LEASE_REQUEST_INTERVAL_MAX).await;
            if let Ok(position) = context.load_checkpoint(&role).await {
                inner.progress().resume_past(position);
            }
            inner.resume_if_skipped(&*context.store).await;
        }
    };
    // the second branch never ends: it resumes the projection, which ends the first one
    tokio::select! {
        resumed = wait_until_resumed(inner.progress(), cancel) => resumed,
        () = other_owner_progress => false,
        () = context.clock.sleep(STOPPED_RETRY_INTERVAL) => true,
    }
}

/// Waits until state in memory is resumed, or until a retry is due and has rebuilt it in a new instance: a failed
/// event may be half handled, so without a factory it stays stopped. An event that cannot be read has changed no
/// state, so the feed just reads it again. Returns at once if it has not stopped, and `false` if cancelled meanwhile.
pub(super) async fn wait_for_retry_in_memory(
    inner: &dyn FedProjection,
    context: &RunnerContext,
    cancel: &CancellationToken,
) -> bool {
    let (clock, name) = (&context.clock, inner.name());
    let has_gone_back = matches!(inner.progress().borrow().stopped, Some(ProjectionError::WentBack { .. }));
    let mut pause = if has_gone_back { Duration::ZERO } else { STOPPED_RETRY_INTERVAL };
    loop {
        // a rebuild or an operator need not wait for the next retry
        tokio::select! {
            resumed = wait_until_resumed(inner.progress(), cancel) => return resumed,
            () = clock.sleep(pause) => {}
        }
        if matches!(inner.progress().borrow().stopped, Some(ProjectionError::Damaged { .. })) {
            // an operator may have skipped the event meanwhile
            inner.clear_cached_skips();
            return true;
        }
        let began = clock.instant();
        match rebuild_in_app(inner, context, cancel, Box::new(drop), GUARD_TIMEOUT).await {
            Ok(rebuilt) => {
                tracing::info!(
                    projection = name,
                    events = rebuilt.events,
                    "projection was rebuilt in a new instance and goes on"
                );
                return true;
            }
            Err(RebuildError::NoFactory { .. }) => return wait_until_resumed(inner.progress(), cancel).await,
            Err(_) if cancel.is_cancelled() => return false,
            Err(error) => {
                tracing::warn!(projection = name, %error, "projection still cannot be rebuilt in a new instance")
            }
        }
        // a projection with a long history spends at most a tenth of its time on retries
        pause = match has_gone_back {
            true => WENT_BACK_RETRY_INTERVAL,
            false => STOPPED_RETRY_INTERVAL.max(clock.elapsed(began).saturating_mul(10)),
        };
    }
}
