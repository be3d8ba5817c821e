//! The known outcomes of the deliveries of events: notes of handlers, waiting attempts, dead letters.

use std::collections::HashMap;

use eventbus::{
    EventId, RecordedEvent, StreamId,
    dead_letter::{DeadLetterFilter, DeadLetters},
    port::handler_progress::ShardId,
    store::EventStore,
};
use serde::Serialize;

use super::group_view::AttemptsView;
use crate::{connection::OpenBus, error::CommandError};

/// The number of dead letters on a page, and the most that are searched.
const PAGE: usize = 500;
const DEAD_LETTERS_MAX: usize = 100_000;

/// The number of events in one search for notes.
const EVENTS_AT_ONCE: usize = 1_000;

/// The known outcomes of the deliveries of an event. A handler that takes neither the store's connection nor a
/// repository leaves no note, so it is unknown whether it has run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct EventDeliveries {
    /// The handlers that have left a note, by group and name: `mail/send`.
    pub handled_by: Vec<String>,
    /// The handlers that have begun and not finished it.
    pub waiting: Vec<WaitingDeliveryRow>,
    /// The groups that gave up its delivery.
    pub dead_letters: Vec<DeadDeliveryRow>,
}

impl EventDeliveries {
    /// Returns `true` if nothing is known.
    pub(super) const fn is_unknown(&self) -> bool {
        self.handled_by.is_empty() && self.waiting.is_empty() && self.dead_letters.is_empty()
    }
}

/// A delivery that a handler of the store has not finished after a failure or a replay.
#[derive(Debug, Clone, Serialize)]
pub struct WaitingDeliveryRow {
    /// The group of the handler.
    pub group: String,
    /// The handler.
    pub handler: String,
    /// The failed runs so far.
    #[serde(flatten)]
    pub attempts: AttemptsView,
}

/// A delivery of an event that a group gave up.
#[derive(Debug, Clone, Serialize)]
pub struct DeadDeliveryRow {
    /// The id among the dead letters.
    pub id: String,
    /// The group.
    pub group: Option<String>,
    /// The handler that failed.
    pub handler: Option<String>,
    /// The error of its last run.
    pub error: Option<String>,
}

/// The deliveries of some events.
pub(super) struct Deliveries {
    /// The deliveries of each event, in the order of the events.
    pub(super) of_events: Vec<EventDeliveries>,
    /// Set if there may be more dead letters than were searched.
    pub(super) may_have_more: bool,
}

/// Finds the known outcomes of the deliveries of events.
///
/// # Errors
/// [`CommandError`] if the store or the bus cannot be reached.
pub(super) async fn find_deliveries(
    store: &dyn EventStore,
    bus: &OpenBus,
    events: &[RecordedEvent],
) -> Result<Deliveries, CommandError> {
    // an id is unique only within its stream
    let keys: Vec<(StreamId, EventId)> =
        events.iter().map(|event| (event.metadata().stream().clone(), event.metadata().event_id())).collect();
    let indexes: HashMap<_, _> = keys.iter().enumerate().map(|(index, key)| (key.clone(), index)).collect();
    let mut found = Deliveries { of_events: vec![EventDeliveries::default(); events.len()], may_have_more: false };
    found.add_notes(store, &keys, &indexes).await?;
    found.add_waiting(store, events).await?;
    if let Ok(dead_letters) = bus.dead_letters() {
        found.add_dead(dead_letters, &indexes).await?;
    }
    Ok(found)
}

type EventIndexes = HashMap<(StreamId, EventId), usize>;

fn index_of(indexes: &EventIndexes, record: Option<&RecordedEvent>) -> Option<usize> {
    let metadata = record?.metadata();
    indexes.get(&(metadata.stream().clone(), metadata.event_id())).copied()
}

impl Deliveries {
    async fn add_notes(
        &mut self,
        store: &dyn EventStore,
        keys: &[(StreamId, EventId)],
        indexes: &EventIndexes,
    ) -> Result<(), CommandError> {
        let Some(appends) = store.multi_stream_appends() else { return Ok(()) };
        for keys in keys.chunks(EVENTS_AT_ONCE) {
            for note in appends.handled_deliveries(keys).await? {
                if let Some(index) = indexes.get(&(note.stream, note.event_id)) {
                    self.of_events[*index].handled_by.push(note.handler.to_string());
                }
            }
        }
        self.of_events.iter_mut().for_each(|event| event.handled_by.sort());
        Ok(())
    }

    /// Adds the deliveries that handlers of the store have not finished after a failure or a replay.
    async fn add_waiting(&mut self, store: &dyn EventStore, events: &[RecordedEvent]) -> Result<(), CommandError> {
        let Some(progress) = store.handler_progress() else { return Ok(()) };
        let places: HashMap<_, _> =
            events.iter().enumerate().filter_map(|(index, event)| Some((event.position()?, index))).collect();
        for handler in progress.list_handlers().await?.into_iter().filter(|handler| handler.waiting_rows > 0) {
            let (name, group) = (handler.noted.name, handler.noted.group);
            let shards: Vec<_> =
                handler.shards.iter().map(|shard| ShardId { handler: name.clone(), number: shard.number }).collect();
            let rows = progress.live_rows(&shards).await?.into_values().flatten();
            for row in rows.filter(|row| row.dead_since.is_none()) {
                if let Some(index) = places.get(&row.position) {
                    let (group, handler) = (group.to_string(), name.to_string());
                    self.of_events[*index].waiting.push(WaitingDeliveryRow {
                        group,
                        handler,
                        attempts: row.attempts.into(),
                    });
                }
            }
        }
        Ok(())
    }

    async fn add_dead(&mut self, dead_letters: &dyn DeadLetters, indexes: &EventIndexes) -> Result<(), CommandError> {
        let (mut after, mut searched) = (None, 0);
        loop {
            let page = dead_letters.list_dead_letters(&DeadLetterFilter::default(), after.as_ref(), PAGE).await?;
            for dead_letter in &page.letters {
                if let Some(index) = index_of(indexes, dead_letter.record.as_ref()) {
                    self.of_events[index].dead_letters.push(DeadDeliveryRow {
                        id: dead_letter.id.to_string(),
                        group: dead_letter.group.clone(),
                        handler: dead_letter.handler.clone(),
                        error: dead_letter.error.clone(),
                    });
                }
            }
            searched += page.letters.len();
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
            if searched >= DEAD_LETTERS_MAX {
                self.may_have_more = true;
                return Ok(());
            }
        }
    }
}
