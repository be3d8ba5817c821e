//! Durable names: event types, aggregate types, groups, handlers.

use std::{
    borrow::Borrow,
    hash::{Hash, Hasher},
    ops::Deref,
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The longest name or id, in bytes of UTF-8: what every backend can index.
pub const MAX_NAME_BYTES: usize = 255;

/// A durable name: text of 1–255 bytes without control characters.
///
/// Event types, aggregate types, consumer groups and handlers are known by such names in stores and on buses, so a
/// name outlives the code that wrote it. Cloning is cheap.
///
/// # Examples
/// ```
/// use eventbus::Name;
/// let name = Name::new("event type", "order.created")?;
/// assert_eq!(&*name, "order.created");
/// assert!(Name::new("event type", "").is_err());
/// # Ok::<(), eventbus::event::InvalidName>(())
/// ```
#[derive(Clone, derive_more::Debug, derive_more::Display)]
#[debug("{:?}", self.as_str())]
#[display("{}", self.as_str())]
pub struct Name(Text);

#[derive(Clone)]
enum Text {
    Static(&'static str),
    Shared(Arc<str>),
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = String::deserialize(deserializer)?;
        Self::new("name", value).map_err(D::Error::custom)
    }
}

impl Name {
    /// Checks `value` and keeps it; `what` names the kind of name in the error (`"event type"`).
    ///
    /// # Errors
    /// [`InvalidName`] if `value` is empty, longer than 255 bytes or holds a control character.
    pub fn new(what: &'static str, value: impl AsRef<str>) -> Result<Self, InvalidName> {
        let value = value.as_ref();
        check(what, value)?;
        Ok(Self(Text::Shared(value.into())))
    }

    /// Keeps a literal without copying it; the macros check their literals while compiling.
    ///
    /// # Panics
    /// If `value` is not a valid name: a bug in the program. In a constant it fails while compiling.
    #[must_use]
    pub const fn from_static(value: &'static str) -> Self {
        assert!(is_valid(value), "a name has 1 to 255 bytes and no control characters");
        Self(Text::Static(value))
    }

    /// Joins `prefix` and a name, as in the names of checkpoints; cuts the name at the front if the result is too long.
    ///
    /// # Examples
    /// ```
    /// use eventbus::Name;
    /// assert_eq!(Name::prefixed("group:", &Name::from_static("audit")), "group:audit");
    /// ```
    #[must_use]
    pub fn prefixed(prefix: &'static str, name: &Self) -> Self {
        let available = MAX_NAME_BYTES.saturating_sub(prefix.len());
        let cut = (name.len().saturating_sub(available)..).find(|&at| name.is_char_boundary(at)).unwrap_or_default();
        Self(Text::Shared(format!("{prefix}{}", &name[cut..]).into()))
    }

    /// Appends a number to the name (`audit#2`); cuts at the front if the result is too long.
    pub(crate) fn numbered(&self, number: usize) -> Self {
        self.joined("#", &number.to_string())
    }

    /// Appends `suffix` to the name (`mail/send_receipt`); cuts at the front if the result is too long.
    pub(crate) fn joined(&self, separator: &str, suffix: &str) -> Self {
        let joined = format!("{self}{separator}{suffix}");
        let too_long = joined.len().saturating_sub(MAX_NAME_BYTES);
        let cut = (too_long..joined.len()).find(|&at| joined.is_char_boundary(at)).unwrap_or_default();
        Self(Text::Shared(joined[cut..].into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Text::Static(text) => text,
            Text::Shared(text) => text,
        }
    }
}

/// Returns `true` if `value` may be a name; usable in constants.
const fn is_valid(value: &str) -> bool {
    let bytes = value.as_bytes();
    if bytes.is_empty() || bytes.len() > MAX_NAME_BYTES {
        return false;
    }
    let mut i = 0;
    while i < bytes.len() {
        // U+0080..U+009F are control characters too: C2 80 to C2 9F in UTF-8
        let c1 = bytes[i] == 0xC2 && i + 1 < bytes.len() && bytes[i + 1] < 0xA0;
        if bytes[i] < 0x20 || bytes[i] == 0x7F || c1 {
            return false;
        }
        i += 1;
    }
    true
}

pub(crate) fn check(what: &'static str, value: &str) -> Result<(), InvalidName> {
    if is_valid(value) {
        return Ok(());
    }
    let reason = if value.is_empty() {
        NameFault::Empty
    } else if let Some(at) = value.find(char::is_control) {
        NameFault::ControlCharacter { at }
    } else {
        NameFault::TooLong { bytes: value.len() }
    };
    let value = value.chars().take(40).flat_map(char::escape_debug).collect();
    Err(InvalidName { what, value, reason })
}

impl Deref for Name {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        self
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        self
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Name {}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        &**self == other
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        &**self == *other
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_str().cmp(other)
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

/// A text that cannot be a name or an aggregate id, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} `{value}`: {reason}")]
#[non_exhaustive]
pub struct InvalidName {
    /// The kind of name: `event type`, `aggregate id`, …
    pub what: &'static str,
    /// Its first 40 characters, control characters escaped.
    pub value: String,
    /// The fault.
    pub reason: NameFault,
}

/// A fault in a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameFault {
    /// It has no characters.
    #[error("it is empty")]
    Empty,
    /// It has more than 255 bytes.
    #[error("it has {bytes} bytes, at most 255 are allowed")]
    TooLong {
        /// Its length in bytes of UTF-8.
        bytes: usize,
    },
    /// It holds a control character, which logs and keys could not show.
    #[error("it holds a control character at byte {at}")]
    ControlCharacter {
        /// Where the first one starts, in bytes.
        at: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_and_run_time_checks_agree() {
        for text in ["", "a", "a\u{1}", "é", "\u{80}", "\u{9f}x", "\u{a0}", "x\u{7f}", "\u{2028}"] {
            assert_eq!(is_valid(text), !text.is_empty() && !text.contains(char::is_control), "{text:?}");
        }
        assert!(is_valid(&"x".repeat(255)));
        assert!(!is_valid(&"x".repeat(256)));
    }

    #[test]
    fn errors_say_what_and_where() {
        let error = Name::new("event type", "order\ncreated").unwrap_err();
        assert_eq!(error.to_string(), "invalid event type `order\\ncreated`: it holds a control character at byte 5");
        let error = Name::new("group", "x".repeat(300)).unwrap_err();
        assert_eq!(error.reason, NameFault::TooLong { bytes: 300 });
        assert_eq!(error.value.len(), 40);
    }
}
