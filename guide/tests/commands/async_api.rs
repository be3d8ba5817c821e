//! The AsyncAPI document of the bank: its structure, and that it describes what is on the stream.

use std::collections::{BTreeMap, BTreeSet};

use eventbus_redis::redis;
use serde_json::{Map, Value};

use super::{bank::Bank, validators::catalog_in};

fn document_text() -> String {
    catalog_in("asyncapi", &["--title", "The bank", "--document-version", "1.2.3"])
}

/// Returns every `$ref` in a value.
fn references(value: &Value) -> Vec<&str> {
    match value {
        Value::Object(fields) => {
            let own = fields.get("$ref").and_then(Value::as_str);
            own.into_iter().chain(fields.values().flat_map(references)).collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

fn object(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap_or_else(|| panic!("no object: {value}"))
}

#[test]
fn the_document_has_the_structure_of_version_3() {
    let document: Value = serde_json::from_str(&document_text()).unwrap();
    let parts: BTreeSet<_> = object(&document).keys().map(String::as_str).collect();
    let due = ["asyncapi", "channels", "components", "defaultContentType", "info", "operations"];
    assert_eq!(parts.into_iter().collect::<Vec<_>>(), due);
    assert_eq!(document["asyncapi"], "3.0.0");
    assert_eq!((&document["info"]["title"], &document["info"]["version"]), (&"The bank".into(), &"1.2.3".into()));
    assert_eq!(document["channels"]["events"]["address"], "events:stream");

    for reference in references(&document) {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let is_key = |key: &&String| key.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    for map in ["/channels", "/channels/events/messages", "/operations", "/components/messages"] {
        let map = object(document.pointer(map).unwrap());
        assert!(!map.is_empty() && map.keys().all(|key| is_key(&key)), "{map:?}");
    }
    let operations = object(&document["operations"]);
    assert_eq!(operations.keys().collect::<Vec<_>>(), ["handle.thank", "save.Account"]);
    for (name, operation) in operations {
        let action = if name.starts_with("save.") { "send" } else { "receive" };
        assert_eq!(operation["action"], action, "{name}");
        assert_eq!(operation["channel"]["$ref"], "#/channels/events", "{name}");
        for message in operation["messages"].as_array().unwrap() {
            // messages of an operation are those of its channel
            assert!(message["$ref"].as_str().unwrap().starts_with("#/channels/events/messages/"), "{message}");
        }
    }
    assert_eq!(operations["handle.thank"]["messages"].as_array().unwrap().len(), 1);
    assert_eq!(operations["save.Account"]["messages"].as_array().unwrap().len(), 3);
    for (name, message) in object(&document["components"]["messages"]) {
        assert_eq!(message["name"], name.as_str());
        assert_eq!(message["payload"]["type"], "object", "{name}");
        assert!(message["examples"].as_array().unwrap().iter().all(|example| example["payload"].is_object()), "{name}");
    }
}

/// Asserts that a value fits a schema, which has only keywords that are checked here, and some that change no value.
#[track_caller]
fn assert_fits(value: &Value, schema: &Value) {
    for (keyword, rule) in object(schema) {
        let is_type = |name: &Value| match name.as_str().unwrap() {
            "object" => value.is_object(),
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "null" => value.is_null(),
            name => panic!("type {name}"),
        };
        let fits = match keyword.as_str() {
            "type" => rule.as_array().map_or_else(|| is_type(rule), |names| names.iter().any(is_type)),
            "const" => value == rule,
            "enum" => rule.as_array().unwrap().contains(value),
            "minimum" => value.as_i64() >= rule.as_i64(),
            "maximum" => value.as_i64() <= rule.as_i64(),
            "required" => rule.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some()),
            "properties" => {
                let found = object(rule).iter().filter_map(|(name, schema)| Some((value.get(name)?, schema)));
                found.for_each(|(value, schema)| assert_fits(value, schema));
                true
            }
            "allOf" => {
                rule.as_array().unwrap().iter().for_each(|schema| assert_fits(value, schema));
                true
            }
            "contentSchema" => {
                assert_fits(&serde_json::from_str(value.as_str().unwrap()).unwrap(), rule);
                true
            }
            "format" | "description" | "contentMediaType" => true,
            keyword => panic!("keyword {keyword}"),
        };
        assert!(fits, "{value} does not fit {keyword}: {rule}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_entry_of_the_stream_and_each_example_fits_its_schema() {
    let document: Value = serde_json::from_str(&document_text()).unwrap();
    let messages = object(&document["components"]["messages"]);
    let bank = Bank::after_a_day();
    let [(_, url), (_, prefix)] = bank.bus_variables();
    let mut redis = eventbus_test::internal::redis_connection(url).await;
    let mut read = redis::cmd("XRANGE");
    read.arg(format!("{prefix}:stream")).arg("-").arg("+");
    let entries: Vec<(String, BTreeMap<String, String>)> = read.query_async(&mut redis).await.unwrap();
    assert_eq!(entries.len(), 4);
    for (_, entry) in entries {
        let entry = serde_json::to_value(entry).unwrap();
        let message = &messages[entry["event_type"].as_str().unwrap()];
        assert_fits(&entry, &message["payload"]);
        // all that an entry must have is described
        assert_eq!(message["payload"]["required"].as_array().unwrap().len(), 7);
    }
    for message in messages.values() {
        let examples = message["examples"].as_array().unwrap();
        assert!(!examples.is_empty());
        examples.iter().for_each(|example| assert_fits(&example["payload"], &message["payload"]));
    }
}
