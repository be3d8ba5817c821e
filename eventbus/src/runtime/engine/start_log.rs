//! What the start of an app logs of its handlers: new ones with the events that they get, and a likely renaming.

use std::collections::BTreeSet;

use super::{Declared, Engine, feeder::filter_of};
use crate::{
    domain::{error::ErrorLine, name::Name},
    port::handler_progress::{HandlerProgressError, ListedHandler},
};

impl Engine {
    /// Logs each new handler, with the number of stored events that it gets.
    pub(super) async fn log_new_handlers(&self, declared: &Declared) {
        if declared.new.is_empty() {
            return;
        }
        let unused = match self.unused_handlers().await {
            Ok(unused) => unused,
            Err(error) => {
                tracing::debug!(error = %ErrorLine(&error), "the handlers of the store cannot be listed");
                return;
            }
        };
        for handler in &declared.new {
            let Some(queue) = self.queue(handler) else { continue };
            let after = declared.noted.get(handler).map(|noted| noted.first_checkpoint()).unwrap_or_default();
            let filter = filter_of(queue.spec.types());
            let head = self.store().head().await.unwrap_or_default();
            let follow = self.store().count_events(after, head, &filter).await.unwrap_or_default();
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
    async fn unused_handlers(&self) -> Result<Vec<Name>, HandlerProgressError> {
        let own: BTreeSet<&Name> = self.queues().iter().map(|queue| &queue.spec.name).collect();
        let is_unused = |listed: &ListedHandler| {
            !own.contains(&listed.noted.name) && listed.shards.iter().all(|shard| shard.owner.is_none())
        };
        let listed = self.progress()?.list_handlers().await?;
        Ok(listed.into_iter().filter(is_unused).map(|listed| listed.noted.name).collect())
    }

    /// Describes what keeps handlers of this process from their events, for health.
    pub(super) fn problems(&self) -> Vec<String> {
        let feed =
            self.feed_error.lock().as_ref().map(|error| format!("handlers wait, the feed cannot be read: {error}"));
        let progress = self.save.is_failing().then(|| "the progress of handlers cannot be saved".to_owned());
        let mut problems: Vec<_> = feed.into_iter().chain(progress).collect();
        for queue in self.queues() {
            let (name, own) = (&queue.spec.name, &queue.spec.crate_name);
            for other in self.look.crates_of(name, own) {
                problems.push(format!(
                    "handler `{name}` is of crate `{own}` here and of `{other}` in another process: each gets only a part \
                     of the events; name one of them by `#[handler(name = \"..\")]`"
                ));
            }
        }
        problems
    }
}
