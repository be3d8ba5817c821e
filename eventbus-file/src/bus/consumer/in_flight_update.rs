//! Changes of the in-flight entries that wait until the progress is saved.

use eventbus::{
    delivery::{DeliveryAttempts, InFlight, InFlightEntry},
    port::MessageId,
};

/// Changes that one cycle makes to the in-flight entries.
///
/// Invariant: the consumer applies them only after it has saved the progress, so that handlers get only open events.
#[derive(Debug, Default)]
pub(super) struct InFlightUpdate {
    pub(super) released: Vec<MessageId>,
    pub(super) begun: Vec<MessageId>,
    pub(super) resumed: Vec<InFlightEntry>,
    pub(super) added: Vec<InFlightEntry>,
    pub(super) undecodable: Vec<(MessageId, DeliveryAttempts)>,
}

impl InFlightUpdate {
    /// Applies the changes, in this order.
    pub(super) fn apply(self, in_flight: &InFlight) {
        in_flight.release(&self.released);
        in_flight.begin(&self.begun);
        in_flight.resume(self.resumed);
        in_flight.add(self.added);
        for (id, attempts) in self.undecodable {
            in_flight.add_dead_letter(id, attempts);
        }
    }
}
