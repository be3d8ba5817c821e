//! Ranges, the unit of publishing: all events of a feed after one position, up to a later one.
//!
//! Invariant: a range ends at its last event, or at one behind it that the relay skips; never at a position without an
//! event, which the store may assign after a crash.

use tokio::time::Instant;

use crate::{
    domain::{clock::SharedClock, name::Name, record::RecordedEvent, stream::Position},
    port::{
        EventStore, FeedFilter, ReadError, RecordStream,
        feed_page::{BatchEnd, FeedBatch},
    },
    support::{SKIPS_REFRESH_INTERVAL, read_around, read_batch, relay_to, skipped_positions, spans::FeedRead},
};

/// Limits of what one call publishes: about a millisecond of a busy Redis.
const RANGE_EVENTS_MAX: usize = 256;
const RANGE_BYTES_MAX: usize = 256 * 1024;

/// All events after one position, up to a later one.
#[derive(Debug)]
pub(super) struct FeedRange {
    pub(super) after: Position,
    pub(super) through: Position,
    pub(super) events: Vec<RecordedEvent>,
    /// Set if more events may follow it.
    pub(super) is_full: bool,
}

impl FeedRange {
    /// Returns a range without events.
    pub(super) fn empty(at: Position) -> Self {
        Self { after: at, through: at, events: Vec::new(), is_full: false }
    }

    /// Cuts the range before this position. Returns `false` if no event is left.
    pub(super) fn truncate_before(&mut self, position: Position) -> bool {
        self.events.retain(|event| event.position() < Some(position));
        self.is_full = true;
        let last = self.events.last().and_then(RecordedEvent::position);
        self.through = last.unwrap_or(self.after);
        last.is_some()
    }

    /// Returns `true` if it moves the relay forward.
    pub(super) fn moves_position(&self) -> bool {
        self.through > self.after
    }
}

/// Reads consecutive ranges; the feed stays open between them.
pub(super) struct RangeReader<'a> {
    store: &'a dyn EventStore,
    /// The feed, and the position up to which it was read.
    feed: Option<(OpenFeed<'a>, Position)>,
    skips: SkipList,
}

/// An open feed.
struct OpenFeed<'a> {
    records: RecordStream<'a>,
    /// The head up to which it was opened: it holds no later events.
    end: Position,
    /// Position of the last skipped event; once the feed has ended, no unread event is left before it.
    last_skipped: Option<Position>,
}

impl OpenFeed<'_> {
    async fn read_batch(&mut self, reader: &Name) -> Result<FeedBatch, ReadError> {
        let span = FeedRead::begin(|| reader.clone());
        read_batch(span, &mut self.records, RANGE_EVENTS_MAX, RANGE_BYTES_MAX).await
    }
}

/// Positions that the relay skips, loaded again at [`SKIPS_REFRESH_INTERVAL`].
struct SkipList {
    reader: Name,
    clock: SharedClock,
    positions: Vec<Position>,
    refreshed_at: Option<Instant>,
}

impl SkipList {
    async fn refresh_if_due(&mut self, store: &dyn EventStore) -> Result<(), ReadError> {
        if self.refreshed_at.is_none_or(|at| self.clock.elapsed(at) >= SKIPS_REFRESH_INTERVAL) {
            let positions = skipped_positions(store, &self.reader).await;
            self.positions = positions.map_err(|error| ReadError::Unavailable(error.into()))?;
            self.refreshed_at = Some(self.clock.instant());
        }
        Ok(())
    }
}

impl<'a> RangeReader<'a> {
    /// Makes a reader that leaves out the events that the relay to `destination` skips.
    pub(super) fn new(store: &'a dyn EventStore, destination: &Name, clock: &SharedClock) -> Self {
        let (reader, clock) = (relay_to(destination), clock.clone());
        Self { store, feed: None, skips: SkipList { reader, clock, positions: Vec::new(), refreshed_at: None } }
    }

    /// Forgets what it has read ahead: the store may have been replaced by an older copy.
    pub(super) fn close_feed(&mut self) {
        self.feed = None;
    }

    async fn open(&mut self, after: Position, head: Position) -> Result<OpenFeed<'a>, ReadError> {
        self.skips.refresh_if_due(self.store).await?;
        let skips = &self.skips;
        let records = read_around(self.store, after, head, &FeedFilter::all(), &skips.positions);
        let last_skipped = skips.positions.iter().copied().rfind(|position| *position <= head);
        Ok(OpenFeed { records, end: head, last_skipped })
    }

    /// Returns a range of events that this process appended directly after `after`, if there are any.
    async fn take_own_appends(&mut self, after: Position, head: Position) -> Result<Option<FeedRange>, ReadError> {
        let events = self.store.appended().recent().read(after, head, RANGE_EVENTS_MAX, RANGE_BYTES_MAX);
        let Some(through) = events.last().and_then(RecordedEvent::position) else {
            return Ok(None);
        };
        self.skips.refresh_if_due(self.store).await?;
        let is_skipped = |position: &Position| (after.next()..=through).contains(position);
        let is_full = through < head;
        let range = FeedRange { after, through, events, is_full };
        Ok(Some(range).filter(|_| !self.skips.positions.iter().any(is_skipped)))
    }

    /// Reads the range after `after`, up to `head`, which was the head of the store; an empty one if no event is left
    /// there.
    pub(super) async fn read_next(&mut self, after: Position, head: Position) -> Result<FeedRange, ReadError> {
        let open = self.feed.take().filter(|(_, at)| *at == after);
        let mut feed = match open {
            Some((feed, _)) => feed,
            None if head <= after => return Ok(FeedRange::empty(after)),
            None => match self.take_own_appends(after, head).await? {
                Some(range) => return Ok(range),
                None => self.open(after, head).await?,
            },
        };
        let mut batch = feed.read_batch(&self.skips.reader).await?;
        // opened up to an earlier head: an empty range would tell the relay to wait for a later one
        if batch.events.is_empty() && feed.end < head {
            feed = self.open(after, head).await?;
            batch = feed.read_batch(&self.skips.reader).await?;
        }
        let last = batch.events.last().and_then(RecordedEvent::position).unwrap_or(after);
        let is_full = matches!(batch.end, BatchEnd::Full);
        let through = match batch.end {
            BatchEnd::EndOfFeed => last.max(feed.last_skipped.unwrap_or_default()),
            BatchEnd::Full | BatchEnd::Failed(_) => last,
        };
        self.feed = is_full.then_some((feed, through));
        Ok(FeedRange { after, through, events: batch.events, is_full })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;
    use crate::{
        domain::{
            record::NewEvent,
            stream::{ExpectedVersion, StreamId},
        },
        memory::InMemoryEventStore,
        port::{AppendEvents as _, ReadFeed as _},
        support::{Skip, save_skips},
    };

    async fn append(store: &InMemoryEventStore, payloads: impl Iterator<Item = String>) {
        let stream = StreamId::parse("Order", "1").unwrap();
        let events = payloads.map(|payload| NewEvent::new(Name::from_static("Noted"), 1, payload)).collect();
        store.append(&stream, ExpectedVersion::Any, events).await.unwrap();
    }

    fn small(events: usize) -> impl Iterator<Item = String> {
        std::iter::repeat_n("{}".into(), events)
    }

    fn reader(store: &InMemoryEventStore) -> RangeReader<'_> {
        RangeReader::new(store, &Name::from_static("bus"), &SharedClock::SYSTEM)
    }

    /// Returns where the next range begins and ends, and its number of events.
    async fn next(ranges: &mut RangeReader<'_>, after: u64) -> (u64, u64, usize) {
        let head = ranges.store.head().await.unwrap();
        let range = ranges.read_next(after.into(), head).await.unwrap();
        (range.after.get(), range.through.get(), range.events.len())
    }

    #[tokio::test]
    async fn ranges_follow_each_other_to_the_end_and_go_on_when_more_is_appended() {
        let store = InMemoryEventStore::new();
        append(&store, small(300)).await;
        let mut ranges = reader(&store);
        assert_eq!(next(&mut ranges, 0).await, (0, 256, 256));
        assert_eq!(next(&mut ranges, 256).await, (256, 300, 44));
        assert_eq!(next(&mut ranges, 300).await, (300, 300, 0));
        append(&store, small(2)).await;
        assert_eq!(next(&mut ranges, 300).await, (300, 302, 2));
    }

    /// The relay waits for a later head after an empty range.
    #[tokio::test]
    async fn a_feed_that_ended_at_an_earlier_head_goes_on_up_to_the_head() {
        let large = || format!(r#"{{"text":"{}"}}"#, "x".repeat(RANGE_BYTES_MAX));
        for (payloads, through) in [(small(RANGE_EVENTS_MAX).collect(), 256), (vec![large()], 1)] {
            let store = InMemoryEventStore::new();
            let events = payloads.len();
            append(&store, payloads.into_iter()).await;
            let mut ranges = reader(&store);
            assert_eq!(next(&mut ranges, 0).await, (0, through, events));
            append(&store, small(1)).await;
            assert_eq!(next(&mut ranges, through).await, (through, through + 1, 1));
        }
    }

    #[tokio::test]
    async fn what_this_process_appended_is_left_out_too_if_it_is_skipped() {
        let (store, bus) = (InMemoryEventStore::new(), Name::from_static("bus"));
        let _kept = store.appended().recent().keep();
        append(&store, small(3)).await;
        let skipped = [Skip { position: 2, reason: "torn".into(), by: "operator".into(), at: 0 }];
        save_skips(store.notes().unwrap(), &relay_to(&bus), &skipped).await.unwrap();
        let range = reader(&store).read_next(0.into(), 3.into()).await.unwrap();
        let positions: Vec<_> = range.events.iter().filter_map(RecordedEvent::position).collect();
        assert_eq!(positions, [1, 3].map(Position::new));
    }

    #[tokio::test]
    async fn a_range_begins_where_it_is_told_wherever_the_feed_is() {
        let store = InMemoryEventStore::new();
        append(&store, small(600)).await;
        let mut ranges = reader(&store);
        assert_eq!(next(&mut ranges, 0).await, (0, 256, 256));
        assert_eq!(next(&mut ranges, 10).await, (10, 266, 256));
        assert_eq!(next(&mut ranges, 590).await, (590, 600, 10));
    }

    #[tokio::test]
    async fn a_range_ends_before_an_event_that_cannot_be_read() {
        let store = InMemoryEventStore::new();
        append(&store, small(3)).await;
        let damaged = ReadError::Corrupt {
            place: "position 3".into(),
            position: Some(Position::new(3)),
            source: "damaged".into(),
        };
        let feed = store.read_all(0.into()).take(2).chain(futures_util::stream::iter([Err(damaged)]));
        let feed = OpenFeed { records: feed.boxed(), end: Position::new(3), last_skipped: None };
        let mut ranges = RangeReader { feed: Some((feed, 0.into())), ..reader(&store) };
        assert_eq!(next(&mut ranges, 0).await, (0, 2, 2));
        assert_eq!(next(&mut ranges, 2).await, (2, 3, 1));
    }

    #[tokio::test]
    async fn a_range_is_limited_in_bytes() {
        let store = InMemoryEventStore::new();
        let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(100 * 1024));
        append(&store, std::iter::repeat_n(large, 5)).await;
        assert_eq!(next(&mut reader(&store), 0).await, (0, 3, 3));
    }
}
