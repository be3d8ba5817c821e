//! The fork of a store that was restored: the last position that it shares with what the bus carries.

use crate::{
    domain::{error::BoxError, name::Name, stream::Position},
    port::{EventStore, RelayTarget},
    runtime::restore_watch::holds_event,
    support::relay_to,
};

/// The most events of the bus that are compared with the store.
const COMPARED_MAX: usize = 10_000;

/// Returns the position of the newest event of the bus that the store holds. Without one among the last 10,000, or if the bus
/// is away or keeps none, the position up to which the relay last noted in the store that it had published.
pub(super) async fn find_fork(
    store: &dyn EventStore,
    destination: &Name,
    target: &dyn RelayTarget,
) -> Result<Position, BoxError> {
    let (own, newest) = (store.store_id().await?, store.head().await?);
    let (mut before, mut compared) = (None, 0);
    while compared < COMPARED_MAX {
        // a stop does not wait for a bus that is away
        let Ok(published) = target.published_before(own, before.as_ref()).await else { break };
        let Some((last, _)) = published.last() else { break };
        before = Some(last.clone());
        compared += published.len();
        for (_, published) in published {
            if let Some(event_id) = published.event_id
                && published.position <= newest
                && holds_event(store, published.position, event_id).await?
            {
                return Ok(published.position);
            }
        }
    }
    Ok(store.load_checkpoint(&relay_to(destination)).await?.unwrap_or_default().min(newest))
}
