//! An event type of the code, as the check sees it.

use crate::domain::{event::EventDescriptor, probe::EventProbe};

/// An event type of the code.
#[derive(Debug, Clone)]
pub(super) struct KnownEvent {
    pub(super) descriptor: EventDescriptor,
    pub(super) probe: EventProbe,
}
