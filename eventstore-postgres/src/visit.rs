//! Visiting the events of one stream, as their rows arrive, or of the feed: only the columns that a fold needs.
//!
//! Invariant: a row that cannot be visited, as it is damaged or an earlier one is missing, is left to the pages of
//! [`read`](crate::read) and [`feed`](crate::feed), which name what is wrong.

use std::{collections::BTreeSet, ops::ControlFlow};

use eventbus::{
    BoxError, Position, StreamId, Version,
    port::{Direction, FeedFilter, ReadError, ReadFeed as _, ReadStream as _},
    store::{VisitEvent, VisitFeedEvent, VisitedEvent, VisitedFeedEvent, visit_feed_records, visit_records},
    support::{EventTypeNames, PAGE_BYTES},
};
use sqlx::postgres::PgRow;

use crate::{
    columns::bind_stream,
    feed_page::PageStart,
    filter_parameters::FilterParameters,
    pool::Query,
    record::{PAGE_EVENTS_MAX, RowColumns, VISITED_PAYLOAD_COLUMN, payload_bytes},
    statements::PageEnd,
    store::PgEventStore,
    store_inner::StoreInner,
    stream_numbers::PageStreams,
};

/// The most events that one statement returns: their rows keep a connection, and a snapshot on the server.
const EVENTS_MAX: i64 = 10_000;

pub(crate) async fn visit_stream(
    store: &PgEventStore,
    stream: &StreamId,
    from: Version,
    visit: &mut VisitEvent<'_>,
) -> Result<(), ReadError> {
    let (mut next, mut names) = (from.max(Version::FIRST), EventTypeNames::default());
    loop {
        let query = store.inner().statements().query(include_str!("sql/visit.sql"));
        let query = bind_stream(query, stream).bind(next.as_i64()).bind(EVENTS_MAX);
        let visit_row = |row: PgRow| {
            let mut columns = RowColumns::at(&row, 0);
            if columns.number()? != next.as_i64() {
                return Err("not the next version".into());
            }
            let (event_id, fields) = (columns.event_id()?, columns.fields(&mut names)?);
            let event = VisitedEvent { version: next, event_id, fields };
            next = next.next();
            Ok(visit(event))
        };
        match visit_rows(store, query, visit_row).await? {
            Visited::Rows(rows) if rows < EVENTS_MAX => return Ok(()),
            Visited::Rows(_) => {}
            Visited::BrokenOff => return Ok(()),
            Visited::Unfinished => break,
        }
    }
    visit_records(store.read_stream(stream, next, Direction::Forward), visit).await
}

pub(crate) async fn visit_feed(
    store: &PgEventStore,
    after: Position,
    through: Position,
    filter: &FeedFilter,
    visit: &mut VisitFeedEvent<'_>,
) -> Result<(), ReadError> {
    let (wanted, inner, end) = (FilterParameters::new(filter), store.inner(), through.as_i64());
    if wanted.is_all() || wanted.has_tags() {
        return visit_feed_records(store.read_feed(after, through, filter), visit).await;
    }
    let mut walk = FeedWalk::new(after, visit);
    let (mut next, mut limit) = ((after < through).then(|| PageStart::new(after)), PAGE_EVENTS_MAX);
    while let Some(start) = next {
        let page = start.in_window(inner, end).await?;
        let query = inner.statements().visited_page(wanted.shape(), page.page_end());
        let query = page.bind_filter(query, &wanted).bind(limit);
        let rows = match visit_rows(store, query, |row| walk.take(row)).await? {
            Visited::Rows(rows) => rows,
            Visited::BrokenOff => return Ok(()),
            Visited::Unfinished => return walk.visit_records(store, through, filter).await,
        };
        let (has_waited, page_end) = (!walk.waiting.is_empty(), walk.page_end());
        match walk.visit_waiting(inner).await? {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => return Ok(()),
            Err(_) => return walk.visit_records(store, through, filter).await,
        }
        let has_more = rows >= limit || [page.page_end(), page_end].contains(&PageEnd::AtBytes);
        next = page.with_page_end(page_end).following((rows > 0).then(|| walk.last.as_i64()), has_more, end);
        // rows that wait take memory, and all behind the first one of an unknown stream do
        limit = if has_waited { PAGE_EVENTS_MAX } else { EVENTS_MAX };
    }
    Ok(())
}

/// A visit of the feed: the row of a known stream is visited as it arrives; from the first one of an unknown stream on, rows
/// wait until the statement has ended and their streams are loaded.
struct FeedWalk<'w, 'v> {
    /// All events up to here are visited.
    last: Position,
    names: EventTypeNames,
    streams: PageStreams,
    waiting: Vec<PgRow>,
    /// The bytes of the payloads of rows that wait; from [`PAGE_BYTES`] on further rows are left out.
    waiting_bytes: usize,
    visit: &'w mut VisitFeedEvent<'v>,
}

impl<'w, 'v> FeedWalk<'w, 'v> {
    fn new(after: Position, visit: &'w mut VisitFeedEvent<'v>) -> Self {
        let (names, streams, waiting) = Default::default();
        Self { last: after, names, streams, waiting, waiting_bytes: 0, visit }
    }

    /// Returns how to end the next page: at its bytes, if rows were left out.
    const fn page_end(&self) -> PageEnd {
        if self.waiting_bytes < PAGE_BYTES { PageEnd::AtEvents } else { PageEnd::AtBytes }
    }

    /// Visits a row of `visited.sql`, or has it wait.
    fn take(&mut self, row: PgRow) -> Result<ControlFlow<()>, BoxError> {
        if self.waiting.is_empty() {
            let number = RowColumns::at(&row, 1).number()?;
            if let Some(stream) = self.streams.find(number) {
                let event = visited_event(&row, stream, &mut self.names)?;
                let position = event.position;
                let flow = (self.visit)(event);
                self.last = position;
                return Ok(flow);
            }
        }
        if self.waiting_bytes < PAGE_BYTES {
            self.waiting_bytes += payload_bytes(&row, VISITED_PAYLOAD_COLUMN);
            self.waiting.push(row);
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Visits the rows that wait, until one cannot be visited.
    ///
    /// # Errors
    /// If their streams cannot be loaded.
    async fn visit_waiting(&mut self, inner: &StoreInner) -> Result<Result<ControlFlow<()>, BoxError>, ReadError> {
        let rows = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        let numbers = rows.iter().map(|row| RowColumns::at(row, 1).number()).collect::<Result<BTreeSet<_>, _>>();
        let numbers = match numbers {
            Ok(numbers) if numbers.is_empty() => return Ok(Ok(ControlFlow::Continue(()))),
            Ok(numbers) => numbers,
            Err(error) => return Ok(Err(error)),
        };
        self.streams.add(inner.load_streams(numbers).await?);
        for row in rows {
            let visited = RowColumns::at(&row, 1).number().and_then(|number| {
                let event = visited_event(&row, self.streams.get(number)?, &mut self.names)?;
                let position = event.position;
                let flow = (self.visit)(event);
                self.last = position;
                Ok(flow)
            });
            match visited {
                Ok(ControlFlow::Continue(())) => {}
                ended => return Ok(ended),
            }
        }
        Ok(Ok(ControlFlow::Continue(())))
    }

    /// Visits the rest of the feed as records, which name what is wrong.
    async fn visit_records(
        self,
        store: &PgEventStore,
        through: Position,
        filter: &FeedFilter,
    ) -> Result<(), ReadError> {
        visit_feed_records(store.read_feed(self.last, through, filter), self.visit).await
    }
}

/// Decodes the columns of `visited.sql`.
fn visited_event<'e>(
    row: &'e PgRow,
    stream: &'e StreamId,
    names: &'e mut EventTypeNames,
) -> Result<VisitedFeedEvent<'e>, BoxError> {
    let mut columns = RowColumns::at(row, 0);
    let position = Position::new(u64::try_from(columns.number()?)?);
    columns.number()?; // of the stream
    Ok(VisitedFeedEvent { position, stream, fields: columns.fields(names)? })
}

/// What was visited of the rows of a statement.
enum Visited {
    /// All, so many.
    Rows(i64),
    /// Those before the visitor broke off.
    BrokenOff,
    /// Those before one that cannot be visited, or before the end of the connection.
    Unfinished,
}

/// Visits the rows of a statement as they arrive, until one fails.
///
/// # Errors
/// If there is no answer, or an error before the first row.
async fn visit_rows(
    store: &PgEventStore,
    query: Query<'_>,
    mut visit_row: impl FnMut(PgRow) -> Result<ControlFlow<()>, BoxError> + Send,
) -> Result<Visited, ReadError> {
    let (mut rows, mut end) = (0, None);
    let take = |row: PgRow| {
        if end.is_none() {
            match visit_row(row) {
                Ok(ControlFlow::Continue(())) => rows += 1,
                Ok(ControlFlow::Break(())) => end = Some(Visited::BrokenOff),
                Err(_) => end = Some(Visited::Unfinished),
            }
        }
    };
    match (store.inner().connections().fetch_each(query, take).await, end) {
        (_, Some(end)) => Ok(end),
        (Ok(()), None) => Ok(Visited::Rows(rows)),
        (Err(error), None) if rows == 0 => Err(error.into()),
        // payloads of many bytes may take longer than a statement has: the pages are smaller
        (Err(_), None) => Ok(Visited::Unfinished),
    }
}
