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

use eventbus::port::RetryPolicy;
use redis::{Cmd, RedisResult, Value, aio::MultiplexedConnection};
use tokio::time::Instant;

use crate::connection::{Link, is_lost};

/// How long a read waits for entries at a time: what it takes to notice that somebody wants it to end.
pub(crate) const SLICE: Duration = Duration::from_secs(1);

/// When a reader that goes on by itself tries again.
pub(crate) const RECONNECT: RetryPolicy = RetryPolicy {
    retry_for: Duration::MAX,
    max_retries: None,
    first_delay: Duration::from_millis(50),
    max_delay: Duration::from_secs(2),
};

/// When a wait is over; never, if that is further away than time goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Until(Option<Instant>);

impl Until {
    pub(crate) fn after(time: Duration) -> Self {
        Self(Instant::now().checked_add(time))
    }

    pub(crate) fn is_over(self) -> bool {
        self.0.is_some_and(|end| end <= Instant::now())
    }

    /// What is left of it, a [`SLICE`] at most.
    pub(crate) fn slice(self) -> Duration {
        self.0.map_or(SLICE, |end| end.saturating_duration_since(Instant::now()).min(SLICE))
    }
}

type Reading = Pin<Box<dyn Future<Output = RedisResult<Value>> + Send>>;

/// A connection for reads that wait, made with the first one, and the read that waits on it.
#[derive(Default)]
pub(crate) struct Waiting {
    connection: Option<MultiplexedConnection>,
    /// Never locked: it makes what holds it shareable.
    reading: Mutex<Option<Reading>>,
}

impl Waiting {
    /// Sends a command, or goes on with the one before whose reply nobody has waited for. A connection that was lost is
    /// left. `timeout` is how long a reply may take, waiting included.
    pub(crate) async fn read(&mut self, link: &Link, timeout: Duration, command: Cmd) -> RedisResult<Value> {
        let mut connection = self.connection(link, timeout).await?;
        let begin = || -> Reading { Box::pin(async move { command.query_async(&mut connection).await }) };
        let reading = self.reading.get_mut().unwrap_or_else(PoisonError::into_inner);
        let reply = reading.get_or_insert_with(begin).await;
        *reading = None;
        if reply.as_ref().is_err_and(is_lost) {
            self.connection = None;
        }
        reply
    }

    async fn connection(&mut self, link: &Link, timeout: Duration) -> RedisResult<MultiplexedConnection> {
        if let Some(connection) = &self.connection {
            return Ok(connection.clone());
        }
        let made = link.dedicated(timeout).await?;
        Ok(self.connection.insert(made).clone())
    }
}
