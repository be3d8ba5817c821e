//! JSON Schema (draft 7) of events, made of sample payloads and the kinds of their fields.
//!
//! Invariant: each sample payload is valid by the schema. A sample has the fields that this program writes. A field
//! that older versions did not write is still required: their payloads have other schema versions, with upcasters.

use std::collections::{BTreeMap, BTreeSet};

use eventbus::catalog::EventSamples;
use serde_json::{Map, Value, json};

/// Returns the JSON Schema of an event's own fields.
#[must_use]
pub fn event_schema(samples: &EventSamples) -> Value {
    let payloads: Vec<Value> =
        samples.payloads.iter().filter_map(|payload| serde_json::from_str(payload).ok()).collect();
    schema_of(&payloads.iter().collect::<Vec<_>>(), "", &Known { shape: &samples.shape, enums: Vec::new() })
}

/// Facts about the values beyond the samples.
struct Known<'a> {
    /// The kinds of the fields, by their paths.
    shape: &'a BTreeMap<String, String>,
    /// The variants of the enums that hold the value, outermost first.
    enums: Vec<BTreeSet<String>>,
}

/// Returns the schema of the values that samples have at a path.
fn schema_of(values: &[&Value], path: &str, known: &Known<'_>) -> Value {
    let kind = known.shape.get(path).map_or("", String::as_str);
    let is_optional = kind.ends_with('?') || values.iter().any(|value| value.is_null());
    let kind = kind.trim_end_matches('?');
    let present: Vec<_> = values.iter().copied().filter(|value| !value.is_null()).collect();
    let schema =
        if kind == "enum" { enum_schema(&present, path, known) } else { plain_schema(&present, path, kind, known) };
    if is_optional { or_null(schema) } else { schema }
}

/// Returns the schema of values that are no enum.
fn plain_schema(values: &[&Value], path: &str, kind: &str, known: &Known<'_>) -> Value {
    if kind == "any" {
        return json!({});
    }
    let mut forms = Vec::new();
    let of_type = |wanted: fn(&Value) -> bool| values.iter().copied().filter(move |value| wanted(value));
    let objects: Vec<_> = of_type(Value::is_object).filter_map(Value::as_object).collect();
    if !objects.is_empty() {
        forms.push(if kind == "map" {
            map_schema(&objects, path, known)
        } else {
            struct_schema(&objects, path, known)
        });
    }
    let lists: Vec<_> = of_type(Value::is_array).filter_map(Value::as_array).collect();
    if !lists.is_empty() {
        forms.push(list_schema(&lists, path, known));
    }
    if let Some(text) = of_type(Value::is_string).find_map(Value::as_str) {
        forms.push(text_schema(kind, text));
    }
    if of_type(Value::is_number).next().is_some() {
        forms.push(number_schema(kind, of_type(Value::is_number).all(|number| !number.is_f64())));
    }
    if of_type(Value::is_boolean).next().is_some() {
        forms.push(json!({ "type": "boolean" }));
    }
    one_of(forms)
}

fn struct_schema(objects: &[&Map<String, Value>], path: &str, known: &Known<'_>) -> Value {
    let names: BTreeSet<_> = objects.iter().flat_map(|object| object.keys()).collect();
    let mut properties = Map::new();
    for name in &names {
        let values: Vec<_> = objects.iter().filter_map(|object| object.get(*name)).collect();
        let field = if path.is_empty() { (*name).clone() } else { format!("{path}.{name}") };
        properties.insert((*name).clone(), schema_of(&values, &field, known));
    }
    let required: Vec<_> =
        names.iter().filter(|name| objects.iter().all(|object| object.contains_key(**name))).collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

fn map_schema(objects: &[&Map<String, Value>], path: &str, known: &Known<'_>) -> Value {
    let values: Vec<_> = objects.iter().flat_map(|object| object.values()).collect();
    json!({ "type": "object", "additionalProperties": schema_of(&values, &format!("{path}{{}}"), known) })
}

fn list_schema(lists: &[&Vec<Value>], path: &str, known: &Known<'_>) -> Value {
    let is_tuple = known.shape.keys().any(|other| other.strip_prefix(path).is_some_and(|rest| rest.starts_with("[0]")));
    if is_tuple {
        let length = lists.iter().map(|list| list.len()).max().unwrap_or_default();
        let item = |index: usize| {
            let values: Vec<_> = lists.iter().filter_map(|list| list.get(index)).collect();
            schema_of(&values, &format!("{path}[{index}]"), known)
        };
        let items: Vec<_> = (0..length).map(item).collect();
        return json!({ "type": "array", "items": items, "minItems": length, "maxItems": length });
    }
    let values: Vec<_> = lists.iter().flat_map(|list| list.iter()).collect();
    json!({ "type": "array", "items": schema_of(&values, &format!("{path}[]"), known) })
}

/// Returns the schema of an enum in serde's default form: the name of a variant, or an object with that one field.
///
/// Samples of a recursive enum end at some depth, with only its non-recursive variants: such a value may be anything.
/// It is recognized by its variants, which are a subset of the variants of an enum around it.
fn enum_schema(values: &[&Value], path: &str, known: &Known<'_>) -> Value {
    let names: BTreeSet<_> = values.iter().filter_map(|value| value.as_str()).collect();
    let mut variants: BTreeMap<&String, Vec<&Value>> = BTreeMap::new();
    for object in values.iter().filter_map(|value| value.as_object()) {
        for (name, value) in object {
            variants.entry(name).or_default().push(value);
        }
    }
    let all: BTreeSet<_> =
        names.iter().map(|name| (*name).to_owned()).chain(variants.keys().copied().cloned()).collect();
    if known.enums.iter().any(|outer| all.len() < outer.len() && all.is_subset(outer)) {
        return json!({});
    }
    let known = &Known { shape: known.shape, enums: known.enums.iter().cloned().chain([all]).collect() };
    let mut forms = Vec::new();
    if !names.is_empty() {
        forms.push(json!({ "type": "string", "enum": names }));
    }
    for (name, values) in variants {
        let within = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let schema = schema_of(&values, &within, known);
        forms.push(json!({
            "type": "object", "properties": { name: schema }, "required": [name], "additionalProperties": false,
        }));
    }
    one_of(forms)
}

fn text_schema(kind: &str, sample: &str) -> Value {
    let format = match kind {
        "uuid" => "uuid",
        "time" if sample.contains('T') && sample.ends_with('Z') => "date-time",
        "date" => "date",
        "mail address" => "email",
        "url" => "uri",
        "char" => return json!({ "type": "string", "minLength": 1, "maxLength": 1 }),
        _ => return json!({ "type": "string" }),
    };
    json!({ "type": "string", "format": format })
}

fn number_schema(kind: &str, is_whole: bool) -> Value {
    match kind {
        "u8" | "u16" | "u32" | "u64" | "u128" => json!({ "type": "integer", "minimum": 0 }),
        _ if kind.starts_with('f') || !is_whole => json!({ "type": "number" }),
        _ => json!({ "type": "integer" }),
    }
}

/// Returns the schema of a value that has one of the forms; without forms, of any value.
fn one_of(mut forms: Vec<Value>) -> Value {
    match forms.len() {
        0 => json!({}),
        1 => forms.swap_remove(0),
        _ => json!({ "oneOf": forms }),
    }
}

/// Returns the schema of a value that may also be `null`.
fn or_null(schema: Value) -> Value {
    let is_free = schema.as_object().is_some_and(Map::is_empty);
    if is_free { schema } else { json!({ "oneOf": [schema, { "type": "null" }] }) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use eventbus::{catalog::Catalog, prelude::*};

    use super::*;

    #[derive(Debug, Clone, Serialize, Deserialize)]
    enum Payment {
        Cash,
        Card { last4: String },
        Points(u32),
    }

    #[derive(Debug, Clone, Serialize, Deserialize)]
    struct Line {
        sku: String,
        price: f64,
    }

    #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    #[event(aggregate_type = "Order")]
    struct OrderTaken {
        customer: Uuid,
        lines: Vec<Line>,
        payment: Payment,
        note: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        voucher: Option<i32>,
        place: (i8, bool),
        labels: BTreeMap<String, u16>,
    }

    #[derive(Debug, Clone, Serialize, Deserialize)]
    enum Formula {
        Number(i32),
        Negated(Box<Formula>),
    }

    #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    #[event(aggregate_type = "Order")]
    struct OrderPriced {
        formula: Formula,
    }

    use eventbus::Uuid;

    /// Returns `true` if a value is valid by the parts of a schema that this file writes.
    fn accepts(schema: &Value, value: &Value) -> bool {
        if schema.as_object().is_some_and(Map::is_empty) {
            return true;
        }
        if let Some(forms) = schema["oneOf"].as_array() {
            return forms.iter().filter(|form| accepts(form, value)).count() == 1;
        }
        let is_of_type = match schema["type"].as_str() {
            None => true,
            Some("null") => value.is_null(),
            Some("boolean") => value.is_boolean(),
            Some("integer") => {
                value.is_u64() && schema["minimum"].is_u64() || value.is_i64() && schema["minimum"].is_null()
            }
            Some("number") => value.is_number(),
            Some("string") => value.is_string(),
            Some("array") => value.is_array(),
            Some("object") => value.is_object(),
            Some(other) => panic!("{other}"),
        };
        let is_one = schema["enum"].as_array().is_none_or(|values| values.contains(value));
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        let has_required = required.iter().all(|name| value.get(name.as_str().unwrap()).is_some());
        let has_fields = value.as_object().is_none_or(|fields| {
            fields.iter().all(|(name, field)| match (schema["properties"].get(name), &schema["additionalProperties"]) {
                (Some(schema), _) => accepts(schema, field),
                (None, Value::Object(_)) => accepts(&schema["additionalProperties"], field),
                (None, _) => false,
            })
        });
        let has_items = value.as_array().is_none_or(|items| match &schema["items"] {
            Value::Array(schemas) => {
                schemas.len() == items.len() && schemas.iter().zip(items).all(|(schema, item)| accepts(schema, item))
            }
            schema => items.iter().all(|item| accepts(schema, item)),
        });
        is_of_type && is_one && has_required && has_fields && has_items
    }

    fn samples_of(event_type: &str) -> EventSamples {
        let linked = Catalog::linked();
        let event = linked.events.iter().find(|event| event.descriptor.event_type == event_type).unwrap();
        event.samples().unwrap()
    }

    #[test]
    fn a_schema_has_the_fields_that_the_event_writes() {
        let schema = event_schema(&samples_of("OrderTaken"));
        assert_eq!(schema["required"], json!(["customer", "labels", "lines", "note", "payment", "place"]));
        let properties = &schema["properties"];
        assert_eq!(properties["customer"], json!({ "type": "string", "format": "uuid" }));
        assert_eq!(properties["note"], json!({ "oneOf": [{ "type": "string" }, { "type": "null" }] }));
        assert_eq!(properties["labels"]["additionalProperties"], json!({ "type": "integer", "minimum": 0 }));
        assert_eq!(properties["lines"]["items"]["properties"]["price"], json!({ "type": "number" }));
        assert_eq!(properties["place"]["items"], json!([{ "type": "integer" }, { "type": "boolean" }]));
        let forms = properties["payment"]["oneOf"].as_array().unwrap();
        assert_eq!(forms[0], json!({ "type": "string", "enum": ["Cash"] }));
        assert_eq!(forms.len(), 3, "{forms:?}");
    }

    #[test]
    fn each_sample_is_valid_by_the_schema_and_other_payloads_are_not() {
        let samples = samples_of("OrderTaken");
        let schema = event_schema(&samples);
        let payloads: Vec<Value> =
            samples.payloads.iter().map(|payload| serde_json::from_str(payload).unwrap()).collect();
        assert!(payloads.len() >= 4, "{payloads:?}");
        for payload in &payloads {
            assert!(accepts(&schema, payload), "{payload} is not valid by {schema}");
        }
        for (field, wrong) in [
            ("payment", json!("Cheque")),
            ("payment", json!({ "Card": { "last4": 4242 } })),
            ("lines", json!([{ "sku": "a" }])),
            ("place", json!([1])),
            ("customer", Value::Null),
        ] {
            let mut payload = payloads[0].clone();
            payload[field] = wrong;
            assert!(!accepts(&schema, &payload), "{payload}");
        }
    }

    #[test]
    fn an_enum_that_holds_itself_is_valid_at_any_depth() {
        let schema = event_schema(&samples_of("OrderPriced"));
        let mut formula = json!({ "Number": 1 });
        for depth in 0..6 {
            let payload = json!({ "formula": formula });
            assert!(accepts(&schema, &payload), "{payload}, {depth} deep, is not valid by {schema}");
            formula = json!({ "Negated": formula });
        }
        assert!(!accepts(&schema, &json!({ "formula": { "Halved": 1 } })));
    }
}
