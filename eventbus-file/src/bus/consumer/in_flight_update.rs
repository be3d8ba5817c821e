//! Changes of the in-flight entries that wait until the progress is saved.

use eventbus::{
    delivery::{DeliveryAttempts, InFlight, InFlightEntry},
    port::MessageId,
};

/// Changes that one cycle makes to the in-flight entries.
///
/// Invariant: the consumer applies them only after it saved the progress: a handler gets no event that is not open.
#[derive(Debug, Default)]
pub(super) struct InFlightUpdate {
    to_release: Vec<MessageId>,
    to_begin: Vec<MessageId>,
    to_resume: Vec<InFlightEntry>,
    to_add: Vec<InFlightEntry>,
    undecodable: Vec<(MessageId, DeliveryAttempts)>,
}

impl InFlightUpdate {
    pub(super) fn release(&mut self, id: MessageId) {
        self.to_release.push(id);
    }

    pub(super) fn begin(&mut self, id: MessageId) {
        self.to_begin.push(id);
    }

    pub(super) fn resume(&mut self, entry: InFlightEntry) {
        self.to_resume.push(entry);
    }

    pub(super) fn add(&mut self, entry: InFlightEntry) {
        self.to_add.push(entry);
    }

    pub(super) fn add_undecodable(&mut self, id: MessageId, attempts: DeliveryAttempts) {
        self.undecodable.push((id, attempts));
    }

    /// Returns the number of entries to add.
    pub(super) fn count_added(&self) -> usize {
        self.to_add.len()
    }

    /// Applies the changes, in this order, and forgets them.
    pub(super) fn apply(&mut self, in_flight: &InFlight) {
        let Self { to_release, to_begin, to_resume, to_add, undecodable } = std::mem::take(self);
        in_flight.release(&to_release);
        in_flight.begin(&to_begin);
        in_flight.resume(to_resume);
        in_flight.add(to_add);
        for (id, attempts) in undecodable {
            in_flight.add_undecodable(id, attempts);
        }
    }
}
