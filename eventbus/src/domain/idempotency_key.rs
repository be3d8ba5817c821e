//! The key that a client gives a command, so that it takes effect once.

use std::str::FromStr;

use super::name::{InvalidName, Name};

/// The key of a command that may be sent twice: text of 1 to 255 bytes without control characters, such as a UUID that the
/// client makes for each command.
///
/// In HTTP it is the header `Idempotency-Key`, whose value may be in quotes, as in the [draft] of the IETF.
///
/// [draft]: https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/
///
/// # Examples
/// ```
/// use eventbus::repository::IdempotencyKey;
/// let key: IdempotencyKey = "\"8e03978e-40d5-43e8-bc93-6894a57f9324\"".parse()?;
/// assert_eq!(key.as_str(), "8e03978e-40d5-43e8-bc93-6894a57f9324");
/// assert!("".parse::<IdempotencyKey>().is_err());
/// # Ok::<(), eventbus::event::InvalidName>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, derive_more::Display)]
#[display("{_0}")]
pub struct IdempotencyKey(Name);

impl IdempotencyKey {
    /// The key as text, without quotes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for IdempotencyKey {
    type Err = InvalidName;

    /// Reads a key; spaces around it, and quotes, are not part of it.
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let text = text.trim();
        let unquoted = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        Name::new("idempotency key", unquoted.unwrap_or(text)).map(Self)
    }
}
