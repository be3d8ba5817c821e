//! The errors of a pass, and of tracing.

use std::fmt::Display;

/// Why a pass ended without a value.
#[derive(Debug, thiserror::Error)]
pub(super) enum TraceError {
    /// The type refused a value.
    #[error("{0}")]
    Refused(String),
    /// A struct was offered a field by its name and by an alias.
    #[error("duplicate field `{0}`")]
    DuplicateField(&'static str),
    /// The pass went too deep into a type that holds itself; the next one chooses differently.
    #[error("too deep")]
    Repeat,
    /// The type asked for a value that cannot be offered.
    #[error("{0}")]
    Unsupported(String),
}

impl serde::de::Error for TraceError {
    fn custom<T: Display>(message: T) -> Self {
        Self::Refused(message.to_string())
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::DuplicateField(field)
    }
}

/// A type of which no sample could be made.
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", if path.is_empty() { String::new() } else { format!("field `{path}`: ") })]
pub struct Untraceable {
    /// The field whose values were refused.
    pub(crate) path: String,
    /// The reason.
    pub(crate) reason: String,
}
