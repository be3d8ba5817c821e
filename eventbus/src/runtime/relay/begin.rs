//! Beginning to publish a store after a position, at an operator's command.

use std::time::Duration;

use super::error::BeginError;
use crate::{
    domain::{name::Name, stream::Position},
    port::{EventBus, EventStore, Lease, RelayTarget, relay::PublishedPosition},
    runtime::held_lease::new_owner,
    support::relay_to,
};

/// Duration of the lease that keeps relays away meanwhile; they wait no longer if this process dies in between.
const BEGIN_LEASE_TTL: Duration = Duration::from_secs(5);

/// Has the relay of a store begin after a position: it never publishes the events up to there to this bus. Call it
/// before the first app with this store and this bus starts, such as after an import whose events other software on the
/// stream has handled.
///
/// # Errors
/// [`BeginError`] if the bus keeps no position, a process relays to it, the relay has begun, the store ends before the
/// position, or store or bus cannot be reached.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
/// use eventbus::{InMemoryEventBus, InMemoryEventStore, Position, relay};
/// let (store, bus) = (InMemoryEventStore::new(), InMemoryEventBus::new());
/// relay::begin_after(&store, &bus, Position::START).await?;
/// let error = relay::begin_after(&store, &bus, Position::START).await.unwrap_err();
/// assert_eq!(error.to_string(), "the relay to `memory` has begun already, and goes on after position 0");
/// # Ok(()) }
/// ```
pub async fn begin_after(store: &dyn EventStore, bus: &dyn EventBus, after: Position) -> Result<(), BeginError> {
    let destination = bus.destination();
    let Some(target) = bus.relay_target() else {
        return Err(BeginError::NoPosition { destination: destination.clone() });
    };
    let lease = store.acquire_lease(&relay_to(destination), &new_owner(), BEGIN_LEASE_TTL).await;
    let lease = lease.map_err(BeginError::unavailable(destination))?;
    let Some(lease) = lease else {
        return Err(BeginError::Relaying { destination: destination.clone() });
    };
    let begun = begin(store, (destination, target), &lease, after).await;
    // a lease that is not released expires by itself
    let _ = store.release_lease(&lease).await;
    begun
}

async fn begin(
    store: &dyn EventStore,
    (destination, target): (&Name, &dyn RelayTarget),
    lease: &Lease,
    after: Position,
) -> Result<(), BeginError> {
    let newest = store.head().await.map_err(BeginError::unavailable(destination))?;
    if after > newest {
        return Err(BeginError::BeyondEnd { newest });
    }
    if let Some(position) = load_position(store, destination, target).await? {
        return Err(BeginError::HasBegun { destination: destination.clone(), position });
    }
    // before, and after: a store that answers late may have given the lease to a relay in between
    ensure_lease(store, destination, lease).await?;
    store.save_checkpoint(&relay_to(destination), after).await.map_err(BeginError::unavailable(destination))?;
    ensure_lease(store, destination, lease).await?;
    let own = store.store_id().await.map_err(BeginError::unavailable(destination))?;
    let begins = PublishedPosition { position: after, event_id: None };
    target.set_position(own, None, begins).await.map_err(BeginError::unavailable(destination))?;
    tracing::info!(%destination, %after, "the relay begins after this position");
    Ok(())
}

async fn ensure_lease(store: &dyn EventStore, destination: &Name, lease: &Lease) -> Result<(), BeginError> {
    let is_held = store.renew_lease(lease, BEGIN_LEASE_TTL).await.map_err(BeginError::unavailable(destination))?;
    if is_held { Ok(()) } else { Err(BeginError::Relaying { destination: destination.clone() }) }
}

/// Returns the position after which the relay goes on; `None` if neither bus nor store shows that it has begun.
async fn load_position(
    store: &dyn EventStore,
    destination: &Name,
    target: &dyn RelayTarget,
) -> Result<Option<Position>, BeginError> {
    let own = store.store_id().await.map_err(BeginError::unavailable(destination))?;
    let record = target.published_position(own).await.map_err(BeginError::unavailable(destination))?;
    if let Some(record) = record {
        return Ok(Some(record.position));
    }
    let saved = store.load_checkpoint(&relay_to(destination)).await.map_err(BeginError::unavailable(destination))?;
    // an app that has started without publishing has saved the start
    Ok(saved.filter(|saved| *saved > Position::START))
}
