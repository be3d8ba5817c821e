//! Reading all events in one total order, without gaps.
//!
//! Keep: the safe bound and a page are two statements, in this order, so that the page's snapshot is the newer one.

use async_trait::async_trait;
use eventbus::{
    Position, RecordedEvent,
    port::{AppendSignal, Page, ReadError, ReadFeed, RecordStream, paged},
};
use sqlx::Row;

use crate::{
    record::{PAGE, decode_page},
    store::PgEventStore,
};

/// Before every position: nothing is known, the bound must be exact.
const NOWHERE: i64 = -1;

/// Where a reader of the feed is.
#[derive(Debug, Clone, Copy)]
struct Place {
    after: i64,
    /// How far it is safe to read, once that was asked for.
    bound: Option<i64>,
    /// Whether the way to the bound took several pages: meanwhile it may have moved far.
    is_long: bool,
    /// Whether the bound is the second one, at which the reader ends.
    is_final: bool,
}

#[async_trait]
impl ReadFeed for PgEventStore {
    fn read_all(&self, after: Position) -> RecordStream<'_> {
        let start = Place { after: after.as_i64(), bound: None, is_long: false, is_final: false };
        paged(start, move |place| self.feed_page(place))
    }

    async fn head(&self) -> Result<Position, ReadError> {
        let bound = self.safe_bound(NOWHERE).await?;
        Ok(Position::new(u64::try_from(bound).unwrap_or(0)))
    }

    fn appended(&self) -> &AppendSignal {
        &self.appended
    }
}

impl PgEventStore {
    /// The last position that is safe to read; exact only if it is after `known`, else cheaper.
    async fn safe_bound(&self, known: i64) -> Result<i64, ReadError> {
        let query = sqlx::query(self.statements.safe_bound.clone()).bind(known);
        let rows = self.connections.fetch_all(query).await?;
        let row = rows.first().ok_or_else(|| ReadError::Unavailable("no answer".into()))?;
        row.try_get(0).map_err(|error| ReadError::Unavailable(error.into()))
    }

    async fn feed_page(&self, place: Place) -> Result<Page<Place>, ReadError> {
        let bound = match place.bound {
            Some(bound) => bound,
            None => self.safe_bound(place.after).await?,
        };
        if bound <= place.after {
            return Ok((Vec::new(), None));
        }
        let query = sqlx::query(self.statements.read_page.clone()).bind(place.after).bind(bound).bind(PAGE);
        let rows = self.connections.fetch_all(query).await?;
        let (events, is_last) = decode_page(&rows)?;
        let last = events.last().and_then(RecordedEvent::position);
        let next = match last {
            Some(last) if !is_last => Some(Place { after: last.as_i64(), bound: Some(bound), is_long: true, ..place }),
            // positions up to the bound that hold no event never will
            _ if place.is_long && !place.is_final => Some(Place { after: bound, bound: None, is_final: true, ..place }),
            _ => None,
        };
        Ok((events, next))
    }
}
