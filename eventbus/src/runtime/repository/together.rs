//! Saving several aggregates at once.

use std::sync::Arc;

use tracing::Instrument as _;

use super::{
    error::SaveError,
    handler_repository::RepositorySource,
    outcome,
    pending_events::encode_pending,
    saved::{Publication, SavedTogether},
};
use crate::{
    domain::{
        aggregate::{Aggregate, AggregateRoot, Apply},
        clock::SharedClock,
        codec::EncodeError,
        context::EventContext,
        record::NewEvent,
        stream::{ExpectedVersion, StreamId, Version, known_tenant},
    },
    port::{
        Append, EventStore,
        multi_stream_append::{MultiStreamAppend, MultiStreamOutcome},
    },
    runtime::metrics::{AppendOutcome, Meters},
    support::{check_indexes, spans},
};

/// Several aggregates that are saved at once, all or none: made by [`App::together`](crate::App::together).
///
/// They are saved if none has newer events than it was loaded with, as for [`save`](crate::AggregateRepository::save);
/// aggregates that are only [checked](Self::unchanged) count, too. They may be of several types and tenants; add each
/// only once.
///
/// A save has no [key](crate::repository::IdempotencyKey). For a command about several aggregates that a client may
/// send twice, use a [decision](crate::App::decision) with [`once`](crate::repository::Deciding::once), which returns
/// the first answer instead of deciding again.
///
/// # Examples
/// ```standalone_crate
/// use eventbus::prelude::*;
/// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// # #[event(aggregate = Account)]
/// # struct Moved { cents: i64 }
/// # #[derive(Debug, Default, Aggregate)]
/// # #[aggregate(events(Moved))]
/// # struct Account { balance: i64 }
/// # impl Apply for Account {
/// #     fn apply(&mut self, AccountEvent::Moved(moved): &AccountEvent) { self.balance += moved.cents; }
/// # }
/// # impl Account { fn withdraw(&self, cents: i64) -> Moved { Moved { cents: -cents } } fn deposit(&self, cents: i64) -> Moved { Moved { cents } } }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> eventbus::Result<()> {
/// let app = App::builder().start().await?;
/// let accounts = app.repository::<Account>();
/// let (mut ada, mut bob) = (accounts.create_new("ada".parse()?), accounts.create_new("bob".parse()?));
/// let auditor = accounts.create_new("auditor".parse()?);
/// ada.record(ada.withdraw(120));
/// bob.record(bob.deposit(120));
/// let saved = app.together().save(&mut ada).save(&mut bob).unchanged(&auditor).commit().await?;
/// assert_eq!(saved.events.len(), 2);
/// assert_eq!(accounts.load(ada.id()).await?.balance, -120);
///
/// ada.record(ada.deposit(1)); // as loaded before, and a concurrent writer is first:
/// accounts.update(ada.id(), |ada| Ok::<_, eventbus::Never>(ada.deposit(5))).await?;
/// let error = app.together().save(&mut bob).save(&mut ada).commit().await.unwrap_err();
/// assert!(error.is_conflict() && error.to_string().contains("Account/ada"));
/// # Ok(())
/// # }
/// ```
#[derive(derive_more::Debug)]
#[debug("Together {{ streams: {:?} }}", parts.iter().map(|part| part.stream().to_string()).collect::<Vec<_>>())]
#[must_use = "nothing is saved before `commit`"]
pub struct Together<'a> {
    store: Arc<dyn EventStore>,
    has_relay: bool,
    clock: SharedClock,
    meters: Meters,
    context: EventContext,
    parts: Vec<Box<dyn Part + 'a>>,
}

impl<'a> Together<'a> {
    pub(crate) fn new(source: RepositorySource) -> Self {
        let RepositorySource { store, has_relay, clock, meters, .. } = source;
        Self { store, has_relay, clock, meters, context: EventContext::default(), parts: Vec::new() }
    }

    /// Stamps the events with `context`.
    pub fn with_context(self, context: EventContext) -> Self {
        Self { context, ..self }
    }

    /// Adds an aggregate whose pending events are saved. Without pending events it is only checked.
    pub fn save<A: Aggregate + Apply>(mut self, root: &'a mut AggregateRoot<A>) -> Self {
        self.parts.push(Box::new(root));
        self
    }

    /// Adds an aggregate that must not have changed since it was loaded, for example because the decision depends on
    /// it. Its pending events are not saved.
    pub fn unchanged<A: Aggregate>(mut self, root: &'a AggregateRoot<A>) -> Self {
        self.parts.push(Box::new(Check { stream: stream_of(root), version: root.version() }));
        self
    }

    /// Saves all of them, or none. Afterwards no event is pending; after an error all still are.
    ///
    /// # Errors
    /// As for [`save`](crate::AggregateRepository::save); the conflict names the first aggregate that has newer events.
    /// [`SaveError::MultiStreamUnsupported`] if the store saves one aggregate at a time only.
    pub async fn commit(self) -> Result<SavedTogether, SaveError> {
        let Self { store, has_relay, clock, meters, context, mut parts } = self;
        let multi_stream = store
            .multi_stream_appends()
            .ok_or_else(|| SaveError::MultiStreamUnsupported { store: store.describe() })?;
        let mut context = context.or(EventContext::current());
        context.correlation_id.get_or_insert_with(|| clock.new_id());
        let span = spans::append(|| None, &mut context);
        let mut appends = Vec::with_capacity(parts.len());
        for part in &parts {
            let (stream, version) = (part.stream(), part.version());
            let of_context = known_tenant(context.tenant_id);
            if of_context.is_some_and(|tenant| stream.tenant_id() != Some(tenant)) {
                return Err(SaveError::OtherTenant { stream, found: of_context });
            }
            let events = part.encode(&context, &clock)?;
            check_indexes(&*store, &stream, &events)?;
            appends.push(Append { stream, expected: ExpectedVersion::Exact(version), events });
        }
        let multi = MultiStreamAppend { appends, ..Default::default() };
        let appended =
            outcome::until_known(&clock, &"several aggregates", || multi_stream.append_streams(multi.clone()));
        let appended = meters.measure_append(&clock, appended).instrument(span.clone()).await;
        let appended = appended.inspect_err(|error| spans::record_error(&span, AppendOutcome::of_error(error).label()));
        let records = match appended? {
            MultiStreamOutcome::Appended(records) => records,
            MultiStreamOutcome::AlreadyHandled => Vec::new(),
        };
        for (part, records) in parts.iter_mut().zip(&records) {
            part.mark_saved(records.len());
        }
        let events: Vec<_> = records.into_iter().flatten().collect();
        let publication = if has_relay && !events.is_empty() { Publication::ByRelay } else { Publication::None };
        Ok(SavedTogether::new(events, publication))
    }
}

/// One of the aggregates.
trait Part: Send {
    fn stream(&self) -> StreamId;

    fn version(&self) -> Version;

    fn encode(&self, context: &EventContext, clock: &SharedClock) -> Result<Vec<NewEvent>, EncodeError>;

    fn mark_saved(&mut self, events: usize);
}

impl<A: Aggregate + Apply> Part for &mut AggregateRoot<A> {
    fn stream(&self) -> StreamId {
        stream_of(self)
    }

    fn version(&self) -> Version {
        AggregateRoot::version(self)
    }

    fn encode(&self, context: &EventContext, clock: &SharedClock) -> Result<Vec<NewEvent>, EncodeError> {
        encode_pending(self, context, clock)
    }

    fn mark_saved(&mut self, events: usize) {
        let version = AggregateRoot::version(self).plus(events);
        AggregateRoot::mark_saved(self, version);
    }
}

/// An aggregate that is only checked.
struct Check {
    stream: StreamId,
    version: Version,
}

impl Part for Check {
    fn stream(&self) -> StreamId {
        self.stream.clone()
    }

    fn version(&self) -> Version {
        self.version
    }

    fn encode(&self, _context: &EventContext, _clock: &SharedClock) -> Result<Vec<NewEvent>, EncodeError> {
        Ok(Vec::new())
    }

    fn mark_saved(&mut self, _events: usize) {}
}

fn stream_of<A: Aggregate>(root: &AggregateRoot<A>) -> StreamId {
    A::stream(root.id()).with_tenant_id(root.tenant_id())
}
