//! The values in a payload, and those that a second payload lacks.

use std::collections::BTreeMap;

use serde_json::Value;

/// Returns each text, number and boolean of a JSON object with its path: `lines[0].sku`. Nulls, empty lists and empty
/// objects count as nothing, as a field that is not written.
pub(super) fn scalars(json: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if let Ok(value) = serde_json::from_str(json) {
        collect(&value, &mut String::new(), &mut found);
    }
    found
}

fn collect(value: &Value, path: &mut String, found: &mut Vec<(String, String)>) {
    let length = path.len();
    match value {
        Value::Null => {}
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                path.push_str(&format!("[{index}]"));
                collect(item, path, found);
                path.truncate(length);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(name);
                collect(field, path, found);
                path.truncate(length);
            }
        }
        scalar => found.push((path.clone(), scalar.to_string())),
    }
}

/// Returns the values of `before` that `after` lacks, wherever they stood, with their paths in `before`.
pub(super) fn lost(before: &str, after: &str) -> Vec<(String, String)> {
    let mut left: BTreeMap<String, usize> = BTreeMap::new();
    for (_, value) in scalars(after) {
        *left.entry(value).or_default() += 1;
    }
    let mut lost = scalars(before);
    lost.retain(|(_, value)| match left.get_mut(value) {
        Some(count) if *count > 0 => {
            *count -= 1;
            false
        }
        _ => true,
    });
    lost
}

/// Returns the value at a path of a payload.
pub(super) fn value_at(json: &str, path: &str) -> Option<String> {
    scalars(json).into_iter().find(|(other, _)| other == path).map(|(_, value)| value)
}

/// Replaces the indices of a path: `lines[0].sku` becomes `lines[].sku`.
pub(super) fn general(path: &str) -> String {
    let mut general = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('[') {
        general.push_str(before);
        let (index, behind) = after.split_once(']').unwrap_or((after, ""));
        let is_index = !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit());
        general.push_str(&if is_index || index.is_empty() { "[]".to_owned() } else { format!("[{index}]") });
        rest = behind;
    }
    general + rest
}
