//! Faults of a database, told apart from failures of an event.

use std::borrow::Cow;

/// A fault of the database itself: its disk is full, a lock is held, it shuts down, the connection broke.
///
/// The text is a code and its meaning, such as `SQLSTATE 53100`; it never holds a stored value, so health reports may
/// show it.
///
/// # Examples
/// ```
/// use eventbus::port::ServerFault;
/// assert_eq!(ServerFault::new("SQLSTATE 53100").to_string(), "SQLSTATE 53100");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, derive_more::Display)]
pub struct ServerFault(Cow<'static, str>);

impl ServerFault {
    /// Names a fault by the server's own `code`, without any stored value.
    #[must_use]
    pub fn new(code: impl Into<Cow<'static, str>>) -> Self {
        Self(code.into())
    }
}
