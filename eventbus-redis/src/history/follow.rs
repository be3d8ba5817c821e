//! Reading without an end.
//!
//! Keep: the place is behind what was read, and what was read is returned, whatever fails or is dropped in between.
//!
//! Real time, not the given clock: connecting to Redis again.

use std::{collections::VecDeque, fmt, time::Duration};

use eventbus::port::Outage;
use redis::{RedisError, RedisResult};
use tokio::time::Instant;

use super::{History, HistoryEntry, HistoryError};
use crate::{
    command::history::Page,
    connection::CommandError,
    waiting::{RECONNECT, SLICE, WaitingForPages},
};

/// A reader of the stream that waits for what comes; made by [`History::follow`].
pub struct Follow {
    /// Behind what was read, not behind what was returned.
    history: History,
    waiting: WaitingForPages,
    /// What was read and not returned: at most the entries of one page.
    read: VecDeque<HistoryEntry>,
    /// Whether there is more to read without waiting.
    has_more: bool,
    /// How many reads in a row failed, and when to try again.
    failures: u32,
    wait_until: Option<Instant>,
    outage: Outage,
}

impl Follow {
    pub(super) fn new(history: History) -> Self {
        let outage = Outage::new(history.shared.config.clock.clone());
        let (waiting, read) = (WaitingForPages::default(), VecDeque::new());
        Self { history, waiting, read, has_more: false, failures: 0, wait_until: None, outage }
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
            match self.read_on().await? {
                Ok(page) => self.take(page),
                Err(error) => self.give_up(error)?,
            }
        }
    }

    /// Waits for entries, for a slice of time at most, and reads a page of them.
    async fn read_on(&mut self) -> Result<RedisResult<Page>, HistoryError> {
        let place = self.history.place()?;
        let (shared, streams) = (&self.history.shared, self.history.streams());
        let config = &shared.config;
        let block = Duration::from_millis(config.block_ms).min(SLICE);
        let block = Some(block).filter(|_| !self.has_more);
        let timeout = config.socket_timeout.saturating_add(SLICE);
        Ok(self.waiting.page(&shared.link, timeout, &streams, place, config.batch_size, block).await)
    }

    fn take(&mut self, page: Page) {
        self.works();
        self.has_more = page.has_more;
        self.read.extend(page.entries.into_iter().map(HistoryEntry::from));
        if let Some(last) = self.read.back() {
            self.history.after = Some(last.id.clone());
        }
    }

    /// Arranges when to try again; fails where trying is for the caller to say.
    fn give_up(&mut self, error: RedisError) -> Result<(), HistoryError> {
        self.try_later(&error);
        let error = HistoryError::of(&self.history.shared.destination, CommandError::Sent(error));
        if error.is_retryable() { Ok(()) } else { Err(error) }
    }
}

impl Follow {
    /// The server answers.
    fn works(&mut self) {
        self.failures = 0;
        if let Some(lasted) = self.outage.ends() {
            tracing::info!(stream = self.history.shared.stream, ?lasted, "following goes on");
        }
    }

    fn try_later(&mut self, error: &dyn fmt::Display) {
        self.failures = self.failures.saturating_add(1);
        let delay = RECONNECT.jittered(self.failures);
        self.wait_until = Some(Instant::now() + delay);
        if self.outage.begins() {
            tracing::warn!(stream = self.history.shared.stream, %error, "following interrupted, trying again");
        }
    }
}

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follow").field("history", &self.history).field("read", &self.read.len()).finish_non_exhaustive()
    }
}
