//! Errors in a field of a JSON text, without any of its values.

use std::{borrow::Cow, fmt::Write as _};

/// A field that cannot be written or read, and why. It holds no value: errors reach logs and health routes.
///
/// # Examples
/// ```
/// let error = eventbus::support::to_json(&[("temperature", f64::NAN)]).unwrap_err();
/// assert_eq!(error.path(), "[0][1]");
/// assert_eq!(error.reason(), "not a finite number (NaN or infinity), which JSON cannot hold");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{}{reason}", if path.is_empty() { "" } else { "field `" }, path, if path.is_empty() { "" } else { "`: " })]
pub struct FieldError {
    path: String,
    reason: Cow<'static, str>,
}

/// How serde's message begins.
const MISSING_FIELD: &str = "missing field `";

/// One step of a path.
#[derive(Debug, Clone)]
pub(crate) enum Step<'a> {
    /// Into a field of an object, or a variant.
    Field(Cow<'a, str>),
    /// Into an item of an array, from 0.
    Item(usize),
}

impl FieldError {
    pub(crate) fn new<'a>(path: impl IntoIterator<Item = Step<'a>>, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { path: format_path(path), reason: reason.into() }
    }

    /// Returns advice for a stored event that lacks a field, with a leading blank; empty for other errors.
    pub(crate) fn remedy(&self) -> &'static str {
        match self.reason.starts_with(MISSING_FIELD) {
            true => " (a new field needs `#[serde(default)]`, a renamed one `#[serde(alias = \"..\")]`)",
            false => "",
        }
    }

    /// Returns advice for an event whose stored form would lack a field, with a leading blank; empty for other errors.
    pub(crate) fn unread_remedy(&self) -> &'static str {
        match self.reason.starts_with(MISSING_FIELD) {
            true => " (`skip_serializing_if` needs `#[serde(default)]` beside it)",
            false => "",
        }
    }

    /// Makes the error at an offset of a JSON text, in bytes.
    pub(crate) fn at(json: &str, offset: usize, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(path_at(json, offset), reason)
    }

    /// Makes the error of a `json` that does not parse as the requested type.
    pub(crate) fn from_parse_error(json: &str, error: &serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        let start: usize = json.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
        Self::at(json, start + column, reason_of(error))
    }

    /// Returns the error with `name`, the field that holds the value, in front of its path.
    pub(crate) fn within(self, name: &str) -> Self {
        let mut path = format_path([Step::Field(name.into())]);
        if !self.path.is_empty() && !self.path.starts_with('[') {
            path.push('.');
        }
        path.push_str(&self.path);
        Self { path, ..self }
    }

    /// The field: `reading.by_room.kitchen[2]`; empty for the whole value.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The reason.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// Keeps the reason of `serde_json`, without values, and without the field, which only the JSON text shows.
impl From<serde_json::Error> for FieldError {
    fn from(error: serde_json::Error) -> Self {
        Self::new([], reason_of(&error))
    }
}

/// Returns serde's message without the values that it quotes. Leaves out the messages of a type's own `Serialize` or
/// `Deserialize`, which may hold values anywhere.
pub(crate) fn reason_of(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if !error.is_data() {
        return text; // a syntax error, whose message quotes no value
    }
    let text = text.rsplit_once(" at line ").map_or(&*text, |(text, _)| text);
    if let Some(unexpected) = text.strip_prefix("invalid type: ") {
        return unexpected_kind("invalid type", unexpected);
    }
    if let Some(unexpected) = text.strip_prefix("invalid value: ") {
        return unexpected_kind("invalid value", unexpected);
    }
    if text.starts_with("unknown variant `") {
        let expected = text.rsplit_once("`, expected ").map_or("a different one", |(_, expected)| expected);
        return format!("unknown variant, expected {expected}");
    }
    const WITHOUT_VALUES: [&str; 7] = [
        MISSING_FIELD,
        "duplicate field `",
        "unknown field `",
        "invalid length ",
        "data did not match any variant of untagged enum ",
        "can only flatten structs and maps",
        "cannot serialize tagged newtype variant ",
    ];
    match WITHOUT_VALUES.iter().any(|known| text.starts_with(known)) {
        true => text.into(),
        false => "the type's own `Serialize` or `Deserialize` refuses it".into(),
    }
}

/// Turns `string "secret", expected u32` into `string, expected u32`.
fn unexpected_kind(what: &str, unexpected: &str) -> String {
    const KINDS: [&str; 16] = [
        "boolean",
        "integer",
        "floating point",
        "character",
        "string",
        "byte array",
        "unit value",
        "Option value",
        "newtype struct",
        "sequence",
        "map",
        "enum",
        "unit variant",
        "newtype variant",
        "tuple variant",
        "struct variant",
    ];
    let (found, expected) = unexpected.rsplit_once(", expected ").unwrap_or((unexpected, "a different one"));
    let kind = found.split(['`', '"']).next().unwrap_or_default().trim_end();
    let kind = if kind == "null" || KINDS.contains(&kind) { kind } else { "an unknown kind" };
    format!("{what}: {kind}, expected {expected}")
}

/// Returns the path to `offset` in a JSON text: the steps into the objects and arrays that are open there.
fn path_at(json: &str, offset: usize) -> Vec<Step<'_>> {
    let bytes = json.as_bytes();
    // one per open object or array; `None` before the first key of an object
    let mut open: Vec<Option<Step<'_>>> = Vec::new();
    let mut key_is_next = false;
    let mut at = 0;
    while at < offset.min(bytes.len()) {
        match bytes[at] {
            b'{' => {
                open.push(None);
                key_is_next = true;
            }
            b'[' => {
                open.push(Some(Step::Item(0)));
                key_is_next = false;
            }
            b'}' | b']' => {
                open.pop();
                key_is_next = false;
            }
            b',' => match open.last_mut() {
                Some(Some(Step::Item(index))) => *index += 1,
                _ => key_is_next = true,
            },
            b'"' => {
                let end = end_of_text(bytes, at);
                if key_is_next && let Some(step) = open.last_mut() {
                    *step = json.get(at + 1..end).map(|key| Step::Field(key.into()));
                    key_is_next = false;
                }
                at = end;
            }
            _ => {}
        }
        at += 1;
    }
    open.into_iter().flatten().collect()
}

/// Returns the offset of the closing quote of the text that begins at `start`.
fn end_of_text(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => break,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    at.min(bytes.len())
}

/// Writes a path; cuts long keys and a long path, as keys may come from untrusted input.
fn format_path<'a>(path: impl IntoIterator<Item = Step<'a>>) -> String {
    const KEY_CHARS_MAX: usize = 40;
    const PATH_BYTES_MAX: usize = 200;
    let mut text = String::new();
    for step in path {
        if text.len() > PATH_BYTES_MAX {
            text.push('…');
            break;
        }
        match step {
            Step::Field(key) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.extend(key.chars().take(KEY_CHARS_MAX).flat_map(char::escape_debug));
            }
            // writing to a text cannot fail
            Step::Item(index) => drop(write!(text, "[{index}]")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, de::DeserializeOwned};

    use super::*;

    fn error_of<T: DeserializeOwned + std::fmt::Debug>(json: &str) -> String {
        let error = serde_json::from_str::<T>(json).unwrap_err();
        FieldError::from_parse_error(json, &error).to_string()
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only read")]
    struct Outer {
        inner: Vec<Inner>,
        id: Option<uuid::Uuid>,
        kind: Option<Kind>,
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "only read")]
    struct Inner {
        number: u8,
    }

    #[derive(Debug, Deserialize)]
    enum Kind {
        One,
    }

    #[test]
    fn errors_name_the_field_and_no_value() {
        for (json, text) in [
            (
                r#"{"inner":[{"number":1},{"number":"s3, expected x"}]}"#,
                "field `inner[1].number`: invalid type: string, expected u8",
            ),
            (r#"{"inner":[{"number":1000}]}"#, "field `inner[0].number`: invalid value: integer, expected u8"),
            (r#"{"inner":[{"number":null}]}"#, "field `inner[0].number`: invalid type: null, expected u8"),
            (r#"{"inner":[{"number":1.5}]}"#, "field `inner[0].number`: invalid type: floating point, expected u8"),
            ("{\n\"inner\" : [\n {\"a,\\\"[\":[2]}]}", "field `inner[0]`: missing field `number`"),
            (r#"{"id":null}"#, "missing field `inner`"),
            (r#"{"inner":[],"kind":"s3cret`, expected `y"}"#, "field `kind`: unknown variant, expected `One`"),
            (r#"{"inner":[],"id":"s3cret"}"#, "field `id`: the type's own `Serialize` or `Deserialize` refuses it"),
            (r#"{"inner":[[]]}"#, "field `inner[0]`: invalid length 0, expected struct Inner with 1 element"),
            (r#""s3cret""#, "invalid type: string, expected struct Outer"),
        ] {
            assert_eq!(error_of::<Outer>(json), text, "{json}");
        }
        let unknown = error_of::<Outer>(r#"{"inner":[],"other":5}"#);
        assert!(unknown.contains("unknown field `other`, expected one of"), "{unknown}");
        let syntax = error_of::<Outer>(r#"{"inner":[{"number":1}"#);
        assert_eq!(syntax, "field `inner[0]`: EOF while parsing a list at line 1 column 22");
    }

    #[test]
    fn a_path_stays_short() {
        let json = format!("{}1", format!(r#"{{"{}":"#, "k".repeat(100)).repeat(100));
        let error = FieldError::at(&json, json.len(), "no");
        assert!(error.path().len() < 250 && error.path().ends_with('…'), "{error}");
        assert_eq!(FieldError::at("{\"a\\u0000\n\":1", 13, "no").path(), "a\\\\u0000\\n");
    }
}
