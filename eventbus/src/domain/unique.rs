//! Unique values: among the streams of an aggregate type and a tenant, one at a time holds a value, such as an email
//! address.
//!
//! The save that appends an event takes its value for the stream and gives back the one that the stream held before.

use std::{borrow::Cow, fmt, sync::Arc};

use super::{field_text::FieldText, name::Name};

/// The largest unique value, in bytes of UTF-8: it is a key of an index.
pub const UNIQUE_VALUE_BYTES_MAX: usize = 1_000;

/// A unique value of an event type, as `#[event(unique(email))]` declares it.
#[derive(Clone, Copy)]
#[doc(hidden)]
pub struct UniqueName {
    /// Its name within the aggregate type: `email`.
    pub name: &'static str,
    /// Normalizes a value: two values that count as one become equal.
    pub normalize: fn(&str) -> String,
    /// The name of this function in the attribute; empty if values are not normalized.
    pub normalized_by: &'static str,
    /// Unset if the event only gives the value back.
    pub takes: bool,
}

impl fmt::Debug for UniqueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UniqueName").field("name", &self.name).field("normalized_by", &self.normalized_by).finish()
    }
}

impl PartialEq for UniqueName {
    fn eq(&self, other: &Self) -> bool {
        (self.name, self.normalized_by) == (other.name, other.normalized_by)
    }
}

impl Eq for UniqueName {}

/// The change that an event makes to a unique value of its stream.
#[derive(Clone, PartialEq, Eq)]
pub struct UniqueChange {
    name: Name,
    value: Option<Arc<str>>,
}

impl UniqueChange {
    /// Creates a change that takes `value` and gives back the one that the stream held before; without a value it only
    /// gives that back.
    ///
    /// # Errors
    /// [`UniqueFault`] if no store can keep the value.
    pub fn new(name: Name, value: Option<String>) -> Result<Self, UniqueFault> {
        match &value {
            Some(value) if value.len() > UNIQUE_VALUE_BYTES_MAX => {
                Err(UniqueFault::TooLong { name, bytes: value.len() })
            }
            Some(value) if value.contains('\0') => Err(UniqueFault::Nul { name }),
            _ => Ok(Self { name, value: value.map(Into::into) }),
        }
    }

    /// The name of the value within the aggregate type: `email`.
    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// The value to take; `None` to give back what the stream holds.
    #[must_use]
    pub fn value(&self) -> Option<&str> {
        self.value.as_deref()
    }
}

/// Leaves out the value, which may be personal.
impl fmt::Debug for UniqueChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let change = if self.value.is_some() { "taken" } else { "given back" };
        write!(f, "UniqueChange({} {change})", self.name)
    }
}

/// Why no store can keep a unique value; the message does not show it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UniqueFault {
    /// It is longer than [`UNIQUE_VALUE_BYTES_MAX`].
    #[error("unique value `{name}` has {bytes} bytes, more than {UNIQUE_VALUE_BYTES_MAX}")]
    TooLong {
        /// The name of the value.
        name: Name,
        /// Its length.
        bytes: usize,
    },
    /// It contains U+0000.
    #[error("unique value `{name}` contains U+0000")]
    Nul {
        /// The name of the value.
        name: Name,
    },
}

/// The value of a unique field; the derive calls it.
#[doc(hidden)]
pub fn unique_value(field: &(impl FieldText + ?Sized)) -> Option<String> {
    field.field_text().map(Cow::into_owned)
}

/// Returns the value unchanged: two values count as one only if they are equal.
#[doc(hidden)]
pub fn as_it_is(value: &str) -> String {
    value.to_owned()
}
