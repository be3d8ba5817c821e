//! The dead letters of the in-process bus: entries of the log that a group gave up.

use super::log::Log;
use crate::{domain::name::Name, port::Tries};

impl Log {
    /// Makes an entry of a group a dead letter.
    pub(super) fn bury(&mut self, group: &Name, number: u64, tries: Tries) {
        if let Some(entry) = self.entries.get(&number) {
            let (event_type, stream) = (entry.record.event_type(), entry.record.metadata().stream());
            tracing::error!(
                %group, handler = tries.handlers(), %event_type, %stream, id = %entry.id, error = tries.errors(),
                attempts = tries.most_attempts(), "delivery given up: it is a dead letter now"
            );
        }
        self.cursor(group).bury(number, tries);
    }
}
