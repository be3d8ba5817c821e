//! Blocking reads, on a connection of the reader's own.
//!
//! Invariant: a pending read survives its caller, and the next call resumes it. A second read would queue behind it on
//! the same connection, and the entries that the server delivers to the first one would be lost to the reader.
//!
//! Reply timeouts use real time, not the configured clock.

use std::{pin::Pin, time::Duration};

use eventbus::support::{Backoff, PAGE_BYTES};
use parking_lot::Mutex;
use redis::{RedisResult, Value, aio::MultiplexedConnection};
use tokio::time::Instant;

use crate::{
    command::{
        self, GroupRead,
        pages::{self, EntryPage},
    },
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
    connection: Option<MultiplexedConnection>,
    /// Never locked: it only makes the reader `Sync`.
    pending_read: Mutex<Option<PendingRead<T>>>,
}

impl<T> Default for BlockingReader<T> {
    fn default() -> Self {
        Self { connection: None, pending_read: Mutex::default() }
    }
}

impl<T: Send + 'static> BlockingReader<T> {
    /// Starts a read, or resumes the pending one of a caller that stopped waiting. Drops the connection if it turns out
    /// to be lost. `timeout` limits the reply, blocking included.
    async fn start_or_resume<R>(
        &mut self,
        link: &SharedConnection,
        timeout: Duration,
        begin: impl FnOnce(MultiplexedConnection) -> R,
    ) -> RedisResult<T>
    where
        R: Future<Output = RedisResult<T>> + Send + 'static,
    {
        let connection = self.connection(link, timeout).await?;
        let reading = self.pending_read.get_mut();
        let reply = reading.get_or_insert_with(|| Box::pin(begin(connection))).await;
        *reading = None;
        if reply.as_ref().is_err_and(is_connection_lost) {
            self.connection = None;
        }
        reply
    }

    async fn connection(&mut self, link: &SharedConnection, timeout: Duration) -> RedisResult<MultiplexedConnection> {
        if let Some(connection) = &self.connection {
            return Ok(connection.clone());
        }
        let made = link.open(timeout).await?;
        Ok(self.connection.insert(made).clone())
    }
}

/// Blocking reads of entries that are new to a group.
pub(crate) type BlockingEntryReader = BlockingReader<Vec<Entry>>;

impl BlockingEntryReader {
    /// Reads a page of new entries, or resumes the pending read; waits for the first entry if `block` is given.
    pub(crate) async fn read_new_entries(
        &mut self,
        link: &SharedConnection,
        timeout: Duration,
        reader: GroupRead<'_>,
        block: Option<Duration>,
    ) -> RedisResult<Vec<Entry>> {
        let mut page = reader.new_page();
        page.arg(PAGE_BYTES);
        let wait = block.map(|block| GroupRead { count: 1, ..reader }.new_entries(Some(block)));
        let mut rest = (reader.count > 1).then(|| GroupRead { count: reader.count - 1, ..reader }.new_page());
        self.start_or_resume(link, timeout, |mut connection| async move {
            let mut entries: Vec<Entry> = page.invoke_async(&mut connection).await?;
            if let Some(wait) = wait.filter(|_| entries.is_empty()) {
                entries = command::parse_group_entries(wait.query_async(&mut connection).await?)?;
                let remaining_bytes = entries.first().map_or(0, |first| PAGE_BYTES.saturating_sub(first.bytes()));
                if let Some(rest) = rest.as_mut().filter(|_| remaining_bytes > 0) {
                    // if the second read fails, the entries of the first are already pending on this consumer
                    let more: RedisResult<Vec<Entry>> = rest.arg(remaining_bytes).invoke_async(&mut connection).await;
                    entries.extend(more.unwrap_or_default());
                }
            }
            Ok(entries)
        })
        .await
    }
}

/// Blocking reads of pages of streams.
pub(crate) type BlockingPageReader = BlockingReader<RequestedPage>;

/// A page with its request: the entry after which it begins, and the number of entries.
pub(crate) struct RequestedPage {
    request: (Option<String>, usize),
    page: EntryPage,
}

impl BlockingPageReader {
    /// Reads a page of the entries after an id; waits for the first one if `block` is given. Discards a page of a
    /// pending read with a different request.
    pub(crate) async fn read_page<S: AsRef<str>>(
        &mut self,
        link: &SharedConnection,
        timeout: Duration,
        streams: &[S],
        after: Option<&str>,
        count: usize,
        block: Option<Duration>,
    ) -> RedisResult<EntryPage> {
        let request = (after.map(str::to_owned), count);
        loop {
            let positions = streams.iter().map(|stream| (stream.as_ref(), after.unwrap_or("0-0")));
            let wait = block.map(|block| command::wait_for_any(positions, block));
            let (page, answered) = (pages::page(streams, after, None, count), request.clone());
            let read = self.start_or_resume(link, timeout, |mut connection| async move {
                let found = match wait {
                    Some(wait) => wait.query_async(&mut connection).await?,
                    None => Value::Okay,
                };
                let page = match found {
                    Value::Nil => EntryPage::default(),
                    _ => page.invoke_async(&mut connection).await?,
                };
                Ok(RequestedPage { request: answered, page })
            });
            let read = read.await?;
            if read.request == request {
                return Ok(read.page);
            }
        }
    }
}
