//! Publishes after each save, where no relay publishes the store.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::saved::Publication;
use crate::{
    domain::record::RecordedEvent,
    port::{EventBus, EventStore, PublishError},
    support::relay_to,
};

/// The publisher of a repository's saves: none, the app's relay, or the repository itself.
#[derive(Clone)]
pub(super) enum SavePublisher {
    None,
    Relay,
    Bus { bus: Arc<dyn EventBus>, is_relay_checked: Arc<AtomicBool> },
}

impl SavePublisher {
    pub(super) fn to_bus(bus: Arc<dyn EventBus>) -> Self {
        Self::Bus { bus, is_relay_checked: Arc::default() }
    }

    /// Returns the publication of events that were stored before.
    pub(super) const fn of_stored(&self) -> Publication {
        if matches!(self, Self::Relay) { Publication::ByRelay } else { Publication::None }
    }

    pub(super) async fn publish(&self, store: &Arc<dyn EventStore>, records: &[RecordedEvent]) -> Publication {
        let Self::Bus { bus, is_relay_checked } = self else {
            return self.of_stored();
        };
        let published = async {
            if !is_relay_checked.load(Ordering::Relaxed) {
                refuse_if_relayed(store, bus).await?;
                is_relay_checked.store(true, Ordering::Relaxed);
            }
            bus.publish(records).await
        };
        match published.await {
            Ok(ids) => Publication::Published(ids),
            Err(error) => {
                tracing::error!(destination = %bus.destination(), %error, "events are saved but not published");
                Publication::Failed(error)
            }
        }
    }
}

/// Refuses if the store has the checkpoint of a relay to this destination, which publishes all events.
async fn refuse_if_relayed(store: &Arc<dyn EventStore>, bus: &Arc<dyn EventBus>) -> Result<(), PublishError> {
    let destination = bus.destination().clone();
    match store.load_checkpoint(&relay_to(&destination)).await {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(PublishError::OwnedByRelay { destination }),
        Err(error) => Err(PublishError::Unavailable { destination, source: error.into() }),
    }
}
