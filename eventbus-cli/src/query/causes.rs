//! The tree of causes of an event: the events of its conversation, each below the one that caused it.

use std::collections::{BTreeMap, HashMap};

use eventbus::{
    EventId, Position, RecordedEvent, Uuid,
    port::{ReadError, RecordStream},
    store::{EventStore, FeedFilter},
    support::PAGE_BYTES,
};
use futures_util::TryStreamExt as _;
use serde::Serialize;

use super::{
    deliveries::{Deliveries, EventDeliveries, find_deliveries},
    events::{EventView, event_bytes},
};
use crate::{connection::OpenBus, error::CommandError};

/// The most events of a conversation that are shown; fewer if they have 16 MiB.
const EVENTS_MAX: usize = 10_000;
const BYTES_MAX: usize = 16 * PAGE_BYTES;

/// Events between two reports of progress.
const REPORT_EVERY: u64 = 1_000;

/// The progress of a search of the feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchProgress {
    /// The position that was read last.
    pub position: Position,
    /// The end of the search.
    pub through: Position,
}

/// The events of a conversation.
#[derive(Debug, Serialize)]
pub struct CauseTree {
    /// The event that was asked for.
    pub event_id: String,
    /// The conversation.
    pub correlation_id: Uuid,
    /// The events as a tree in depth-first order: each comes after its cause, followed by the events that it caused.
    pub events: Vec<CauseRow>,
    /// Set if the conversation has more events than are shown.
    pub is_cut: bool,
    /// Set if there may be more dead letters than were searched.
    pub may_have_more_deliveries: bool,
}

/// An event of a conversation.
#[derive(Debug, Serialize)]
pub struct CauseRow {
    /// The number of causes above it.
    pub depth: usize,
    /// Set for the event that was asked for.
    pub is_wanted: bool,
    /// The event.
    pub event: EventView,
    /// Set if its deliveries are unknown.
    #[serde(rename = "handlers_unknown")]
    pub is_unknown: bool,
    /// The known outcomes of its deliveries.
    #[serde(flatten)]
    pub deliveries: EventDeliveries,
}

/// Reads the events of the feed after a position up to its head, with reports of progress.
struct Search<'s, P> {
    events: RecordStream<'s>,
    through: Position,
    read: u64,
    progress: P,
}

impl<'s, P: FnMut(SearchProgress)> Search<'s, P> {
    fn new(store: &'s dyn EventStore, (after, through): (Position, Position), progress: P) -> Self {
        Self { events: store.read_feed(after, through, &FeedFilter::all()), through, read: 0, progress }
    }

    async fn next(&mut self) -> Result<Option<RecordedEvent>, ReadError> {
        let event = self.events.try_next().await?;
        self.read += 1;
        if self.read.is_multiple_of(REPORT_EVERY)
            && let Some(position) = event.as_ref().and_then(RecordedEvent::position)
        {
            (self.progress)(SearchProgress { position, through: self.through });
        }
        Ok(event)
    }
}

/// Finds the position after which events were recorded at `time` or later, by a binary search of the feed.
///
/// Recorded times come from the clocks of writers, so an event near that time may be on the wrong side.
///
/// # Errors
/// [`ReadError`] if the store cannot be reached.
pub async fn position_at(store: &dyn EventStore, time: time::OffsetDateTime) -> Result<Position, ReadError> {
    let (mut before, mut after) = (0, store.head().await?.get());
    while before < after {
        let middle = before + (after - before) / 2;
        match store.first_recorded_after(Position::new(middle)).await? {
            Some(recorded) if recorded < time => before = middle + 1,
            _ => after = middle,
        }
    }
    Ok(Position::new(before))
}

/// Finds an event in the feed after a position, and all events of its conversation there; `None` if the event is not
/// there. Reads the feed twice.
///
/// # Errors
/// [`CommandError`] if the store or the bus cannot be reached.
pub async fn find_causes(
    store: &dyn EventStore,
    bus: &OpenBus,
    wanted: EventId,
    after: Position,
    mut progress: impl FnMut(SearchProgress),
) -> Result<Option<CauseTree>, CommandError> {
    let range = (after, store.head().await?);
    let mut search = Search::new(store, range, &mut progress);
    let correlation_id = loop {
        match search.next().await? {
            Some(event) if event.metadata().event_id() == wanted => break event.metadata().correlation_id(),
            Some(_) => {}
            None => return Ok(None),
        }
    };
    drop(search);
    let mut search = Search::new(store, range, &mut progress);
    let (mut events, mut bytes, mut is_cut) = (Vec::new(), 0, false);
    while let Some(event) = search.next().await? {
        if event.metadata().correlation_id() != correlation_id {
            continue;
        }
        // the wanted event is shown, however many came before it
        if (events.len() >= EVENTS_MAX || bytes >= BYTES_MAX) && event.metadata().event_id() != wanted {
            is_cut = true;
            continue;
        }
        bytes += event_bytes(&event);
        events.push(event);
    }
    let Deliveries { of_events, may_have_more: may_have_more_deliveries } =
        find_deliveries(store, bus, &events).await?;
    let events = to_tree(&events, wanted, of_events);
    let event_id = wanted.to_string();
    Ok(Some(CauseTree { event_id, correlation_id, events, is_cut, may_have_more_deliveries }))
}

/// Orders events so that each comes after its cause, with the number of causes above it.
fn to_tree(events: &[RecordedEvent], wanted: EventId, mut deliveries: Vec<EventDeliveries>) -> Vec<CauseRow> {
    // an id is unique only within its stream: of several events with one id, the first is the cause
    let mut places: HashMap<Uuid, usize> = HashMap::new();
    for (place, event) in events.iter().enumerate() {
        places.entry(event.metadata().event_id().as_uuid()).or_insert(place);
    }
    let mut caused: BTreeMap<Option<usize>, Vec<usize>> = BTreeMap::new();
    for (place, event) in events.iter().enumerate() {
        let cause = event.metadata().causation_id().and_then(|cause| places.get(&cause).copied());
        // a cause is stored before what it causes, which also rules circles out
        caused.entry(cause.filter(|cause| *cause < place)).or_default().push(place);
    }
    let mut open: Vec<(usize, usize)> =
        caused.remove(&None).unwrap_or_default().into_iter().rev().map(|place| (place, 0)).collect();
    let mut rows = Vec::with_capacity(events.len());
    while let Some((place, depth)) = open.pop() {
        let (event, deliveries) = (&events[place], std::mem::take(&mut deliveries[place]));
        rows.push(CauseRow {
            depth,
            is_wanted: event.metadata().event_id() == wanted,
            event: EventView::from(event),
            is_unknown: deliveries.is_unknown(),
            deliveries,
        });
        let next = caused.remove(&Some(place)).unwrap_or_default();
        open.extend(next.into_iter().rev().map(|place| (place, depth + 1)));
    }
    rows
}
