//! Reads events in the order of their positions, which have no gaps.

use eventbus::{
    Position, RecordedEvent,
    port::{FeedFilter, ReadError, RecordStream},
    support::{PAGE_BYTES, Page, paged},
};
use time::OffsetDateTime;

use crate::{
    commands,
    entry::{FeedPointer, number_of},
    error::CorruptEntry,
    inner::StoreInner,
    read::{PAGE_EVENTS_MAX, load_events, load_sound_events, parse_entries, query_all, query_entries},
};

/// Pointers that one command scans for events that match a filter, or for missing events.
pub(crate) const FEED_SCAN_PAGE: usize = 2_048;

/// Returns the events of the feed after a position and up to `through`.
pub(crate) fn read_feed<'s>(
    inner: &'s StoreInner,
    after: Position,
    through: Position,
    filter: &FeedFilter,
) -> RecordStream<'s> {
    let filter = filter.clone();
    paged(FeedCursor { after, unread: Vec::new() }, move |cursor| {
        let filter = filter.clone();
        async move { feed_page(inner, cursor, through, &filter).await }
    })
}

/// Returns the position of the last event.
pub(crate) async fn head(inner: &StoreInner) -> Result<Position, ReadError> {
    let (feed, acknowledged) = (inner.keys().feed(), inner.acknowledged().position());
    let head = match query_entries(inner, &feed, &commands::last(&feed)).await?.into_iter().next() {
        Some(last) => Position::new(FeedPointer::read(&feed, last)?.position),
        None => Position::START,
    };
    inner.check_head(acknowledged, head);
    Ok(head)
}

/// Returns the number of events after a position and up to `through`.
pub(crate) async fn count_events(
    inner: &StoreInner,
    after: Position,
    through: Position,
    filter: &FeedFilter,
) -> Result<u64, ReadError> {
    let through = through.min(head(inner).await?);
    if filter.is_all() {
        // positions have no gaps
        return Ok(through.get().saturating_sub(after.get()));
    }
    let (mut from, mut count) = (after, 0);
    while from < through {
        let scanned = scan(inner, from, through, filter).await?;
        count += scanned.pointers.len() as u64;
        if scanned.is_last {
            break;
        }
        from = scanned.after;
    }
    Ok(count)
}

/// Returns the time at which the first event after a position was recorded.
pub(crate) async fn first_recorded_after(
    inner: &StoreInner,
    after: Position,
) -> Result<Option<OffsetDateTime>, ReadError> {
    let pointers = pointers(inner, after, Position::new(after.get().saturating_add(1)), 1).await?;
    let first = load_events(inner, &pointers).await?.into_iter().next();
    Ok(first.map(|event| event.metadata().recorded_at().unwrap_or(event.metadata().occurred_at())))
}

/// Start of a page.
struct FeedCursor {
    after: Position,
    /// Pointers whose events are not read yet.
    unread: Vec<FeedPointer>,
}

/// Returns the number of pointers to read at once.
fn batch_len(pointers: &[FeedPointer]) -> usize {
    let mut bytes = 0_usize;
    let fits = |pointer: &&FeedPointer| {
        bytes = bytes.saturating_add(pointer.bytes);
        bytes <= PAGE_BYTES
    };
    let count = pointers.iter().take(PAGE_EVENTS_MAX).take_while(fits).count();
    count.max(1).min(pointers.len())
}

async fn feed_page(
    inner: &StoreInner,
    cursor: FeedCursor,
    through: Position,
    filter: &FeedFilter,
) -> Result<Page<FeedCursor>, ReadError> {
    let FeedCursor { mut after, mut unread } = cursor;
    let mut is_last = false;
    if unread.is_empty() {
        Scanned { pointers: unread, after, is_last } = scan(inner, after, through, filter).await?;
    }
    let mut rest = unread.split_off(batch_len(&unread));
    let mut events = Vec::with_capacity(unread.len());
    match load_sound_events(inner, &unread, &mut events).await {
        // the next page begins with the event that cannot be read, and fails
        Err(ReadError::Corrupt { .. }) if !events.is_empty() => {
            unread.drain(..events.len());
            unread.append(&mut rest);
            rest = unread;
        }
        loaded => loaded?,
    }
    let next = (!rest.is_empty() || !is_last).then_some(FeedCursor { after, unread: rest });
    Ok((events, next.filter(|next| next.after < through || !next.unread.is_empty())))
}

/// Pointers of a feed that match its filter.
struct Scanned {
    pointers: Vec<FeedPointer>,
    /// The position up to which there are no further ones.
    after: Position,
    /// Set if the feed has ended.
    is_last: bool,
}

/// Finds the next pointers that match a filter; there may be none although the feed goes on.
async fn scan(
    inner: &StoreInner,
    after: Position,
    through: Position,
    filter: &FeedFilter,
) -> Result<Scanned, ReadError> {
    let count = if filter.is_all() { PAGE_EVENTS_MAX } else { FEED_SCAN_PAGE };
    let mut pointers = pointers(inner, after, through, count).await?;
    let after = pointers.last().map_or(after, |last| Position::new(last.position));
    let is_last = pointers.len() < count;
    pointers.retain(|pointer| pointer.matches(filter));
    Ok(Scanned { pointers, after, is_last })
}

/// Returns the next pointers of the feed, and an error if there is a gap.
pub(crate) async fn pointers(
    inner: &StoreInner,
    after: Position,
    through: Position,
    count: usize,
) -> Result<Vec<FeedPointer>, ReadError> {
    let Some(from) = after.get().checked_add(1).filter(|from| *from <= through.get()) else {
        return Ok(Vec::new());
    };
    let feed = inner.keys().feed();
    let entries = query_entries(inner, &feed, &commands::range(&feed, from, through.get(), count)).await?;
    let mut pointers = Vec::with_capacity(entries.len());
    for (number, entry) in (0_u64..).zip(entries) {
        let wanted = from.saturating_add(number);
        if let Ok(found) = number_of(&entry.id)
            && found != wanted
        {
            let source = format!("it follows a gap: entry {wanted}-0 is missing, a foreign client removed it");
            return Err(CorruptEntry::new(&feed, &entry.id, source).into());
        }
        pointers.push(FeedPointer::read(&feed, entry)?);
    }
    Ok(pointers)
}

/// Returns the events at those of the positions that the feed has.
pub(crate) async fn events_at(inner: &StoreInner, positions: &[u64]) -> Result<Vec<RecordedEvent>, ReadError> {
    let feed = inner.keys().feed();
    let mut events = Vec::with_capacity(positions.len());
    for positions in positions.chunks(PAGE_EVENTS_MAX) {
        let commands = positions.iter().map(|&position| commands::range(&feed, position, position, 1));
        let mut pointers = Vec::with_capacity(positions.len());
        for reply in query_all(inner, commands).await? {
            for entry in parse_entries(&feed, reply)? {
                pointers.push(FeedPointer::read(&feed, entry)?);
            }
        }
        let mut rest = &pointers[..];
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(batch_len(rest));
            events.extend(load_events(inner, batch).await?);
            rest = later;
        }
    }
    Ok(events)
}
