//! The resync: one worker broadcasts the whole state, after Redis was away and when a worker asks.
//!
//! Invariant: one worker at a time resyncs, and only from the files. It deletes no data in Redis: it only raises the
//! counter, and only sets claims that are missing. A message is small, however many files there are. Results up to the
//! removal mark stay in the folder, but are not sent.
//!
//! Real time, not the given clock: the replies of Redis.

use std::sync::Arc;

use serde_json::Value;

use super::{
    coordinator::RedisCoordinator,
    message::{claim_value, set_if_missing},
    script,
    state::{self, ClaimSummary, StateContent, StatePage},
};
use crate::{
    claim_store::Claim,
    coordination::{Coordinator as _, message_kind},
    error::Result,
    inner::QueueInner,
    subscriber_broadcast::broadcast_all,
};

/// Maximum number of claims on a page.
const PAGE_ITEMS_MAX: usize = 200;

/// Announces the subscribers of this worker again; then restores the data in Redis and broadcasts the whole state,
/// unless a different worker holds the resync lock.
pub(super) async fn resync(coordinator: &RedisCoordinator, queue: &Arc<QueueInner>) {
    broadcast_all(queue).await; // no file has them, so each worker announces its own
    let (lock, lasting) = (coordinator.keys().resync_lock(), coordinator.config().resync_lock_timeout);
    let set = set_if_missing(&lock, queue.worker_id(), lasting);
    if coordinator.query::<Option<String>>("locking", &set).await.flatten().is_none() {
        return;
    }
    // no longer than the lock lasts: a second worker may begin then
    match tokio::time::timeout(lasting, broadcast_state(coordinator, queue)).await {
        Ok(Ok(())) => queue.metrics().resyncs.add(1),
        Ok(Err(error)) => tracing::warn!(error = error.log(), "the resync failed"),
        Err(_) => tracing::warn!("the resync took longer than `resync_lock_timeout`; the rest is not sent"),
    }
    coordinator.run("unlocking", script::RELEASE_CLAIM.key(&lock).arg(queue.worker_id())).await;
}

async fn broadcast_state(coordinator: &RedisCoordinator, queue: &Arc<QueueInner>) -> Result<()> {
    let head = queue.blocking(|queue| queue.log().head()).await?;
    // reserves no id, but raises the counter above the newest id of the files
    coordinator.reserve_ids(0, Some(head)).await;
    let mut page = 0;
    let mut from = Some(1);
    while let Some(first) = from {
        let some;
        (some, from) = queue.blocking(move |queue| state::ranges(queue.log().ids_from(first)?)).await?;
        broadcast_page(coordinator, &mut page, StateContent::Events(some)).await;
    }
    from = Some(queue.blocking(|queue| queue.log().removed_through()).await? + 1);
    while let Some(first) = from {
        let some;
        (some, from) = queue.blocking(move |queue| state::ranges(queue.results().ids_from(first)?)).await?;
        broadcast_page(coordinator, &mut page, StateContent::Results(some)).await;
    }
    // claims come last: each claim that was ever made is a file to read, and the lock bounds the time
    for ids in queue.blocking(|queue| queue.claims().list_ids()).await?.chunks(PAGE_ITEMS_MAX) {
        let ids = ids.to_vec();
        let claims = queue.blocking(move |queue| state::load_live_claims(queue, &ids)).await?;
        if !claims.is_empty() {
            put_claims(coordinator, &claims).await;
            broadcast_page(
                coordinator,
                &mut page,
                StateContent::Claims(claims.iter().map(ClaimSummary::from).collect()),
            )
            .await;
        }
    }
    broadcast_page(coordinator, &mut page, StateContent::End { next_event_id: head + 1 }).await;
    Ok(())
}

async fn broadcast_page(coordinator: &RedisCoordinator, page: &mut u64, content: StateContent) {
    *page += 1;
    // texts and numbers can always be written as JSON
    if let Ok(Value::Object(data)) = serde_json::to_value(StatePage { page: *page, content }) {
        coordinator.broadcast(message_kind::STATE, vec![data]).await;
    }
}

/// Sets claims that are missing in Redis.
async fn put_claims(coordinator: &RedisCoordinator, claims: &[Claim]) {
    let mut put = redis::pipe();
    for claim in claims {
        let value = claim_value(&claim.worker_id, claim.created_at, &claim.data);
        put.add_command(set_if_missing(&coordinator.keys().claim(&claim.claim_id), &value, claim.remaining())).ignore();
    }
    coordinator.query_all("setting claims", &put).await;
}
