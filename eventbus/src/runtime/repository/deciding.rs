//! Decisions about all events that have certain tags.
//!
//! Invariant: the condition of an append is counted before the events of the decision are read, so an event that was
//! not read makes the condition fail.

use std::{collections::BTreeSet, fmt, marker::PhantomData};

use futures_util::TryStreamExt as _;
use serde::Serialize;
use tracing::Instrument as _;
use uuid::Uuid;

use super::{
    command::{KeyedCommand, SavedEvents},
    error::{BoundaryError, LoadError, SaveError, UpdateError},
    handler_repository::RepositorySource,
    outcome,
    saved::{Publication, SavedTogether},
};
use crate::{
    domain::{
        aggregate::{Aggregate, Apply, IntoEvents},
        context::EventContext,
        decision::{DecidedEvent, Decision},
        field_text::FieldText,
        idempotency_key::IdempotencyKey,
        name::Name,
        record::{EncodeEvent as _, EventSet as _, RecordedEvent},
        stream::{AggregateId, ExpectedVersion, StreamId, Version, known_tenant},
        tag::{EVENT_TYPE_TAG, Tag},
    },
    port::{
        Append, BoxFuture, Direction, EventStore, MultiStreamAppends, ReadError,
        boundaries::{Boundaries, Boundary, BoundaryCondition, BoundaryRead},
        multi_stream_append::{Handled, MultiStreamAppend, MultiStreamOutcome},
    },
    runtime::{metrics::AppendOutcome, repository::CONFLICT_RETRY},
    support::{check_indexes, spans},
};

/// A decision that is yet to be made, and what it is about. [`App::decision`](crate::App::decision) begins one.
///
/// It reads all events of the types in `events(..)` of `D` that have one of the tags, of whichever aggregates, and
/// applies them to `D`. It appends the decided events if no such event was added since; otherwise it reads and decides
/// again. So what a decision has read cannot have changed when its events take effect. Decisions of one process about
/// the same tag wait for each other.
///
/// Each event is appended to a new aggregate of its type, unless [`append_to`](Self::append_to) names one.
///
/// # Examples
/// ```standalone_crate
/// use eventbus::prelude::*;
///
/// #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// #[event(aggregate_type = "Course", tags(course))]
/// struct CourseDefined { course: String, seats: usize }
///
/// #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// #[event(aggregate_type = "Enrolment", tags(course, student))]
/// struct Enrolled { course: String, student: String }
///
/// #[derive(Debug, Default, Decision)]
/// #[decision(events(CourseDefined, Enrolled))]
/// struct Seats { seats: usize, taken: usize }
///
/// impl Apply for Seats {
///     fn apply(&mut self, event: &SeatsEvent) {
///         match event {
///             SeatsEvent::CourseDefined(course) => self.seats = course.seats,
///             SeatsEvent::Enrolled(_) => self.taken += 1,
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> eventbus::Result<()> {
/// let app = App::builder().start().await?;
/// let defined = CourseDefined { course: "rust".into(), seats: 1 };
/// app.decision::<Seats>().about("course", "rust").decide(|_| Ok::<_, eventbus::Never>(defined.clone())).await?;
///
/// let enrol = async |student: &str| {
///     app.decision::<Seats>()
///         .about("course", "rust")
///         .decide(|course| match course.taken < course.seats {
///             true => Ok(Enrolled { course: "rust".into(), student: student.into() }),
///             false => Err("no seat is left"),
///         })
///         .await
/// };
/// assert_eq!(enrol("ada").await?.events.len(), 1);
/// assert_eq!(enrol("bob").await.unwrap_err().refused(), Some(&"no seat is left"));
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is read or decided before `decide` or `load`"]
pub struct Deciding<D: Decision> {
    source: RepositorySource,
    tenant_id: Option<Uuid>,
    context: EventContext,
    /// The tags that an event must have, each set for itself; or the first mistake in them.
    items: Result<BTreeSet<BTreeSet<Tag>>, BoundaryError>,
    /// Set if the items include all event types of the decision.
    is_about_types: bool,
    targets: Vec<(Name, AggregateId)>,
    command: Option<KeyedCommand>,
    decision: PhantomData<fn() -> D>,
}

impl<D: Decision> fmt::Debug for Deciding<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deciding").field("about", &self.items).finish_non_exhaustive()
    }
}

impl<D: Decision + Apply> Deciding<D> {
    pub(crate) fn new(source: RepositorySource) -> Self {
        Self {
            source,
            tenant_id: None,
            context: EventContext::default(),
            items: Ok(BTreeSet::new()),
            is_about_types: false,
            targets: Vec::new(),
            command: None,
            decision: PhantomData,
        }
    }

    /// Decides for a tenant: reads only its events, and appends to its aggregates.
    pub fn for_tenant(self, tenant_id: impl Into<Option<Uuid>>) -> Self {
        Self { tenant_id: known_tenant(tenant_id.into()), ..self }
    }

    /// Stamps the events with `context`.
    pub fn with_context(self, context: EventContext) -> Self {
        Self { context, ..self }
    }

    /// Reads the events with this tag, in addition to those of other calls.
    pub fn about(self, name: &str, value: &(impl FieldText + ?Sized)) -> Self {
        self.with_item([tag_of::<D>(name, value)])
    }

    /// Reads the events that have all these tags, in addition to those of other calls; not events with only some of
    /// them.
    pub fn about_all<const N: usize>(self, tags: [(&str, &dyn FieldText); N]) -> Self {
        let names = tags.map(|(name, _)| name);
        let has_all =
            D::Event::EVENTS.descriptors().iter().any(|event| names.iter().all(|name| event.tags.contains(name)));
        let tags = tags.map(|(name, value)| tag_of::<D>(name, value));
        let unknown = (!has_all && tags.iter().all(Result::is_ok))
            .then(|| Err(BoundaryError::NeverTogether { names: names.map(str::to_owned).to_vec() }));
        self.with_item(tags.into_iter().chain(unknown))
    }

    /// Reads all events of its types, whatever their tags: each type needs `#[event(tags(event_type))]`.
    ///
    /// All such decisions wait for each other: use it for numbers without gaps, not where many callers decide at once.
    pub fn about_types(mut self) -> Self {
        self.is_about_types = true;
        for event in D::Event::EVENTS.descriptors() {
            let is_declared = event.tags.contains(&EVENT_TYPE_TAG);
            let undeclared = BoundaryError::UndeclaredType { event_type: event.event_type };
            for event_type in event.event_types() {
                self = match is_declared {
                    true => self.with_item([Tag::new(EVENT_TYPE_TAG, event_type).map_err(BoundaryError::Tag)]),
                    false => self.with_item([Err(undeclared.clone())]),
                };
            }
        }
        self
    }

    fn with_item(mut self, tags: impl IntoIterator<Item = Result<Tag, BoundaryError>>) -> Self {
        self.items = self.items.and_then(|mut items| {
            items.insert(tags.into_iter().collect::<Result<_, _>>()?);
            Ok(items)
        });
        self
    }

    /// Appends events of the type of `A` to the aggregate with this id, after its events, and not to new aggregates.
    pub fn append_to<A: Aggregate>(mut self, id: &A::Id) -> Self {
        let stream = A::stream(id);
        self.targets.retain(|(of_type, _)| of_type != stream.aggregate_type());
        self.targets.push((stream.aggregate_type().clone(), stream.aggregate_id().clone()));
        self
    }

    /// Makes the decision take effect once, however often a client sends `command`: as
    /// [`AggregateRepository::once`](crate::AggregateRepository::once).
    pub fn once<C: Serialize>(self, key: IdempotencyKey, command: C) -> DecidingOnce<D, C> {
        DecidingOnce::new(self, key, command)
    }

    pub(super) fn with_command(self, command: KeyedCommand) -> Self {
        Self { command: Some(command), ..self }
    }

    /// Reads the events, and returns the state of the decision, for a query. Newer events may exist by then.
    ///
    /// # Errors
    /// [`BoundaryError`] if it names no tag, or a tag that none of its events has; if the store has no tags, cannot be
    /// read, or has an event that cannot be decoded.
    pub async fn load(self) -> Result<D, BoundaryError> {
        let boundary = self.boundary()?;
        let (_, state) = read(boundaries(&*self.source.store)?, &boundary).await?;
        Ok(state)
    }

    /// Reads the events, decides, and appends; if an event was added to those that it read, begins again, with jittered
    /// delays, up to a limit.
    ///
    /// `decide` is a plain closure, which may run several times. It returns events with tags, of any aggregates: one, or a
    /// tuple, array, `Vec` or `Option` of them. Without events nothing is stored.
    ///
    /// Await it at once: decisions of this process about the same tags wait until it has ended or is dropped.
    ///
    /// # Errors
    /// [`UpdateError::Refused`] with the decision's refusal; [`UpdateError::Boundary`] if it names no tags, or tags
    /// that do not fit; [`UpdateError::Load`] if its events cannot be read; [`UpdateError::Save`] if its events cannot
    /// be stored, also if every retry conflicted; [`UpdateError::Once`] as for a command.
    // no `async fn`: its future would repeat the bounds, and the compiler its error at each use of the future
    pub fn decide<'a, F, T, X>(self, decide: F) -> BoxFuture<'a, Result<SavedTogether, UpdateError<X>>>
    where
        F: Fn(&D) -> Result<T, X> + Send + 'a,
        T: IntoEvents<DecidedEvent> + 'a,
        X: Send + 'a,
    {
        Box::pin(async move {
            self.run(move |state| {
                let mut decided = Vec::new();
                decide(state)?.into_events(&mut decided);
                Ok(decided)
            })
            .await
        })
    }

    /// As [`decide`](Self::decide), for a decision that takes a command: a method of `D`. It may run several times, each
    /// time with a clone of `command`. [`DecidingOnce`] has an example of such a method.
    ///
    /// # Errors
    /// As for [`decide`](Self::decide).
    pub fn decide_with<'a, C, F, T, X>(
        self,
        command: C,
        decide: F,
    ) -> BoxFuture<'a, Result<SavedTogether, UpdateError<X>>>
    where
        C: Clone + Send + 'a,
        F: Fn(&D, C) -> Result<T, X> + Send + 'a,
        T: IntoEvents<DecidedEvent> + 'a,
        X: Send + 'a,
    {
        self.decide(move |state| decide(state, command.clone()))
    }

    async fn run<X>(
        self,
        decide: impl Fn(&D) -> Result<Vec<DecidedEvent>, X> + Send,
    ) -> Result<SavedTogether, UpdateError<X>> {
        let boundary = self.boundary()?;
        let store = &*self.source.store;
        let boundaries = boundaries(store)?;
        let multi_stream = store.multi_stream_appends().ok_or_else(|| unsupported(store))?;
        let request = match &self.command {
            Some(command) => Some(command.fingerprint("decision", &self.shown(&boundary))?),
            None => None,
        };
        // those behind would read what this one is about to change
        let _locks = self.source.tag_queues.line_up(boundary.tenant_id, boundary.tags()).await;
        let mut attempt = 0;
        loop {
            if let Some(first) = self.find_answer(multi_stream, request).await? {
                return Ok(first);
            }
            let decided = match read(boundaries, &boundary).await {
                Ok((condition, state)) => {
                    decide(&state).map(|decided| (condition, decided)).map_err(UpdateError::Refused)
                }
                Err(error) => Err(error.into()),
            };
            let saved = match decided {
                Ok((_, decided)) if decided.is_empty() && self.command.is_none() => {
                    return Ok(SavedTogether::new(Vec::new(), Publication::None));
                }
                Ok((condition, decided)) => self.append(multi_stream, decided, condition, request).await,
                Err(error) => Err(error),
            };
            let error = match saved {
                Ok(Some(saved)) => return Ok(saved),
                Ok(None) => continue, // the command took effect meanwhile
                Err(error) => error,
            };
            attempt += 1;
            if error.is_conflict() && CONFLICT_RETRY.allows(attempt) {
                tracing::debug!(attempt, "conflict, reading and deciding anew");
                self.source.clock.sleep(CONFLICT_RETRY.jittered(attempt)).await;
                continue;
            }
            // a repeat of the command may have been first, also if this one is refused: it may have seen its effect
            return match self.find_answer(multi_stream, request).await {
                Ok(Some(first)) => Ok(first),
                // without the look-up it is not known whether a copy of the command took effect
                Err(unread) if matches!(unread, UpdateError::Once(_)) || error.may_come_from_copy() => Err(unread),
                Ok(None) | Err(_) => Err(error),
            };
        }
    }

    #[allow(clippy::result_large_err, reason = "its callers return the same error from a future, which is no smaller")]
    fn boundary(&self) -> Result<Boundary, BoundaryError> {
        boundaries(&*self.source.store)?;
        let items = self.items.clone()?;
        if items.is_empty() || items.contains(&BTreeSet::new()) {
            return Err(BoundaryError::Everything);
        }
        let event_types = D::Event::EVENTS.event_types().into_iter().map(Name::from_static).collect();
        Ok(Boundary { tenant_id: self.tenant_id, event_types, items })
    }

    /// Writes what the decision is about and which aggregates it appends to, to tell its command from others. Not what it
    /// reads: a release may read more, and still gets repeats of former commands.
    fn shown(&self, boundary: &Boundary) -> String {
        let tags = |item: &BTreeSet<Tag>| item.iter().map(|tag| tag.as_str().to_owned()).collect::<Vec<_>>();
        let is_shown = |item: &&BTreeSet<Tag>| !self.is_about_types || !is_event_type(item);
        let items: Vec<_> = boundary.items.iter().filter(is_shown).map(tags).collect();
        let targets = self.targets.iter().map(|(aggregate_type, id)| format!("{aggregate_type}/{id}"));
        // lists of texts are told apart by their lengths
        let types = if self.is_about_types { " all types" } else { "" };
        format!("{items:?} {:?}{types}", targets.collect::<BTreeSet<_>>())
    }

    /// Appends decided events; returns `None` if the command took effect before.
    async fn append<X>(
        &self,
        multi_stream: &dyn MultiStreamAppends,
        decided: Vec<DecidedEvent>,
        condition: BoundaryCondition,
        request: Option<Uuid>,
    ) -> Result<Option<SavedTogether>, UpdateError<X>> {
        let RepositorySource { store, has_relay, clock, meters, .. } = &self.source;
        let mut context = self.context.clone().or(EventContext::current());
        context.correlation_id.get_or_insert_with(|| clock.new_id());
        let span = spans::append(|| None, &mut context);
        let of_context = known_tenant(context.tenant_id);
        let mut appends: Vec<Append> = Vec::new();
        for decided in decided {
            let event = decided.encode_as(clock.new_id().into(), clock.now()).map_err(SaveError::from)?;
            let (event, aggregate_type) = (event.with_context(context.clone()), decided.aggregate_type().clone());
            let target = self.targets.iter().find(|(of_type, _)| *of_type == aggregate_type);
            let id = target.map_or_else(|| AggregateId::from(clock.new_id()), |(_, id)| id.clone());
            let stream = StreamId::new(aggregate_type, id).with_tenant_id(self.tenant_id);
            if of_context.is_some_and(|tenant| self.tenant_id != Some(tenant)) {
                return Err(SaveError::OtherTenant { stream, found: of_context }.into());
            }
            check_indexes(&**store, &stream, std::slice::from_ref(&event)).map_err(SaveError::from)?;
            if let Some(append) = appends.iter_mut().find(|append| append.stream == stream) {
                append.events.push(event);
                continue;
            }
            let expected = match target {
                Some(_) => store.stream_version(&stream).await.map_err(LoadError::from)?,
                None => Version::NONE,
            };
            appends.push(Append { stream, expected: ExpectedVersion::Exact(expected), events: vec![event] });
        }
        let handled = match (&self.command, request) {
            (Some(command), Some(request)) => {
                Some(Handled::Command(command.handled_together(request, self.tenant_id, &appends)?))
            }
            _ => None,
        };
        let has_events = !appends.is_empty();
        let multi = MultiStreamAppend { appends, handled, condition: Some(condition) };
        let append = outcome::until_known(clock, &"decision", || multi_stream.append_streams(multi.clone()));
        let appended = meters.measure_append(clock, append).instrument(span.clone()).await;
        let appended = appended.inspect_err(|error| spans::record_error(&span, AppendOutcome::of_error(error).label()));
        match appended.map_err(SaveError::from)? {
            MultiStreamOutcome::Appended(records) => {
                let publication = if *has_relay && has_events { Publication::ByRelay } else { Publication::None };
                Ok(Some(SavedTogether::new(records.into_iter().flatten().collect(), publication)))
            }
            MultiStreamOutcome::AlreadyHandled => Ok(None),
        }
    }

    /// Returns what the command has saved, if it took effect.
    async fn find_answer<X>(
        &self,
        multi_stream: &dyn MultiStreamAppends,
        request: Option<Uuid>,
    ) -> Result<Option<SavedTogether>, UpdateError<X>> {
        let (Some(command), Some(request)) = (&self.command, request) else { return Ok(None) };
        let RepositorySource { store, has_relay, first_command, .. } = &self.source;
        first_command.notify_one();
        let found = multi_stream.find_command(self.tenant_id, command.key()).await.map_err(LoadError::from)?;
        let Some(found) = found else { return Ok(None) };
        let mut records: Vec<RecordedEvent> = Vec::new();
        for SavedEvents { stream, version, events } in command.answers(request, &found)? {
            let first = Version::new(version.get().saturating_sub(events) + 1);
            let stored = store.read_stream(&stream, first, Direction::Forward);
            let stored = futures_util::StreamExt::take(stored, usize::try_from(events).unwrap_or(usize::MAX));
            let stored: Vec<_> = match stored.try_collect().await {
                Ok(stored) => stored,
                Err(ReadError::Corrupt { .. }) => Vec::new(), // they are archived, or lost
                Err(error) => return Err(LoadError::from(error).into()),
            };
            if stored.len() as u64 != events {
                let reason = format!("{} of its {events} events to `{stream}` are left in the store", stored.len());
                return Err(command.damaged(reason).into());
            }
            records.extend(stored);
        }
        let publication = if *has_relay && !records.is_empty() { Publication::ByRelay } else { Publication::None };
        Ok(Some(SavedTogether::new(records, publication)))
    }
}

/// Makes a tag, if one of the decision's events has tags of this name.
#[allow(clippy::result_large_err, reason = "its callers return the same error from a future, which is no smaller")]
fn tag_of<D: Decision>(name: &str, value: &(impl FieldText + ?Sized)) -> Result<Tag, BoundaryError> {
    let known: BTreeSet<_> = D::Event::EVENTS.descriptors().iter().flat_map(|event| event.tags).copied().collect();
    if !known.contains(name) {
        return Err(BoundaryError::UnknownTag { name: name.into(), known: known.into_iter().collect() });
    }
    Tag::new(name, value).map_err(BoundaryError::Tag)
}

#[allow(clippy::result_large_err, reason = "its callers return the same error from a future, which is no smaller")]
fn boundaries(store: &dyn EventStore) -> Result<&dyn Boundaries, BoundaryError> {
    store.boundaries().ok_or_else(|| BoundaryError::Unsupported { store: store.describe() })
}

/// A decision for one command: made by [`Deciding::once`].
///
/// It takes effect once, however often a client sends the command, as for [`Once`](crate::repository::Once).
///
/// # Examples
/// ```standalone_crate
/// use eventbus::prelude::*;
/// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// # #[event(aggregate_type = "Enrolment", tags(course))]
/// # struct Enrolled { course: String, student: String }
/// # #[derive(Debug, Default, Decision)]
/// # #[decision(events(Enrolled))]
/// # struct Seats { taken: usize }
/// # impl Apply for Seats { fn apply(&mut self, _: &SeatsEvent) { self.taken += 1; } }
/// #[derive(Clone, Serialize)] // `Serialize`: to tell it from another command under the same key
/// struct Enrol { course: String, student: String }
///
/// impl Seats {
///     fn enrol(&self, Enrol { course, student }: Enrol) -> Result<Enrolled, &'static str> {
///         if self.taken < 1 { Ok(Enrolled { course, student }) } else { Err("no seat is left") }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> eventbus::Result<()> {
/// # let app = App::builder().start().await?;
/// let enrol = Enrol { course: "rust".into(), student: "ada".into() }; // as the client sent it
/// for _ in 0..2 {
///     let decision = app.decision::<Seats>().about("course", &enrol.course);
///     let saved = decision.once("8e03978e".parse()?, enrol.clone()).decide_with(Seats::enrol).await?;
///     assert_eq!(saved.events.len(), 1); // the second time the first answer, and no refusal
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is read or decided before `decide` or `decide_with`"]
pub struct DecidingOnce<D: Decision, C> {
    deciding: Deciding<D>,
    command: C,
}

impl<D: Decision + Apply, C: Serialize> DecidingOnce<D, C> {
    pub(super) fn new(deciding: Deciding<D>, key: IdempotencyKey, command: C) -> Self {
        Self { deciding: deciding.with_command(KeyedCommand::new(key, &command)), command }
    }

    /// As [`Deciding::decide`], once.
    ///
    /// # Errors
    /// The errors of that method; [`UpdateError::Once`] if the key was used for another command, or if the command
    /// cannot be written as JSON.
    pub fn decide<'a, F, T, X>(self, decide: F) -> BoxFuture<'a, Result<SavedTogether, UpdateError<X>>>
    where
        D: 'a,
        F: Fn(&D) -> Result<T, X> + Send + 'a,
        T: IntoEvents<DecidedEvent> + 'a,
        X: Send + 'a,
    {
        self.deciding.decide(decide)
    }

    /// As [`Deciding::decide_with`], once: the decision takes the command of [`Deciding::once`].
    ///
    /// # Errors
    /// As for [`decide`](Self::decide).
    pub fn decide_with<'a, F, T, X>(self, decide: F) -> BoxFuture<'a, Result<SavedTogether, UpdateError<X>>>
    where
        C: Clone + Send + 'a,
        F: Fn(&D, C) -> Result<T, X> + Send + 'a,
        T: IntoEvents<DecidedEvent> + 'a,
        X: Send + 'a,
    {
        self.deciding.decide_with(self.command, decide)
    }
}

fn is_event_type(item: &BTreeSet<Tag>) -> bool {
    item.len() == 1 && item.iter().all(|tag| tag.name() == EVENT_TYPE_TAG)
}

fn unsupported(store: &dyn EventStore) -> SaveError {
    SaveError::MultiStreamUnsupported { store: store.describe() }
}

/// Reads the events of a boundary; returns the condition that none is added, and what the decision knows.
async fn read<D: Decision + Apply>(
    boundaries: &dyn Boundaries,
    boundary: &Boundary,
) -> Result<(BoundaryCondition, D), LoadError> {
    let BoundaryRead { condition, mut events } = boundaries.read_boundary(boundary).await?;
    let mut state = D::default();
    while let Some(record) = events.try_next().await? {
        let event = D::Event::decode(&record).map_err(|source| LoadError::Decode {
            stream: record.metadata().stream().clone(),
            version: record.version(),
            source,
        })?;
        state.apply(&event);
    }
    Ok((condition, state))
}
