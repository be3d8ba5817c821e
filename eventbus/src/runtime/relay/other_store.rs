//! The check at the start of an app that the stream carries its own events.

use super::RelayError;
use crate::port::{EventBus, EventStore};

/// Refuses a stream that carries the events of a different store and none of this one: the handlers of an app with the
/// wrong store or stream would take the events of a different application.
///
/// `Ok` also if store or bus give no answer: the relay checks again.
pub(crate) async fn refuse_other_store(store: &dyn EventStore, bus: &dyn EventBus) -> Result<(), RelayError> {
    let Some(target) = bus.relay_target() else { return Ok(()) };
    let Ok(own) = store.store_id().await else { return Ok(()) };
    match target.other_store(own).await {
        Ok(Some(other)) => Err(RelayError::OtherStore { destination: bus.destination().clone(), own, other }),
        Ok(None) | Err(_) => Ok(()),
    }
}
