//! New events, one array per column: how they are handed to a statement.

use eventbus::{BoxError, NewEvent};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::pool::Query;

/// The events of one or more appends, in order, one array per column.
#[derive(Debug, Default)]
pub(crate) struct EventColumns<'e> {
    event_ids: Vec<Uuid>,
    event_types: Vec<&'e str>,
    schema_versions: Vec<i32>,
    occurred_at: Vec<OffsetDateTime>,
    data: Vec<&'e str>,
    correlation_ids: Vec<Uuid>,
    causation_ids: Vec<Option<Uuid>>,
    tenant_ids: Vec<Option<Uuid>>,
    actor_ids: Vec<Option<&'e str>>,
    metadata: Vec<Option<&'e str>>,
}

impl<'e> EventColumns<'e> {
    /// Adds the columns of one event.
    ///
    /// # Errors
    /// What no column can hold.
    pub(crate) fn push(&mut self, event: &'e NewEvent) -> Result<(), BoxError> {
        let schema_version = i32::try_from(event.schema_version())
            .ok()
            .filter(|version| *version > 0)
            .ok_or_else(|| format!("schema version {} is out of range", event.schema_version()))?;
        let context = event.context();
        self.event_ids.push(event.event_id().as_uuid());
        self.event_types.push(event.event_type());
        self.schema_versions.push(schema_version);
        self.occurred_at.push(event.occurred_at());
        self.data.push(event.payload());
        self.correlation_ids.push(event.correlation_id());
        self.causation_ids.push(context.causation_id);
        self.tenant_ids.push(context.tenant_id);
        self.actor_ids.push(context.actor_id.as_deref());
        let attributes = &context.attributes;
        self.metadata.push((!attributes.is_empty()).then(|| attributes.as_json()));
        Ok(())
    }

    /// Binds the ten arrays, in the order of `append.sql`.
    pub(crate) fn bind_to(self, query: Query<'_>) -> Query<'_> {
        query
            .bind(self.event_ids)
            .bind(self.event_types)
            .bind(self.schema_versions)
            .bind(self.occurred_at)
            .bind(self.data)
            .bind(self.correlation_ids)
            .bind(self.causation_ids)
            .bind(self.tenant_ids)
            .bind(self.actor_ids)
            .bind(self.metadata)
    }
}
