//! A read that waits, on a connection of its reader's own.
//!
//! Keep: a read that waits is kept while nobody polls it, and polled again by the next call: each read begun beside it
//! would wait behind it on the same connection, and what the server gives it would reach nobody.
//!
//! Real time, not the given clock: the replies of Redis.

use std::{
    pin::Pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use eventbus::port::{PAGE_BYTES, RetryPolicy};
use redis::{RedisResult, Value, aio::MultiplexedConnection};
use tokio::time::Instant;

use crate::{
    command::{
        self, Entry, GroupRead,
        pages::{self, EntryPage},
    },
    connection::{SharedConnection, is_connection_lost},
};

/// How long a read waits for entries at a time: what it takes to notice that somebody wants it to end.
pub(crate) const READ_BLOCK_MAX: Duration = Duration::from_secs(1);

/// When a reader that goes on by itself tries again.
pub(crate) const RECONNECT_BACKOFF: RetryPolicy = RetryPolicy {
    retry_for: Duration::MAX,
    max_retries: None,
    first_delay: Duration::from_millis(50),
    max_delay: Duration::from_secs(2),
};

/// When a wait is over; never, if that is further away than time goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    pub(crate) fn after(time: Duration) -> Self {
        Self(Instant::now().checked_add(time))
    }

    pub(crate) fn is_past(self) -> bool {
        self.0.is_some_and(|end| end <= Instant::now())
    }

    /// What is left of it, a [`READ_BLOCK_MAX`] at most.
    pub(crate) fn remaining_slice(self) -> Duration {
        self.0.map_or(READ_BLOCK_MAX, |end| end.saturating_duration_since(Instant::now()).min(READ_BLOCK_MAX))
    }
}

type PendingRead<T> = Pin<Box<dyn Future<Output = RedisResult<T>> + Send>>;

/// A connection for reads that wait, made with the first one, and the read that waits on it.
pub(crate) struct BlockingReader<T> {
    connection: Option<MultiplexedConnection>,
    /// Never locked: it makes what holds it shareable.
    pending_read: Mutex<Option<PendingRead<T>>>,
}

impl<T> Default for BlockingReader<T> {
    fn default() -> Self {
        Self { connection: None, pending_read: Mutex::default() }
    }
}

impl<T: Send + 'static> BlockingReader<T> {
    /// Begins a read, or goes on with the one before whose caller has stopped waiting for the reply. A connection that was lost is
    /// left. `timeout` is how long a reply may take, waiting included.
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
        let reading = self.pending_read.get_mut().unwrap_or_else(PoisonError::into_inner);
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
        let made = link.open_dedicated(timeout).await?;
        Ok(self.connection.insert(made).clone())
    }
}

/// New entries of a group that are waited for.
pub(crate) type BlockingEntryReader = BlockingReader<Vec<Entry>>;

impl BlockingEntryReader {
    /// Reads a page of new entries, or goes on with the read before; waits for the first entry if `block` is given.
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
            let mut entries = command::parse_range_entries(page.invoke_async(&mut connection).await?)?;
            if let Some(wait) = wait.filter(|_| entries.is_empty()) {
                entries = command::parse_group_entries(wait.query_async(&mut connection).await?)?;
                let left = entries.first().map_or(0, |first| PAGE_BYTES.saturating_sub(first.bytes()));
                if let Some(rest) = rest.as_mut().filter(|_| left > 0) {
                    // what came before an error is this consumer's already
                    let more =
                        rest.arg(left).invoke_async(&mut connection).await.and_then(command::parse_range_entries);
                    entries.extend(more.unwrap_or_default());
                }
            }
            Ok(entries)
        })
        .await
    }
}

/// Pages of streams that are waited for.
pub(crate) type BlockingPageReader = BlockingReader<RequestedPage>;

/// A page, and what was asked for: after which entry, and how many.
pub(crate) struct RequestedPage {
    request: (Option<String>, usize),
    page: EntryPage,
}

impl BlockingPageReader {
    /// Reads a page of the entries after an id; waits for the first one if `block` is given. No caller gets a page that
    /// was read for another call.
    pub(crate) async fn read_page<S: AsRef<str>>(
        &mut self,
        link: &SharedConnection,
        timeout: Duration,
        streams: &[S],
        after: Option<&str>,
        count: usize,
        block: Option<Duration>,
    ) -> RedisResult<EntryPage> {
        let asked = (after.map(str::to_owned), count);
        loop {
            let wait = block.map(|block| pages::wait(streams, after, block));
            let (page, asks) = (pages::page(streams, after, None, count), asked.clone());
            let read = self.start_or_resume(link, timeout, |mut connection| async move {
                let found = match wait {
                    Some(wait) => wait.query_async(&mut connection).await?,
                    None => Value::Okay,
                };
                let page = match found {
                    Value::Nil => EntryPage::default(),
                    _ => EntryPage::parse(page.invoke_async(&mut connection).await?)?,
                };
                Ok(RequestedPage { request: asks, page })
            });
            let read = read.await?;
            if read.request == asked {
                return Ok(read.page);
            }
        }
    }
}
