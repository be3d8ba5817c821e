//! Snapshots of streams.

use async_trait::async_trait;
use eventbus::{
    Name, StreamId, Version,
    port::{Direction, ReadError, SnapshotError, SnapshotRead, Snapshots, StoredSnapshot},
    support::{PAGE_BYTES, StreamCursor},
};
use eventbus_redis_core::{
    error::{CommandError, boxed},
    reply::request,
};
use redis::{Cmd, FromRedisValue, Value};

use crate::{
    RedisEventStore,
    commands::scan_pattern,
    error::{is_refused, read_error},
    inner::StoreInner,
    read::{PAGE_EVENTS_MAX, decode_page, read_after},
    script::{READ_SNAPSHOT, SAVE_SNAPSHOT},
};

/// Keys that one step of [`Snapshots::remove_snapshots`] examines.
const SCAN_BATCH_MAX: usize = 1_000;

#[async_trait]
impl Snapshots for RedisEventStore {
    async fn read_from_snapshot<'s>(&'s self, stream: &StreamId, fold: &Name) -> Result<SnapshotRead<'s>, ReadError> {
        let key = self.inner().keys().stream(stream);
        let mut script = READ_SNAPSHOT.prepare_invoke();
        script.key(self.inner().keys().snapshot(fold, stream)).key(&key).arg(PAGE_EVENTS_MAX).arg(PAGE_BYTES);
        let reply: Result<(u64, Vec<u8>, Value, u8), _> = self.inner().connection().run_idempotent(&script).await;
        let (version, data, entries, more) = reply.map_err(|error| read_error(&key, error))?;
        let version = Version::new(version);
        let after = StreamCursor::new(version.next());
        let first = decode_page(&key, stream, Direction::Forward, after, entries, more != 0)?;
        let snapshot = (version > Version::NONE).then_some(StoredSnapshot { version, data });
        Ok(SnapshotRead { snapshot, events: read_after(self.inner(), stream, first) })
    }

    async fn save_snapshot(
        &self,
        stream: &StreamId,
        fold: &Name,
        snapshot: &StoredSnapshot,
    ) -> Result<bool, SnapshotError> {
        let keys = self.inner().keys();
        let mut script = SAVE_SNAPSHOT.prepare_invoke();
        script.key(keys.snapshot(fold, stream)).key(keys.stream(stream));
        script.arg(snapshot.version.get()).arg(&*snapshot.data);
        // once: a second run would reply about the snapshot that the first run saved
        let saved = self.inner().connection().run::<u8>(&script).await;
        saved.map(|saved| saved > 0).map_err(|error| snapshot_error(fold, error))
    }

    async fn remove_snapshot(&self, stream: &StreamId, fold: &Name) -> Result<bool, SnapshotError> {
        let remove = request("UNLINK", self.inner().keys().snapshot(fold, stream));
        let removed = self.inner().connection().query::<u64>(&remove).await;
        removed.map(|removed| removed > 0).map_err(|error| snapshot_error(fold, error))
    }

    async fn remove_snapshots(&self, fold: &Name) -> Result<u64, SnapshotError> {
        let matching = scan_pattern(&self.inner().keys().snapshots(fold));
        let (mut cursor, mut removed) = ("0".to_owned(), 0);
        loop {
            let scan = request("SCAN", (cursor, "MATCH", &matching, "COUNT", SCAN_BATCH_MAX));
            let (next, keys): (String, Vec<String>) = query_for_fold(self.inner(), fold, &scan).await?;
            if !keys.is_empty() {
                removed += query_for_fold::<u64>(self.inner(), fold, &request("UNLINK", keys)).await?;
            }
            cursor = next;
            if cursor == "0" {
                return Ok(removed);
            }
        }
    }
}

async fn query_for_fold<T: FromRedisValue>(inner: &StoreInner, fold: &Name, command: &Cmd) -> Result<T, SnapshotError> {
    inner.connection().query_idempotent(command).await.map_err(|error| snapshot_error(fold, error))
}

fn snapshot_error(fold: &Name, error: CommandError) -> SnapshotError {
    match error {
        CommandError::Sent(error) if is_refused(&error) => SnapshotError::refused(fold, error),
        error => SnapshotError::unavailable(fold, boxed(error)),
    }
}
