//! A decision that is being made: load, decide, save, and again if another writer was first.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::future::BoxFuture;

use super::{AggregateRepository, LoadError, SaveError, Saved, UpdateError};
use crate::domain::{
    aggregate::{AggregateRoot, Apply},
    stream::AggregateId,
};

/// A decision that is made when this is awaited; made by [`AggregateRepository::update`], and those like it.
///
/// It says by its type which closure decides, but demands nothing of it: a closure that does not fit, as an `async` one, is
/// one mistake, and not a second one where it is awaited.
#[must_use = "a decision is made when it is awaited"]
pub struct UpdateFuture<'a, A: Apply, D, V, X, O> {
    repository: &'a AggregateRepository<A>,
    id: &'a AggregateId,
    existence: AggregateExistence,
    decision: D,
    decide: DecideFn<A, D, V, X>,
    /// What the caller gets of what was saved and decided.
    output: fn(Saved, V) -> O,
    attempt: u32,
    decided: Option<V>,
    state: UpdateState<'a, A>,
}

type DecideFn<A, D, V, X> = fn(&D, &mut AggregateRoot<A>) -> Result<V, X>;

/// Which aggregate a decision is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AggregateExistence {
    /// One that is there.
    Required,
    /// One that is there, or a new one.
    Optional,
    /// A new one: a conflict is final.
    Absent,
}

/// What is under way.
enum UpdateState<'a, A: Apply> {
    Load(BoxFuture<'a, Result<AggregateRoot<A>, LoadError>>),
    Save(BoxFuture<'a, Result<Saved, SaveError>>),
}

impl<'a, A: Apply, D, V, X, O> UpdateFuture<'a, A, D, V, X, O> {
    pub(super) fn new(
        repository: &'a AggregateRepository<A>,
        id: &'a AggregateId,
        existence: AggregateExistence,
        decision: D,
        decide: DecideFn<A, D, V, X>,
        output: fn(Saved, V) -> O,
    ) -> Self {
        let step = UpdateState::Load(Box::pin(repository.load_with_existence(id, existence)));
        Self { repository, id, existence, decision, decide, output, attempt: 0, decided: None, state: step }
    }
}

impl<A: Apply> AggregateRepository<A> {
    async fn load_with_existence(
        &self,
        id: &AggregateId,
        existence: AggregateExistence,
    ) -> Result<AggregateRoot<A>, LoadError> {
        match existence {
            AggregateExistence::Required => self.load(id).await,
            AggregateExistence::Optional => Ok(self.find(id).await?.unwrap_or_else(|| self.create(id.clone()))),
            AggregateExistence::Absent => Ok(self.create(id.clone())),
        }
    }
}

/// Nothing in it is pinned: what is under way is in boxes.
impl<A: Apply, D, V, X, O> Unpin for UpdateFuture<'_, A, D, V, X, O> {}

impl<A: Apply, D, V, X, O> Future for UpdateFuture<'_, A, D, V, X, O> {
    type Output = Result<O, UpdateError<X>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { repository, id, existence: existing, decision, decide, output, attempt, decided, state: step } =
            &mut *self;
        let (repository, id, existence) = (*repository, *id, *existing);
        loop {
            match step {
                UpdateState::Load(load) => {
                    let mut root = ready!(load.as_mut().poll(context))?;
                    *decided = Some(decide(decision, &mut root).map_err(UpdateError::Refused)?);
                    *attempt += 1;
                    *step = UpdateState::Save(Box::pin(async move { repository.save(&mut root).await }));
                }
                UpdateState::Save(save) => match ready!(save.as_mut().poll(context)) {
                    Err(error)
                        if error.is_conflict()
                            && existence != AggregateExistence::Absent
                            && repository.conflict_retry.allows(*attempt) =>
                    {
                        tracing::debug!(stream = %A::stream(id), attempt, "another writer was first, deciding anew");
                        let delay = repository.conflict_retry.jittered(*attempt);
                        *step = UpdateState::Load(Box::pin(async move {
                            repository.clock.sleep(delay).await;
                            repository.load_with_existence(id, existence).await
                        }));
                    }
                    saved => {
                        let decided = decided.take().expect("it is polled to its end once, and saved what was decided");
                        return Poll::Ready(Ok(output(saved?, decided)));
                    }
                },
            }
        }
    }
}

impl<A: Apply, D, V, X, O> fmt::Debug for UpdateFuture<'_, A, D, V, X, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpdateFuture").field("id", self.id).field("attempt", &self.attempt).finish_non_exhaustive()
    }
}
