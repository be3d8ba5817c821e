//! Reading all events in one total order, without gaps.
//!
//! Keep: the safe bound and a page are two statements, in this order, and the bound is never carried to a later read.

use async_trait::async_trait;
use eventbus::{
    Position, RecordedEvent,
    port::{AppendSignal, ReadError, ReadFeed, RecordStream},
};
use futures_util::stream;
use sqlx::{Row, postgres::PgRow};

use crate::{
    read::{PAGE, PAGE_LIMIT},
    record,
    store::PgEventStore,
};

#[async_trait]
impl ReadFeed for PgEventStore {
    fn read_all(&self, after: Position) -> RecordStream<'_> {
        let reader = FeedReader {
            store: self,
            cursor: after.as_i64(),
            bound: after.as_i64(),
            bounds_left: 1,
            page: Vec::new().into_iter(),
        };
        Box::pin(stream::try_unfold(reader, |mut reader| async move {
            Ok(reader.next().await?.map(|event| (event, reader)))
        }))
    }

    async fn head(&self) -> Result<Position, ReadError> {
        let bound = self.safe_bound(i64::MIN).await?;
        Ok(Position::new(u64::try_from(bound).unwrap_or(0)))
    }

    fn appended(&self) -> &AppendSignal {
        &self.appended
    }
}

impl PgEventStore {
    /// The last position that is safe to read; exact only where it is beyond `known`, which costs less.
    async fn safe_bound(&self, known: i64) -> Result<i64, ReadError> {
        let query = sqlx::query(self.statements.safe_bound.clone()).bind(known);
        let rows = self.connections.fetch_all(query).await?;
        let row = rows
            .first()
            .ok_or_else(|| ReadError::Unavailable("no answer".into()))?;
        number(row)
    }
}

/// The feed as it is being read: the page at hand, where the next one begins, and how far it is safe.
struct FeedReader<'a> {
    store: &'a PgEventStore,
    cursor: i64,
    bound: i64,
    /// How often the bound may still be asked for: once, and once more if it took several pages to get there.
    bounds_left: u8,
    page: std::vec::IntoIter<PgRow>,
}

impl FeedReader<'_> {
    async fn next(&mut self) -> Result<Option<RecordedEvent>, ReadError> {
        loop {
            if let Some(row) = self.page.next() {
                return record::decode(&row, 0).map(Some);
            }
            if self.cursor >= self.bound && !self.move_bound().await? {
                return Ok(None);
            }
            self.turn_page().await?;
        }
    }

    /// Asks how far it is safe to read now; false if that is no further.
    async fn move_bound(&mut self) -> Result<bool, ReadError> {
        if self.bounds_left == 0 {
            return Ok(false);
        }
        self.bounds_left -= 1;
        self.bound = self.store.safe_bound(self.cursor).await?;
        Ok(self.cursor < self.bound)
    }

    async fn turn_page(&mut self) -> Result<(), ReadError> {
        let query = sqlx::query(self.store.statements.read_page.clone())
            .bind(self.cursor)
            .bind(self.bound)
            .bind(PAGE_LIMIT);
        let rows = self.store.connections.fetch_all(query).await?;
        self.cursor = match rows.last() {
            Some(last) if rows.len() == PAGE => number(last)?,
            // positions up to the bound that hold no event never will
            _ => self.bound,
        };
        self.page = rows.into_iter();
        Ok(())
    }
}

/// The first column, a position.
fn number(row: &PgRow) -> Result<i64, ReadError> {
    row.try_get(0)
        .map_err(|error| ReadError::Unavailable(error.into()))
}
