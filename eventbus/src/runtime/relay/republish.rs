//! Publishing again from a position, at an operator's command.

use std::time::Duration;

use uuid::Uuid;

use super::{
    RepublishError,
    checkpoint_names::{halt_checkpoint_name, load_halt},
    fork::find_fork,
};
use crate::{
    domain::{name::Name, stream::Position},
    port::{CheckpointError, EventBus, EventStore, PublishError, RelayTarget, relay::PublishedPosition},
    runtime::held_lease::new_owner,
    support::relay_to,
};

/// Duration of the lease that keeps relays away meanwhile; they wait no longer if this process dies in between.
const REPUBLISH_LEASE_TTL: Duration = Duration::from_secs(5);

/// Makes the relay of a store, in whichever process it runs, publish all events after `from` again, with the same event
/// ids and positions: for tools without an app; an app has [`App::republish`](crate::App::republish). Returns the
/// position after which the relay publishes: `from`, or a lower one if the relay or the store has not got that far.
/// Without a position that is the last one at which the store has the event that was published, which is right after the
/// store was restored.
///
/// # Errors
/// [`RepublishError`], also for a bus that keeps no position.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
/// use eventbus::{InMemoryEventBus, InMemoryEventStore, Position, relay};
/// let (store, bus) = (InMemoryEventStore::new(), InMemoryEventBus::new());
/// assert_eq!(relay::republish(&store, &bus, Position::START).await?, Position::START);
/// # Ok(()) }
/// ```
pub async fn republish(
    store: &dyn EventStore,
    bus: &dyn EventBus,
    from: impl Into<Option<Position>>,
) -> Result<Position, RepublishError> {
    let from = from.into();
    let destination = bus.destination();
    let Some(target) = bus.relay_target() else {
        return Err(RepublishError::NoPosition { destination: destination.clone() });
    };
    let own = store.store_id().await.map_err(RepublishError::unavailable(destination))?;
    // not ahead of the store: there the relay would stop again
    let newest = store.head().await.map_err(RepublishError::unavailable(destination))?;
    let from = match from {
        Some(from) => from.min(newest),
        None => find_fork(store, destination, target)
            .await
            .map_err(|source| RepublishError::Unavailable { destination: destination.clone(), source })?,
    };
    // a leader that pauses here does not save the former position behind this call
    let (role, owner) = (relay_to(destination), new_owner());
    let lease = store.seize_lease(&role, &owner, REPUBLISH_LEASE_TTL).await;
    let lease = lease.map_err(RepublishError::unavailable(destination))?;
    let set = set_back(store, target, (destination, own), from).await;
    // a lease that is not released expires by itself
    let _ = store.release_lease(&lease).await;
    let position = set?;
    if load_halt(store, destination).await.map_err(RepublishError::unavailable(destination))?.is_some() {
        let resolved = store.save_checkpoint(&halt_checkpoint_name(destination), Position::START).await;
        resolved.map_err(RepublishError::unavailable(destination))?;
    }
    tracing::info!(%destination, %position, "the relay publishes again from here");
    Ok(position)
}

async fn set_back(
    store: &dyn EventStore,
    target: &dyn RelayTarget,
    (destination, own): (&Name, Uuid),
    to: Position,
) -> Result<Position, RepublishError> {
    lower_checkpoint(store, destination, to).await.map_err(RepublishError::unavailable(destination))?;
    rewind(target, own, to).await.map_err(RepublishError::unavailable(destination))
}

/// Lowers the position from which the relay publishes if the bus has lost its record.
async fn lower_checkpoint(store: &dyn EventStore, destination: &Name, to: Position) -> Result<(), CheckpointError> {
    let role = relay_to(destination);
    match store.load_checkpoint(&role).await? {
        Some(saved) if saved > to => store.save_checkpoint(&role, to).await,
        _ => Ok(()),
    }
}

/// Sets the record of the store back, never forward. Makes one if the bus has lost it, before a relay begins from the
/// checkpoint that it has loaded already; unless the bus carries another store, whose stream this one may not share.
async fn rewind(target: &dyn RelayTarget, store: Uuid, to: Position) -> Result<Position, PublishError> {
    let to = PublishedPosition { position: to, event_id: None };
    let mut known = target.published_position(store).await?;
    if known.is_none() && target.other_store(store).await?.is_none() {
        known = Some(target.set_position(store, None, to).await?);
    }
    while let Some(record) = known
        && record != to
    {
        if record.position < to.position {
            return Ok(record.position);
        }
        known = Some(target.set_position(store, known, to).await?);
    }
    Ok(to.position)
}
