//! An event as a line of an export.

use std::borrow::Cow;

use eventbus::{EventContext, EventId, Name, NewEvent, RecordedEvent, StreamId, Uuid, Version, event::Attributes};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use crate::error::CommandError;

/// An event with all its stored data, except its position.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventLine {
    /// Nil if another program wrote none.
    #[serde(default, deserialize_with = "or_default")]
    pub(super) event_id: Uuid,
    pub(super) aggregate_type: String,
    pub(super) aggregate_id: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) tenant: Option<Uuid>,
    pub(super) version: u64,
    pub(super) event_type: String,
    /// 0 if another program wrote none.
    #[serde(default, deserialize_with = "or_default")]
    pub(super) schema_version: u32,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) occurred_at: OffsetDateTime,
    /// When its first store recorded it.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none", default)]
    pub(super) recorded_at: Option<OffsetDateTime>,
    /// Nil if another program wrote none.
    #[serde(default, deserialize_with = "or_default")]
    pub(super) correlation_id: Uuid,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) causation_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) actor_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) attributes: Option<Box<RawValue>>,
    /// The fields: a JSON object as it is stored, or a text that holds it if it has several lines.
    pub(super) fields: Box<RawValue>,
}

/// Reads a value, or the default for `null`.
fn or_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(value: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or_default())
}

/// Returns a JSON text as a part of one line: itself, or in a JSON string if it has several lines.
fn in_one_line(json: &str) -> Result<Box<RawValue>, serde_json::Error> {
    match json.contains(['\n', '\r']) || !json.trim_start().starts_with('{') || json.trim() != json {
        false => RawValue::from_string(json.to_owned()),
        true => RawValue::from_string(serde_json::to_string(json)?),
    }
}

/// Returns the JSON text that was passed to [`in_one_line`].
fn as_it_was(raw: &RawValue) -> Result<Cow<'_, str>, serde_json::Error> {
    match raw.get().starts_with('"') {
        true => serde_json::from_str::<String>(raw.get()).map(Cow::Owned),
        false => Ok(Cow::Borrowed(raw.get())),
    }
}

impl EventLine {
    pub(super) fn event_id(&self) -> EventId {
        self.event_id.into()
    }

    /// Makes the line of an event.
    ///
    /// # Errors
    /// [`CommandError::Fault`] if its fields or attributes are no JSON, or if it has sealed fields: this release cannot
    /// append such an event.
    pub(super) fn from_record(event: &RecordedEvent) -> Result<Self, CommandError> {
        let metadata = event.metadata();
        let refuse = |problem: String| {
            let position = event.position().map(|position| format!(" at position {position}")).unwrap_or_default();
            let (version, stream) = (event.version(), metadata.stream());
            CommandError::fault(format!("version {version} of `{stream}`{position} {problem}"))
        };
        if metadata.has_sealed_fields() {
            return Err(refuse("has sealed fields: a newer release, which seals them, can move it".into()));
        }
        let in_one_line = |what: &str, json: &str| {
            in_one_line(json).map_err(|error| refuse(format!("cannot be moved, its {what} are no JSON: {error}")))
        };
        let attributes = Some(metadata.attributes()).filter(|attributes| !attributes.is_empty());
        Ok(Self {
            event_id: metadata.event_id().as_uuid(),
            aggregate_type: metadata.aggregate_type().to_string(),
            aggregate_id: metadata.aggregate_id().to_string(),
            tenant: metadata.stream().tenant_id(),
            version: event.version().get(),
            event_type: event.event_type().to_string(),
            schema_version: metadata.schema_version(),
            occurred_at: metadata.occurred_at(),
            recorded_at: metadata.original_recorded_at().or(metadata.recorded_at()),
            correlation_id: metadata.correlation_id(),
            causation_id: metadata.causation_id(),
            actor_id: metadata.actor_id().map(str::to_owned),
            attributes: attributes.map(|attributes| in_one_line("attributes", attributes.as_json())).transpose()?,
            fields: in_one_line("fields", event.payload())?,
        })
    }

    /// Returns the line, without its end.
    /// Completes an event as another program wrote it. Its id is made of its stream and version, so that every file of the
    /// same events has the same ids.
    pub(super) fn complete(mut self) -> Self {
        if self.event_id.is_nil() {
            let tenant = self.tenant.map(|tenant| tenant.to_string()).unwrap_or_default();
            let place = format!("{tenant}/{}/{}#{}", self.aggregate_type, self.aggregate_id, self.version);
            self.event_id = Uuid::new_v5(&Uuid::NAMESPACE_URL, place.as_bytes());
        }
        self.schema_version = self.schema_version.max(1);
        if self.correlation_id.is_nil() {
            self.correlation_id = self.event_id;
        }
        self.recorded_at.get_or_insert(self.occurred_at);
        self
    }

    pub(super) fn to_text(&self) -> Result<String, CommandError> {
        serde_json::to_string(self).map_err(CommandError::fault)
    }

    /// Returns the event to append, with its stream and version.
    pub(super) fn to_event(&self) -> Result<(StreamId, Version, NewEvent), CommandError> {
        let stream = StreamId::parse(&self.aggregate_type, &self.aggregate_id).map_err(CommandError::fault)?;
        let attributes = match &self.attributes {
            Some(raw) => {
                Attributes::parse(&as_it_was(raw).map_err(CommandError::fault)?).map_err(CommandError::fault)?
            }
            None => Attributes::default(),
        };
        let context = EventContext {
            correlation_id: Some(self.correlation_id),
            causation_id: self.causation_id,
            tenant_id: self.tenant,
            actor_id: self.actor_id.clone(),
            attributes,
        };
        let event_type = Name::new("event type", self.event_type.as_str()).map_err(CommandError::fault)?;
        let fields = as_it_was(&self.fields).map_err(CommandError::fault)?;
        let mut event = NewEvent::new(event_type, self.schema_version, fields)
            .with_event_id(EventId::from(self.event_id))
            .with_occurred_at(self.occurred_at)
            .with_context(context);
        if let Some(recorded_at) = self.recorded_at {
            event = event.with_original_recorded_at(recorded_at);
        }
        Ok((stream.with_tenant_id(self.tenant), Version::new(self.version), event))
    }
}

#[cfg(test)]
mod tests {
    use eventbus::Position;

    use super::*;

    #[test]
    fn a_line_holds_an_event_to_the_byte() {
        for payload in [r#"{"a":1.50, "b" : "ä"}"#, "{\n  \"a\": 1\n}", " {} ", "{}"] {
            let stream = StreamId::parse("Order", "o-1").unwrap().with_tenant_id(Some(Uuid::from_u128(7)));
            let context = EventContext::default()
                .with_actor("ada")
                .with_correlation(Uuid::from_u128(1))
                .with_causation(Uuid::from_u128(2))
                .with_tenant(Uuid::from_u128(7))
                .with_attributes(Attributes::parse("{ \"k\":\n1}").unwrap());
            let event = NewEvent::new(Name::from_static("Noted"), 3, payload).with_context(context);
            let at = OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_123_456_000).unwrap();
            let record =
                event.recorded_as(stream.clone(), Version::new(5), Some(Position::new(9))).with_recorded_at(Some(at));
            let text = serde_json::to_string(&EventLine::from_record(&record).unwrap()).unwrap();
            assert!(!text.contains('\n'), "{text}");
            let line: EventLine = serde_json::from_str(&text).unwrap();
            let (of_line, version, read) = line.to_event().unwrap();
            let again = read.recorded_as(of_line.clone(), version, Some(Position::new(9))).with_recorded_at(Some(at));
            assert_eq!((of_line, version, again.payload()), (stream, Version::new(5), payload));
            let expected = record.metadata().clone().with_original_recorded_at(Some(at));
            assert_eq!(format!("{:?}", again.metadata()), format!("{expected:?}"));
        }
    }
}
