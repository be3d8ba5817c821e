//! A projection with how far it has come.

use std::{
    fmt,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::sync::{RwLock, watch};

use super::guard::{ProjectionGuard, View};
use crate::{
    domain::{name::Name, record::RecordedEvent, stream::Position},
    port::{Delivery, HandlerError, StateMap},
    runtime::definition::{Projection, ProjectionDefinition, ProjectionKind},
};

/// A projection with how far it has come. Cloning shares it.
///
/// An app makes and feeds its own ([`App::projection`](crate::App::projection)); by hand it is fed from a bus
/// ([`EventBusExt::subscribe_all`](crate::EventBusExt::subscribe_all)) or from a store
/// ([`Projected::rebuild`]).
///
/// # Examples
/// ```
/// # use eventbus::{InMemoryEventStore, Projected, prelude::*};
/// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// # #[event(aggregate_type = "Account")]
/// # struct Opened {}
/// #[derive(Debug, Default)]
/// struct Accounts { opened: u64 }
///
/// #[projection(name = "accounts")]
/// impl Accounts {
///     fn opened(&mut self, _event: &Opened) { self.opened += 1; }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> eventbus::Result<()> {
/// # let store = InMemoryEventStore::new();
/// let accounts = Projected::with(Accounts::default);
/// accounts.rebuild(&store).await?;
/// assert_eq!(accounts.read().await.opened, 0);
/// # Ok(())
/// # }
/// ```
pub struct Projected<P>(Arc<Shared<P>>);

struct Shared<P> {
    state: State<P>,
    make: Option<Box<dyn Fn() -> P + Send + Sync>>,
    context: RwLock<StateMap>,
    progress: watch::Sender<Progress>,
}

enum State<P> {
    /// `&mut self` methods.
    Locked(RwLock<P>),
    /// `&self` methods: no lock.
    Free(P),
}

/// How far a projection has come.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    pub(super) position: Position,
    /// Grows whenever the position was set back: whoever reads the feed starts anew.
    pub(super) generation: u64,
    /// Events read since then.
    pub(super) events: u64,
    pub(super) stopped: Option<ProjectionError>,
    /// Why the feed or the checkpoint is not available at the moment.
    pub(super) trouble: Option<String>,
    /// Whether the app that fed it does so no more.
    pub(super) ended: bool,
}

/// Why a projection does not go on, or cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ProjectionError {
    /// The app has no such projection.
    #[error("the app has no projection `{name}` (it has: {}); a crate that the binary never names is not linked", known.join(", "))]
    NotRunning {
        /// The projection asked for.
        name: &'static str,
        /// The projections it has, sorted.
        known: Vec<&'static str>,
    },
    /// An event could not be handled: the projection stays before it until it is rebuilt or the app is started anew.
    #[error("projection `{name}` stopped at position {position}: {error}")]
    Stopped {
        /// The projection.
        name: &'static str,
        /// The position of the event.
        position: Position,
        /// What its method said.
        error: String,
    },
    /// Its app was shut down before it got that far.
    #[error(
        "projection `{name}` is at position {position} and not fed any more: its app was shut down"
    )]
    ShutDown {
        /// The projection.
        name: &'static str,
        /// Where it is.
        position: Position,
    },
    /// Its state was in use for too long: a guard was not let go, or the method that handles an event does not end.
    #[error(
        "projection `{name}` could not be read within {timeout:?}: an event is being handled, or a guard is held"
    )]
    Busy {
        /// The projection.
        name: &'static str,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// It did not get that far in time.
    #[error(
        "projection `{name}` is at position {position}, {wanted} was not reached within {timeout:?}: {trouble}"
    )]
    TimedOut {
        /// The projection.
        name: &'static str,
        /// Where it is.
        position: Position,
        /// Where it should have been.
        wanted: Position,
        /// How long it was waited for.
        timeout: Duration,
        /// What keeps it.
        trouble: String,
    },
}

impl<P: Projection> Projected<P> {
    /// Takes an instance. It cannot be rebuilt: [`with`](Self::with) can.
    #[must_use]
    pub fn new(projection: P) -> Self {
        Self::build(projection, None)
    }

    /// Makes an instance, and a new one for each rebuild.
    #[must_use]
    pub fn with(make: impl Fn() -> P + Send + Sync + 'static) -> Self {
        Self::build(make(), Some(Box::new(make)))
    }

    fn build(projection: P, make: Option<Box<dyn Fn() -> P + Send + Sync>>) -> Self {
        let state = match P::definition().kind {
            ProjectionKind::InMemory => State::Locked(RwLock::new(projection)),
            ProjectionKind::Transactional | ProjectionKind::AtLeastOnce => State::Free(projection),
        };
        Self(Arc::new(Shared {
            state,
            make,
            context: RwLock::default(),
            progress: watch::Sender::default(),
        }))
    }

    /// Reads the state as it is now; waits while an event is being handled.
    ///
    /// A task that holds a guard and asks for another one may wait for ever: an event that came in between waits for
    /// the first, and the second for that event.
    pub async fn read(&self) -> ProjectionGuard<'_, P> {
        let view = match &self.0.state {
            State::Locked(lock) => View::Locked(lock.read().await),
            State::Free(state) => View::Free(state),
        };
        ProjectionGuard::new(view, self.position())
    }

    /// The position up to which every event is included; fed from a bus, the highest position of those handled.
    #[must_use]
    pub fn position(&self) -> Position {
        self.0.progress.borrow().position
    }

    /// Waits until every event up to `position` is included, then reads the state.
    ///
    /// # Errors
    /// [`ProjectionError::Stopped`] if an event could not be handled; [`ProjectionError::ShutDown`] if no app feeds it
    /// any more; after `timeout` [`ProjectionError::TimedOut`], or [`ProjectionError::Busy`] while its state is in use.
    pub async fn read_at(
        &self,
        position: Position,
        timeout: Duration,
    ) -> Result<ProjectionGuard<'_, P>, ProjectionError> {
        let began = Instant::now();
        self.reached(position, timeout).await?;
        tokio::time::timeout(timeout.saturating_sub(began.elapsed()), self.read())
            .await
            .map_err(|_| ProjectionError::Busy {
                name: P::definition().name,
                timeout,
            })
    }

    pub(super) fn definition(&self) -> ProjectionDefinition {
        P::definition()
    }

    pub(super) fn make(&self) -> Option<P> {
        self.0.make.as_ref().map(|make| make())
    }

    pub(super) fn progress(&self) -> &watch::Sender<Progress> {
        &self.0.progress
    }

    /// Gives the methods the app's shared state.
    pub(super) async fn set_context(&self, context: StateMap) {
        *self.0.context.write().await = context;
    }

    pub(super) async fn context(&self) -> StateMap {
        self.0.context.read().await.clone()
    }

    /// Waits until every event up to `position` is handled.
    pub(super) fn reached(
        &self,
        position: Position,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), ProjectionError>> + Send + 'static {
        let mut progress = self.0.progress.subscribe();
        async move {
            let name = P::definition().name;
            let arrived =
                progress.wait_for(|now| now.position >= position || now.why_not_on(name).is_some());
            let in_time = tokio::time::timeout(timeout, arrived).await.is_ok();
            let now = progress.borrow();
            if now.position >= position {
                return Ok(());
            }
            let why = now.why_not_on(name).filter(|_| in_time);
            let busy = || "it is still busy".into();
            Err(why.unwrap_or_else(|| ProjectionError::TimedOut {
                name,
                position: now.position,
                wanted: position,
                timeout,
                trouble: now.trouble.clone().unwrap_or_else(busy),
            }))
        }
    }

    /// Handles an event from a bus: at least once, in whatever order it comes.
    pub(crate) async fn handle_from_bus(&self, delivery: &Delivery) -> Result<(), HandlerError> {
        let delivery = delivery.clone().with_state(self.context().await);
        self.handle(&delivery, |_| true).await?;
        if let Some(position) = delivery.record().position() {
            self.0
                .progress
                .send_modify(|progress| progress.position = progress.position.max(position));
        }
        Ok(())
    }

    /// Handles an event from a feed, if it is the next one of `generation`. False: the position was set back.
    pub(super) async fn handle_from_feed(
        &self,
        delivery: &Delivery,
        generation: u64,
    ) -> Result<bool, HandlerError> {
        let Some(position) = delivery.record().position() else {
            return Ok(true);
        };
        let is_next =
            |progress: &Progress| progress.generation == generation && progress.position < position;
        if P::definition()
            .events
            .matches(delivery.record().event_type())
        {
            self.handle(delivery, is_next).await?;
        }
        Ok(self.advance(1, position, generation))
    }

    /// Says that everything up to `position` is handled, `events` more. False: the position was set back meanwhile.
    pub(super) fn advance(&self, events: u64, position: Position, generation: u64) -> bool {
        let mut current = true;
        self.0.progress.send_if_modified(|progress| {
            current = progress.generation == generation;
            let moved = current && progress.position < position;
            if moved {
                progress.position = position;
                progress.events += events;
            }
            moved
        });
        current
    }

    /// Runs the method for an event, if `wanted` still holds once it is its turn.
    async fn handle(
        &self,
        delivery: &Delivery,
        wanted: impl Fn(&Progress) -> bool,
    ) -> Result<(), HandlerError> {
        match &self.0.state {
            State::Locked(lock) => {
                let mut state = lock.write().await;
                if !wanted(&self.0.progress.borrow()) {
                    return Ok(());
                }
                let handled = caught(state.project_mut(delivery)).await;
                if let (Ok(()), Some(position)) = (&handled, delivery.record().position()) {
                    // under the lock, so that whoever replaces the state knows what it includes
                    self.0.progress.send_modify(|progress| {
                        progress.position = progress.position.max(position)
                    });
                }
                handled
            }
            State::Free(state) if wanted(&self.0.progress.borrow()) => {
                caught(state.project(delivery, None)).await
            }
            State::Free(_) => Ok(()),
        }
    }

    /// Replaces the state by `fresh`, brought up to date by `catch_up` while events wait.
    pub(super) async fn replace<E>(
        &self,
        mut fresh: P,
        included: Position,
        catch_up: impl AsyncFnOnce(&mut P, Position) -> Result<Position, E>,
    ) -> Result<Option<Position>, E> {
        let State::Locked(lock) = &self.0.state else {
            return Ok(None);
        };
        let mut state = lock.write().await;
        let target = self.position().max(included);
        let position = catch_up(&mut fresh, target).await?;
        *state = fresh;
        self.0.progress.send_modify(|progress| {
            progress.position = position;
            progress.generation += 1;
            progress.stopped = None;
        });
        Ok(Some(position))
    }

    /// Sets the position back, so that the whole feed is handled again.
    pub(super) fn restart(&self) {
        self.0.progress.send_modify(|progress| {
            progress.position = Position::START;
            progress.generation += 1;
            progress.events = 0;
            progress.stopped = None;
        });
    }

    /// Says what keeps the feed or the checkpoint from being used, or that nothing does any more.
    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        self.0.progress.send_if_modified(|progress| {
            let changed = progress.trouble != trouble;
            progress.trouble = trouble;
            changed
        });
    }

    /// Says that an app feeds it, until the result is dropped.
    pub(super) fn fed(&self) -> Fed<'_> {
        self.0
            .progress
            .send_modify(|progress| progress.ended = false);
        Fed(&self.0.progress)
    }

    /// Stops before an event that could not be handled, unless the position was set back meanwhile.
    pub(super) fn stop_at(&self, record: &RecordedEvent, error: &HandlerError, generation: u64) {
        let definition = P::definition();
        let position = record.position().unwrap_or(Position::START);
        tracing::error!(
            projection = definition.name, %position, event_type = %record.event_type(), %error, "projection stopped"
        );
        let stopped = ProjectionError::Stopped {
            name: definition.name,
            position,
            error: error.to_string(),
        };
        self.0.progress.send_if_modified(|progress| {
            let current = progress.generation == generation;
            if current {
                progress.stopped = Some(stopped);
            }
            current
        });
    }
}

impl Progress {
    /// Why the position will not grow any more, if so.
    pub(super) fn why_not_on(&self, name: &'static str) -> Option<ProjectionError> {
        let ended = ProjectionError::ShutDown {
            name,
            position: self.position,
        };
        self.stopped.clone().or(self.ended.then_some(ended))
    }
}

/// While it is there, an app feeds the projection.
pub(super) struct Fed<'a>(&'a watch::Sender<Progress>);

impl Drop for Fed<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|progress| progress.ended = true);
    }
}

/// A panic of a projection's method is an error of that event.
pub(super) async fn caught(
    handled: impl Future<Output = Result<(), HandlerError>>,
) -> Result<(), HandlerError> {
    std::panic::AssertUnwindSafe(handled)
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| Err(HandlerError::from_panic(&*panic)))
}

/// A delivery as a projection gets it from a feed.
pub(super) fn feed_delivery(
    definition: &ProjectionDefinition,
    record: RecordedEvent,
    state: &StateMap,
) -> Delivery {
    Delivery::new(record, Name::from_static(definition.name)).with_state(state.clone())
}

impl<P> Clone for Projected<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P> fmt::Debug for Projected<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Projected")
            .field("progress", &*self.0.progress.borrow())
            .finish_non_exhaustive()
    }
}
