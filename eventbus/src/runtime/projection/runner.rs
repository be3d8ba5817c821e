//! The runner: feeds one projection from a store's feed, live and rebuild alike.
//!
//! State in memory is fed in every process. What is kept elsewhere is fed by one process at a time, the owner of the lease
//! `projection:{name}`; the others stand by, and follow its checkpoint meanwhile.
//!
//! Keep: the checkpoint is loaded after the lease was taken, never before.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    ProjectionError,
    fed::Examined,
    one_by_one::OneByOne,
    projected::{Projected, State},
    writer::{Writer, Written},
};
use crate::{
    domain::{
        clock::SharedClock,
        error::{BoxError, Line},
        name::Name,
        stream::Position,
    },
    port::{EventStore, ReadError, StateMap},
    runtime::{
        definition::{Projection, ProjectionKind},
        feed::FeedWatch,
        tenure::{Candidate, GivenUp, Tenure},
    },
};

/// How long a process that ends tries to save how far it read. Real time: it is the reply of a server.
const LAST_SAVE: Duration = Duration::from_secs(1);

/// The role of feeding a projection, and the checkpoint that says how far it has come.
pub(crate) fn role_of(projection: &'static str) -> Name {
    Name::prefixed("projection:", &Name::from_static(projection))
}

/// A projection that is to be fed.
pub(super) struct FeedProjection<P> {
    pub(super) projected: Projected<P>,
    pub(super) with: RunWith,
    given_up: GivenUp,
}

/// What feeding a projection takes.
#[derive(Clone)]
pub(crate) struct RunWith {
    pub(crate) store: Arc<dyn EventStore>,
    pub(crate) state: StateMap,
    /// Who this process is, and how long its leases last.
    pub(crate) owner: Name,
    pub(crate) lease_ttl: Duration,
    pub(crate) clock: SharedClock,
}

/// Feeds a projection until cancelled.
pub(super) async fn run<P: Projection>(task: FeedProjection<P>, cancel: CancellationToken) {
    let _fed = task.projected.fed();
    task.projected.set_context(task.with.state.clone()).await;
    let mut feed = FeedWatch::new(&task.with.store, task.with.clock.clone());
    if P::definition().kind == ProjectionKind::InMemory {
        task.projected.set_owner(true);
        while let Served::Stopped = task.serve_in_memory(&mut feed, &cancel).await {
            if !task.wait_until_folded(&cancel).await {
                return;
            }
        }
        return;
    }
    while let Some(tenure) = task.stand_by(&mut feed, &cancel).await {
        task.projected.set_owner(true);
        let examined = task.examine(&tenure).await;
        if matches!(examined, Ok(Examined::Complete | Examined::ToRebuild)) {
            task.projected.free_if(|stopped| matches!(stopped, ProjectionError::PassedBy { .. }));
        }
        let served = match examined {
            Ok(Examined::Complete) => task.serve(&tenure, &mut feed).await,
            Ok(Examined::ToRebuild) => tokio::join!(task.serve(&tenure, &mut feed), task.make_up(&tenure, &cancel)).0,
            Ok(Examined::Stopped) => Served::Stopped,
            Err(error) => {
                task.report(&error);
                Served::Ended
            }
        };
        task.projected.set_owner(false);
        tenure.give_back().await;
        let more = match served {
            // whoever stands by may have better luck with the event
            Served::Stopped => task.wait_until_freed(&cancel).await,
            Served::Ended => feed.failed(&cancel).await,
        };
        if !more {
            return;
        }
    }
}

/// What came of a look at the feed.
pub(super) enum Step {
    Handled,
    CaughtUp,
    Stopped,
    /// The role is somebody else's.
    Over,
}

/// Why a projection is fed no longer.
enum Served {
    Stopped,
    /// Cancelled, or the role is somebody else's.
    Ended,
}

impl<P: Projection> FeedProjection<P> {
    pub(super) fn new(projected: Projected<P>, with: RunWith) -> Self {
        Self { projected, given_up: GivenUp::new(&with.clock), with }
    }

    pub(super) fn candidate(&self) -> Candidate {
        Candidate {
            store: Arc::clone(&self.with.store),
            role: role_of(P::definition().name),
            owner: self.with.owner.clone(),
            ttl: self.with.lease_ttl,
            clock: self.with.clock.clone(),
            given_up: self.given_up.clone(),
        }
    }

    pub(super) async fn checkpoint(&self) -> Result<Position, BoxError> {
        let loaded = self.with.store.load_checkpoint(&role_of(P::definition().name)).await?;
        Ok(loaded.unwrap_or(Position::START))
    }

    async fn serve_in_memory(&self, feed: &mut FeedWatch, cancel: &CancellationToken) -> Served {
        let mut steps = OneByOne { task: self, tenure: None, saved: Position::START, stop: cancel };
        loop {
            let step = steps.feed_next().await;
            if let Some(served) = self.after(step, feed, cancel).await {
                return served;
            }
        }
    }

    /// Feeds the projection while it has the role.
    async fn serve(&self, tenure: &Tenure, feed: &mut FeedWatch) -> Served {
        let stop = tenure.over();
        while !stop.is_cancelled() {
            let began =
                async { Ok::<_, BoxError>((self.checkpoint().await?, self.projected.skips(&*self.with.store).await?)) };
            let served = match began.await {
                Ok((saved, skips)) => {
                    self.projected.follow(saved);
                    match (self.projected.state(), self.with.store.transactions()) {
                        (State::Free(projection), Some(transactions))
                            if P::definition().kind == ProjectionKind::Transactional =>
                        {
                            let activity = self.projected.activity();
                            let writer =
                                Writer::new(projection, &*transactions, None, tenure, &self.with, activity, saved);
                            let writer = writer.around(skips);
                            self.serve_in_transactions(writer, feed, stop).await
                        }
                        _ => {
                            self.serve_one_by_one(OneByOne { task: self, tenure: Some(tenure), saved, stop }, feed)
                                .await
                        }
                    }
                }
                Err(error) => self.after(Err(error), feed, stop).await,
            };
            if let Some(served) = served {
                return served;
            }
        }
        Served::Ended
    }

    async fn serve_one_by_one(&self, mut steps: OneByOne<'_, P>, feed: &mut FeedWatch) -> Option<Served> {
        loop {
            let step = steps.feed_next().await;
            if let Some(served) = self.after(step, feed, steps.stop).await {
                return Some(served);
            }
        }
    }

    /// `None`: the checkpoint is to be loaded anew, since nobody knows what was committed.
    async fn serve_in_transactions(
        &self,
        mut writer: Writer<'_, P>,
        feed: &mut FeedWatch,
        stop: &CancellationToken,
    ) -> Option<Served> {
        loop {
            let step = self.write_next(&mut writer).await;
            let failed = step.is_err();
            if let Some(served) = self.after(step, feed, stop).await {
                // what no rows go with would only be read again
                let _ = tokio::time::timeout(LAST_SAVE, writer.save(true)).await;
                return Some(served);
            }
            if failed {
                return None;
            }
        }
    }

    async fn write_next(&self, writer: &mut Writer<'_, P>) -> Result<Step, BoxError> {
        let head = self.with.store.head().await?;
        if head <= writer.position() {
            return Ok(if writer.save(false).await? { Step::CaughtUp } else { Step::Over });
        }
        let projected = &self.projected;
        let generation = projected.progress().borrow().generation;
        let mut report = |events, position| projected.reached_by_owner(events, position);
        Ok(match writer.write_up_to(head, &*self.with.store, &mut report).await? {
            Written::All if writer.save(false).await? => Step::Handled,
            Written::All | Written::Lost => Step::Over,
            Written::Ended => Step::Handled,
            Written::Stopped(record, error) => {
                projected.stop_at(&record, &error, generation);
                Step::Stopped
            }
            Written::Misnamed(error) => {
                tracing::error!(%error, "projection stopped before its first event");
                projected.stop(error, generation);
                Step::Stopped
            }
        })
    }

    /// Waits until the next look is worth it; why there is none, if so.
    async fn after(
        &self,
        step: Result<Step, BoxError>,
        feed: &mut FeedWatch,
        stop: &CancellationToken,
    ) -> Option<Served> {
        let more = match step {
            Ok(Step::Handled) => {
                self.projected.set_trouble(None);
                feed.made_progress();
                !stop.is_cancelled()
            }
            Ok(Step::CaughtUp) => {
                self.projected.set_trouble(None);
                self.projected.free_if(|stopped| matches!(stopped, ProjectionError::Damaged { .. }));
                feed.idle(stop).await
            }
            Ok(Step::Stopped) => return Some(Served::Stopped),
            Ok(Step::Over) => false,
            // trying again reads the same
            Err(error) if matches!(error.downcast_ref(), Some(ReadError::Corrupt { .. })) => {
                self.projected.stop_at_damage(&error);
                return Some(Served::Stopped);
            }
            Err(error) => {
                self.report(&error);
                // it may have been skipped meanwhile
                self.projected.forget_skips();
                feed.failed(stop).await
            }
        };
        (!more).then_some(Served::Ended)
    }

    pub(super) fn report(&self, error: &BoxError) {
        let projection = P::definition().name;
        let fault = self.with.store.transactions().and_then(|transactions| transactions.server_fault(&**error));
        let error = Line(&**error).to_string();
        if self.projected.set_trouble(Some((error.clone(), fault))) {
            tracing::warn!(projection, error, "projection cannot use its store, trying again");
        } else {
            tracing::debug!(projection, error, "projection still cannot use its store");
        }
    }
}
