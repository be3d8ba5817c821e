//! Reading one stream, page by page.

use async_trait::async_trait;
use eventbus::{
    StreamId, Version,
    port::{Direction, ReadError, ReadStream, RecordStream},
    store::VisitEvent,
    support::{Page, StreamCursor, missing_event_error, paged},
};

use crate::{
    columns::bind_stream,
    record::{PAGE_EVENTS_MAX, decode_stream_page, decode_stream_version},
    store::PgEventStore,
    store_inner::StoreInner,
    visit,
};

#[async_trait]
impl ReadStream for PgEventStore {
    fn read_stream(&self, stream: &StreamId, from: Version, direction: Direction) -> RecordStream<'_> {
        let stream = stream.clone();
        paged(StreamCursor::new(from), move |cursor| {
            let stream = stream.clone();
            async move { stream_page(self.inner(), &stream, cursor, direction).await }
        })
    }

    async fn visit_stream(
        &self,
        stream: &StreamId,
        from: Version,
        visit: &mut VisitEvent<'_>,
    ) -> Result<(), ReadError> {
        visit::visit_stream(self, stream, from, visit).await
    }

    async fn stream_version(&self, stream: &StreamId) -> Result<Version, ReadError> {
        let query = self.inner().statements().query(include_str!("sql/stream_version.sql"));
        let Some(row) = self.inner().connections().fetch_all(bind_stream(query, stream)).await?.pop() else {
            return Ok(Version::NONE);
        };
        decode_stream_version(&row, stream)
    }
}

pub(crate) async fn stream_page(
    inner: &StoreInner,
    stream: &StreamId,
    cursor: StreamCursor,
    direction: Direction,
) -> Result<Page<StreamCursor>, ReadError> {
    let query = match direction {
        Direction::Forward => inner.statements().stream_page(include_str!("sql/read_forward.sql"), "version"),
        Direction::Backward => inner.statements().stream_page(include_str!("sql/read_backward.sql"), "version DESC"),
    };
    let query = bind_stream(query, stream).bind(cursor.start().as_i64()).bind(PAGE_EVENTS_MAX);
    let rows = inner.connections().fetch_all(query).await.map_err(|error| match error.is_damage() {
        true => ReadError::corrupt(format!("stream `{stream}`"), error),
        false => error.into(),
    })?;
    let (mut events, has_more) = decode_stream_page(&rows, stream)?;
    let next = cursor.after_page(direction, &mut events, has_more);
    Ok((events, next.map_err(|missing| missing_event_error(stream, missing))?))
}
