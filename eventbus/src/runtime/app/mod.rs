//! The app: a store, a bus, and the relay, consumers and projections on them.
//!
//! Invariant: no module outside of this one names the in-memory defaults of store and bus.

mod app_bus;
mod builder;
mod bus_share;
mod error;
mod exit;
mod inner;
mod merged_dead_letters;
mod metrics;
#[cfg(feature = "opentelemetry")]
mod metrics_export;
mod no_store;
mod outage_starts;
mod parts;
mod plan;
mod relay_health;
mod replayed;
mod set_up;
mod signal;
mod standalone;
mod stored_types;
mod tasks;
mod wait_idle;

use std::{fmt, sync::Arc, time::Duration};

pub use builder::AppBuilder;
pub use error::{PublishedError, SettleError};
pub use merged_dead_letters::MergedDeadLetters;
#[cfg(feature = "axum")]
pub(crate) use relay_health::ANSWER_TIMEOUT;
pub use relay_health::Published;
pub use replayed::{ReplayError, Replayed};
pub use signal::shutdown_signal;
pub use standalone::StandaloneApp;

use self::{
    exit::{ActivitySources, ExitGuard},
    inner::AppInner,
    metrics::PolledStatus,
};
use super::{
    definition::{Projection, ProjectionKind},
    follow::Follow,
    metrics::Metrics,
    projection::{
        AnyProjection, ProjectionError, ProjectionGuard, ProjectionHandle, ProjectionStatus, Rebuild, RebuildError,
        Rebuilt, accept_missed_events, projection_role, rebuild_aggregate, rebuild_in_app,
    },
    relay::{RelayStatus, RepublishError},
    repository::{AggregateRepository, Deciding, TaggedEvents, Together, tag_stored_events},
    skip::{SkipEditor, SkipError, SkippedEvent, load_skipped_events},
};
use crate::{
    domain::{
        aggregate::{Aggregate, Apply},
        decision::Decision,
        error::Result,
        name::Name,
        record::{EncodeEvent, EventSet},
        stream::{Position, StreamId},
    },
    port::{EventBus, EventStore, ReadError, ShutdownError, handler_progress::HandlerProgressError, health::Health},
    support::relay_to,
};

/// A running app: a store, a bus, and the handlers and projections on them. Clones share it.
///
/// Its tasks stop when the last clone is dropped, or when [`shutdown`](Self::shutdown) is called, which waits for
/// deliveries in flight.
///
/// # Examples
/// ```standalone_crate
/// use eventbus::{App, prelude::*};
/// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// # #[event(aggregate = Counter)]
/// # struct Counted { by: u32 }
/// # #[derive(Debug, Default, Aggregate)]
/// # #[aggregate(events(Counted))]
/// # struct Counter { total: u32 }
/// # impl Apply for Counter {
/// #     fn apply(&mut self, event: &CounterEvent) { let CounterEvent::Counted(e) = event; self.total += e.by; }
/// # }
/// #[derive(Debug, Default)]
/// struct Sum { total: u32 }
///
/// #[projection(name = "sum")]
/// impl Sum {
///     fn counted(&mut self, event: &Counted) { self.total += event.by; }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> eventbus::Result<()> {
/// let app = App::builder().discover().start().await?;
/// let counters = app.repository::<Counter>();
/// let mut counter = counters.create_new(AggregateId::new());
/// counter.record(Counted { by: 2 });
/// let saved = counters.save(&mut counter).await?;
/// assert_eq!(app.projected::<Sum>(saved.position).await?.total, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "an app stops when its last clone is dropped: keep it, and end with `run_until_signal` or `shutdown`"]
pub struct App(Arc<AppInner>);

impl App {
    /// Creates a builder.
    pub fn builder() -> AppBuilder {
        AppBuilder::new()
    }

    /// Returns a repository of aggregates of one type; the app's relay publishes the events that it saves.
    pub fn repository<A: Aggregate + Apply>(&self) -> AggregateRepository<A> {
        self.0.repositories.repository()
    }

    /// Saves several aggregates at once, all or none.
    pub fn together<'a>(&self) -> Together<'a> {
        Together::new(self.0.repositories.clone())
    }

    /// Begins a decision about all events with certain tags, whichever aggregates they belong to.
    pub fn decision<D: Decision + Apply>(&self) -> Deciding<D> {
        Deciding::new(self.0.repositories.clone())
    }

    /// Adds to the stored events of the types of `E`, in all tenants, the tags that the types declare now. `E` is an
    /// event, or an enum of events, such as an aggregate's. Reports the progress after each event, and at the end.
    ///
    /// Call it once after you have added `tags(..)` to an event, when no process of the former release runs any more:
    /// decisions do not find events without their tags. Saves may run meanwhile, and you may call it again. Decisions
    /// about the new tags miss events until it has ended: first release the tags, then call it, then release the
    /// decisions. Decisions about tags that the events have already are made again when it adds one. Tags that a type
    /// no longer declares stay.
    ///
    /// # Errors
    /// The error of an event that cannot be decoded, or of the store; events that have got their tags by then keep
    /// them.
    ///
    /// # Examples
    /// ```standalone_crate
    /// use eventbus::prelude::*;
    ///
    /// #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// #[event(aggregate_type = "Enrolment", tags(course))] // the tags are new
    /// struct Enrolled { course: String }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
    /// let app = App::builder().start().await?;
    /// let tagged = app.tag_stored_events::<Enrolled>(|progress| println!("{} events", progress.events)).await?;
    /// assert_eq!(tagged.tags, 0); // no event was stored before
    /// # Ok(()) }
    /// ```
    pub async fn tag_stored_events<E>(&self, progress: impl FnMut(&TaggedEvents)) -> Result<TaggedEvents>
    where
        E: EventSet + EncodeEvent,
    {
        tag_stored_events::<E>(&**self.store(), progress).await
    }

    /// Returns `false` if the app only consumes: it was given a bus and no store.
    #[must_use]
    pub fn has_store(&self) -> bool {
        self.0.has_store
    }

    /// Returns the store. If the app [has none](Self::has_store), each call to it fails.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn EventStore> {
        &self.0.store
    }

    /// Follows the store's feed: stored events, then new ones. [`Follow::start`] returns a `Stream`, whose `try_next`
    /// in the example comes from the crate `futures-util`.
    ///
    /// # Examples
    /// ```standalone_crate
    /// use eventbus::{App, EventSet, Never, prelude::*, store::FeedFilter};
    /// use futures_util::TryStreamExt;
    /// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// # #[event(aggregate = Account)]
    /// # struct Deposited { cents: u64 }
    /// # #[derive(Debug, Default, Aggregate)]
    /// # #[aggregate(events(Deposited))]
    /// # struct Account;
    /// # impl Apply for Account { fn apply(&mut self, _event: &AccountEvent) {} }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> eventbus::Result<()> {
    /// # let app = App::builder().start().await?;
    /// let mut deposits = app.follow().filter(FeedFilter::from(Deposited::EVENTS)).start();
    /// let control = deposits.control(); // pauses, resumes and stops it from anywhere
    /// let ada = "ada".parse()?;
    /// app.repository::<Account>().upsert(&ada, |_| Ok::<_, Never>(Deposited { cents: 120 })).await?;
    /// while let Some(record) = deposits.try_next().await? {
    ///     assert_eq!(record.decode::<Deposited>()?.cents, 120);
    ///     control.stop();
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn follow(&self) -> Follow {
        Follow::shared(self.0.tasks.runner_context().feed_head.clone())
    }

    /// Returns the bus.
    #[must_use]
    pub fn bus(&self) -> &Arc<dyn EventBus> {
        &self.0.bus
    }

    /// Returns the handle by which to read a projection of the app.
    ///
    /// # Errors
    /// [`ProjectionError::NotRunning`] if the app has no such projection.
    pub fn projection<P: Projection>(&self) -> Result<&ProjectionHandle<P>, ProjectionError> {
        self.0.handle()
    }

    /// Waits until a projection includes all events up to `position`, then reads it: read your own writes.
    ///
    /// You can pass [`Saved::position`](crate::Saved) as it is. With `None` it waits until state in memory includes the
    /// events that were stored when the app started, and reads rows at once.
    ///
    /// # Errors
    /// [`ProjectionError`] if the app has no such projection or was shut down, if the projection stopped at an event
    /// before it had reached the position, or if it did not reach the position, or could not be read, within the
    /// builder's `wait_timeout`.
    pub async fn projected<P: Projection>(
        &self,
        position: impl Into<Option<Position>>,
    ) -> Result<ProjectionGuard<'_, P>, ProjectionError> {
        let position = position.into();
        let projection = self.0.handle::<P>()?;
        let mut read = projection.read_when_included(position, self.0.wait_timeout).await;
        if let Err(ProjectionError::TimedOut { wanted, problem, .. }) = &mut read
            && projection.inner().status(Position::START).trouble.is_none()
            && let Some(end) = self.0.describe_missing_position(*wanted).await
        {
            *problem = end;
        }
        read
    }

    /// Returns the [metrics](crate::metrics) of the app: what it has counted since its start, and the present status of
    /// store, relay, projections and bus. It waits 2 seconds at most for store and bus, and leaves out what they have
    /// not answered by then.
    ///
    /// # Examples
    /// ```standalone_crate
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
    /// let app = eventbus::App::builder().start().await?;
    /// let page = app.metrics().await.to_prometheus_text();
    /// assert!(page.contains("# TYPE eventbus_relay_leader gauge\n"));
    /// # Ok(()) }
    /// ```
    pub async fn metrics(&self) -> Metrics {
        let polled = PolledStatus::poll(&self.0).await;
        metrics::collect(&self.0, &polled)
    }

    /// Returns the status of each projection of the app, sorted by name. It shows a rebuild of rows with `tables(..)`
    /// in any process; only the callers of other rebuilds know of them.
    ///
    /// # Errors
    /// [`ReadError`] if the store cannot be read.
    pub async fn projections(&self) -> Result<Vec<ProjectionStatus>, ReadError> {
        let store = &*self.0.store;
        let head = store.head().await?;
        let mut statuses = Vec::with_capacity(self.0.projections.len());
        for projection in &self.0.projections {
            statuses.push(projection.fed().load_status(store, head).await?);
        }
        Ok(statuses)
    }

    /// Rebuilds a projection from zero while the app runs. Its [progress](crate::projection::RebuildProgress) can be
    /// shown as a bar.
    ///
    /// - State in memory: the rebuild folds a new instance beside the old one, which serves reads until it is replaced.
    ///   Drop the projection's guards first: the rebuild waits for them, at most for the builder's `wait_timeout`.
    /// - Rows in the store's transaction: the rebuild fills copies of the projection's `tables(..)`, while the live
    ///   tables serve reads and get new events. When the copies have caught up, it replaces the rows in one
    ///   transaction. A rebuild that ends early leaves the live rows as they were, and the next call continues it.
    ///   After a method failed in a different process, the next call begins at zero. If a method was changed in
    ///   between, set a new `version = ..` in the attribute: then the rebuild begins at zero, too.
    /// - Rows elsewhere: the app's own instance handles every event again, also after the caller has dropped the
    ///   future. Only the process that feeds the projection can do that.
    ///
    /// # Examples
    /// ```no_run
    /// # use eventbus::{App, prelude::*};
    /// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// # #[event(aggregate_type = "Account")]
    /// # struct Opened {}
    /// # #[derive(Default)] struct Accounts;
    /// # #[projection(name = "accounts")] impl Accounts { fn opened(&mut self, _event: &Opened) {} }
    /// # async fn example(app: &App) -> eventbus::Result<()> {
    /// app.rebuild::<Accounts>().on_progress(|now| println!("{now}")).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RebuildError`]; reads still see the former state, unless the rows are elsewhere.
    /// [`RebuildError::MissingEvent`] if an event of any stream is missing in the store: each rebuild searches for
    /// missing events.
    pub fn rebuild<P: Projection>(&self) -> Rebuild<'_, Rebuilt> {
        Rebuild::new(move |report| {
            Box::pin(async move {
                let (handle, tasks) = (self.0.handle::<P>()?, &self.0.tasks);
                rebuild_in_app(handle.fed(), tasks.runner_context(), tasks.stop(), report, self.0.wait_timeout).await
            })
        })
    }

    /// Rebuilds the projection with this name, as [`rebuild`](Self::rebuild) does; `None` if the app has none. For
    /// tools of operators.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example(app: &eventbus::App) -> eventbus::Result<()> {
    /// if let Some(rebuild) = app.rebuild_by_name("accounts") {
    ///     rebuild.on_progress(|now| println!("{now}")).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn rebuild_by_name(&self, name: &str) -> Option<Rebuild<'_, Rebuilt>> {
        let projection = self.0.projections.iter().find(|projection| projection.definition().name == name)?;
        let (tasks, timeout) = (&self.0.tasks, self.0.wait_timeout);
        Some(Rebuild::new(move |report| projection.rebuild(tasks.runner_context(), tasks.stop(), report, timeout)))
    }

    /// Rebuilds the rows of one aggregate, for projections whose attribute has `tables(..)` and `key = ".."`.
    ///
    /// One transaction deletes the aggregate's rows from every table and handles its events again, up to the
    /// projection's position, so no reader sees the aggregate without rows. The projection pauses meanwhile. The
    /// rebuild leaves out, and counts, events that an operator has skipped, also those that cannot be read.
    ///
    /// The rebuild finds the rows by the id alone. If the tables hold aggregates of several types or tenants, no two of
    /// them may have the same id: otherwise it deletes the rows of the other aggregate and does not write them again.
    ///
    /// # Errors
    /// [`RebuildError`]; the rows then stay as they were. [`RebuildError::MissingEvent`] if an event of the aggregate
    /// is missing in the store.
    pub async fn rebuild_aggregate<P: Projection>(&self, stream: &StreamId) -> Result<Rebuilt, RebuildError> {
        let tasks = &self.0.tasks;
        rebuild_aggregate(self.0.handle::<P>()?.fed(), tasks.runner_context(), tasks.stop(), stream).await
    }

    /// Makes a projection that stopped at an event retry it: call it once the cause is repaired. Returns `false` if the
    /// projection had not stopped.
    ///
    /// # Errors
    /// [`ProjectionError::NotRunning`] if the app has no such projection; [`ProjectionError::InMemory`] for state in
    /// memory: rebuild it instead.
    pub fn resume_projection<P: Projection>(&self) -> Result<bool, ProjectionError> {
        let handle = self.0.handle::<P>()?;
        let definition = P::definition();
        if definition.kind == ProjectionKind::InMemory {
            return Err(ProjectionError::InMemory { name: definition.name });
        }
        Ok(handle.inner().progress().resume())
    }

    /// Makes a projection that stopped with [`ProjectionError::MissedEvents`] continue, because its rows are right: no
    /// row depends on the missed events, or an operator has corrected the rows by hand. For operators; the log gets
    /// `reason`. Returns `false` if the store has no note of missed events.
    ///
    /// The store keeps the decision: no process stops for these events any more, and none rebuilds the rows for them.
    ///
    /// # Errors
    /// [`RebuildError::NotRunning`] if the app has no such projection, [`RebuildError::Store`] if the store cannot be
    /// reached.
    pub async fn accept_missed_events<P: Projection>(&self, reason: &str) -> Result<bool, RebuildError> {
        let tasks = &self.0.tasks;
        let is_news = accept_missed_events(self.0.handle::<P>()?.fed(), tasks.runner_context(), tasks.stop()).await?;
        if is_news {
            tracing::warn!(
                projection = P::definition().name,
                reason,
                "the rows are accepted without the events that an older release passed by"
            );
        }
        Ok(is_news)
    }

    /// Makes a projection skip for good an event that it cannot decode or handle, and continue after it: for operators.
    /// Returns `false` if it skips the event already; the former reason stays then.
    ///
    /// The store keeps the skip with its reason: every process that feeds the projection skips the event, and so do
    /// rebuilds, which [count](crate::projection::Rebuilt::skipped) it. If the projection stopped at the event, it
    /// continues within seconds, in any process. State in memory is folded anew: in this process at once, in other
    /// processes where it stopped within minutes. An event that the projection has handled already stays handled until
    /// a rebuild. Handlers and other projections get the event as before.
    ///
    /// An event that the store cannot even read stops a projection with
    /// [`ProjectionError::Damaged`](crate::projection::ProjectionError::Damaged): its text says where the event is
    /// stored.
    ///
    /// # Errors
    /// [`SkipError`]; the projection does not skip the event then, except after [`SkipError::Rebuild`].
    ///
    /// # Examples
    /// ```no_run
    /// # use eventbus::{App, projection::ProjectionError, prelude::*};
    /// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// # #[event(aggregate_type = "Account")]
    /// # struct Opened {}
    /// # #[derive(Default)] struct Accounts;
    /// # #[projection(name = "accounts")] impl Accounts { fn opened(&mut self, _event: &Opened) {} }
    /// # async fn example(app: &App) -> eventbus::Result<()> {
    /// for status in app.projections().await? {
    ///     if let Some(ProjectionError::Stopped { position, error, .. }) = status.stopped {
    ///         println!("stopped at {position}: {error}");
    ///         app.skip_event::<Accounts>(position, "imported without an owner, see the incident of May 5").await?;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn skip_event<P: Projection>(&self, position: Position, reason: &str) -> Result<bool, SkipError> {
        let projection = self.0.handle::<P>()?.inner();
        let is_new = self.skip_editor().skip(&projection_role(P::definition().name), position, reason).await?;
        projection.clear_cached_skips();
        let progress = projection.progress();
        if progress.may_resume_after(position) {
            match P::definition().kind {
                // a method that failed may have changed a part of the state
                ProjectionKind::InMemory if !progress.is_stopped_before_damage() => drop(self.rebuild::<P>().await?),
                _ => drop(progress.resume()),
            }
        }
        Ok(is_new)
    }

    /// Ends the [skip](Self::skip_event) of an event by a projection. If the projection is past the event, rebuild it
    /// then. Returns `false` if it does not skip the event.
    ///
    /// # Errors
    /// [`SkipError`]; the skip stays then.
    pub async fn unskip_event<P: Projection>(&self, position: Position) -> Result<bool, SkipError> {
        let projection = self.0.handle::<P>()?.inner();
        let was_skipped = self.skip_editor().unskip(&projection_role(P::definition().name), position).await?;
        projection.clear_cached_skips();
        Ok(was_skipped)
    }

    /// Waits until the relay has published all events up to `position`. If a different process relays, this one sees
    /// its progress about a second later.
    ///
    /// # Errors
    /// [`PublishedError`] if no process relays, the relay stopped, or it did not reach `position` within the builder's
    /// `wait_timeout`.
    pub async fn published(&self, position: impl Into<Option<Position>>) -> Result<Published, PublishedError> {
        relay_health::published(&self.0, position.into().unwrap_or(Position::START)).await
    }

    /// Returns the relay's status; `None` without a relay: the app only consumes, or its bus lives in the process and
    /// the builder says `.without_relay()`.
    pub async fn relay_status(&self) -> Option<RelayStatus> {
        relay_health::relay_status(&self.0).await
    }

    /// Pauses a group of handlers of the store, in all processes, until it is [resumed](Self::resume_group), also after a
    /// restart: running handlers end, and within a second none begins. The group keeps its shards. For operators. Returns
    /// `false` if no handler that this app runs on its store has the group: nothing is paused then.
    ///
    /// [`health`](Self::health) and metrics show the pause, the group's lag is no alert, and [`settled`](Self::settled)
    /// names the group if it has events to handle.
    ///
    /// # Errors
    /// [`HandlerProgressError`] if the store cannot be reached.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example(app: &eventbus::App) -> eventbus::Result<()> {
    /// let mail = eventbus::Name::from_static("mail");
    /// app.pause_group(&mail).await?; // the mail server is being replaced
    /// app.resume_group(&mail).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn pause_group(&self, group: &Name) -> Result<bool, HandlerProgressError> {
        self.set_paused(group, true).await
    }

    /// Resumes a group that is [paused](Self::pause_group): its handlers go on where they stopped, within a second. Returns
    /// `false` as `pause_group` does.
    ///
    /// # Errors
    /// As [`pause_group`](Self::pause_group).
    pub async fn resume_group(&self, group: &Name) -> Result<bool, HandlerProgressError> {
        self.set_paused(group, false).await
    }

    async fn set_paused(&self, group: &Name, is_paused: bool) -> Result<bool, HandlerProgressError> {
        let mut subscribers = self.0.tasks.subscribers().iter();
        let is_known = self.0.has_store
            && subscribers.any(|status| status.group() == group && status.subscriber().options().stream.is_none());
        let Some(progress) = self.0.store.handler_progress().filter(|_| is_known) else { return Ok(false) };
        progress.set_paused(group, is_paused).await.map(|()| true)
    }

    /// Makes the relay, in whichever process it runs, publish all events after `from` again, with the same event ids
    /// and positions: for operators. Returns the position after which the relay publishes: `from`, or a lower one if
    /// the relay or the store has not got that far. Without a position it is the last one at which the store has the event
    /// that was published.
    ///
    /// It resolves [`RelayError::StoreBehindBus`](crate::relay::RelayError::StoreBehindBus), after a restore of the store,
    /// without a position. Consumers of the stream get republished events again.
    ///
    /// The call returns before the relay publishes. The relay notices within a second; until then
    /// [`published`](Self::published) does not wait for the events to be published again, but
    /// [`settled`](Self::settled) does.
    ///
    /// # Errors
    /// [`RepublishError`]; a bus in the process keeps no position to set back.
    pub async fn republish(&self, from: impl Into<Option<Position>>) -> Result<Position, RepublishError> {
        relay_health::republish(&self.0, from.into()).await
    }

    /// Makes the relay skip for good an event that it cannot read or the bus refuses: for operators. The handlers of the
    /// store skip the event too if it cannot be read. Returns `false` if the relay skips it already.
    ///
    /// The relay, in whichever process it runs, continues after the event within a minute; its
    /// [status](crate::relay::RelayStatus::skipped) counts the event.
    ///
    /// # Errors
    /// [`SkipError`]; the relay does not skip the event then.
    pub async fn skip_published_event(&self, position: Position, reason: &str) -> Result<bool, SkipError> {
        self.skip_editor().skip(&relay_to(self.0.bus.destination()), position, reason).await
    }

    /// Ends the skip of an event by the relay. If the relay is past the event, [`republish`](Self::republish) sets it
    /// back. Returns `false` if the relay does not skip the event.
    ///
    /// # Errors
    /// [`SkipError`]; the skip stays then.
    pub async fn unskip_published_event(&self, position: Position) -> Result<bool, SkipError> {
        self.skip_editor().unskip(&relay_to(self.0.bus.destination()), position).await
    }

    /// Returns the events that projections of this app and the relay to its bus skip, with process, time and reason of
    /// each skip.
    ///
    /// # Errors
    /// [`SkipError`] if the store cannot be read.
    pub async fn skipped_events(&self) -> Result<Vec<SkippedEvent>, SkipError> {
        let names =
            self.0.projections.iter().map(AnyProjection::definition).map(|definition| projection_role(definition.name));
        let readers = names.chain([relay_to(self.0.bus.destination())]);
        let mut events = Vec::new();
        for reader in readers {
            events.extend(load_skipped_events(&*self.0.store, &reader).await?);
        }
        Ok(events)
    }

    /// Returns the health of store, bus, relay and projections of this process, for a health endpoint. It never fails,
    /// and takes two seconds at most: a store or a bus that does not answer by then counts as away.
    pub async fn health(&self) -> Health {
        relay_health::health(&self.0).await
    }

    /// Waits until all stored events are published, handled and projected, also those that handlers store meanwhile:
    /// for tests. If only a different process relays, call it there first: an app waits for its own relay alone.
    ///
    /// # Errors
    /// [`SettleError::DeadLetters`] if deliveries became dead letters since the app started or since the last call
    /// reported them; [`SettleError::TimedOut`] with the part that is still busy, such as with retries; the error of a
    /// relay or projection that stopped, or of a store or bus that does not answer.
    pub async fn settled(&self) -> Result<(), SettleError> {
        wait_idle::settled(&self.0).await
    }

    /// Returns a value that the builder got by `.state(..)`.
    #[cfg(feature = "testkit")]
    pub(crate) fn shared_state<T: Clone + 'static>(&self) -> Option<T> {
        self.0.tasks.runner_context().state.get()
    }

    /// Returns the number of methods of projections that run at the moment.
    #[cfg(feature = "testkit")]
    pub(crate) fn running_projections(&self) -> usize {
        self.0.projections.iter().map(|projection| projection.fed().activity().running()).sum()
    }

    /// Returns `true` if the relay or a projection has yet to get stored events, unless it has stopped or the store fails.
    #[cfg(feature = "testkit")]
    pub(crate) async fn is_behind(&self) -> Result<bool, ReadError> {
        let head = self.0.store.head().await?;
        let relay = self.0.tasks.relay();
        let relay = relay.is_some_and(|relay| relay.read(|now| now.since.is_none() && now.position < head));
        let mut projections = self.0.projections.iter().map(|projection| projection.fed().status(head));
        Ok(relay || projections.any(|status| status.stopped.is_none() && status.position < head))
    }

    /// Ends all tasks at their next `.await`, as the end of the process would.
    #[cfg(feature = "testkit")]
    pub(crate) async fn abort(&self) {
        self.0.tasks.abort().await;
    }

    /// Describes for each handler the last event that failed and has not succeeded since, and the error.
    #[cfg(feature = "axum")]
    pub(crate) fn failures(&self) -> Vec<String> {
        wait_idle::failures(&self.0)
    }

    /// Runs until SIGTERM or SIGINT (Ctrl-C), then stops within the builder's `shutdown_timeout`, 30 s by default;
    /// deliveries in flight finish. A program that has more to stop waits for
    /// [`shutdown_signal`](crate::shutdown_signal) instead.
    ///
    /// The app can neither end nor await a handler that blocks its thread, and the drop of the runtime would wait for
    /// it for ever. If a handler still blocks 5 s after the `shutdown_timeout`, the process exits with status 70; the
    /// log names handler and event, or standard error if no log subscriber is set.
    ///
    /// # Errors
    /// If the process cannot listen for signals, or a task was still busy at the timeout.
    pub async fn run_until_signal(self) -> Result<()> {
        let exit = ExitGuard::new(self.0.shutdown_timeout, self.activity_sources())?;
        let stop = shutdown_signal()?;
        tracing::info!("running until a signal");
        stop.await;
        // before the shutdown removes the handlers from the bus
        let describe_blocking = self.activity_sources().list();
        let stopped = self.shutdown(self.0.shutdown_timeout).await;
        if stopped.is_err() {
            let blocking = describe_blocking();
            if !blocking.is_empty() {
                tracing::error!(
                    "these block their threads and keep the process from ending: {}; it exits in 5 s",
                    blocking.join("; ")
                );
                exit.stay_armed();
            }
        }
        Ok(stopped?)
    }

    fn skip_editor(&self) -> SkipEditor {
        SkipEditor::of(self.0.tasks.runner_context())
    }

    fn activity_sources(&self) -> ActivitySources {
        ActivitySources { bus: Arc::downgrade(&self.0.bus), projections: self.0.projections.to_vec() }
    }

    /// Stops all tasks of the app; deliveries in flight have until `timeout`, or until the future is dropped. A second call
    /// returns `Ok` at once if the first one succeeded.
    ///
    /// It cannot end a handler that blocks its thread, and when `main` returns, a Tokio runtime waits for that thread
    /// for ever. [`run_until_signal`](Self::run_until_signal) exits then; a program that does not use it calls
    /// [`std::process::exit`] after an error.
    ///
    /// # Errors
    /// [`ShutdownError`] if a task was still busy at `timeout`; its events are redelivered after the next start.
    pub async fn shutdown(&self, timeout: Duration) -> Result<(), ShutdownError> {
        let stopped = self.0.tasks.shutdown(&*self.0.bus, timeout).await;
        #[cfg(feature = "opentelemetry")]
        metrics_export::add_last_counts(&self.0);
        stopped
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("destination", self.0.bus.destination())
            .field("groups", &self.0.groups)
            .field("projections", &self.0.projections)
            .field("stopped", &self.0.tasks.is_stopped())
            .finish_non_exhaustive()
    }
}
