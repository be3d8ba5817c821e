//! Reading one stream, page by page.

use async_trait::async_trait;
use eventbus::{
    BoxError, RecordedEvent, StreamId, Version,
    port::{Direction, ReadError, ReadStream, RecordStream},
    support::{Page, paged},
};
use sqlx::Row as _;

use crate::{
    record::{PAGE_EVENTS_MAX, decode_page},
    store::PgEventStore,
    store_inner::StoreInner,
};

#[async_trait]
impl ReadStream for PgEventStore {
    fn read_stream(&self, stream: &StreamId, from: Version, direction: Direction) -> RecordStream<'_> {
        let stream = stream.clone();
        paged(from, move |from| {
            let stream = stream.clone();
            async move { stream_page(self.inner(), &stream, from, direction).await }
        })
    }

    async fn stream_version(&self, stream: &StreamId) -> Result<Version, ReadError> {
        let query = self.inner().statements().query(include_str!("sql/stream_version.sql"));
        let query = query.bind(stream.aggregate_id().as_str()).bind(stream.aggregate_type().as_str());
        let Some(row) = self.inner().connections().fetch_all(query).await?.pop() else {
            return Ok(Version::NONE);
        };
        let corrupt = |source: BoxError| ReadError::corrupt(format!("stream `{stream}`"), source);
        let version: i64 = row.try_get(0).map_err(|error| corrupt(error.into()))?;
        u64::try_from(version).map(Version::new).map_err(|_| corrupt(format!("its version is {version}").into()))
    }
}

pub(crate) async fn stream_page(
    inner: &StoreInner,
    stream: &StreamId,
    from: Version,
    direction: Direction,
) -> Result<Page<Version>, ReadError> {
    let query = match direction {
        Direction::Forward => inner.statements().page(include_str!("sql/read_forward.sql"), "version"),
        Direction::Backward => inner.statements().page(include_str!("sql/read_backward.sql"), "version DESC"),
    };
    let query = query
        .bind(stream.aggregate_id().as_str())
        .bind(stream.aggregate_type().as_str())
        .bind(from.as_i64())
        .bind(PAGE_EVENTS_MAX);
    let rows = inner.connections().fetch_all(query).await?;
    let (events, has_more) = decode_page(&rows)?;
    let next = match events.last().map(RecordedEvent::version) {
        Some(last) if has_more => match direction {
            Direction::Forward => Some(last.next()),
            Direction::Backward => last.get().checked_sub(1).map(Version::new),
        },
        _ => None,
    };
    Ok((events, next))
}
