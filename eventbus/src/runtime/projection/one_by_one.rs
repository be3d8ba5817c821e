//! Feeding a projection event by event: its state is in memory, or its rows are somewhere else.

use futures_util::TryStreamExt;
use tokio_util::sync::CancellationToken;

use super::{
    fed,
    feeding::feed_delivery,
    runner::{FeedProjection, Step},
    trial::Trial,
};
use crate::{
    domain::{error::BoxError, record::RecordedEvent, stream::Position},
    port::{FeedFilter, HandlerError, read_around},
    runtime::{definition::Projection, tenure::Tenure},
};

/// A checkpoint of a projection that keeps its rows itself is saved at least this often, in events.
const CHECKPOINT_EVERY: u64 = 256;

/// Feeds a projection event by event.
pub(super) struct OneByOne<'a, P> {
    pub(super) task: &'a FeedProjection<P>,
    /// `None` for state in memory, which is fed in every process, and from zero.
    pub(super) tenure: Option<&'a Tenure>,
    /// The checkpoint in the store.
    pub(super) saved: Position,
    pub(super) stop: &'a CancellationToken,
}

impl<P: Projection> OneByOne<'_, P> {
    /// Handles what the feed holds now.
    ///
    /// Keep: only the runner writes the checkpoint, so a rebuild cannot be overtaken by a checkpoint from before it.
    pub(super) async fn feed_next(&mut self) -> Result<Step, BoxError> {
        let task = self.task;
        let (after, generation, is_set_back) = {
            let progress = task.projected.progress().borrow();
            (progress.position, progress.generation, progress.is_set_back)
        };
        if after < self.saved && !self.save().await? {
            return Ok(Step::Over);
        }
        if let Some(tenure) = self.tenure
            && is_set_back
        {
            fed::rebuilt::<P>(&task.with, tenure).await?;
        }
        task.projected.is_saved(generation);
        let head = task.with.store.head().await?;
        if head <= after {
            return Ok(Step::CaughtUp);
        }
        let skips = task.projected.skips(&*task.with.store).await?;
        let filter = FeedFilter::from(P::definition().events);
        let mut records = read_around(&*task.with.store, after, head, &filter, &skips);
        let mut handled = 0_u64;
        loop {
            // what is rare is searched for long
            let Some(next) = self.stop.run_until_cancelled(records.try_next()).await else {
                self.save().await?;
                return Ok(Step::Handled);
            };
            let record = match next {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(error) => {
                    // what was handled before a damaged event is not handled again
                    self.save().await?;
                    return Err(error.into());
                }
            };
            if self.has_passed() {
                return Ok(Step::Over);
            }
            match self.handle(&record, generation).await {
                Ok(true) => {}
                Ok(false) => {
                    self.save().await?;
                    return Ok(Step::Handled);
                }
                Err(error) => {
                    self.save().await?;
                    task.projected.stop_at(&record, &error, generation);
                    return Ok(Step::Stopped);
                }
            }
            handled += 1;
            if handled.is_multiple_of(CHECKPOINT_EVERY) {
                self.save().await?;
            }
        }
        if task.projected.advance(0, head, generation) {
            self.save().await?;
        }
        Ok(Step::Handled)
    }

    fn has_passed(&self) -> bool {
        self.tenure.is_some_and(Tenure::has_passed)
    }

    /// Handles one event; one that keeps its rows itself may try again, since its state is not half changed.
    async fn handle(&self, record: &RecordedEvent, generation: u64) -> Result<bool, HandlerError> {
        let definition = P::definition();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let delivery = feed_delivery(&definition, record.clone(), &self.task.with.state).with_attempt(attempts);
            let error = match self.task.projected.handle_from_feed(&delivery, generation).await {
                Ok(is_next) => return Ok(is_next),
                Err(error) => error,
            };
            let trial = Trial { position: record.position().unwrap_or(Position::START), attempts, error };
            if self.tenure.is_none() || trial.is_final() {
                return Err(trial.error);
            }
            trial.log(definition.name);
            if self.stop.run_until_cancelled(self.task.with.clock.sleep(trial.delay())).await.is_none() {
                return Ok(false);
            }
        }
    }

    /// Saves the checkpoint. False: somebody else may have the role by now, and nothing was saved.
    async fn save(&mut self) -> Result<bool, BoxError> {
        let Some(tenure) = self.tenure else {
            return Ok(true);
        };
        if tenure.has_passed() {
            return Ok(false);
        }
        let position = self.task.projected.position();
        if position != self.saved {
            self.task.with.store.save_checkpoint(&tenure.lease().role, position).await?;
            self.saved = position;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        domain::{
            clock::SharedClock,
            name::Name,
            record::NewEvent,
            stream::{ExpectedVersion, StreamId},
        },
        memory::InMemoryEventStore,
        port::{AppendEvents as _, StateMap},
        runtime::projection::{Projected, RunWith},
    };

    const TTL: Duration = Duration::from_secs(10);

    #[derive(Default)]
    struct Rows;

    #[eventbus::projection(name = "rows")]
    impl Rows {
        fn any(&self, _event: &RecordedEvent) {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_is_left_to_the_next_owner_when_the_role_has_passed() {
        let store = InMemoryEventStore::new();
        let stream = StreamId::parse("Order", "1").unwrap();
        let event = NewEvent::new(Name::from_static("Noted"), 1, "{}");
        store.append(&stream, ExpectedVersion::Any, vec![event]).await.unwrap();
        let (owner, projected) = (Name::from_static("a"), Projected::with(Rows::default));
        let with = RunWith {
            store: Arc::new(store),
            state: StateMap::new(),
            owner,
            lease_ttl: TTL,
            clock: SharedClock::SYSTEM,
        };
        let task = FeedProjection::new(projected.clone(), with);
        let stop = CancellationToken::new();
        let tenure = task.candidate().take(&stop).await.unwrap().unwrap();
        let mut steps = OneByOne { task: &task, tenure: Some(&tenure), saved: Position::START, stop: &stop };
        assert!(matches!(steps.feed_next().await.unwrap(), Step::Handled));
        assert_eq!(steps.saved, 1);

        // no timer fires meanwhile, as in a process that stands still
        tokio::time::advance(TTL).await;
        projected.restart();
        assert!(matches!(steps.feed_next().await.unwrap(), Step::Over));
        assert!(!projected.follow(Position::new(1)), "everything is to be handled again");
    }
}
