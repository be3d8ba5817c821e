//! The known outcomes of the deliveries of events: notes of handlers, waiting attempts, dead letters.

use std::collections::HashMap;

use eventbus::{
    EventId, Name, RecordedEvent, StreamId,
    dead_letter::{DeadLetterFilter, DeadLetters},
    delivery::DeliveryAttempts,
    health::GroupInfo,
    port::handler_progress::ShardId,
    store::EventStore,
    support::PAGE_BYTES,
};
use eventbus_redis::{PendingDelivery, RedisEventBus};
use serde::Serialize;

use super::{events::event_bytes, group_view::AttemptsView};
use crate::{connection::OpenBus, error::CommandError};

/// The number of dead letters on a page, and the most that are searched.
const PAGE: usize = 500;
const DEAD_LETTERS_MAX: usize = 100_000;

/// The most pending entries of a group that are searched; fewer if they have 16 MiB.
const PENDING_MAX: usize = 1_000;
const PENDING_BYTES_MAX: usize = 16 * PAGE_BYTES;

/// The factor by which each further read asks for more pending entries.
const PENDING_GROWTH: usize = 4;

/// The number of events in one search for notes.
const EVENTS_AT_ONCE: usize = 1_000;

/// The known outcomes of the deliveries of an event. A handler that takes neither the store's connection nor a
/// repository leaves no note, so it is unknown whether it has run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct EventDeliveries {
    /// The handlers that have left a note, by group and name: `mail/send`.
    pub handled_by: Vec<String>,
    /// The groups that have read it and not finished it.
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

/// A delivery of an event that a group has read and not finished: a handler runs, or it waits for a retry or behind
/// one.
#[derive(Debug, Clone, Serialize)]
pub struct WaitingDeliveryRow {
    /// The group.
    pub group: String,
    /// The consumer that has it; `None` for a handler of the store.
    pub consumer: Option<String>,
    /// The handler of the store; `None` for a group of a bus.
    pub handler: Option<String>,
    /// The runs in which a handler failed, and the failures.
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
    /// Set if the bus may have more dead letters or pending entries than were searched.
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
    match bus {
        OpenBus::Redis(redis, _) => {
            found.add_pending(redis, bus.stream_info().await?.consumer_groups, &indexes).await?
        }
        OpenBus::Store(_) | OpenBus::Other(_) => {}
    }
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

    /// Adds the entries that groups on Redis have read and not finished.
    async fn add_pending(
        &mut self,
        bus: &RedisEventBus,
        groups: Vec<GroupInfo>,
        indexes: &EventIndexes,
    ) -> Result<(), CommandError> {
        for group in groups {
            let Ok(name) = Name::new("group", &group.name) else {
                // a group of another program, whose entries the bus does not list
                self.may_have_more |= group.pending > 0;
                continue;
            };
            let (pending, may_have_more) = load_pending(bus, &name).await?;
            self.may_have_more |= may_have_more;
            for delivery in pending {
                if let Some(index) = index_of(indexes, delivery.record.as_ref()) {
                    let row = WaitingDeliveryRow::new(&group.name, Some(delivery.consumer), delivery.attempts);
                    self.of_events[index].waiting.push(row);
                }
            }
        }
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
                    let waiting = WaitingDeliveryRow {
                        handler: Some(name.to_string()),
                        ..WaitingDeliveryRow::new(&group, None, row.attempts)
                    };
                    self.of_events[*index].waiting.push(waiting);
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

/// Loads the oldest pending deliveries of a group. Also returns `true` if it may have more.
///
/// The size of an entry is unknown until it is read, so the first read takes one entry. Each further
/// read asks for four times as many, if so many entries of the largest size so far would fit.
async fn load_pending(bus: &RedisEventBus, group: &Name) -> Result<(Vec<PendingDelivery>, bool), CommandError> {
    let mut limit = 1;
    loop {
        let pending = bus.pending_deliveries(group, limit).await?;
        let may_have_more = pending.len() >= limit;
        let largest = pending.iter().filter_map(|delivery| delivery.record.as_ref()).map(event_bytes).max();
        let fits = largest.unwrap_or_default().saturating_mul(PENDING_GROWTH * pending.len()) <= PENDING_BYTES_MAX;
        if !may_have_more || !fits || limit >= PENDING_MAX {
            return Ok((pending, may_have_more));
        }
        limit = PENDING_MAX.min(PENDING_GROWTH * limit);
    }
}

impl WaitingDeliveryRow {
    fn new(group: &str, consumer: Option<String>, attempts: DeliveryAttempts) -> Self {
        Self { group: group.to_owned(), consumer, handler: None, attempts: attempts.into() }
    }
}
