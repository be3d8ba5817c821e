//! Publishes after each save, where no relay publishes the store.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::saved::Publication;
use crate::{
    domain::{clock::SharedClock, record::RecordedEvent},
    port::{EventBus, EventStore, PublishError},
    support::relay_to,
};

/// The time for which a check for a relay is valid: a relay may be started later.
const RELAY_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The publisher of a repository's saves: none, the app's relay, or the repository itself.
#[derive(Clone)]
pub(super) enum SavePublisher {
    None,
    Relay,
    Bus {
        bus: Arc<dyn EventBus>,
        /// When the store was last found to have no relay.
        no_relay_at: Arc<Mutex<Option<Instant>>>,
    },
}

impl SavePublisher {
    pub(super) fn to_bus(bus: Arc<dyn EventBus>) -> Self {
        Self::Bus { bus, no_relay_at: Arc::default() }
    }

    /// Returns the publication of events that were stored before.
    pub(super) const fn of_stored(&self) -> Publication {
        if matches!(self, Self::Relay) { Publication::ByRelay } else { Publication::None }
    }

    pub(super) async fn publish(
        &self,
        store: &Arc<dyn EventStore>,
        clock: &SharedClock,
        records: &[RecordedEvent],
    ) -> Publication {
        let Self::Bus { bus, no_relay_at } = self else {
            return self.of_stored();
        };
        let published = async {
            let (now, checked_at) = (clock.instant(), *no_relay_at.lock());
            if checked_at.is_none_or(|at| now.saturating_duration_since(at) >= RELAY_CHECK_INTERVAL) {
                refuse_if_relayed(store, bus).await?;
                *no_relay_at.lock() = Some(now);
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
