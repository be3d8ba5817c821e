//! Reading one stream, page by page.

use async_trait::async_trait;
use eventbus::{
    RecordedEvent, StreamId, Version,
    port::{Direction, ReadError, ReadStream, RecordStream},
};
use futures_util::stream;
use sqlx::{Row, postgres::PgRow};

use crate::{record, store::PgEventStore};

/// The most events read at once.
pub(crate) const PAGE: usize = 1_000;

/// [`PAGE`] as the limit of a statement.
pub(crate) const PAGE_LIMIT: i64 = PAGE as i64;

#[async_trait]
impl ReadStream for PgEventStore {
    fn read_stream(
        &self,
        stream: &StreamId,
        from: Version,
        direction: Direction,
    ) -> RecordStream<'_> {
        let reader = StreamReader {
            store: self,
            stream: stream.clone(),
            direction,
            next: Some(from.as_i64()),
            page: Vec::new().into_iter(),
        };
        Box::pin(stream::try_unfold(reader, |mut reader| async move {
            Ok(reader.next().await?.map(|event| (event, reader)))
        }))
    }

    async fn stream_version(&self, stream: &StreamId) -> Result<Version, ReadError> {
        let query = sqlx::query(self.statements.stream_version.clone())
            .bind(stream.aggregate_id().as_str())
            .bind(stream.aggregate_type().as_str());
        let Some(row) = self.connections.fetch_all(query).await?.pop() else {
            return Ok(Version::NONE);
        };
        let corrupt = |source| ReadError::Corrupt {
            place: format!("stream `{stream}`"),
            source,
        };
        let version: i64 = row.try_get(0).map_err(|error| corrupt(error.into()))?;
        u64::try_from(version)
            .map(Version::new)
            .map_err(|_| corrupt(format!("its version is {version}").into()))
    }
}

/// A stream that is being read: the page at hand, and where the next one begins.
struct StreamReader<'a> {
    store: &'a PgEventStore,
    stream: StreamId,
    direction: Direction,
    /// `None` after the last page.
    next: Option<i64>,
    page: std::vec::IntoIter<PgRow>,
}

impl StreamReader<'_> {
    async fn next(&mut self) -> Result<Option<RecordedEvent>, ReadError> {
        loop {
            if let Some(row) = self.page.next() {
                return record::decode(&row, 0).map(Some);
            }
            let Some(from) = self.next else {
                return Ok(None);
            };
            self.turn_page(from).await?;
        }
    }

    async fn turn_page(&mut self, from: i64) -> Result<(), ReadError> {
        let statements = &self.store.statements;
        let sql = match self.direction {
            Direction::Forward => &statements.read_forward,
            Direction::Backward => &statements.read_backward,
        };
        let query = sqlx::query(sql.clone())
            .bind(self.stream.aggregate_id().as_str())
            .bind(self.stream.aggregate_type().as_str())
            .bind(from)
            .bind(PAGE_LIMIT);
        let rows = self.store.connections.fetch_all(query).await?;
        self.next = match rows.last() {
            Some(last) if rows.len() == PAGE => {
                let last: i64 = last
                    .try_get(1)
                    .map_err(|error| ReadError::Unavailable(error.into()))?;
                match self.direction {
                    Direction::Forward => last.checked_add(1),
                    Direction::Backward => last.checked_sub(1),
                }
            }
            _ => None,
        };
        self.page = rows.into_iter();
        Ok(())
    }
}
