//! One document with the JSON Schemas of all events.

use serde_json::{Map, Value, json};

use super::view::CatalogView;

/// The identifier of the draft, which AsyncAPI's schemas use too.
const DRAFT: &str = "http://json-schema.org/draft-07/schema#";

/// Returns one document with the schemas of all events, each under `definitions`; an event whose fields are unknown has
/// the schema of any object.
#[must_use]
pub fn event_schemas(catalog: &CatalogView) -> Value {
    let definitions: Map<_, _> = catalog
        .events
        .iter()
        .map(|event| {
            let mut schema = event.schema.clone().unwrap_or_else(|| json!({ "type": "object" }));
            if let Value::Object(fields) = &mut schema {
                let about = format!("Version {} of an event of {}.", event.schema_version, event.aggregate_type);
                fields.insert("title".into(), event.event_type.into());
                fields.insert("description".into(), about.into());
            }
            (event.event_type.to_owned(), schema)
        })
        .collect();
    json!({ "$schema": DRAFT, "definitions": definitions })
}
