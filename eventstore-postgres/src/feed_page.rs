//! Pages of the feed.
//!
//! Invariant: a page ends before its first damaged row, and the next page begins with that row.

use eventbus::{
    Position, RecordedEvent, StreamId, Version,
    port::ReadError,
    store::{Boundary, BoundaryCondition},
    support::{EventTypeNames, FeedVersions, PAGE_BYTES, Page, missing_event_error},
};
use sqlx::{Decode, Postgres, Row as _, Type, postgres::PgRow};

use crate::{
    filter_parameters::FilterParameters,
    pool::Query,
    record::{
        BOUNDARY_STREAM_COLUMN, PAGE_EVENTS_MAX, PAYLOAD_COLUMN, VISITED_PAYLOAD_COLUMN, decode_counts,
        decode_feed_event, decode_feed_page, decode_has_former, decode_reach, decode_stream_no, payload_bytes,
        read_position,
    },
    statement_error::StatementError,
    statements::PageEnd,
    store_inner::StoreInner,
    stream_numbers::PageStreams,
};

/// The most positions that one statement scans for a filter, which may match none of them.
const FILTER_WINDOW_POSITIONS: i64 = 100_000;

/// The start of a page of a read without tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageStart {
    after: i64,
    /// The end of the window of the former page of a filter, which may reach further than that page.
    window_end: i64,
    page_end: PageEnd,
}

impl PageStart {
    pub(crate) fn new(after: Position) -> Self {
        let after = after.as_i64();
        Self { after, window_end: after, page_end: PageEnd::AtEvents }
    }

    /// Returns the start of the page after one that ends with the event at `last`; `has_more` is `true` if the window
    /// may have more events.
    fn following(self, last: Option<i64>, has_more: bool, end: i64) -> Option<Self> {
        let after = last.filter(|_| has_more).unwrap_or(self.window_end);
        (after < end).then_some(Self { after, ..self })
    }
}

/// The start of a page of any read.
pub(crate) struct FeedCursor {
    start: PageStart,
    /// The versions that a read without a filter has returned.
    versions: FeedVersions,
}

impl FeedCursor {
    pub(crate) fn new(after: Position) -> Self {
        Self { start: PageStart::new(after), versions: FeedVersions::new(after) }
    }

    #[cfg(test)]
    pub(crate) const fn page_end(&self) -> PageEnd {
        self.start.page_end
    }
}

/// Reads a page of any read.
pub(crate) async fn feed_page(
    inner: &StoreInner,
    FeedCursor { start, versions }: FeedCursor,
    end: i64,
    filter: &FilterParameters,
) -> Result<Page<FeedCursor>, ReadError> {
    if start.after >= end {
        return Ok((Vec::new(), None));
    }
    if filter.is_all() {
        return whole_page(inner, start, versions, end).await;
    }
    let (events, next) = if filter.has_tags() {
        tagged_page(inner, start, end, filter).await?
    } else {
        let (fetched, _) = fetch_filtered(inner, start, end, filter, FeedColumns::Record).await?;
        decode_filtered(inner, fetched).await?
    };
    Ok((events, next.map(|start| FeedCursor { start, versions })))
}

/// Reads a page without a filter.
async fn whole_page(
    inner: &StoreInner,
    start: PageStart,
    mut versions: FeedVersions,
    end: i64,
) -> Result<Page<FeedCursor>, ReadError> {
    let query = |through: i64| {
        let query = inner.statements().whole_feed_page(include_str!("sql/read_page.sql"), start.page_end);
        query.bind(start.after).bind(through).bind(PAGE_EVENTS_MAX)
    };
    let (rows, page_end) = fetch_range(inner, (start.after, end), PAYLOAD_COLUMN, query).await?;
    let (mut events, mut has_more) = decode_rows(inner, &rows).await?;
    has_more |= page_end == PageEnd::AtBytes;
    has_more |= end_before_missing_event(inner, &rows, &mut events, &mut versions).await?;
    let next = PageStart { window_end: end, page_end, ..start }.following(last_position(&events), has_more, end);
    Ok((events, next.map(|start| FeedCursor { start, versions })))
}

/// Ends a page without a filter before an event whose former one in its stream is missing; `true` if it ends there.
///
/// # Errors
/// If that is the first event of the page.
pub(crate) async fn end_before_missing_event(
    inner: &StoreInner,
    rows: &[PgRow],
    events: &mut Vec<RecordedEvent>,
    versions: &mut FeedVersions,
) -> Result<bool, ReadError> {
    note_archived(inner, events, versions).await?;
    let has_former = rows.first().map_or(Ok(true), decode_has_former).map_err(unreadable_answer)?;
    versions.end_before_gap(events, has_former)
}

/// Reads events at positions, at most [`PAGE_EVENTS_MAX`], and up to the one with which their payloads reach
/// [`PAGE_BYTES`]. Item `i` is the event at `positions[i]`.
pub(crate) async fn read_events_at(
    inner: &StoreInner,
    positions: &[Position],
) -> Result<Vec<Result<Option<RecordedEvent>, ReadError>>, ReadError> {
    let mut positions = &positions[..positions.len().min(PAGE_EVENTS_MAX as usize)];
    let query = |positions: &[Position]| {
        let query = inner.statements().page_at_positions();
        query.bind(positions.iter().map(|position| position.as_i64()).collect::<Vec<_>>())
    };
    let mut fetched = fetch_rows(inner, query(positions), PAYLOAD_COLUMN).await;
    if matches!(&fetched, Err(error) if error.is_damage()) && positions.len() > 1 {
        // the error does not tell which of the rows is damaged
        positions = &positions[..1];
        fetched = fetch_rows(inner, query(positions), PAYLOAD_COLUMN).await;
    }
    let (rows, page_end) = fetched.map_err(|error| match positions {
        [position] if error.is_damage() => damaged_row(position.as_i64(), error),
        _ => error.into(),
    })?;
    let streams = load_page_streams(inner, &rows).await?;
    let (mut names, mut rows) = (EventTypeNames::default(), rows.iter().peekable());
    let mut events = Vec::with_capacity(positions.len());
    for position in positions {
        if page_end == PageEnd::AtBytes && rows.peek().is_none() {
            break; // the positions behind were not searched
        }
        let is_at = |row: &&PgRow| read_position(row, 0).is_ok_and(|found| found == Some(position.as_i64()));
        events.push(rows.next_if(is_at).map(|row| decode_event_after_former(row, &streams, &mut names)).transpose());
    }
    Ok(events)
}

/// Decodes an event; fails if the one before it in its stream is missing.
fn decode_event_after_former(
    row: &PgRow,
    streams: &PageStreams,
    names: &mut EventTypeNames,
) -> Result<RecordedEvent, ReadError> {
    let event = decode_feed_event(row, streams, names)?;
    if event.version() > Version::FIRST && !decode_has_former(row).map_err(unreadable_answer)? {
        let former = Version::new(event.version().get() - 1);
        return Err(missing_event_error(event.metadata().stream(), former));
    }
    Ok(event)
}

/// What a page of a read with a filter has of each event.
#[derive(Debug, Clone, Copy)]
pub(crate) enum FeedColumns {
    /// The columns of `record.sql`.
    Record,
    /// The columns of `visited.sql`.
    Visited,
}

/// The rows of a page of a read with a filter.
pub(crate) struct FilteredRows {
    pub(crate) rows: Vec<PgRow>,
    /// The start of the page, with the window and the end that it had.
    page: PageStart,
    end: i64,
}

/// Fetches the rows of a page of a read with a filter without tags, and the start of the next page, unless a row is
/// damaged.
pub(crate) async fn fetch_filtered(
    inner: &StoreInner,
    start: PageStart,
    end: i64,
    filter: &FilterParameters,
    columns: FeedColumns,
) -> Result<(FilteredRows, Option<PageStart>), ReadError> {
    if start.after >= end {
        return Ok((FilteredRows { rows: Vec::new(), page: start, end }, None));
    }
    let window_end = match start.window_end > start.after {
        true => start.window_end,
        false => filter_window_end(inner, start.after, end).await?,
    };
    let (shape, statements) = (filter.shape(), inner.statements());
    let query = |through: i64| {
        let query = match columns {
            FeedColumns::Record => statements.filtered_page(shape, start.page_end),
            FeedColumns::Visited => statements.visited_page(shape, start.page_end),
        };
        filter.bind_to(query, start.after, through).bind(PAGE_EVENTS_MAX)
    };
    let payload = match columns {
        FeedColumns::Record => PAYLOAD_COLUMN,
        FeedColumns::Visited => VISITED_PAYLOAD_COLUMN,
    };
    let (rows, page_end) = fetch_range(inner, (start.after, window_end), payload, query).await?;
    let page = PageStart { after: start.after, window_end, page_end };
    let last = rows.last().and_then(|row| read_position(row, 0).ok().flatten());
    let has_more = rows.len() as i64 >= PAGE_EVENTS_MAX || page_end == PageEnd::AtBytes;
    let next = page.following(last, has_more, end);
    Ok((FilteredRows { rows, page, end }, next))
}

/// Decodes the rows of a page of a read with a filter.
pub(crate) async fn decode_filtered(
    inner: &StoreInner,
    FilteredRows { rows, page, end }: FilteredRows,
) -> Result<Page<PageStart>, ReadError> {
    let (events, has_more) = decode_rows(inner, &rows).await?;
    let has_more = has_more || page.page_end == PageEnd::AtBytes;
    let next = page.following(last_position(&events), has_more, end);
    Ok((events, next))
}

/// Fetches the rows of a page up to the one with which their payloads reach [`PAGE_BYTES`], and how to end the next
/// page.
///
/// Events are mostly small, so the server counts bytes only for a page after one that was too large; of that one, the
/// rows beyond the limit are dropped here. If the statement fails meanwhile, because all rows take too long, the rows
/// before the failure are the page.
pub(crate) async fn fetch_rows(
    inner: &StoreInner,
    query: Query<'_>,
    payload_column: usize,
) -> Result<(Vec<PgRow>, PageEnd), StatementError> {
    let (mut rows, mut bytes) = (Vec::new(), 0);
    let take = |row| {
        if bytes < PAGE_BYTES {
            bytes += payload_bytes(&row, payload_column);
            rows.push(row);
        }
    };
    match inner.connections().fetch_each(query, take).await {
        Ok(()) if bytes < PAGE_BYTES => Ok((rows, PageEnd::AtEvents)),
        Err(error) if rows.is_empty() => Err(error),
        Ok(()) | Err(_) => Ok((rows, PageEnd::AtBytes)),
    }
}

/// Fetches the rows of a page after one position and up to a second one; `query` reads the page up to a position.
///
/// # Errors
/// If the server cannot read a row, the error names that row: a retry would always fail there, and only an operator can
/// have readers skip its position.
async fn fetch_range<'q>(
    inner: &StoreInner,
    (after, end): (i64, i64),
    payload_column: usize,
    query: impl Fn(i64) -> Query<'q>,
) -> Result<(Vec<PgRow>, PageEnd), ReadError> {
    let error = match fetch_rows(inner, query(end), payload_column).await {
        Err(error) if error.is_damage() => error,
        fetched => return Ok(fetched?),
    };
    let (mut before, mut at) = (after, end);
    while at - before > 1 {
        let (middle, mut rows) = (before + (at - before) / 2, 0);
        match inner.connections().fetch_each(query(middle), |_| rows += 1).await {
            Ok(()) if rows == 0 => before = middle,
            Err(again) if rows == 0 && again.is_damage() => at = middle,
            // the row was repaired meanwhile, or this is a different error: the next read tells
            _ => return Err(error.into()),
        }
    }
    Err(damaged_row(at, error))
}

fn damaged_row(position: i64, error: StatementError) -> ReadError {
    let (place, source) = (format!("position {position}"), error.into());
    ReadError::Corrupt { place, position: u64::try_from(position).ok().map(Position::new), source }
}

/// Decodes the events of rows with the numbers of their streams; `true` if there may be more.
pub(crate) async fn decode_rows(inner: &StoreInner, rows: &[PgRow]) -> Result<(Vec<RecordedEvent>, bool), ReadError> {
    decode_feed_page(rows, &load_page_streams(inner, rows).await?)
}

/// Loads the streams whose numbers stand in the rows.
async fn load_page_streams(inner: &StoreInner, rows: &[PgRow]) -> Result<PageStreams, ReadError> {
    let numbers = rows.iter().map(decode_stream_no).collect::<Result<_, _>>().map_err(unreadable_answer)?;
    inner.load_streams(numbers).await
}

fn last_position(events: &[RecordedEvent]) -> Option<i64> {
    events.last().and_then(RecordedEvent::position).map(Position::as_i64)
}

/// Reads a page of events that have wanted tags.
async fn tagged_page(
    inner: &StoreInner,
    start: PageStart,
    end: i64,
    filter: &FilterParameters,
) -> Result<Page<PageStart>, ReadError> {
    let query = filter.bind_with_tags(inner.statements().tagged_page(), start.after, end);
    let rows = inner.connections().fetch_all(query.bind(PAGE_EVENTS_MAX)).await?;
    let (rows, window_end) = decode_tagged_rows(&rows)?;
    let (events, has_more) = decode_rows(inner, rows).await?;
    let next = PageStart { window_end, ..start }.following(last_position(&events), has_more, end);
    Ok((events, next))
}

/// Returns the rows of an answer that have an event, and the position up to which the statement searched for tagged
/// events.
fn decode_tagged_rows(rows: &[PgRow]) -> Result<(&[PgRow], i64), ReadError> {
    let first = rows.first().ok_or_else(|| ReadError::Unavailable("no answer".into()))?;
    let reach = decode_reach(first).map_err(unreadable_answer)?;
    let has_events = !matches!(read_position(first, 0), Ok(None));
    Ok((if has_events { rows } else { &[] }, reach))
}

/// Reads the counts of the tags of a boundary and the first page of its events, up to `end`, in one statement.
pub(crate) async fn boundary_page(
    inner: &StoreInner,
    boundary: &Boundary,
    end: i64,
    filter: &FilterParameters,
) -> Result<(BoundaryCondition, Page<FeedCursor>), ReadError> {
    let FeedCursor { start, versions } = FeedCursor::new(Position::START);
    let query = filter.bind_with_tags(inner.statements().boundary_page(), start.after, end);
    let query = query
        .bind(PAGE_EVENTS_MAX)
        .bind(boundary.tags().iter().map(|tag| tag.as_str()).collect::<Vec<_>>())
        .bind(boundary.counted_names().collect::<Vec<_>>());
    let rows = inner.connections().fetch_all(query).await?;
    let counts = rows.first().map_or_else(|| Ok(Vec::new()), decode_counts).map_err(unreadable_answer)?;
    let (rows, window_end) = decode_tagged_rows(&rows)?;
    let streams = PageStreams::decode(rows, decode_stream_no, BOUNDARY_STREAM_COLUMN).map_err(unreadable_answer)?;
    let (events, has_more) = decode_feed_page(rows, &streams)?;
    let next = PageStart { window_end, ..start }.following(last_position(&events), has_more, end);
    let next = next.map(|start| FeedCursor { start, versions });
    Ok((BoundaryCondition { boundary: boundary.clone(), counts }, (events, next)))
}

/// Notes the streams that begin behind version 1 because their first events were archived.
async fn note_archived(
    inner: &StoreInner,
    events: &[RecordedEvent],
    versions: &mut FeedVersions,
) -> Result<(), ReadError> {
    let streams = versions.late_starts(events);
    if streams.is_empty() {
        return Ok(());
    }
    let query = inner.statements().query(include_str!("sql/archived.sql"));
    let query = query
        .bind(streams.iter().map(|stream| stream.aggregate_id().as_str()).collect::<Vec<_>>())
        .bind(streams.iter().map(|stream| stream.aggregate_type().as_str()).collect::<Vec<_>>())
        .bind(streams.iter().map(StreamId::tenant_or_nil).collect::<Vec<_>>());
    let rows = inner.connections().fetch_all(query).await?;
    for (row, stream) in rows.iter().zip(&streams) {
        let through: i64 = row.try_get(0).map_err(unreadable_answer)?;
        versions.note_archived(stream.clone(), Version::new(u64::try_from(through).unwrap_or_default()));
    }
    Ok(())
}

/// Returns the end of the positions after `after` that one statement scans for a filter.
async fn filter_window_end(inner: &StoreInner, after: i64, end: i64) -> Result<i64, ReadError> {
    if end - after <= FILTER_WINDOW_POSITIONS {
        return Ok(end);
    }
    Ok(find_window_end(inner, after, end).await?.unwrap_or(end))
}

/// Returns the position of the last event in the window that begins after `after` and ends at `end` at the latest.
pub(crate) async fn find_window_end(inner: &StoreInner, after: i64, end: i64) -> Result<Option<i64>, ReadError> {
    let query = inner.statements().query(include_str!("sql/reach.sql"));
    fetch_value(inner, query.bind(after).bind(end).bind(FILTER_WINDOW_POSITIONS)).await
}

pub(crate) async fn fetch_value<T>(inner: &StoreInner, query: Query<'_>) -> Result<T, ReadError>
where
    T: for<'r> Decode<'r, Postgres> + Type<Postgres>,
{
    fetch_row(inner, query).await?.try_get(0).map_err(unreadable_answer)
}

/// Fetches the only row of an answer.
pub(crate) async fn fetch_row(inner: &StoreInner, query: Query<'_>) -> Result<PgRow, ReadError> {
    let rows = inner.connections().fetch_all(query).await?;
    rows.into_iter().next().ok_or_else(|| ReadError::Unavailable("no answer".into()))
}

pub(crate) fn unreadable_answer(error: sqlx::Error) -> ReadError {
    ReadError::Unavailable(error.into())
}
