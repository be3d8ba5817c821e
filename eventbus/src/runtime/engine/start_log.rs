//! What an app logs of its handlers once it has started: which stored events new handlers and newly taken types get, and a
//! likely renaming.

use std::collections::BTreeSet;

use super::feeder::filter_of;
use crate::{
    domain::{name::Name, stream::Position},
    port::{
        EventStore,
        handler_progress::{DeclaredHandler, ListedHandler, NotedHandler},
    },
};

/// The types that handlers take for the first time, and the handlers that no process runs.
pub(super) struct NewTypes {
    of_handlers: Vec<NewTypesOf>,
    /// Handlers that the store has, and neither this process nor another live one.
    unused: Vec<Name>,
    head: Position,
}

struct NewTypesOf {
    handler: Name,
    types: Vec<Name>,
    /// The first one counts from here.
    after: Position,
    is_new_handler: bool,
}

impl NewTypes {
    /// Compares the handlers that the store had with what was declared and noted, in a feed that ends at `head`.
    pub(super) fn new(
        former: &[ListedHandler],
        declared: &[DeclaredHandler],
        noted: &[NotedHandler],
        head: Position,
    ) -> Self {
        let own: BTreeSet<_> = declared.iter().map(|declared| &declared.name).collect();
        let is_unused = |listed: &&ListedHandler| {
            !own.contains(&listed.noted.name) && listed.shards.iter().all(|shard| shard.owner.is_none())
        };
        let unused = former.iter().filter(is_unused).map(|listed| listed.noted.name.clone()).collect();
        let of_handler = |(declared, noted): (&DeclaredHandler, &NotedHandler)| {
            let known = former.iter().find(|listed| listed.noted.name == declared.name);
            let is_known = |name: &Name| known.is_some_and(|listed| listed.noted.types.contains_key(name));
            let types: Vec<_> = declared.types.iter().filter(|name| !is_known(name)).cloned().collect();
            let after = types.iter().filter_map(|name| noted.types.get(name)).min().copied()?;
            Some(NewTypesOf { handler: declared.name.clone(), types, after, is_new_handler: known.is_none() })
        };
        let of_handlers = declared.iter().zip(noted).filter_map(of_handler).collect();
        Self { of_handlers, unused, head }
    }

    /// Logs each handler that gets stored events of new types, with their number.
    pub(super) async fn log(self, store: &dyn EventStore) {
        for NewTypesOf { handler, types, after, is_new_handler } in self.of_handlers {
            let names = types.iter().map(Name::as_str).collect::<Vec<_>>().join(", ");
            let events = store.count_events(after, self.head, &filter_of(types)).await.unwrap_or_default();
            match self.unused.first() {
                _ if events == 0 => {}
                Some(former) if is_new_handler => tracing::warn!(
                    %handler, events, unused = self.unused.iter().map(Name::as_str).collect::<Vec<_>>().join(", "),
                    "a new handler gets the stored events, and the store has handlers that no process runs: if it was \
                     renamed, write `#[handler(name = \"{former}\")]`"
                ),
                _ if is_new_handler => tracing::info!(%handler, events, "a new handler gets the stored events"),
                _ => tracing::info!(%handler, events, types = names, "a handler gets the stored events of new types"),
            }
        }
    }
}
