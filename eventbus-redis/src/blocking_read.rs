//! Blocking reads, on a connection of the reader's own.
//!
//! Invariant: a pending read survives its caller, and the next call resumes it. A second read would queue behind it on
//! the same connection, and the entries that the server delivers to the first one would be lost to the reader.
//!
//! Reply timeouts use real time, not the configured clock.

use std::{pin::Pin, time::Duration};

use eventbus::support::Backoff;
use parking_lot::Mutex;
use redis::{RedisResult, aio::MultiplexedConnection};
use tokio::time::Instant;

use crate::{
    command::{self, GroupRead},
    connection::SharedConnection,
    reply::{Entry, is_connection_lost},
};

/// The maximum time that one blocking read waits, and so the longest time until it notices a stop or a deadline.
pub(crate) const READ_BLOCK_MAX: Duration = Duration::from_secs(1);

/// The backoff of a reader that reconnects by itself.
pub(crate) const RECONNECT_BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// The end of a wait; `None`, which means never, if it is beyond the range of the clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    pub(crate) fn after(time: Duration) -> Self {
        Self(Instant::now().checked_add(time))
    }

    pub(crate) fn is_past(self) -> bool {
        self.0.is_some_and(|end| end <= Instant::now())
    }

    /// Returns the time that remains, at most [`READ_BLOCK_MAX`].
    pub(crate) fn remaining_slice(self) -> Duration {
        self.0.map_or(READ_BLOCK_MAX, |end| end.saturating_duration_since(Instant::now()).min(READ_BLOCK_MAX))
    }
}

type PendingRead<T> = Pin<Box<dyn Future<Output = RedisResult<T>> + Send>>;

/// A connection for blocking reads, opened by the first one, and the read that is pending on it.
pub(crate) struct BlockingReader<T> {
    connection: Option<ReaderConnection>,
    /// Never locked: it only makes the reader `Sync`.
    pending_read: Mutex<Option<PendingRead<T>>>,
}

/// A connection, and the client id by which another one ends its blocking read.
#[derive(Clone)]
pub(crate) struct ReaderConnection {
    pub(crate) connection: MultiplexedConnection,
    pub(crate) client_id: Option<i64>,
}

impl<T> Default for BlockingReader<T> {
    fn default() -> Self {
        Self { connection: None, pending_read: Mutex::default() }
    }
}

impl<T: Send + 'static> BlockingReader<T> {
    /// Opens the connection, unless it is open. `timeout` limits the replies, blocking included.
    pub(crate) async fn connect(
        &mut self,
        link: &SharedConnection,
        timeout: Duration,
    ) -> RedisResult<ReaderConnection> {
        if let Some(open) = &self.connection {
            return Ok(open.clone());
        }
        let mut connection = link.open(timeout).await?;
        // without its id, the read of a stopping consumer takes up to `READ_BLOCK_MAX`
        let client_id = command::client_id().query_async(&mut connection).await.ok();
        *self.pending_read.get_mut() = None;
        Ok(self.connection.insert(ReaderConnection { connection, client_id }).clone())
    }

    /// Starts a read, or resumes the pending one of a caller that stopped waiting. Drops the connection if it turns out
    /// to be lost.
    pub(crate) async fn start_or_resume<R>(
        &mut self,
        link: &SharedConnection,
        timeout: Duration,
        begin: impl FnOnce(MultiplexedConnection) -> R,
    ) -> RedisResult<T>
    where
        R: Future<Output = RedisResult<T>> + Send + 'static,
    {
        let ReaderConnection { connection, .. } = self.connect(link, timeout).await?;
        let reading = self.pending_read.get_mut();
        let reply = reading.get_or_insert_with(|| Box::pin(begin(connection))).await;
        *reading = None;
        if reply.as_ref().is_err_and(is_connection_lost) {
            self.connection = None;
        }
        reply
    }
}

/// Blocking reads of entries that are new to a group.
pub(crate) type GroupReader = BlockingReader<Vec<Entry>>;

impl GroupReader {
    /// Reads new entries, or resumes the pending read; waits for the first one if `block` is given.
    pub(crate) async fn read_new(
        &mut self,
        link: &SharedConnection,
        timeout: Duration,
        reader: GroupRead<'_>,
        block: Option<Duration>,
    ) -> RedisResult<Vec<Entry>> {
        let read = reader.new_entries(block);
        self.start_or_resume(link, timeout, |mut connection| async move {
            command::parse_group_entries(read.query_async(&mut connection).await?)
        })
        .await
    }
}
