//! What the start of an app logs of its handlers: new ones with the events that they get, and a likely renaming.

use std::collections::BTreeSet;

use super::{feeder::filter_of, shared::Shared};
use crate::{
    domain::{error::ErrorLine, name::Name},
    port::handler_progress::{HandlerProgressError, ListedHandler},
};

/// Logs each new handler, with the number of stored events that it gets.
pub(super) async fn log_new_handlers(shared: &Shared, new: &[Name]) {
    if new.is_empty() {
        return;
    }
    let unused = match unused_handlers(shared).await {
        Ok(unused) => unused,
        Err(error) => {
            tracing::debug!(error = %ErrorLine(&error), "the handlers of the store cannot be listed");
            return;
        }
    };
    for handler in new {
        let Some(queue) = shared.queue(handler) else { continue };
        let after = shared.noted(handler).map(|noted| noted.first_checkpoint()).unwrap_or_default();
        let filter = filter_of(queue.spec.types());
        let head = shared.store().head().await.unwrap_or_default();
        let follow = shared.store().count_events(after, head, &filter).await.unwrap_or_default();
        if follow == 0 {
            continue;
        }
        match unused.first() {
            None => tracing::info!(%handler, events = follow, "a new handler gets the stored events"),
            Some(former) => tracing::warn!(
                %handler, events = follow, unused = unused.iter().map(Name::as_str).collect::<Vec<_>>().join(", "),
                "a new handler gets the stored events, and the store has handlers that no process runs: if it was \
                 renamed, write `#[handler(name = \"{former}\")]`"
            ),
        }
    }
}

/// Returns the handlers of the store that neither this process nor another live one runs.
async fn unused_handlers(shared: &Shared) -> Result<Vec<Name>, HandlerProgressError> {
    let own: BTreeSet<&Name> = shared.queues().iter().map(|queue| &queue.spec.name).collect();
    let is_unused = |listed: &ListedHandler| {
        !own.contains(&listed.noted.name) && listed.shards.iter().all(|shard| shard.owner.is_none())
    };
    let listed = shared.progress()?.list_handlers().await?;
    Ok(listed.into_iter().filter(is_unused).map(|listed| listed.noted.name).collect())
}
