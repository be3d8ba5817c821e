//! Publishing again from a position, at an operator's command.

use std::time::Duration;

use super::{
    RelayError, RepublishError,
    checkpoint_names::{halt_checkpoint_name, load_halt},
};
use crate::{
    domain::{name::Name, stream::Position},
    port::{
        CheckpointError, EventBus, EventStore, RelayTarget,
        relay::{Publisher, ResyncOutcome},
    },
    runtime::held_lease::new_owner,
    support::relay_to,
};

/// Duration of the lease that keeps relays away meanwhile; they wait no longer if this process dies in between.
const REPUBLISH_LEASE_TTL: Duration = Duration::from_secs(5);

/// Limit of seizing the lease: a restored store may have to make up for as many forgotten epochs.
const LEASE_ATTEMPTS_MAX: usize = 10_000;

/// Makes the relay of a store, in whichever process it runs, publish all events after `from` again, with the same event
/// ids and positions: for tools without an app; an app has [`App::republish`](crate::App::republish). Returns the
/// position after which the relay publishes: `from`, or a lower one if the relay or the store has not got that far.
///
/// # Errors
/// [`RepublishError`]; a bus in the process keeps no position to set back.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
/// use eventbus::{InMemoryEventBus, InMemoryEventStore, Position, relay};
/// let (store, bus) = (InMemoryEventStore::new(), InMemoryEventBus::new());
/// let error = relay::republish(&store, &bus, Position::START).await.unwrap_err();
/// assert_eq!(error.to_string(), "`memory` keeps no position that could be set back");
/// # Ok(()) }
/// ```
pub async fn republish(store: &dyn EventStore, bus: &dyn EventBus, from: Position) -> Result<Position, RepublishError> {
    let destination = bus.destination();
    let Some(target) = bus.relay_target() else {
        return Err(RepublishError::NoPosition { destination: destination.clone() });
    };
    // not ahead of the store: there the relay would stop again
    let newest = store.head().await.map_err(RepublishError::unavailable(destination))?;
    let from = from.min(newest);
    lower_saved_positions(store, destination, from).await.map_err(RepublishError::unavailable(destination))?;
    let position = rewind(store, bus, target, from).await?;
    if load_halt(store, destination).await.map_err(RepublishError::unavailable(destination))?.is_some() {
        let resolved = store.save_checkpoint(&halt_checkpoint_name(destination), Position::START).await;
        resolved.map_err(RepublishError::unavailable(destination))?;
    }
    tracing::info!(%destination, %position, "the relay publishes again from here");
    Ok(position)
}

/// Lowers the positions from which the relay publishes if the bus has lost its own one.
async fn lower_saved_positions(
    store: &dyn EventStore,
    destination: &Name,
    to: Position,
) -> Result<(), CheckpointError> {
    let mut floors = store.floors(destination).await?;
    floors.retain(|floor| floor.position > to);
    floors.iter_mut().for_each(|floor| floor.position = to);
    store.save_floors(destination, &floors).await?;
    let role = relay_to(destination);
    match store.load_checkpoint(&role).await? {
        Some(saved) if saved > to => store.save_checkpoint(&role, to).await,
        _ => Ok(()),
    }
}

async fn rewind(
    store: &dyn EventStore,
    bus: &dyn EventBus,
    target: &dyn RelayTarget,
    to: Position,
) -> Result<Position, RepublishError> {
    let destination = bus.destination();
    let unavailable = |source| RepublishError::Unavailable { destination: destination.clone(), source };
    let own = store.store_id().await.map_err(|error| unavailable(error.into()))?;
    let (role, owner) = (relay_to(destination), new_owner());
    for _ in 0..LEASE_ATTEMPTS_MAX {
        let lease =
            store.seize_lease(&role, &owner, REPUBLISH_LEASE_TTL).await.map_err(|error| unavailable(error.into()))?;
        let outcome = target.rewind(Publisher { store: own, epoch: lease.epoch }, to).await;
        if !matches!(outcome, Ok(ResyncOutcome::Fenced)) {
            // a lease that is not released expires by itself
            let _ = store.release_lease(&lease).await;
        }
        match outcome.map_err(|error| unavailable(error.into()))? {
            ResyncOutcome::At(position) | ResyncOutcome::Moved(position) => return Ok(position),
            ResyncOutcome::Fenced => {}
            ResyncOutcome::OtherStore(other) => {
                return Err(RelayError::OtherStore { destination: destination.clone(), own, other }.into());
            }
        }
    }
    Err(RepublishError::Contended { destination: destination.clone() })
}
