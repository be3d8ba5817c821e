//! Waiting: for the role of feeding a projection, and for an event that stopped it to be mended.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{ProjectionError, RebuildError, fed::Claim, runner::FeedProjection};
use crate::{
    domain::error::BoxError,
    runtime::{
        definition::Projection,
        feed::FeedWatch,
        tenure::{Candidate, Tenure},
    },
};

/// A process that stands by looks at the checkpoint no more often than this, however fast events come.
const LOOK: Duration = Duration::from_millis(20);

/// How soon, and at the latest how late, it asks for the role again.
const FIRST_ASK: Duration = Duration::from_millis(20);
const LAST_ASK: Duration = Duration::from_secs(1);

/// How soon a projection that stopped tries again by itself.
const TRY_AGAIN: Duration = Duration::from_secs(60);
/// How long it waits for guards of its state to be let go then.
const PATIENCE: Duration = Duration::from_secs(10);

impl<P: Projection> FeedProjection<P> {
    /// Waits for the role, and follows whoever has it meanwhile. `None`: cancelled.
    pub(super) async fn stand_by(&self, feed: &mut FeedWatch, cancel: &CancellationToken) -> Option<Tenure> {
        let (candidate, clock) = (self.candidate(), &self.with.clock);
        let (mut ask_at, mut pause) = (clock.instant(), FIRST_ASK);
        let mut free_since = None;
        loop {
            if cancel.is_cancelled() {
                return None;
            }
            if ask_at <= clock.instant() {
                match self.take_role(&candidate, &mut free_since, cancel).await {
                    Ok(Some(tenure)) => return Some(tenure),
                    Ok(None) => {}
                    Err(error) => {
                        self.report(&error);
                        feed.failed(cancel).await;
                        continue;
                    }
                }
                ask_at = clock.after(pause);
                pause = (pause * 2).min(LAST_ASK).min(self.with.lease_ttl / 3);
            }
            match self.checkpoint().await {
                Ok(position) => {
                    self.projected.set_trouble(None);
                    if self.projected.follow(position) {
                        feed.made_progress();
                    }
                    clock.sleep(LOOK).await;
                    feed.idle(cancel).await;
                }
                Err(error) => {
                    self.report(&error);
                    feed.failed(cancel).await;
                }
            }
        }
    }

    /// Takes the role if it is free, or from an owner that knows fewer event types.
    async fn take_role(
        &self,
        candidate: &Candidate,
        free_since: &mut Option<Instant>,
        cancel: &CancellationToken,
    ) -> Result<Option<Tenure>, BoxError> {
        let claim = self.claim().await?;
        if claim == Claim::Less && !self.is_free_for_long(free_since).await? {
            return Ok(None);
        }
        let taken = candidate.take(cancel).await?;
        if taken.is_some() || claim != Claim::More {
            return Ok(taken);
        }
        let projection = P::definition().name;
        tracing::info!(
            projection,
            "this process knows more event types than the one that feeds the projection: it takes over"
        );
        Ok(Some(candidate.seize(cancel).await?))
    }

    /// Waits until a rebuild, or somebody by hand, has set the projection going again. False: cancelled meanwhile.
    async fn wait_for_restart(&self, cancel: &CancellationToken) -> bool {
        let mut progress = self.projected.progress().subscribe();
        let restarted = progress.wait_for(|progress| progress.stopped.is_none());
        cancel.run_until_cancelled(restarted).await.is_some_and(|restarted| restarted.is_ok())
    }

    /// The same; or until another process has got past the event, or it is to be tried again.
    pub(super) async fn wait_until_freed(&self, cancel: &CancellationToken) -> bool {
        let looking = async {
            loop {
                self.with.clock.sleep(LAST_ASK).await;
                if let Ok(position) = self.checkpoint().await {
                    self.projected.free_before(position);
                }
                self.projected.free_skipped(&*self.with.store).await;
            }
        };
        tokio::select! {
            freed = self.wait_for_restart(cancel) => freed,
            () = looking => false,
            () = self.with.clock.sleep(TRY_AGAIN) => true,
        }
    }

    /// The same for state in memory: an event that failed may have been handled half, so it is folded anew, where it can
    /// be. What cannot be read has changed nothing.
    pub(super) async fn wait_until_folded(&self, cancel: &CancellationToken) -> bool {
        let (clock, name) = (&self.with.clock, P::definition().name);
        let mut pause = TRY_AGAIN;
        loop {
            tokio::select! {
                freed = self.wait_for_restart(cancel) => return freed,
                () = clock.sleep(pause) => {}
            }
            if matches!(self.projected.progress().borrow().stopped, Some(ProjectionError::Damaged { .. })) {
                // it may have been skipped meanwhile
                self.projected.forget_skips();
                return true;
            }
            let began = clock.instant();
            match self.projected.rebuild_in_app(&self.with, cancel, Box::new(drop), PATIENCE).await {
                Ok(rebuilt) => {
                    tracing::info!(
                        projection = name,
                        events = rebuilt.events,
                        "projection was folded anew and goes on"
                    );
                    return true;
                }
                Err(RebuildError::NoFactory { .. }) => return self.wait_for_restart(cancel).await,
                Err(error) => tracing::warn!(projection = name, %error, "projection still cannot be folded anew"),
            }
            // what has to read very much is not to do little else
            pause = TRY_AGAIN.max(clock.elapsed(began).saturating_mul(10));
        }
    }
}
