//! The free-form object that travels beside an event's own fields.

use std::sync::Arc;

use serde_json::{Map, Value};

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
        if self.is_empty() {
            return Self::EMPTY;
        }
        let mut map = self.to_map();
        map.retain(|key, _| keys.contains(&key.as_str()));
        map.into()
    }

    /// Returns the object without these keys.
    pub(crate) fn without(&self, keys: &[&str]) -> Self {
        // spares most objects the decoding
        if !keys.iter().any(|key| self.as_json().contains(key)) {
            return self.clone();
        }
        let mut map = self.to_map();
        let before = map.len();
        map.retain(|key, _| !keys.contains(&key.as_str()));
        if map.len() == before { self.clone() } else { map.into() }
    }

    /// Returns the object with a text under a key that it does not have.
    pub(crate) fn with_text(&self, key: &str, text: &str) -> Self {
        let own = self.as_json().trim_end();
        let own = own.strip_suffix('}').unwrap_or(own);
        let comma = if self.is_empty() { "" } else { "," };
        Self(Some(format!("{own}{comma}{}:{}}}", Value::from(key), Value::from(text)).into()))
    }

    /// Returns the object with a trace, instead of the one that it has.
    pub(crate) fn with_trace(&self, parent: &str, state: Option<&str>) -> Self {
        let attributes = self.without(&[TRACEPARENT, TRACESTATE]).with_text(TRACEPARENT, parent);
        match state {
            Some(state) => attributes.with_text(TRACESTATE, state),
            None => attributes,
        }
    }

    /// Adds the keys of `other` that are missing here. A trace is that of one side: `tracestate` belongs to `traceparent`.
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
