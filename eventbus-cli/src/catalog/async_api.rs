//! The catalog as an AsyncAPI 3 document.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::view::{CatalogView, EventRow, HandlerRow};

/// The version of AsyncAPI that the document follows.
const VERSION: &str = "3.0.0";

/// The one channel: the stream of the bus.
const CHANNEL: &str = "events";

const CHANNEL_DESCRIPTION: &str = "All events, in the order of the store. An entry is a flat map of texts; its field `payload` holds the event as JSON.";

/// Returns the catalog as an AsyncAPI 3 document: the stream of events is a channel, each event is a message, saving
/// sends the messages, and each handler receives some of them.
///
/// `address` is the name of the stream, if the bus has one.
#[must_use]
pub fn async_api(catalog: &CatalogView, title: &str, version: &str, address: Option<&str>) -> Value {
    let keys = Keys::new(catalog);
    let messages: Map<_, _> =
        keys.0.values().map(|key| (key.clone(), reference(&format!("#/components/messages/{key}")))).collect();
    let mut operations = Map::new();
    let mut aggregates: BTreeMap<&str, Vec<&EventRow>> = BTreeMap::new();
    for event in &catalog.events {
        aggregates.entry(event.aggregate_type).or_default().push(event);
    }
    for (aggregate, events) in aggregates {
        let operation = json!({
            "action": "send",
            "channel": reference(&format!("#/channels/{CHANNEL}")),
            "summary": format!("Events of the aggregate {aggregate}, published by the relay."),
            "messages": events.iter().map(|event| keys.in_channel(event.event_type)).collect::<Vec<_>>(),
        });
        operations.insert(free_key(&operations, &format!("save.{aggregate}")), operation);
    }
    for handler in &catalog.handlers {
        operations
            .insert(free_key(&operations, &format!("handle.{}", handler.name)), receiving(handler, catalog, &keys));
    }
    let components: Map<_, _> =
        catalog.events.iter().map(|event| (keys.of(event.event_type).to_owned(), message(event))).collect();
    json!({
        "asyncapi": VERSION,
        "info": { "title": title, "version": version },
        "defaultContentType": "application/json",
        "channels": {
            CHANNEL: {
                "address": address,
                "description": CHANNEL_DESCRIPTION,
                "messages": messages,
            },
        },
        "operations": operations,
        "components": { "messages": components },
    })
}

/// The key of each event in the document.
struct Keys(BTreeMap<&'static str, String>);

impl Keys {
    fn new(catalog: &CatalogView) -> Self {
        let mut taken = Map::new();
        let key = |event: &EventRow| {
            let key = free_key(&taken, event.event_type);
            taken.insert(key.clone(), Value::Null);
            (event.event_type, key)
        };
        Self(catalog.events.iter().map(key).collect())
    }

    fn of(&self, event_type: &str) -> &str {
        self.0.get(event_type).map_or("", String::as_str)
    }

    /// Returns the reference to an event's message in the channel.
    fn in_channel(&self, event_type: &str) -> Value {
        reference(&format!("#/channels/{CHANNEL}/messages/{}", self.of(event_type)))
    }
}

/// Returns a key for a name, with characters that AsyncAPI allows, which `taken` does not have.
fn free_key(taken: &Map<String, Value>, name: &str) -> String {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let key: String = name.chars().map(|c| if is_allowed(c) { c } else { '_' }).collect();
    let numbered = (2..).map(|number| format!("{key}_{number}"));
    std::iter::once(key.clone()).chain(numbered).find(|key| !taken.contains_key(key)).unwrap_or(key)
}

fn reference(to: &str) -> Value {
    json!({ "$ref": to })
}

fn receiving(handler: &HandlerRow, catalog: &CatalogView, keys: &Keys) -> Value {
    let takes = |event: &&EventRow| match &handler.events {
        None => true,
        Some(types) => types.contains(&event.event_type),
    };
    let group = handler.group.as_deref().unwrap_or("the default group of the bus");
    json!({
        "action": "receive",
        "channel": reference(&format!("#/channels/{CHANNEL}")),
        "summary": format!("The handler {} of {group}.", handler.name),
        "messages": catalog.events.iter().filter(takes).map(|event| keys.in_channel(event.event_type)).collect::<Vec<_>>(),
    })
}

fn message(event: &EventRow) -> Value {
    let mut message = json!({
        "name": event.event_type,
        "title": event.event_type,
        "summary": format!("Version {} of an event of {}.", event.schema_version, event.aggregate_type),
        "tags": [{ "name": event.aggregate_type }],
        "payload": entry_schema(event),
        "examples": event.examples.iter().map(|fields| json!({ "payload": entry_example(event, fields) })).collect::<Vec<_>>(),
    });
    if let (Some(reason), Value::Object(fields)) = (&event.no_schema, &mut message) {
        fields.insert("description".into(), format!("Its fields are not known: {reason}.").into());
    }
    message
}

/// Returns the schema of an event's entry in the stream of a bus on Redis: a flat map of texts. A bus adds further
/// fields, for itself and for tracing.
fn entry_schema(event: &EventRow) -> Value {
    json!({
        "type": "object",
        "properties": {
            "event_id": text("uuid"),
            "event_type": { "enum": names(event) },
            "aggregate_id": { "type": "string" },
            "aggregate_type": { "const": event.aggregate_type },
            "tenant_id": { "type": "string", "description": "A UUID; empty without a tenant." },
            "occurred_at": text("date-time"),
            "payload": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": payload_schema(event),
            },
            "position": { "type": "string", "description": "The position in the store, if a relay published it." },
            "has_sealed_fields": { "const": "1", "description": "Set if values of the payload are encrypted texts." },
        },
        "required": [
            "event_id", "event_type", "aggregate_id", "aggregate_type", "tenant_id", "occurred_at", "payload",
        ],
    })
}

/// Returns the schema of the JSON in the field `payload` of an entry: the base fields, and beside them the event's own.
fn payload_schema(event: &EventRow) -> Value {
    let base = json!({
        "type": "object",
        "properties": {
            "event_id": text("uuid"),
            "event_type": { "enum": names(event) },
            "event_version": { "type": "integer", "minimum": 1, "maximum": event.schema_version },
            "occurred_at": text("date-time"),
            "aggregate_id": { "type": "string" },
            "aggregate_type": { "const": event.aggregate_type },
            "aggregate_version": { "type": "integer", "minimum": 1 },
            "tenant_id": text_or_null("uuid"),
            "actor_id": { "type": ["string", "null"] },
            "correlation_id": text("uuid"),
            "causation_id": text_or_null("uuid"),
            "metadata": { "type": "object" },
        },
        "required": [
            "event_id", "event_type", "event_version", "occurred_at", "aggregate_id", "aggregate_type",
            "aggregate_version", "tenant_id", "actor_id", "correlation_id", "causation_id", "metadata",
        ],
    });
    let own = event.schema.clone().unwrap_or_else(|| json!({ "type": "object" }));
    json!({ "allOf": [base, own] })
}

/// Returns an entry as an example, with an event's own fields.
fn entry_example(event: &EventRow, own: &Value) -> Value {
    const EVENT_ID: &str = "0195f0a2-0000-4000-8000-000000000001";
    let mut payload = json!({
        "event_id": EVENT_ID, "event_type": event.event_type, "event_version": event.schema_version,
        "occurred_at": "2026-01-02T03:04:05Z", "aggregate_id": "1", "aggregate_type": event.aggregate_type,
        "aggregate_version": 1, "tenant_id": null, "actor_id": null,
        "correlation_id": "0195f0a2-0000-4000-8000-000000000002", "causation_id": null, "metadata": {},
    });
    if let (Value::Object(payload), Value::Object(own)) = (&mut payload, own) {
        payload.extend(own.clone());
    }
    json!({
        "event_id": EVENT_ID, "event_type": event.event_type, "aggregate_id": "1",
        "aggregate_type": event.aggregate_type, "tenant_id": "", "occurred_at": "2026-01-02T03:04:05+00:00",
        "payload": payload.to_string(), "position": "1",
    })
}

/// Returns the names that an event has on the stream: entries from before a renaming have the former ones.
fn names(event: &EventRow) -> Vec<&'static str> {
    [event.event_type].into_iter().chain(event.former_types.iter().copied()).collect()
}

fn text(format: &str) -> Value {
    json!({ "type": "string", "format": format })
}

fn text_or_null(format: &str) -> Value {
    json!({ "type": ["string", "null"], "format": format })
}
