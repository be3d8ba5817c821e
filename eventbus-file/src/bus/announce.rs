//! Telling the other workers who subscribes here.

use std::{collections::BTreeSet, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    coordination::{about, kind},
    queue::Shared,
};

/// Tells the others of each subscriber that comes or goes, until the queue is dropped.
pub(crate) async fn announce(shared: Arc<Shared>, ended: CancellationToken) {
    let mut changes = shared.subscribers.watch();
    let mut known = BTreeSet::new();
    loop {
        changes.mark_unchanged();
        let now = shared.subscriber_ids();
        tell(&shared, kind::CREATE_SUBSCRIBER, now.difference(&known)).await;
        tell(&shared, kind::REMOVE_SUBSCRIBER, known.difference(&now)).await;
        known = now;
        tokio::select! {
            () = ended.cancelled() => return,
            _ = changes.changed() => {}
        }
    }
}

async fn tell(shared: &Shared, kind: &'static str, ids: impl Iterator<Item = &String>) {
    let messages: Vec<_> = ids.map(|id| about("subscriber_id", id.as_str())).collect();
    if !messages.is_empty() {
        shared.coordination.tell(kind, messages).await;
    }
}

impl Shared {
    /// The subscribers of this worker, each as `group/handler`.
    pub(crate) fn subscriber_ids(&self) -> BTreeSet<String> {
        let of_group = |group| {
            let subscribers = self.subscribers.of_group(&group);
            subscribers.into_iter().map(move |subscriber| format!("{group}/{}", subscriber.name()))
        };
        self.subscribers.groups().into_iter().flat_map(of_group).collect()
    }
}
