//! The parts of a consumer of one stream.

use std::sync::Arc;

use super::{acknowledger::Acknowledger, inner::ConsumerInner, membership::Membership, receiver::Receiver};

/// The consumer of one stream: of the bus's one, of a backlog, or of a recovery.
pub(super) struct ConsumerParts {
    pub(super) inner: Arc<ConsumerInner>,
    pub(super) receiver: Receiver,
    pub(super) acknowledger: Acknowledger,
    pub(super) membership: Membership,
}

impl ConsumerParts {
    pub(super) fn new(inner: ConsumerInner) -> Self {
        let inner = Arc::new(inner);
        Self {
            receiver: Receiver::new(Arc::clone(&inner)),
            acknowledger: Acknowledger::new(Arc::clone(&inner)),
            membership: Membership::new(Arc::clone(&inner)),
            inner,
        }
    }
}
