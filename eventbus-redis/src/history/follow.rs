//! Reading without an end.
//!
//! Keep: a read that waits is kept while nobody polls it, and polled again by the next call: each read begun beside it
//! would wait behind it on the same connection.

use std::{collections::VecDeque, fmt, pin::Pin, time::Duration};

use eventbus::port::RetryPolicy;
use redis::{Cmd, RedisError, RedisResult, Value, aio::MultiplexedConnection};
use tokio::time::Instant;

use super::{History, HistoryEntry, HistoryError};
use crate::{
    command::{self, Entry},
    connection::{CommandError, is_lost},
};

/// How long a read waits for entries at a time: what it takes to notice that the bus was shut down.
const SLICE: Duration = Duration::from_secs(1);

const RECONNECT: RetryPolicy =
    RetryPolicy { max_retries: u32::MAX, first_delay: Duration::from_millis(50), max_delay: Duration::from_secs(2) };

type Reading = Pin<Box<dyn Future<Output = RedisResult<Value>> + Send>>;

/// A reader of the stream that waits for what comes; made by [`History::follow`].
pub struct Follow {
    /// Behind what was read, not behind what was returned.
    history: History,
    connection: Option<MultiplexedConnection>,
    reading: Option<Reading>,
    read: VecDeque<HistoryEntry>,
    /// How many reads in a row failed, and when to try again.
    failures: u32,
    wait_until: Option<Instant>,
}

impl Follow {
    pub(super) fn new(history: History) -> Self {
        Self { history, connection: None, reading: None, read: VecDeque::new(), failures: 0, wait_until: None }
    }

    /// Returns the next entry, as soon as there is one.
    ///
    /// While the server is away it waits for it, and then goes on after the last entry. Dropping the future, as
    /// `select!` and timeouts do, loses no entry.
    ///
    /// # Errors
    /// [`HistoryError::ShutDown`] when the bus is shut down, about a second later at most;
    /// [`HistoryError::InvalidId`]; [`HistoryError::Refused`], after which it may be called again.
    pub async fn next(&mut self) -> Result<HistoryEntry, HistoryError> {
        loop {
            if let Some(entry) = self.read.pop_front() {
                return Ok(entry);
            }
            self.history.check_open()?;
            if let Some(at) = self.wait_until {
                tokio::time::sleep_until(at).await;
                self.wait_until = None;
            }
            let place = self.history.place()?;
            let config = &self.history.shared.config;
            let block = Duration::from_millis(config.block_ms).min(SLICE);
            let streams: Vec<_> = self.history.shared.parts().iter().map(|part| part.stream.as_str()).collect();
            let wait = command::history::wait(&streams, place, config.batch_size, block);
            let is_one = streams.len() == 1;
            match self.read_on(wait).await {
                Ok(entries) if is_one => self.take(entries),
                // the server tells of one stream that has something, and others may have older entries
                Ok(entries) if !entries.is_empty() => match self.history.page(entries.len()).await {
                    Ok(entries) => self.read.extend(entries),
                    Err(error) if error.is_retryable() => self.try_later(&error),
                    Err(error) => return Err(error),
                },
                Ok(_) => self.failures = 0,
                Err(error) => self.give_up(error)?,
            }
        }
    }

    /// Waits for entries, for a slice of time at most.
    async fn read_on(&mut self, wait: Cmd) -> RedisResult<Vec<Entry>> {
        let mut connection = self.connection().await?;
        let begin = || -> Reading { Box::pin(async move { wait.query_async(&mut connection).await }) };
        let reading = self.reading.get_or_insert_with(begin);
        let reply = reading.await;
        self.reading = None;
        command::entries(reply?)
    }

    async fn connection(&mut self) -> RedisResult<MultiplexedConnection> {
        if let Some(connection) = &self.connection {
            return Ok(connection.clone());
        }
        let shared = &self.history.shared;
        let made = shared.link.dedicated(shared.config.socket_timeout.saturating_add(SLICE)).await?;
        Ok(self.connection.insert(made).clone())
    }

    fn take(&mut self, entries: Vec<Entry>) {
        self.failures = 0;
        self.read.extend(entries.into_iter().map(HistoryEntry::from));
        if let Some(last) = self.read.back() {
            self.history.after = Some(last.id.clone());
        }
    }

    /// Leaves a connection that was lost, and arranges when to try again; fails where trying is for the caller to say.
    fn give_up(&mut self, error: RedisError) -> Result<(), HistoryError> {
        if is_lost(&error) {
            self.connection = None;
        }
        self.try_later(&error);
        let error = HistoryError::of(&self.history.shared.destination, CommandError::Sent(error));
        if error.is_retryable() { Ok(()) } else { Err(error) }
    }
}

impl Follow {
    fn try_later(&mut self, error: &dyn fmt::Display) {
        self.failures = self.failures.saturating_add(1);
        let delay = RECONNECT.jittered(self.failures);
        self.wait_until = Some(Instant::now() + delay);
        tracing::warn!(stream = self.history.shared.stream, %error, ?delay, "following interrupted, trying again");
    }
}

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follow").field("history", &self.history).field("read", &self.read.len()).finish_non_exhaustive()
    }
}
