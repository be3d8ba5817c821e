//! One document with the JSON Schemas of all events.

use serde_json::{Map, Value, json};

use super::view::CatalogView;

/// The identifier of the draft: that of AsyncAPI's schemas.
const DRAFT: &str = "http://json-schema.org/draft-07/schema#";

/// Returns one document with the schemas of all events whose fields are known, each under `definitions`.
#[must_use]
pub fn event_schemas(catalog: &CatalogView) -> Value {
    let known = catalog.events.iter().filter_map(|event| Some((event, event.schema.clone()?)));
    let definitions: Map<_, _> = known
        .map(|(event, mut schema)| {
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
