//! The future of an update: loads, decides, saves, and begins anew after a conflict.

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

/// The future of [`AggregateRepository::update`] and its variants; it decides when it is awaited.
///
/// Its type names the closure but has no bounds on it: for a closure that does not fit, such as an `async` one, the
/// compiler reports one error at the call, and no second one at the `.await`.
#[must_use = "a decision is made when it is awaited"]
pub struct UpdateFuture<'a, A: Apply, D, V, X, O> {
    repository: &'a AggregateRepository<A>,
    id: &'a AggregateId,
    existence: AggregateExistence,
    decision: D,
    decide: DecideFn<A, D, V, X>,
    /// Makes the caller's result of the save and the decision's value.
    output: fn(Saved, V) -> O,
    attempt: u32,
    decided: Option<V>,
    state: UpdateState<'a, A>,
}

type DecideFn<A, D, V, X> = fn(&D, &mut AggregateRoot<A>) -> Result<V, X>;

/// The existence that an update requires of its aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AggregateExistence {
    /// It has events.
    Required,
    /// It has events, or is new.
    Optional,
    /// It is new: a conflict is final, as no retry can remove the other events.
    Absent,
}

/// The step in progress.
///
/// | state | event | next state |
/// |---|---|---|
/// | load | loaded, the decision accepts | save |
/// | load | not loaded, or the decision refuses | done, with the error |
/// | save | conflict, and the aggregate may exist and a retry is left | load, after a delay |
/// | save | saved, or any other error | done |
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
        let state = UpdateState::Load(Box::pin(repository.load_with_existence(id, existence)));
        Self { repository, id, existence, decision, decide, output, attempt: 0, decided: None, state }
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

/// No field is pinned in place: the futures are boxed.
impl<A: Apply, D, V, X, O> Unpin for UpdateFuture<'_, A, D, V, X, O> {}

impl<A: Apply, D, V, X, O> Future for UpdateFuture<'_, A, D, V, X, O> {
    type Output = Result<O, UpdateError<X>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { repository, id, existence, decision, decide, output, attempt, decided, state } = &mut *self;
        let (repository, id, existence) = (*repository, *id, *existence);
        loop {
            match state {
                UpdateState::Load(load) => {
                    let mut root = ready!(load.as_mut().poll(context))?;
                    *decided = Some(decide(decision, &mut root).map_err(UpdateError::Refused)?);
                    *attempt += 1;
                    *state = UpdateState::Save(Box::pin(async move { repository.save(&mut root).await }));
                }
                UpdateState::Save(save) => match ready!(save.as_mut().poll(context)) {
                    Err(error)
                        if error.is_conflict()
                            && existence != AggregateExistence::Absent
                            && repository.conflict_retry.allows(*attempt) =>
                    {
                        tracing::debug!(stream = %A::stream(id), attempt, "conflict, loading and deciding anew");
                        let delay = repository.conflict_retry.jittered(*attempt);
                        *state = UpdateState::Load(Box::pin(async move {
                            repository.clock.sleep(delay).await;
                            repository.load_with_existence(id, existence).await
                        }));
                    }
                    saved => {
                        let decided = decided.take().expect("the load step decides before each save step");
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
