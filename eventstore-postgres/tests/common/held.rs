//! An append that waits at the server until the test releases it.

use eventbus::{ExpectedVersion, NewEvent, RecordedEvent, StreamId, Version, port::AppendEvents as _};
use sqlx::PgConnection;

use super::{TestSchema, add, blocked_backend, feed, open, read, run, stream};

/// Streams with one event each, whose rows the test locks: appends to them wait at the server.
pub(crate) struct Held {
    pub(crate) stream: StreamId,
    pub(crate) streams: Vec<StreamId>,
    pub(crate) watcher: PgConnection,
    holder: PgConnection,
    // last: it cannot be dropped while a row in it is locked
    pub(crate) schema: TestSchema,
}

impl Held {
    pub(crate) async fn new() -> Self {
        Self::streams(1).await
    }

    pub(crate) async fn streams(number: usize) -> Self {
        let schema = TestSchema::new();
        let store = open(schema.config()).await;
        let streams: Vec<_> = (0..number).map(|_| stream()).collect();
        for stream in &streams {
            add(&store, stream, 1).await;
        }
        let mut holder = schema.connection().await;
        run(&mut holder, "BEGIN; SELECT 1 FROM streams FOR UPDATE").await;
        let watcher = schema.connection().await;
        Self { stream: streams[0].clone(), streams, holder, watcher, schema }
    }

    pub(crate) async fn blocked(&mut self) -> i32 {
        blocked_backend(&mut self.watcher, self.schema.name()).await
    }

    pub(crate) async fn release(&mut self) {
        run(&mut self.holder, "ROLLBACK").await;
    }

    /// Checks that exactly `appended` is stored after the first event, and that a repeat returns it.
    pub(crate) async fn is_stored_once(&self, given: &[NewEvent], appended: &[RecordedEvent]) {
        let store = open(self.schema.config()).await;
        assert_eq!(read(&store, &self.stream).await[1..], *appended);
        for expected in [ExpectedVersion::Any, ExpectedVersion::Exact(Version::FIRST)] {
            let again = store.append(&self.stream, expected, given.to_vec()).await.unwrap();
            assert_eq!(again, appended, "at {expected}");
        }
        assert_eq!(feed(&store).await.len(), 1 + given.len());
    }
}
