//! Names of tables and columns of the application.

use std::fmt;

use crate::{error::PgTransactionError, schema::MAX_IDENTIFIER_BYTES};

/// The name of a table or a column, checked; shown in quotes, as it can stand in a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identifier(String);

impl Identifier {
    /// # Errors
    /// [`PgTransactionError::InvalidName`].
    pub(crate) fn new(name: &str) -> Result<Self, PgTransactionError> {
        let is_start = |c: char| c.is_ascii_alphabetic() || c == '_';
        let reason = if name.is_empty() {
            "it is empty"
        } else if name.len() > MAX_IDENTIFIER_BYTES {
            "it has more than 63 bytes"
        } else if !name.starts_with(is_start) || !name.chars().all(|c| is_start(c) || c.is_ascii_digit()) {
            "only letters, digits and underscores are allowed, no digit first, and no schema"
        } else {
            return Ok(Self(name.into()));
        };
        let name = name.chars().take(MAX_IDENTIFIER_BYTES).flat_map(char::escape_debug).collect();
        Err(PgTransactionError::InvalidName { name, reason })
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_identifiers_are_names() {
        for name in ["orders", "_x", "Orders2", &"x".repeat(63)] {
            assert_eq!(Identifier::new(name).unwrap().to_string(), format!("\"{name}\""));
        }
        for name in ["", "1a", "a-b", "a b", "public.orders", "a\"; DROP", "é", &"x".repeat(64)] {
            let error = Identifier::new(name).unwrap_err();
            assert!(matches!(error, PgTransactionError::InvalidName { .. }), "{name}: {error}");
        }
    }
}
