//! Reads a feed page by page, for the relay and for handlers.
//!
//! The feed stays open between pages that follow each other. What this process appended directly behind a page needs no
//! read.

use tokio::time::Instant;

use crate::{
    domain::{clock::SharedClock, name::Name, record::RecordedEvent, stream::Position},
    port::{
        EventStore, FeedFilter, ReadError, RecordStream,
        feed_page::{BatchEnd, FeedBatch, PageLimits},
    },
    support::{SKIPS_REFRESH_INTERVAL, read_around, read_batch, skipped_positions, spans::FeedRead},
};

/// Consecutive events of a feed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ReadPage {
    pub(super) after: Position,
    /// The page has all events up to here. It may be a position without an event, which the store may assign after a crash.
    pub(super) through: Position,
    /// The position of the last event, or of a skipped one behind it; `after` if there is none.
    pub(super) last: Position,
    pub(super) events: Vec<RecordedEvent>,
    /// Set if more events may follow up to the head.
    pub(super) is_full: bool,
}

/// Reads the pages of a feed.
pub(super) struct PageReader<'a> {
    store: &'a dyn EventStore,
    limits: PageLimits,
    open: Option<OpenFeed<'a>>,
    /// `None` for a reader without a name: it reads around no events, and leaves no spans.
    skips: Option<SkipList>,
}

/// An open feed.
struct OpenFeed<'a> {
    records: RecordStream<'a>,
    filter: FeedFilter,
    /// The position that its next event follows.
    at: Position,
    /// The head up to which it was opened: it holds no later events.
    end: Position,
    /// The position of the last skipped event; once the feed has ended, no unread event is left before it.
    last_skipped: Option<Position>,
}

impl OpenFeed<'_> {
    async fn read_batch(&mut self, skips: Option<&SkipList>, limits: PageLimits) -> Result<FeedBatch, ReadError> {
        let span = skips.map_or_else(FeedRead::none, |skips| FeedRead::begin(|| skips.reader.clone()));
        read_batch(span, &mut self.records, limits.events.get(), limits.bytes).await
    }
}

/// The positions that operators have a reader skip, loaded again at [`SKIPS_REFRESH_INTERVAL`].
struct SkipList {
    reader: Name,
    clock: SharedClock,
    positions: Vec<Position>,
    refreshed_at: Option<Instant>,
}

impl<'a> PageReader<'a> {
    /// Makes a reader of all events.
    pub(super) const fn new(store: &'a dyn EventStore, limits: PageLimits) -> Self {
        Self { store, limits, open: None, skips: None }
    }

    /// Names the reader: it reads around the events that operators have a reader of this name skip.
    pub(super) fn named(self, reader: Name, clock: &SharedClock) -> Self {
        let skips = SkipList { reader, clock: clock.clone(), positions: Vec::new(), refreshed_at: None };
        Self { skips: Some(skips), ..self }
    }

    /// Forgets what it has read ahead: the store may have been replaced by an older copy.
    pub(super) fn close(&mut self) {
        self.open = None;
    }

    /// Reads the page of the matching events after `after`, up to `head`, which was the head of the store; an empty one if
    /// no event is left there.
    pub(super) async fn read(
        &mut self,
        after: Position,
        head: Position,
        filter: &FeedFilter,
    ) -> Result<ReadPage, ReadError> {
        let is_next = |feed: &OpenFeed<'_>| feed.at == after && feed.end <= head && feed.filter == *filter;
        let mut feed = match self.open.take().filter(is_next) {
            Some(feed) => feed,
            None if head <= after => {
                return Ok(ReadPage { after, through: after, last: after, events: Vec::new(), is_full: false });
            }
            None => match self.take_own_appends(after, head, filter).await? {
                Some(page) => return Ok(page),
                None => self.open_feed(after, head, filter).await?,
            },
        };
        let mut batch = feed.read_batch(self.skips.as_ref(), self.limits).await?;
        // opened up to an earlier head: an empty page would say that there is no event up to the later one
        if batch.events.is_empty() && feed.end < head {
            feed = self.open_feed(after, head, filter).await?;
            batch = feed.read_batch(self.skips.as_ref(), self.limits).await?;
        }
        let last = batch.events.last().and_then(RecordedEvent::position).unwrap_or(after);
        let is_full = matches!(batch.end, BatchEnd::Full);
        let (through, last) = match batch.end {
            BatchEnd::EndOfFeed => (feed.end, last.max(feed.last_skipped.unwrap_or_default())),
            BatchEnd::Full | BatchEnd::Failed(_) => (last, last),
        };
        feed.at = through;
        self.open = is_full.then_some(feed);
        Ok(ReadPage { after, through, last, events: batch.events, is_full })
    }

    async fn open_feed(
        &mut self,
        after: Position,
        head: Position,
        filter: &FeedFilter,
    ) -> Result<OpenFeed<'a>, ReadError> {
        let store = self.store;
        let skips = self.load_skips().await?;
        let last_skipped = skips.iter().copied().rfind(|position| *position <= head);
        let records = read_around(store, after, head, filter, skips);
        Ok(OpenFeed { records, filter: filter.clone(), at: after, end: head, last_skipped })
    }

    /// Returns a page of events that this process appended directly after `after`, if there are any.
    async fn take_own_appends(
        &mut self,
        after: Position,
        head: Position,
        filter: &FeedFilter,
    ) -> Result<Option<ReadPage>, ReadError> {
        let recent = self.store.appended().recent();
        let mut events = recent.read(after, head, self.limits.events.get(), self.limits.bytes);
        let Some(through) = events.last().and_then(RecordedEvent::position) else {
            return Ok(None);
        };
        let is_skipped = |position: &Position| (after.next()..=through).contains(position);
        if self.load_skips().await?.iter().any(is_skipped) {
            return Ok(None);
        }
        events.retain(|event| filter.matches(event));
        Ok(Some(ReadPage { after, through, last: through, events, is_full: through < head }))
    }

    /// Returns the positions to skip, sorted; loads them again if that is due.
    async fn load_skips(&mut self) -> Result<&[Position], ReadError> {
        let Some(skips) = &mut self.skips else { return Ok(&[]) };
        if skips.refreshed_at.is_none_or(|at| skips.clock.elapsed(at) >= SKIPS_REFRESH_INTERVAL) {
            let positions = skipped_positions(self.store, &skips.reader).await;
            skips.positions = positions.map_err(|error| ReadError::Unavailable(error.into()))?;
            skips.refreshed_at = Some(skips.clock.instant());
        }
        Ok(&skips.positions)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use futures_util::StreamExt as _;

    use super::*;
    use crate::{
        domain::{
            record::NewEvent,
            stream::{ExpectedVersion, StreamId},
        },
        memory::InMemoryEventStore,
        port::{AppendEvents as _, ReadFeed as _},
        support::{Skip, relay_to, save_skips},
    };

    async fn append(store: &InMemoryEventStore, payloads: impl Iterator<Item = String>) {
        let stream = StreamId::parse("Order", "1").unwrap();
        let events = payloads.map(|payload| NewEvent::new(Name::from_static("Noted"), 1, payload)).collect();
        store.append(&stream, ExpectedVersion::Any, events).await.unwrap();
    }

    fn small(events: usize) -> impl Iterator<Item = String> {
        std::iter::repeat_n("{}".into(), events)
    }

    const BYTES_MAX: usize = 256 * 1024;

    fn reader(store: &InMemoryEventStore) -> PageReader<'_> {
        let limits = PageLimits { events: NonZeroUsize::new(256).unwrap(), bytes: BYTES_MAX };
        PageReader::new(store, limits).named(relay_to(&Name::from_static("bus")), &SharedClock::SYSTEM)
    }

    /// Returns where the next page begins, its last event, and its number of events.
    async fn next(pages: &mut PageReader<'_>, after: u64) -> (u64, u64, usize) {
        let head = pages.store.head().await.unwrap();
        let page = pages.read(after.into(), head, &FeedFilter::all()).await.unwrap();
        (page.after.get(), page.last.get(), page.events.len())
    }

    #[tokio::test]
    async fn pages_follow_each_other_to_the_end_and_go_on_when_more_is_appended() {
        let store = InMemoryEventStore::new();
        append(&store, small(300)).await;
        let mut pages = reader(&store);
        assert_eq!(next(&mut pages, 0).await, (0, 256, 256));
        assert_eq!(next(&mut pages, 256).await, (256, 300, 44));
        assert_eq!(next(&mut pages, 300).await, (300, 300, 0));
        append(&store, small(2)).await;
        assert_eq!(next(&mut pages, 300).await, (300, 302, 2));
    }

    /// The relay waits for a later head after an empty page.
    #[tokio::test]
    async fn a_feed_that_ended_at_an_earlier_head_goes_on_up_to_the_head() {
        let large = || format!(r#"{{"text":"{}"}}"#, "x".repeat(BYTES_MAX));
        for (payloads, through) in [(small(256).collect(), 256), (vec![large()], 1)] {
            let store = InMemoryEventStore::new();
            let events = payloads.len();
            append(&store, payloads.into_iter()).await;
            let mut pages = reader(&store);
            assert_eq!(next(&mut pages, 0).await, (0, through, events));
            append(&store, small(1)).await;
            assert_eq!(next(&mut pages, through).await, (through, through + 1, 1));
        }
    }

    #[tokio::test]
    async fn the_reader_leaves_out_a_skipped_event_of_this_process() {
        let (store, bus) = (InMemoryEventStore::new(), Name::from_static("bus"));
        let _kept = store.appended().recent().keep();
        append(&store, small(3)).await;
        let skipped = [Skip { position: 2, reason: "torn".into(), by: "operator".into(), at: 0 }];
        save_skips(store.notes().unwrap(), &relay_to(&bus), &skipped).await.unwrap();
        let page = reader(&store).read(0.into(), 3.into(), &FeedFilter::all()).await.unwrap();
        let positions: Vec<_> = page.events.iter().filter_map(RecordedEvent::position).collect();
        assert_eq!(positions, [1, 3].map(Position::new));
    }

    #[tokio::test]
    async fn a_page_begins_where_it_is_told_wherever_the_feed_is() {
        let store = InMemoryEventStore::new();
        append(&store, small(600)).await;
        let mut pages = reader(&store);
        assert_eq!(next(&mut pages, 0).await, (0, 256, 256));
        assert_eq!(next(&mut pages, 10).await, (10, 266, 256));
        assert_eq!(next(&mut pages, 590).await, (590, 600, 10));
    }

    #[tokio::test]
    async fn a_page_ends_before_an_event_that_cannot_be_read() {
        let store = InMemoryEventStore::new();
        append(&store, small(3)).await;
        let damaged = ReadError::Corrupt {
            place: "position 3".into(),
            position: Some(Position::new(3)),
            source: "damaged".into(),
        };
        let feed = store.read_all(0.into()).take(2).chain(futures_util::stream::iter([Err(damaged)]));
        let (records, filter) = (feed.boxed(), FeedFilter::all());
        let feed = OpenFeed { records, filter, at: 0.into(), end: 3.into(), last_skipped: None };
        let mut pages = PageReader { open: Some(feed), ..reader(&store) };
        assert_eq!(next(&mut pages, 0).await, (0, 2, 2));
        assert_eq!(next(&mut pages, 2).await, (2, 3, 1));
    }

    #[tokio::test]
    async fn a_page_is_limited_in_bytes() {
        let store = InMemoryEventStore::new();
        let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(100 * 1024));
        append(&store, std::iter::repeat_n(large, 5)).await;
        assert_eq!(next(&mut reader(&store), 0).await, (0, 3, 3));
    }
}
