//! The end of the feed and a page behind a position, in one round trip.
//!
//! Where the server's function cannot be used, the caller sends two statements.

use eventbus::{
    Position, RecordedEvent,
    port::{
        ReadError,
        feed_page::{FeedPage, PageLimits},
    },
    store::FeedEnd,
    support::FeedVersions,
};
use sqlx::{Row as _, postgres::PgRow};

use crate::{
    feed_page::{decode_rows, end_before_missing_event, fetch_rows, unreadable_answer},
    filter_parameters::FilterParameters,
    record::{PAGE_EVENTS_MAX, PAYLOAD_COLUMN, RECORD_COLUMNS},
    statement_error::StatementError,
    statements::PageEnd,
    store_inner::StoreInner,
};

/// The column of `feed_page.sql` that holds the head, in the first row. Behind it are whether appends are open, whether the
/// server is a standby, and the position up to which the page searches.
const HEAD_COLUMN: usize = RECORD_COLUMNS + 1;

/// Reads the end of the feed and a page; `None` if the caller has to send two statements, which also name a fault.
pub(crate) async fn read(
    inner: &StoreInner,
    after: Position,
    filter: &FilterParameters,
    limits: PageLimits,
) -> Option<FeedPage> {
    let pages = inner.joint_pages();
    if !pages.are_used() || !filter.is_of_types_and_slots() {
        return None;
    }
    let most = limits.events.get().min(PAGE_EVENTS_MAX as usize);
    let query = inner.statements().query(include_str!("sql/feed_page.sql")).bind(after.as_i64());
    let query = filter.bind_types_and_slots(query).bind(most as i64);
    match fetch_rows(inner, query, PAYLOAD_COLUMN).await {
        Ok((rows, page_end)) => {
            let is_cut = page_end == PageEnd::AtBytes || rows.len() > most;
            let page = decode(inner, &rows, is_cut, after, filter.is_all(), limits).await.ok()?;
            pages.note_page(&page);
            Some(page)
        }
        Err(error) => {
            if matches!(error, StatementError::Refused(_)) {
                pages.refuse();
            }
            None
        }
    }
}

async fn decode(
    inner: &StoreInner,
    rows: &[PgRow],
    is_cut: bool,
    after: Position,
    is_whole_feed: bool,
    limits: PageLimits,
) -> Result<FeedPage, ReadError> {
    let (first, rows) = rows.split_first().ok_or_else(|| ReadError::Unavailable("no answer".into()))?;
    if first.try_get(HEAD_COLUMN + 2).map_err(unreadable_answer)? {
        return Err(ReadError::Unavailable("the server is a standby".into()));
    }
    let has_open_appends = first.try_get(HEAD_COLUMN + 1).map_err(unreadable_answer)?;
    let end = FeedEnd { head: decode_reached(first, HEAD_COLUMN)?, has_open_appends };
    let (mut events, mut has_more) = decode_rows(inner, rows).await?;
    has_more |= is_cut;
    if is_whole_feed {
        let mut versions = FeedVersions::new(after);
        has_more |= end_before_missing_event(inner, rows, &mut events, &mut versions).await?;
    }
    has_more |= cut_at_bytes(&mut events, limits.bytes);
    let last = events.last().filter(|_| has_more).and_then(RecordedEvent::position);
    let through = match last {
        Some(last) => last,
        None => decode_reached(first, HEAD_COLUMN + 3)?.max(after),
    };
    Ok(FeedPage { end, events, through })
}

/// Ends a page with the event that reaches a number of bytes; `true` if it had more.
fn cut_at_bytes(events: &mut Vec<RecordedEvent>, limit: usize) -> bool {
    let mut bytes = 0;
    let last = events.iter().position(|event| {
        bytes += event.payload().len();
        bytes >= limit
    });
    let kept = last.map_or(events.len(), |last| last + 1);
    let has_more = kept < events.len();
    events.truncate(kept);
    has_more
}

fn decode_reached(row: &PgRow, column: usize) -> Result<Position, ReadError> {
    let position: i64 = row.try_get(column).map_err(unreadable_answer)?;
    Ok(Position::new(u64::try_from(position).unwrap_or_default()))
}
