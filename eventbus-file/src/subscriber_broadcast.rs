//! Announcing the subscribers of this worker to the other workers.

use std::{collections::BTreeSet, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    coordination::{message_data, message_kind},
    inner::QueueInner,
};

/// Announces each subscriber that comes or goes to the other workers, until `ended`.
pub(crate) async fn broadcast_subscribers(queue: Arc<QueueInner>, ended: CancellationToken) {
    let mut changes = queue.subscribers().watch();
    let mut known = BTreeSet::new();
    loop {
        changes.mark_unchanged();
        let now = subscriber_names(&queue);
        broadcast(&queue, message_kind::CREATE_SUBSCRIBER, now.difference(&known)).await;
        broadcast(&queue, message_kind::REMOVE_SUBSCRIBER, known.difference(&now)).await;
        known = now;
        // the task keeps the queue's state alive, so it must end when the last `FileQueue` is dropped
        if ended.run_until_cancelled(changes.changed()).await.is_none() {
            return;
        }
    }
}

/// Announces the subscribers of this worker again.
#[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "only Redis loses messages"))]
pub(crate) async fn broadcast_all(queue: &QueueInner) {
    broadcast(queue, message_kind::CREATE_SUBSCRIBER, subscriber_names(queue).iter()).await;
}

async fn broadcast(queue: &QueueInner, kind: &'static str, ids: impl Iterator<Item = &String>) {
    let messages: Vec<_> = ids.map(|id| message_data("subscriber_id", id.as_str())).collect();
    if !messages.is_empty() {
        queue.coordination().broadcast(kind, messages).await;
    }
}

fn subscriber_names(queue: &QueueInner) -> BTreeSet<String> {
    queue.subscribers().list().iter().map(|status| status.subscriber().name().to_string()).collect()
}
