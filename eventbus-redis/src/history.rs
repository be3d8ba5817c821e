//! Reading the stream without a group, up to its end or without an end; acknowledges no entry.
//!
//! Invariant: the cursor of [`Follow`] is after the entries that were read, and each call returns the next of them, even if
//! a call in between fails or is dropped.
//!
//! Real time, not the given clock: connecting to Redis again.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use eventbus::{
    RecordedEvent,
    port::MessageId,
    support::{BackoffTimer, Outage},
};
use tokio::time::Instant;

use crate::{
    RedisCommandError,
    blocking_read::{READ_BLOCK_MAX, RECONNECT_BACKOFF},
    entry_cursor::EntryCursor,
    inner::BusInner,
    reply::Entry,
    wire,
};

/// A cursor in the stream of a bus, to read it without a consumer group; made by
/// [`RedisEventBus::history`](crate::RedisEventBus::history).
///
/// It begins before the oldest entry of the stream, and moves past the entries that it has read. It acknowledges no
/// entry, and groups still get every entry.
///
/// # Examples
/// ```no_run
/// use eventbus_redis::RedisEventBus;
///
/// # async fn run(bus: RedisEventBus) -> eventbus::Result<()> {
/// let mut history = bus.history();
/// loop {
///     let page = history.page(1_000).await?;
///     if page.is_empty() {
///         break;
///     }
///     for entry in page {
///         match entry.event {
///             Ok(event) => println!("{} {}", entry.id, event.metadata().event_type()),
///             Err(error) => eprintln!("{error}"),
///         }
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(derive_more::Debug)]
#[debug("History({cursor:?})")]
pub struct History {
    bus: Arc<BusInner>,
    cursor: EntryCursor,
}

/// An entry of the stream that is no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {id} is no event: {reason}")]
#[non_exhaustive]
pub struct NotAnEvent {
    /// The id of the entry in Redis.
    pub id: MessageId,
    /// The reason.
    pub reason: String,
}

/// An entry of the stream, read without a group.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HistoryEntry {
    /// The id of the entry in Redis.
    pub id: MessageId,
    /// The event, not decoded, or the reason why the entry is no event.
    pub event: Result<RecordedEvent, NotAnEvent>,
}

impl History {
    pub(crate) fn new(bus: Arc<BusInner>) -> Self {
        let cursor = EntryCursor::new(bus.connection(), bus.stream(), bus.config().socket_timeout);
        Self { bus, cursor }
    }

    /// Moves the cursor to after an entry, which need not exist.
    ///
    /// # Examples
    /// ```no_run
    /// # use eventbus::bus::MessageId;
    /// # async fn run(bus: eventbus_redis::RedisEventBus) -> eventbus::Result<()> {
    /// let seen = MessageId::new("1795157844243-0");
    /// let next = bus.history().after(&seen).page(100).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn after(mut self, id: &MessageId) -> Self {
        self.cursor.move_behind(id);
        self
    }

    /// Reads at most `count` entries, the oldest first, and moves past them. A page also ends with the entry that
    /// reaches [`PAGE_BYTES`](eventbus::support::PAGE_BYTES), so it exceeds this size by at most one entry. At the end
    /// of the stream it is empty.
    ///
    /// # Errors
    /// [`RedisCommandError`], also for an [`after`](Self::after) that is no id; the cursor stays, so that a further read neither repeats nor misses an entry.
    #[doc(alias = "xrange")]
    pub async fn page(&mut self, count: usize) -> Result<Vec<HistoryEntry>, RedisCommandError> {
        self.bus.ensure_open()?;
        Ok(self.cursor.page(None, count).await?.into_iter().map(HistoryEntry::from).collect())
    }

    /// Reads the last `count` entries of the stream after the cursor, the oldest of them first, and moves to the end of
    /// the stream; with 0 it only moves. Returns fewer if the newest of them reach
    /// [`PAGE_BYTES`](eventbus::support::PAGE_BYTES).
    ///
    /// # Errors
    /// [`RedisCommandError`]; the cursor stays.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn run(bus: eventbus_redis::RedisEventBus) -> eventbus::Result<()> {
    /// let mut history = bus.history();
    /// for entry in history.last(10).await? {
    ///     println!("{}", entry.id);
    /// }
    /// let mut coming = history.follow(); // the entries after these ten
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "xrevrange")]
    pub async fn last(&mut self, count: usize) -> Result<Vec<HistoryEntry>, RedisCommandError> {
        self.bus.ensure_open()?;
        Ok(self.cursor.last(count).await?.into_iter().map(HistoryEntry::from).collect())
    }

    /// Follows the stream from here without an end, waiting for new entries.
    ///
    /// The reader has a connection of its own, opened with the first read and again after a loss.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn run(bus: eventbus_redis::RedisEventBus) -> eventbus::Result<()> {
    /// let mut coming = bus.history().follow();
    /// loop {
    ///     let entry = coming.next().await?;
    ///     println!("{} {:?}", entry.id, entry.event);
    /// }
    /// # }
    /// ```
    #[doc(alias = "xread")]
    #[must_use]
    pub fn follow(self) -> Follow {
        Follow::new(self)
    }
}

impl From<Entry> for HistoryEntry {
    fn from(entry: Entry) -> Self {
        let id = MessageId::new(entry.id.as_str());
        let decoded = wire::decode(&entry.field_refs().unwrap_or_default());
        let event = decoded.map_err(|error| NotAnEvent { id: id.clone(), reason: error.to_string() });
        Self { id, event }
    }
}

/// A reader of the stream that waits for new entries; made by [`History::follow`](History::follow).
#[derive(derive_more::Debug)]
#[debug("Follow {{ history: {history:?}, read: {}, .. }}", buffered.len())]
pub struct Follow {
    /// After the entries that were read, not after those returned.
    history: History,
    /// Entries that were read and not returned: at most those of one page.
    buffered: VecDeque<HistoryEntry>,
    /// Set if there are more entries to read without waiting.
    has_more: bool,
    /// The delays between failed reads.
    backoff: BackoffTimer,
    retry_at: Option<Instant>,
    outage: Outage,
}

impl Follow {
    fn new(history: History) -> Self {
        let outage = Outage::new(history.bus.config().clock.clone());
        let (buffered, backoff) = (VecDeque::new(), BackoffTimer::new(RECONNECT_BACKOFF));
        Self { history, buffered, has_more: false, backoff, retry_at: None, outage }
    }

    /// Returns the next entry, as soon as there is one.
    ///
    /// While the server is away, waits for it, and then continues after the last entry. Dropping the future, as
    /// `select!` and timeouts do, loses no entry.
    ///
    /// # Errors
    /// [`RedisCommandError::ShutDown`] after a shutdown of the bus, within about a second;
    /// [`RedisCommandError::Refused`], after which the caller may try again, also for an id that is none.
    pub async fn next(&mut self) -> Result<HistoryEntry, RedisCommandError> {
        loop {
            if let Some(entry) = self.buffered.pop_front() {
                return Ok(entry);
            }
            self.history.bus.ensure_open()?;
            if let Some(at) = self.retry_at {
                tokio::time::sleep_until(at).await;
                self.retry_at = None;
            }
            let config = self.history.bus.config();
            let (batch_size, block) = (config.batch_size, Duration::from_millis(config.block_ms).min(READ_BLOCK_MAX));
            let block = Some(block).filter(|_| !self.has_more);
            match self.history.cursor.wait(batch_size, block).await {
                Ok(page) => {
                    self.backoff.reset();
                    if let Some(lasted) = self.outage.ends() {
                        tracing::info!(stream = self.history.bus.stream(), ?lasted, "following goes on");
                    }
                    self.has_more = page.has_more;
                    self.buffered.extend(page.entries.into_iter().map(HistoryEntry::from));
                }
                Err(error) => {
                    self.retry_at = Some(Instant::now() + self.backoff.next_jittered());
                    if self.outage.begins() {
                        tracing::warn!(stream = self.history.bus.stream(), %error, "following interrupted, trying again");
                    }
                    if !error.is_retryable() {
                        return Err(error);
                    }
                }
            }
        }
    }
}
