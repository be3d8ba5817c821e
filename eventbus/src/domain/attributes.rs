//! The free-form object that travels beside an event's own fields.

use std::{borrow::Cow, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer as _,
    de::{MapAccess, Visitor},
};
use serde_json::{Map, Value, value::RawValue};

use super::{field_error::FieldError, json::from_json};

/// The keys of a trace among the attributes of an event.
pub(crate) const TRACEPARENT: &str = "traceparent";
pub(crate) const TRACESTATE: &str = "tracestate";

/// An object that an application attaches to an event beside its fields: JSON, kept as the given text.
///
/// On the wire and in stores it is called `metadata`. Stores, relay and bus never decode it.
///
/// # Examples
/// ```
/// use eventbus::event::Attributes;
/// let attributes = Attributes::parse(r#"{"channel":"web"}"#)?;
/// assert_eq!(attributes.get("channel"), Some("web".into()));
/// assert!(Attributes::parse("[1]").is_err());
/// # Ok::<(), eventbus::event::InvalidAttributes>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq, derive_more::Debug)]
#[debug("{}", self.as_json())]
pub struct Attributes(Option<Arc<str>>);

/// A text that is not a JSON object; the message does not quote it.
#[derive(Debug, thiserror::Error)]
#[error("event attributes are not a JSON object")]
pub struct InvalidAttributes(#[from] FieldError);

impl Attributes {
    /// The empty object.
    pub const EMPTY: Self = Self(None);

    /// Keeps `json` if it is an object.
    ///
    /// # Errors
    /// [`InvalidAttributes`] if it is not valid JSON or not an object.
    pub fn parse(json: &str) -> Result<Self, InvalidAttributes> {
        if json == "{}" {
            return Ok(Self::EMPTY);
        }
        let map: Map<String, Value> = from_json(json)?;
        Ok(if map.is_empty() { Self::EMPTY } else { Self(Some(json.into())) })
    }

    /// The object as JSON text, `{}` when it is empty.
    #[must_use]
    pub fn as_json(&self) -> &str {
        self.0.as_deref().unwrap_or("{}")
    }

    /// Returns `true` if the object is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The value under `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Value> {
        self.to_map().remove(key)
    }

    /// Returns the object with these keys only.
    pub(crate) fn retain_keys(&self, keys: &[&str]) -> Self {
        self.filtered(|key| keys.contains(&key))
    }

    /// Returns the object without these keys.
    pub(crate) fn without(&self, keys: &[&str]) -> Self {
        // spares most objects the decoding
        if !keys.iter().any(|key| self.as_json().contains(key)) {
            return self.clone();
        }
        self.filtered(|key| !keys.contains(&key))
    }

    /// Returns the object with the keys that `is_kept` chooses, and their values as written.
    fn filtered(&self, is_kept: impl Fn(&str) -> bool) -> Self {
        let (mut kept, mut keeps_all) = (String::new(), true);
        self.visit(|key, value| {
            if !text_of(key).is_some_and(|key| is_kept(&key)) {
                keeps_all = false;
                return;
            }
            if kept.is_empty() {
                kept.reserve_exact(self.as_json().len());
                kept.push('{');
            } else {
                kept.push(',');
            }
            kept.extend([key.get(), ":", value.get()]);
        });
        if keeps_all {
            self.clone()
        } else if kept.is_empty() {
            Self::EMPTY
        } else {
            kept.push('}');
            Self(Some(kept.into()))
        }
    }

    /// Calls `each` with the keys and their values, as written.
    fn visit<'a>(&'a self, each: impl FnMut(&'a RawValue, &'a RawValue)) {
        let mut json = serde_json::Deserializer::from_str(self.as_json());
        // it cannot fail: the text was decoded as an object before
        let _ = json.deserialize_map(ObjectVisitor(each));
    }

    /// Returns the texts under `traceparent` and `tracestate`; `None` if the first one is missing.
    pub(crate) fn trace(&self) -> Option<(Cow<'_, str>, Option<Cow<'_, str>>)> {
        // spares most objects the decoding
        if !self.as_json().contains(TRACEPARENT) {
            return None;
        }
        let (mut parent, mut state) = (None, None);
        self.visit(|key, value| match text_of(key).as_deref() {
            Some(TRACEPARENT) => parent = Some(value),
            Some(TRACESTATE) => state = Some(value),
            _ => {}
        });
        Some((text_of(parent?)?, state.and_then(text_of)))
    }

    /// Returns the object with this trace, which replaces the one that it has.
    pub(crate) fn with_trace(&self, parent: &str, state: Option<&str>) -> Self {
        let rest = self.without(&[TRACEPARENT, TRACESTATE]);
        let own = rest.as_json().trim_end();
        let own = own.strip_suffix('}').unwrap_or(own);
        // both keys and their punctuation have 34 bytes
        let mut json = String::with_capacity(own.len() + parent.len() + state.map_or(0, str::len) + 34);
        json.push_str(own);
        push_text(&mut json, TRACEPARENT, parent);
        if let Some(state) = state {
            push_text(&mut json, TRACESTATE, state);
        }
        json.push('}');
        Self(Some(json.into()))
    }

    /// Adds the keys of `other` that are missing here. `traceparent` and `tracestate` belong together: beside a
    /// `traceparent` of this object, the `tracestate` of `other` is left out.
    pub(crate) fn or(self, other: Self) -> Self {
        if other.is_empty() {
            return self;
        }
        if self.is_empty() {
            return other;
        }
        let (mut map, own) = (other.to_map(), self.to_map());
        if own.contains_key(TRACEPARENT) {
            map.remove(TRACESTATE);
        }
        map.extend(own);
        map.into()
    }

    /// All values by key.
    #[must_use]
    pub fn to_map(&self) -> Map<String, Value> {
        self.0.as_deref().and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
    }
}

impl AsRef<str> for Attributes {
    fn as_ref(&self) -> &str {
        self.as_json()
    }
}

impl From<Map<String, Value>> for Attributes {
    fn from(map: Map<String, Value>) -> Self {
        if map.is_empty() { Self::EMPTY } else { Self(Some(Value::Object(map).to_string().into())) }
    }
}

/// Calls a function with each key of an object and its value, as written.
struct ObjectVisitor<F>(F);

impl<'de, F: FnMut(&'de RawValue, &'de RawValue)> Visitor<'de> for ObjectVisitor<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            (self.0)(key, value);
        }
        Ok(())
    }
}

/// Returns a text, borrowed where it has no escapes; `None` if the value is of a different type.
fn text_of(value: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

    serde_json::from_str(value.get()).ok().map(|Text(text)| text)
}

/// Appends a key, which needs no escapes, and its text to an object without its last brace.
fn push_text(json: &mut String, key: &str, text: &str) {
    if json.as_str() != "{" {
        json.push(',');
    }
    json.extend(["\"", key, "\":"]);
    let is_plain = text.bytes().all(|byte| byte >= b' ' && !matches!(byte, b'"' | b'\\'));
    if is_plain {
        json.extend(["\"", text, "\""]);
    } else {
        json.push_str(&Value::from(text).to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_read_as_from_the_decoded_object() {
        let long = "x".repeat(1 << 20);
        let huge = format!(r#"{{"a":["{long}"],"traceparent":"{long}","tracestate":{{"{long}":["{long}"]}}}}"#);
        for (json, expected) in [
            ("{}", None),
            (r#"{"tracestate":"b"}"#, None),
            (r#"{"traceparent":1}"#, None),
            (r#"{"traceparent":null,"tracestate":"b"}"#, None),
            (r#"{"traceparent":true}"#, None),
            (r#"{"traceparent":["a"]}"#, None),
            (r#"{"traceparent":{"traceparent":"a"}}"#, None),
            (r#"{"a":"traceparent","b":{"traceparent":"a"},"c":["traceparent"]}"#, None),
            (r#"{"traceparent":"a"}"#, Some(("a", None))),
            (r#"{"traceparent":"","tracestate":-1.5e3}"#, Some(("", None))),
            (r#"{"n":12345678901234567890.5, "traceparent" : "a" ,"tracestate":"b"} "#, Some(("a", Some("b")))),
            (r#"{"tracestate":"b","o":{"tracestate":"c"},"traceparent":"a"}"#, Some(("a", Some("b")))),
            (r#"{"traceparent":"a","traceparent":"b","tracestate":"c","tracestate":2}"#, Some(("b", None))),
            (r#"{"traceparent":"a","traceparent":1}"#, None),
            (r#"{"traceparent":"\u0061\"\\é","tracestate":"\n"}"#, Some(("a\"\\é", Some("\n")))),
            (r#"{"a":"traceparent","trace\u0070arent":"a"}"#, Some(("a", None))),
            (huge.as_str(), Some((long.as_str(), None))),
        ] {
            let attributes = Attributes::parse(json).unwrap();
            let map = attributes.to_map();
            let text = |key| map.get(key).and_then(Value::as_str);
            assert_eq!(text(TRACEPARENT).map(|parent| (parent, text(TRACESTATE))), expected);
            let trace = attributes.trace();
            assert_eq!(trace.as_ref().map(|(parent, state)| (&**parent, state.as_deref())), expected);
        }
        let plain = Attributes::parse(r#"{"traceparent":"a","tracestate":"b"}"#).unwrap();
        assert!(matches!(plain.trace(), Some((Cow::Borrowed("a"), Some(Cow::Borrowed("b"))))), "read without a copy");
    }

    #[test]
    fn keys_are_kept_and_removed_and_their_values_stay_as_written() {
        for (json, retained, rest) in [
            ("{}", "{}", "{}"),
            (r#"{ "a":1 }"#, r#"{ "a":1 }"#, "{}"),
            (r#"{ "x":1 }"#, "{}", r#"{ "x":1 }"#),
            (r#"{"a" : 1e2,"x":{"a": 1},"b":[ 1 ]}"#, r#"{"a":1e2,"b":[ 1 ]}"#, r#"{"x":{"a": 1}}"#),
            (
                r#"{"x":12345678901234567890.5,"\u0061":"\u0062","y":"b"}"#,
                r#"{"\u0061":"\u0062"}"#,
                r#"{"x":12345678901234567890.5,"y":"b"}"#,
            ),
        ] {
            let attributes = Attributes::parse(json).unwrap();
            assert_eq!(attributes.retain_keys(&["a", "b"]).as_json(), retained);
            assert_eq!(attributes.without(&["a", "b"]).as_json(), rest);
        }
    }

    #[test]
    fn a_trace_is_written_as_serde_json_does() {
        for text in ["", "00-a-b-01", "é\u{7f}\u{2028}", "a\"b", "\\", "\u{0}\n\u{1f}"] {
            let attributes = Attributes::EMPTY.with_trace(text, Some(text));
            let text = Value::from(text);
            assert_eq!(attributes.as_json(), format!(r#"{{"traceparent":{text},"tracestate":{text}}}"#));
        }
    }
}
