//! On whose behalf, and because of what, events are saved.

use uuid::Uuid;

use super::{attributes::Attributes, metadata::Metadata};

/// On whose behalf, and because of what, events are saved; stamped on every event of a save.
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
    /// The tenant they belong to; a save into a stream of a different tenant is refused. `None` says nothing about it.
    pub tenant_id: Option<Uuid>,
    /// The actor that caused them: a user, a service.
    pub actor_id: Option<String>,
    /// Further data, as a JSON object.
    pub attributes: Attributes,
}

impl EventContext {
    /// Continues the conversation of an event that a handler handles: same correlation and tenant, caused by it.
    pub fn caused_by(cause: &Metadata) -> Self {
        Self {
            correlation_id: Some(cause.correlation_id()),
            causation_id: Some(cause.event_id().as_uuid()),
            tenant_id: cause.tenant_id(),
            actor_id: cause.actor_id().map(Into::into),
            attributes: Attributes::EMPTY,
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
}
