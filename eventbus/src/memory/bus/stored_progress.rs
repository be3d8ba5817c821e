//! The progress of a group in the store: loading it, and saving it.

use std::pin::pin;

use futures_util::{StreamExt as _, stream};

use super::{
    announced_types,
    group_cursor::UnsavedProgress,
    inner::{BusInner, ResumePoint},
    log::EntryLog,
    store_access::{checkpoint_name, read_events_at, read_limit_name},
};
use crate::{
    delivery::{GroupTypes, Subscribers},
    domain::{error::ErrorLine, name::Name, record::RecordedEvent, stream::Position},
    port::{
        Announced, CheckpointError, EventStore, ProgressUpdate, ReadError, UnfinishedDelivery,
        attempts::DeliveryAttempts,
    },
    support::is_beyond_end,
};

/// Deletes what a store kept of a group, apart from its dead letters. Returns the number of deliveries that waited.
pub(super) async fn forget(store: &dyn EventStore, group: &Name) -> Result<u64, CheckpointError> {
    let waiting = store.waiting_deliveries(group).await?;
    let finished = waiting.iter().map(|delivery| delivery.position).collect();
    store.save_progress(group, &ProgressUpdate { finished, ..ProgressUpdate::default() }).await?;
    announced_types::forget_all(store, group).await?;
    store.delete_checkpoint(&read_limit_name(group)).await?;
    // last: after an interruption the group is found again by its checkpoint
    store.delete_checkpoint(&checkpoint_name(group)).await?;
    Ok(waiting.len() as u64)
}

/// The progress of a group, as a store kept it.
pub(super) struct StoredProgress {
    group: Name,
    pub(super) checkpoint: Option<Position>,
    /// The waiting events up to the checkpoint: the feed does not bring them again.
    waiting_before: Vec<(RecordedEvent, DeliveryAttempts)>,
    /// The waiting events after the checkpoint.
    waiting_ahead: Vec<UnfinishedDelivery>,
    /// The waiting events up to the checkpoint that the store does not have, or cannot read.
    unreadable: Vec<(Position, DeliveryAttempts)>,
    /// The dead letters after the checkpoint.
    dead_letters_ahead: Vec<Position>,
    types: GroupTypes,
    /// Set if the former process did not stop the group: events up to here may have been in flight.
    in_flight_through: Option<Position>,
}

impl StoredProgress {
    /// Loads the progress, and the waiting events up to the checkpoint. A group without a checkpoint begins with the
    /// oldest event, or with the next one if its handlers say so. If the checkpoint is beyond the end of the store,
    /// which was restored from an older copy or failed over, the group begins at that end. The rows of events beyond the
    /// end are deleted: otherwise the next events at their positions would count as these.
    pub(super) async fn load(
        store: &dyn EventStore,
        group: &Name,
        subscribers: &Subscribers,
    ) -> Result<Self, CheckpointError> {
        let mut checkpoint = store.load_checkpoint(&checkpoint_name(group)).await?;
        let waiting = store.waiting_deliveries(group).await?;
        let dead_ahead = store.dead_positions(group, checkpoint.unwrap_or(Position::START)).await?;
        // after the checkpoint and the rows: a different app may move that, and write more of these, meanwhile
        let head = store.head().await.map_err(|error| CheckpointError::new(group, error))?;
        let positions = waiting.iter().map(|row| row.position).chain(dead_ahead.iter().copied()).chain(checkpoint);
        let store_end = end_of(store, head, positions).await.map_err(|error| CheckpointError::new(group, error))?;
        if checkpoint.is_none() && subscribers.start_now(group) {
            store.save_checkpoint(&checkpoint_name(group), head).await?;
            tracing::info!(%group, position = %head, "no checkpoint yet: the group begins with the next event");
            checkpoint = Some(head);
        } else if checkpoint.is_none() {
            let has_events = Announced::match_stored(&subscribers.announced(group), store).await;
            log_oldest_start(group, has_events.unwrap_or_default());
        }
        let lost = checkpoint.filter(|checkpoint| *checkpoint > store_end);
        let dead_ahead = match lost {
            Some(_) => store.dead_positions(group, store_end).await?,
            None => dead_ahead,
        };
        let (waiting, lost_waiting): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|row| row.position <= store_end);
        let (dead_ahead, lost_dead): (Vec<_>, Vec<_>) =
            dead_ahead.into_iter().partition(|position| *position <= store_end);
        if !lost_waiting.is_empty() || !lost_dead.is_empty() {
            tracing::warn!(
                %group, %store_end, waiting = lost_waiting.len(), dead_letters = lost_dead.len(),
                "the store lost events: deletes their unfinished deliveries, as new events get their positions"
            );
            forget_lost(store, group, lost_waiting, lost_dead).await?;
        }
        if let Some(lost) = lost {
            tracing::warn!(%group, checkpoint = %lost, %store_end, "the store lost events: the group begins at its end");
            store.save_checkpoint(&checkpoint_name(group), store_end).await?;
            checkpoint = Some(store_end);
        }
        let types = announced_types::load(store, group, checkpoint).await?;
        let read_limit = store.load_checkpoint(&read_limit_name(group)).await?;
        // the limit is ahead of the events: those appended from now on were not in flight
        let in_flight_through =
            read_limit.filter(|read_limit| *read_limit > Position::START).map(|read_limit| read_limit.min(store_end));
        let end = checkpoint.unwrap_or(Position::START);
        let (passed, ahead): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|row| row.position <= end);
        let (mut before, mut unreadable) = (Vec::with_capacity(passed.len()), Vec::new());
        let positions = passed.iter().map(|row| row.position).collect();
        let mut events = pin!(read_events_at(store, positions).zip(stream::iter(passed)));
        while let Some(((position, read), UnfinishedDelivery { attempts, .. })) = events.next().await {
            match read {
                Ok(Some(event)) => before.push((event, attempts)),
                Ok(None) => {
                    tracing::error!(%group, %position, "the store lacks an event whose delivery is unfinished");
                    unreadable.push((position, attempts));
                }
                Err(error @ ReadError::Corrupt { .. }) => {
                    tracing::error!(%group, %position, error = %ErrorLine(&error), "unfinished delivery is unreadable");
                    unreadable.push((position, attempts));
                }
                Err(error) => return Err(CheckpointError::new(group, error)),
            }
        }
        Ok(Self {
            group: group.clone(),
            checkpoint,
            waiting_before: before,
            unreadable,
            waiting_ahead: ahead,
            dead_letters_ahead: dead_ahead,
            types,
            in_flight_through,
        })
    }

    /// Resumes the group in the log, through which all events after `fed_from` pass.
    pub(super) fn apply_to(self, log: &mut EntryLog, fed_from: Option<Position>) {
        let now = log.clock().now();
        let cursor = log.cursor(&self.group);
        cursor.load_checkpoint(self.checkpoint, fed_from, self.in_flight_through);
        cursor.load_rows_ahead(self.waiting_ahead, self.dead_letters_ahead);
        cursor.load_types(self.types, self.waiting_before.iter().filter_map(|(event, _)| event.position()));
        for (position, attempts) in self.unreadable {
            cursor.unreadable_mut().add(position, attempts, now);
        }
        for (event, attempts) in self.waiting_before {
            log.restore_loaded(&self.group, &event, attempts);
        }
        log.cursor(&self.group).end_load();
    }
}

/// Returns the end of a store for these positions: its head, or the highest of them, if the store has events beyond that
/// one although its head is lower, as while a slow append is open. If one of them is lost, the head is the end: the
/// events between may be new ones.
async fn end_of(
    store: &dyn EventStore,
    head: Position,
    positions: impl Iterator<Item = Position>,
) -> Result<Position, ReadError> {
    match positions.filter(|position| *position > head).max() {
        Some(highest) if !is_beyond_end(store, highest).await? => Ok(highest),
        _ => Ok(head),
    }
}

/// Deletes the rows of events that the store has lost.
async fn forget_lost(
    store: &dyn EventStore,
    group: &Name,
    waiting: Vec<UnfinishedDelivery>,
    dead: Vec<Position>,
) -> Result<(), CheckpointError> {
    for position in dead {
        store.end_dead_delivery(group, position, None).await?;
    }
    let finished = waiting.iter().map(|delivery| delivery.position).collect();
    store.save_progress(group, &ProgressUpdate { finished, ..ProgressUpdate::default() }).await
}

/// Logs that a group without a checkpoint begins with the oldest event: as a warning if the store has events for it, since a
/// group with a new name handles again what it has handled under the former one.
fn log_oldest_start(group: &Name, has_events: bool) {
    match has_events {
        true => tracing::warn!(
            %group,
            "no checkpoint yet: the group begins with the oldest event, so its handlers run for the stored events; if it \
             was renamed, stop the process and give it the former name; `start = \"now\"` on all its handlers skips them"
        ),
        false => tracing::info!(%group, "no checkpoint yet: the group begins with the oldest event"),
    }
}

/// Saves the types and unhandled ranges of a group, if they changed; call it before the checkpoint passes their events.
///
/// Saves nothing once the bus has resumed from a different store.
pub(super) async fn save_types(inner: &BusInner, resume: &ResumePoint, group: &Name) -> Result<(), CheckpointError> {
    let unsaved = inner.log_of(resume).and_then(|mut log| {
        let cursor = log.cursor(group);
        cursor.types().unsaved().filter(|_| cursor.is_loaded())
    });
    if let Some((types, change)) = unsaved {
        announced_types::save(&*resume.store, group, &types).await?;
        if let Some(mut log) = inner.log_of(resume) {
            log.cursor(group).types_mut().mark_saved(change);
        }
    }
    Ok(())
}

/// Saves the progress of a group.
pub(super) async fn save_progress(
    inner: &BusInner,
    resume: &ResumePoint,
    group: &Name,
    unsaved: &UnsavedProgress,
) -> Result<(), CheckpointError> {
    let (store, name) = (&resume.store, checkpoint_name(group));
    if let Some(checkpoint) = unsaved.checkpoint {
        let stored = store.load_checkpoint(&name).await?;
        let is_other_writer =
            inner.log_of(resume).is_some_and(|mut log| log.cursor(group).detect_other_writer(stored, checkpoint));
        if is_other_writer {
            tracing::warn!(
                %group,
                "a second app consumes this store's events in process: each app handles all of them; run one app, or \
                 use a bus that they share"
            );
        }
    }
    let checkpoint = unsaved.checkpoint.map(|position| (name, position));
    let update = ProgressUpdate { checkpoint, unfinished: unsaved.rows(), finished: unsaved.finished.clone() };
    store.save_progress(group, &update).await
}
