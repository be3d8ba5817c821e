//! The consumer of one group of the in-process bus.

use std::sync::Arc;

use super::{Resume, Shared, cursor::Taken};
use crate::{
    domain::{name::Name, stream::Position},
    port::{CheckpointError, Checkpoints, Delivery, Limits, Outcome, StopSignal, Tries, dispatch},
};

/// How many events are handled between two checkpoints, at most.
const BATCH: usize = 64;

/// Hands the group its events, one after the other, until it is stopped.
pub(super) async fn consume(shared: Arc<Shared>, group: Name, stop: StopSignal) {
    let mut published = shared.published.subscribe();
    let mut subscribers = shared.subscribers.watch();
    shared.log().cursor(&group).restart();
    while !stop.is_stopped() {
        published.mark_unchanged();
        subscribers.mark_unchanged();
        join(&shared, &group).await;
        let drained = handle_batch(&shared, &group, &stop).await;
        save(&shared, &group).await;
        if drained {
            tokio::select! {
                _ = published.changed() => {}
                _ = subscribers.changed() => {}
                () = stop.stopped() => {}
            }
        }
    }
    save(&shared, &group).await;
}

/// Handles what there is, at most one batch; says whether there was nothing more, or nobody to handle it.
async fn handle_batch(shared: &Shared, group: &Name, stop: &StopSignal) -> bool {
    for _ in 0..BATCH {
        if stop.is_stopped() {
            return false;
        }
        let taken = shared.log().take(group);
        shared.room.send_replace(());
        let Some(taken) = taken else {
            return true;
        };
        if !handle(shared, group, taken).await {
            return true;
        }
    }
    false
}

/// Handles an entry. False: the group has no subscribers at the moment.
async fn handle(shared: &Shared, group: &Name, taken: Taken) -> bool {
    let delivery = Delivery::new(taken.record, group.clone()).with_attempt(taken.attempt).with_message_id(taken.id);
    shared.counters.events_consumed(1);
    let subscribers = shared.subscribers.of_group(group);
    let outcome = dispatch(&subscribers, &delivery, &Tries::default(), &Limits::default()).await;
    let groups = shared.subscribers.groups();
    let mut log = shared.log();
    match outcome {
        Outcome::Handled { .. } | Outcome::Skipped => {
            log.cursor(group).finish(taken.number);
            log.trim(&groups);
            shared.counters.events_processed_success(1);
        }
        Outcome::Unattended => {
            log.cursor(group).put_back(taken.number);
            return false;
        }
        Outcome::Failed { failures, .. } => {
            log.cursor(group).fail(taken.number);
            shared.counters.events_processed_failed(1);
            shared.counters.handler_errors(failures.len() as u64);
        }
    }
    true
}

fn checkpoint_name(group: &Name) -> Name {
    Name::prefixed("group:", group)
}

/// The checkpoint of a group.
pub(super) async fn load(checkpoints: &dyn Checkpoints, group: &Name) -> Result<Option<Position>, CheckpointError> {
    let saved = checkpoints.load_checkpoint(&checkpoint_name(group)).await?;
    if saved.is_none() {
        tracing::info!(%group, "no checkpoint yet: the group begins with the oldest event");
    }
    Ok(saved)
}

/// Loads the checkpoint of a group that came after the bus resumed; tried again with the next batch if it fails.
async fn join(shared: &Shared, group: &Name) {
    let Some(Resume { checkpoints, fed_from }) = shared.resume().clone() else {
        return;
    };
    if shared.log().cursor(group).is_loaded {
        return;
    }
    match load(&*checkpoints, group).await {
        Ok(saved) => {
            let mut log = shared.log();
            let fed_from = fed_from.max(log.dropped().filter(|_| fed_from.is_some()));
            log.cursor(group).load(saved, fed_from);
        }
        Err(error) => tracing::warn!(%group, %error, "checkpoint not loaded, trying again"),
    }
}

/// Saves the group's checkpoint if it moved; tried again with the next batch if it fails.
async fn save(shared: &Shared, group: &Name) {
    let Some(Resume { checkpoints, .. }) = shared.resume().clone() else {
        return;
    };
    let Some(checkpoint) = shared.log().cursor(group).checkpoint() else {
        return;
    };
    match save_checkpoint(shared, &*checkpoints, group, checkpoint).await {
        Ok(()) => shared.log().cursor(group).saved(checkpoint),
        Err(error) => tracing::warn!(%group, %error, "checkpoint not saved, trying again"),
    }
}

async fn save_checkpoint(
    shared: &Shared,
    checkpoints: &dyn Checkpoints,
    group: &Name,
    checkpoint: Position,
) -> Result<(), CheckpointError> {
    let name = checkpoint_name(group);
    let stored = checkpoints.load_checkpoint(&name).await?;
    if shared.log().cursor(group).sees_rival(stored, checkpoint) {
        tracing::warn!(
            %group,
            "someone else handles this store's events in process, too: each handles all of them; let one app do it, or \
             take a bus that they share"
        );
    }
    checkpoints.save_checkpoint(&name, checkpoint).await
}
