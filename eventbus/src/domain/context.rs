//! The context in which events are saved: on whose behalf, and because of what.

use std::sync::Arc;

use tokio::task::futures::TaskLocalFuture;
use uuid::Uuid;

use super::{
    attributes::{Attributes, TRACEPARENT, TRACESTATE},
    metadata::Metadata,
};

/// The context in which events are saved: on whose behalf, and because of what. A save stamps it on each of its events.
///
/// # Examples
/// ```
/// use eventbus::{EventContext, Uuid};
/// let tenant = Uuid::parse_str("01a1f85f-1b76-73fd-9432-86542dd2f87b")?;
/// let context = EventContext::default()
///     .with_actor("user-7")
///     .with_tenant(tenant)
///     .with_correlation(Uuid::now_v7()); // a conversation that this program begins
/// assert_eq!(context.actor_id.as_deref(), Some("user-7"));
/// # Ok::<(), eventbus::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct EventContext {
    /// The conversation; each save begins a new one if it is `None`.
    pub correlation_id: Option<Uuid>,
    /// The event that directly caused these.
    pub causation_id: Option<Uuid>,
    /// The tenant that the events belong to; a save into a stream of a different tenant is refused. `None` fits every
    /// stream.
    pub tenant_id: Option<Uuid>,
    /// The actor that caused them: a user, a service.
    pub actor_id: Option<String>,
    /// Further data, as a JSON object.
    pub attributes: Attributes,
}

impl EventContext {
    /// Returns a context that continues the conversation of `cause`: its correlation, tenant, actor and
    /// [trace](Self::with_trace), and `cause` itself as the direct cause.
    ///
    /// A [`Repository`](crate::Repository) of a handler does so by itself.
    pub fn caused_by(cause: &Metadata) -> Self {
        Self {
            correlation_id: Some(cause.correlation_id()),
            causation_id: Some(cause.event_id().as_uuid()),
            tenant_id: cause.tenant_id(),
            actor_id: cause.actor_id().map(Into::into),
            attributes: cause.attributes().retain_keys(&[TRACEPARENT, TRACESTATE]),
        }
    }

    /// Sets the conversation that the events belong to.
    pub fn with_correlation(self, correlation_id: Uuid) -> Self {
        Self { correlation_id: Some(correlation_id), ..self }
    }

    /// Sets the event that directly caused them.
    pub fn with_causation(self, causation_id: Uuid) -> Self {
        Self { causation_id: Some(causation_id), ..self }
    }

    /// Sets the tenant that they belong to.
    pub fn with_tenant(self, tenant_id: Uuid) -> Self {
        Self { tenant_id: Some(tenant_id), ..self }
    }

    /// Sets the actor that caused them.
    pub fn with_actor(self, actor_id: impl Into<String>) -> Self {
        Self { actor_id: Some(actor_id.into()), ..self }
    }

    /// Attaches further data, as a JSON object.
    pub fn with_attributes(self, attributes: Attributes) -> Self {
        Self { attributes, ..self }
    }

    /// Adds the values of the HTTP headers `traceparent` and `tracestate` ([W3C Trace Context]) to the further data,
    /// under these names. Events that these events cause keep them.
    ///
    /// [W3C Trace Context]: https://www.w3.org/TR/trace-context/
    pub fn with_trace(self, traceparent: &str, tracestate: Option<&str>) -> Self {
        let attributes = self.attributes.with_trace(traceparent, tracestate);
        Self { attributes, ..self }
    }

    /// Runs `future` in this context: repositories stamp it on what they save while the future runs. If a repository
    /// was [given](crate::AggregateRepository::with_context) a context, that one comes first, and this one fills what
    /// it leaves open.
    ///
    /// A scope within a scope starts from the outer one. A task that the future spawns is outside of the scope: write
    /// `tokio::spawn(EventContext::current().scope(task))`.
    ///
    /// # Examples
    /// ```
    /// use eventbus::{AggregateRepository, EventContext, InMemoryEventStore, Never, prelude::*};
    /// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// # #[event(aggregate = Room)]
    /// # struct Cleaned {}
    /// # #[derive(Debug, Default, Aggregate)]
    /// # #[aggregate(events(Cleaned))]
    /// # struct Room;
    /// # impl Apply for Room { fn apply(&mut self, _event: &RoomEvent) {} }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> eventbus::Result<()> {
    /// let rooms = AggregateRepository::<Room>::new(InMemoryEventStore::new());
    /// let id = "12".parse()?;
    /// let nightly = EventContext::default().with_actor("nightly-job");
    /// let saved = nightly.scope(async { rooms.upsert(&id, |_| Ok::<_, Never>(Cleaned {})).await }).await?;
    /// assert_eq!(saved.events[0].metadata().actor_id(), Some("nightly-job"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        Scope::Given(self.or(Self::current())).run(future)
    }

    /// Returns the context of the current scope; an empty one outside of every scope. In a handler it is the context
    /// [caused by](Self::caused_by) the event, without the tenant.
    pub fn current() -> Self {
        Scope::current()
    }

    /// Fills what this context leaves open from `outer`; in the further data, key by key.
    pub(crate) fn or(self, outer: Self) -> Self {
        Self {
            correlation_id: self.correlation_id.or(outer.correlation_id),
            causation_id: self.causation_id.or(outer.causation_id),
            tenant_id: self.tenant_id.or(outer.tenant_id),
            actor_id: self.actor_id.or(outer.actor_id),
            attributes: self.attributes.or(outer.attributes),
        }
    }
}

tokio::task_local! {
    static SCOPE: Scope;
}

/// The context in which a future runs.
pub(crate) enum Scope {
    /// The context of [`EventContext::scope`].
    Given(EventContext),
    /// The context of a handler, by the event that it handles.
    Delivery(Arc<dyn Cause>),
}

/// An event that causes further events.
pub(crate) trait Cause: Send + Sync {
    fn metadata(&self) -> &Metadata;
}

impl Scope {
    /// Runs `future` in this scope.
    pub(crate) fn run<F: Future>(self, future: F) -> TaskLocalFuture<Self, F> {
        SCOPE.scope(self, future)
    }

    /// Returns the context of the future that calls this; an empty one outside of every scope.
    ///
    /// In a handler it names no tenant: a repository says which tenant's aggregates it saves.
    fn current() -> EventContext {
        SCOPE.try_with(Self::context).unwrap_or_default()
    }

    fn context(&self) -> EventContext {
        match self {
            Self::Given(context) => context.clone(),
            Self::Delivery(event) => EventContext { tenant_id: None, ..EventContext::caused_by(event.metadata()) },
        }
    }
}
