//! Visiting the events of one stream, as their rows arrive, or of the feed: only the columns that a fold needs.
//!
//! Invariant: a row that is damaged, or before which an event is missing, is not visited: the pages of
//! [`read`](crate::read) and [`feed`](crate::feed) reach it and name the fault.

use std::{ops::ControlFlow, sync::Arc};

use eventbus::{
    BoxError, Position, StreamId, Version,
    port::{Direction, FeedFilter, ReadError, ReadFeed as _, ReadStream as _},
    store::{VisitEvent, VisitFeedEvent, VisitedEvent, VisitedFeedEvent, visit_feed_records, visit_records},
    support::EventTypeNames,
};
use sqlx::postgres::PgRow;
use tokio::sync::mpsc;

use crate::{
    columns::bind_stream,
    feed_page::{FeedColumns, PageStart, fetch_filtered},
    filter_parameters::FilterParameters,
    pool::Query,
    record::RowColumns,
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
        let visit_row = |row: &PgRow| {
            let mut columns = RowColumns::at(row, 0);
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
    let wanted = FilterParameters::new(filter);
    if wanted.is_all() || wanted.has_tags() {
        return visit_feed_records(store.read_feed(after, through, filter), visit).await;
    }
    let (mut last, mut names) = (after, EventTypeNames::default());
    let mut pages = fetch_ahead(Arc::clone(store.inner()), wanted, PageStart::new(after), through.as_i64());
    while let Some(page) = pages.recv().await {
        let VisitedPage { rows, streams, is_last } = page?;
        for row in &rows {
            let Ok(event) = visited_event(row, &streams, &mut names) else {
                return visit_feed_records(store.read_feed(last, through, filter), visit).await;
            };
            last = event.position;
            if visit(event).is_break() {
                return Ok(());
            }
        }
        if is_last {
            return Ok(());
        }
    }
    Err(ReadError::Unavailable("the runtime was shut down meanwhile".into()))
}

/// The rows of a page of the feed, and their streams.
struct VisitedPage {
    rows: Vec<PgRow>,
    streams: PageStreams,
    is_last: bool,
}

/// Fetches pages in a task, at most two pages ahead; the task ends after the last page, or an error.
fn fetch_ahead(
    inner: Arc<StoreInner>,
    wanted: FilterParameters,
    start: PageStart,
    end: i64,
) -> mpsc::Receiver<Result<VisitedPage, ReadError>> {
    let (sender, pages) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut next = Some(start);
        while let Some(start) = next.take() {
            let fetched = async {
                let (page, next) = fetch_filtered(&inner, start, end, &wanted, FeedColumns::Visited).await?;
                let numbers = page.rows.iter().map(|row| RowColumns::at(row, 1).number()).collect::<Result<_, _>>();
                let streams = inner.load_streams(numbers.map_err(ReadError::Unavailable)?).await?;
                Ok((VisitedPage { rows: page.rows, streams, is_last: next.is_none() }, next))
            };
            let page = fetched.await.map(|(page, start)| {
                next = start;
                page
            });
            if sender.send(page).await.is_err() {
                return; // the visitor has broken off
            }
        }
    });
    pages
}

/// Decodes the columns of `visited.sql`.
fn visited_event<'e>(
    row: &'e PgRow,
    streams: &'e PageStreams,
    names: &'e mut EventTypeNames,
) -> Result<VisitedFeedEvent<'e>, BoxError> {
    let mut columns = RowColumns::at(row, 0);
    let position = Position::new(u64::try_from(columns.number()?)?);
    let stream = streams.get(columns.number()?)?;
    Ok(VisitedFeedEvent { position, stream, fields: columns.fields(names)? })
}

/// The part of a statement's rows that was visited.
enum Visited {
    /// All, so many.
    Rows(i64),
    /// Those before the visitor broke off.
    BrokenOff,
    /// Those before one that cannot be visited, or before the connection broke.
    Unfinished,
}

/// Visits the rows of a statement as they arrive, until one fails.
///
/// # Errors
/// If there is no answer, or an error before the first row, unless that row is damaged.
async fn visit_rows(
    store: &PgEventStore,
    query: Query<'_>,
    mut visit_row: impl FnMut(&PgRow) -> Result<ControlFlow<()>, BoxError> + Send,
) -> Result<Visited, ReadError> {
    let (mut rows, mut end) = (0, None);
    let take = |row: PgRow| {
        if end.is_none() {
            match visit_row(&row) {
                Ok(ControlFlow::Continue(())) => rows += 1,
                Ok(ControlFlow::Break(())) => end = Some(Visited::BrokenOff),
                Err(_) => end = Some(Visited::Unfinished),
            }
        }
    };
    match (store.inner().connections().fetch_each(query, take).await, end) {
        (_, Some(end)) => Ok(end),
        (Ok(()), None) => Ok(Visited::Rows(rows)),
        (Err(error), None) if rows == 0 && !error.is_damage() => Err(error.into()),
        // payloads of many bytes may take longer than a statement has: the pages are smaller
        (Err(_), None) => Ok(Visited::Unfinished),
    }
}
