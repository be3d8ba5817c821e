//! An event that a store should have and does not.

use std::fmt;

use crate::domain::stream::{StreamId, Version};

/// An event that a store should have and does not: other software removed it.
///
/// The versions of a stream are contiguous from 1 up to the version that the store keeps for the stream, so each of
/// them has an event.
///
/// # Examples
/// ```
/// use eventbus::{StreamId, store::MissingEvent};
/// let missing = MissingEvent { stream: StreamId::parse("Order", "1")?, version: 3.into() };
/// assert_eq!(missing.to_string(), "event 3 of stream `Order/1`");
/// # Ok::<(), eventbus::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingEvent {
    /// The stream of the event.
    pub stream: StreamId,
    /// The version of the event, the lowest one that the stream misses.
    pub version: Version,
}

impl fmt::Display for MissingEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event {} of stream `{}`", self.version, self.stream)
    }
}
