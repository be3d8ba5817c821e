//! The tree of causes of an event: the events of its conversation, each below the one that caused it.

use std::collections::{BTreeMap, HashMap, HashSet};

use eventbus::{
    EventId, Position, RecordedEvent, Uuid,
    dead_letter::{DeadLetterFilter, DeadLetters},
    port::{ReadError, RecordStream},
    store::{EventStore, FeedFilter},
};
use futures_util::TryStreamExt as _;
use serde::Serialize;

use super::events::EventView;
use crate::error::CommandError;

/// The most events of a conversation that are shown.
const EVENTS_MAX: usize = 10_000;

/// Dead letters of one page, and the most that are searched.
const PAGE: usize = 100;
const DEAD_LETTERS_MAX: usize = 1_000;

/// Events between two reports of progress.
const REPORT_EVERY: u64 = 1_000;

/// How far a search of the feed has come.
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
    /// The events, each after the one that caused it and before the next one that this caused.
    pub events: Vec<CauseRow>,
    /// Set if the conversation has more events than are shown.
    pub is_cut: bool,
    /// Set if the bus has more dead letters than the oldest 1,000, which were searched.
    pub has_more_dead_letters: bool,
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
    /// The groups that gave its delivery up.
    pub dead_letters: Vec<DeadDeliveryRow>,
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

/// Finds the position after which events were recorded at `time` or later, by halving the feed.
///
/// Recorded times follow the clocks of writers, so an event near that time may be on the wrong side.
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
    dead_letters: Option<&dyn DeadLetters>,
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
    let (mut events, mut is_cut) = (Vec::new(), false);
    while let Some(event) = search.next().await? {
        if event.metadata().correlation_id() != correlation_id {
            continue;
        }
        // the wanted event is shown, however many came before it
        if events.len() >= EVENTS_MAX && event.metadata().event_id() != wanted {
            is_cut = true;
            continue;
        }
        events.push(event);
    }
    let (dead, has_more_dead_letters) = match dead_letters {
        Some(dead_letters) => find_dead(dead_letters, &events).await?,
        None => (HashMap::new(), false),
    };
    let events = to_tree(&events, wanted, &dead);
    Ok(Some(CauseTree { event_id: wanted.to_string(), correlation_id, events, is_cut, has_more_dead_letters }))
}

/// Finds the dead letters of events. Returns also `true` if there are more than were searched.
async fn find_dead(
    dead_letters: &dyn DeadLetters,
    events: &[RecordedEvent],
) -> Result<(HashMap<EventId, Vec<DeadDeliveryRow>>, bool), CommandError> {
    let wanted: HashSet<_> = events.iter().map(|event| event.metadata().event_id()).collect();
    let (mut found, mut after, mut searched) = (HashMap::<_, Vec<_>>::new(), None, 0);
    loop {
        let page = dead_letters.list_dead_letters(&DeadLetterFilter::default(), after.as_ref(), PAGE).await?;
        for dead_letter in &page.letters {
            let id = dead_letter.record.as_ref().map(|record| record.metadata().event_id());
            if let Some(id) = id.filter(|id| wanted.contains(id)) {
                found.entry(id).or_default().push(DeadDeliveryRow {
                    id: dead_letter.id.to_string(),
                    group: dead_letter.group.clone(),
                    handler: dead_letter.handler.clone(),
                    error: dead_letter.error.clone(),
                });
            }
        }
        searched += page.letters.len();
        after = page.next;
        if after.is_none() || searched >= DEAD_LETTERS_MAX {
            return Ok((found, after.is_some()));
        }
    }
}

/// Orders events so that each comes after its cause, with the number of causes above it.
fn to_tree(events: &[RecordedEvent], wanted: EventId, dead: &HashMap<EventId, Vec<DeadDeliveryRow>>) -> Vec<CauseRow> {
    // an id is unique within its stream only: of several events with one id, the first is the cause
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
        let event = &events[place];
        let id = event.metadata().event_id();
        rows.push(CauseRow {
            depth,
            is_wanted: id == wanted,
            event: EventView::from(event),
            dead_letters: dead.get(&id).cloned().unwrap_or_default(),
        });
        let next = caused.remove(&Some(place)).unwrap_or_default();
        open.extend(next.into_iter().rev().map(|place| (place, depth + 1)));
    }
    rows
}
