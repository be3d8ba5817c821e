//! The runner: feeds one projection from a store's feed, live and rebuild alike.

use std::sync::Arc;

use futures_util::TryStreamExt;
use tokio_util::sync::CancellationToken;

use super::{feeding::feed_delivery, projected::Projected};
use crate::{
    domain::{
        error::{BoxError, Chain},
        name::Name,
        record::RecordedEvent,
        stream::Position,
    },
    port::{EventStore, HandlerError, HandlerErrorKind, RetryPolicy, StateMap},
    runtime::{
        definition::{Projection, ProjectionKind},
        feed::FeedWatch,
    },
};

/// A checkpoint of a projection that keeps its rows itself is saved at least this often, in events.
const CHECKPOINT_EVERY: u64 = 256;

/// The checkpoint in the store that says how far a projection has come.
fn checkpoint_name(projection: &'static str) -> Name {
    Name::prefixed("projection:", &Name::from_static(projection))
}

/// What feeding a projection takes.
pub(crate) struct FeedProjection<P> {
    pub(crate) projected: Projected<P>,
    pub(crate) store: Arc<dyn EventStore>,
    pub(crate) state: StateMap,
}

/// Feeds a projection until cancelled.
pub(crate) async fn run<P: Projection>(task: FeedProjection<P>, cancel: CancellationToken) {
    let _fed = task.projected.fed();
    let mut feed = FeedWatch::new(&task.store);
    let mut saved = match task.begin(&mut feed, &cancel).await {
        Some(position) => position,
        None => return,
    };
    loop {
        let more = match task.feed_next(&mut saved, &cancel).await {
            Ok(Step::Handled) => {
                task.projected.set_trouble(None);
                feed.made_progress();
                !cancel.is_cancelled()
            }
            Ok(Step::CaughtUp) => {
                task.projected.set_trouble(None);
                feed.idle(&cancel).await
            }
            Ok(Step::Stopped) => task.wait_for_restart(&cancel).await,
            Err(error) => {
                task.report(&error, feed.is_failing());
                feed.failed(&cancel).await
            }
        };
        if !more {
            return;
        }
    }
}

enum Step {
    Handled,
    CaughtUp,
    Stopped,
}

impl<P: Projection> FeedProjection<P> {
    /// Whether progress must outlive the process: state in memory begins at zero anyway.
    fn has_checkpoint() -> bool {
        P::definition().kind != ProjectionKind::InMemory
    }

    /// Finds out where to begin; `None` if cancelled meanwhile.
    async fn begin(&self, feed: &mut FeedWatch, cancel: &CancellationToken) -> Option<Position> {
        self.projected.set_context(self.state.clone()).await;
        if !Self::has_checkpoint() {
            return Some(Position::START);
        }
        let generation = self.projected.progress().borrow().generation;
        loop {
            match self.store.load_checkpoint(&checkpoint_name(P::definition().name)).await {
                Ok(position) => {
                    let position = position.unwrap_or(Position::START);
                    self.projected.advance(0, position, generation);
                    return Some(position);
                }
                Err(error) => {
                    self.report(&error.into(), feed.is_failing());
                    if !feed.failed(cancel).await {
                        return None;
                    }
                }
            }
        }
    }

    /// Handles what the feed holds now.
    ///
    /// Keep: only the runner writes the checkpoint, so a rebuild cannot be overtaken by a checkpoint from before it.
    async fn feed_next(&self, saved: &mut Position, cancel: &CancellationToken) -> Result<Step, BoxError> {
        let (after, generation) = {
            let progress = self.projected.progress().borrow();
            (progress.position, progress.generation)
        };
        if after < *saved {
            self.save(saved).await?;
        }
        let head = self.store.head().await?;
        if head <= after {
            return Ok(Step::CaughtUp);
        }
        let mut records = self.store.read_all(after);
        let mut handled = 0_u64;
        while let Some(record) = records.try_next().await? {
            match self.handle(&record, generation, cancel).await {
                Ok(true) => {}
                Ok(false) => {
                    self.save(saved).await?;
                    return Ok(Step::Handled);
                }
                Err(error) => {
                    self.save(saved).await?;
                    self.projected.stop_at(&record, &error, generation);
                    return Ok(Step::Stopped);
                }
            }
            handled += 1;
            if handled.is_multiple_of(CHECKPOINT_EVERY) {
                self.save(saved).await?;
            }
            if cancel.is_cancelled() {
                self.save(saved).await?;
                return Ok(Step::Handled);
            }
        }
        // the feed ended: nothing will appear any more up to the head asked for before
        if self.projected.advance(0, head, generation) {
            self.save(saved).await?;
        }
        Ok(Step::Handled)
    }

    /// Handles one event; one that keeps its rows itself may try again, since its state is not half changed.
    async fn handle(
        &self,
        record: &RecordedEvent,
        generation: u64,
        cancel: &CancellationToken,
    ) -> Result<bool, HandlerError> {
        let retries = RetryPolicy::default();
        let mut attempt = 1;
        loop {
            let delivery = feed_delivery(&P::definition(), record.clone(), &self.state).with_attempt(attempt);
            match self.projected.handle_from_feed(&delivery, generation).await {
                Err(error) if Self::has_checkpoint() && !error.is_permanent() && attempt <= retries.max_retries => {
                    tracing::warn!(
                        projection = P::definition().name, position = ?record.position(), attempt, %error,
                        "projection cannot handle an event, trying again"
                    );
                    let delay = match error.kind() {
                        HandlerErrorKind::RetryAfter(delay) => delay,
                        _ => retries.jittered(attempt),
                    };
                    tokio::select! {
                        () = cancel.cancelled() => return Ok(false),
                        () = tokio::time::sleep(delay) => attempt += 1,
                    }
                }
                outcome => return outcome,
            }
        }
    }

    async fn save(&self, saved: &mut Position) -> Result<(), BoxError> {
        let position = self.projected.position();
        if Self::has_checkpoint() && position != *saved {
            self.store.save_checkpoint(&checkpoint_name(P::definition().name), position).await?;
            *saved = position;
        }
        Ok(())
    }

    /// Waits until a rebuild has set the projection going again. False: cancelled meanwhile.
    async fn wait_for_restart(&self, cancel: &CancellationToken) -> bool {
        let mut progress = self.projected.progress().subscribe();
        tokio::select! {
            () = cancel.cancelled() => false,
            restarted = progress.wait_for(|progress| progress.stopped.is_none()) => restarted.is_ok(),
        }
    }

    fn report(&self, error: &BoxError, repeated: bool) {
        let projection = P::definition().name;
        let error = Chain(&**error).to_string();
        if repeated {
            tracing::debug!(projection, %error, "projection still cannot read its feed");
        } else {
            tracing::warn!(projection, %error, "projection cannot read its feed, trying again");
        }
        self.projected.set_trouble(Some(error));
    }
}
