//! Reads a stream without a consumer group and without acknowledgements.

use eventbus::port::MessageId;

use super::{Consume, RedisStreams, StreamEntry};
use crate::{RedisCommandError, blocking_read::Deadline, entry_cursor::EntryCursor, reply::Entry};

/// A reader of a stream with a position of its own, without a group; made by [`RedisStreams::reader`].
///
/// It begins before the oldest entry, and moves past the entries that it returns.
///
/// # Examples
/// ```no_run
/// # async fn run(streams: eventbus_redis::streams::RedisStreams) -> eventbus::Result<()> {
/// use eventbus_redis::streams::Consume;
/// let all = streams.reader("orders:events").page(1_000).await?;
/// let last = streams.reader("orders:events").last(10).await?;
/// let mut coming = streams.reader("orders:events");
/// coming.skip_to_end().await?;
/// for entry in coming.wait(Consume::default()).await? {
///     println!("{}", entry.id);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct StreamReader {
    cursor: EntryCursor,
    through: Option<MessageId>,
}

impl StreamReader {
    pub(super) fn new(streams: &RedisStreams, key: &str) -> Self {
        let cursor = EntryCursor::new(streams.connection(), key, streams.config().socket_timeout);
        Self { cursor, through: None }
    }

    /// Moves past an entry, which need not exist: reads return entries after it.
    #[must_use]
    pub fn after(mut self, id: &MessageId) -> Self {
        self.cursor.move_behind(id);
        self
    }

    /// Makes [`page`](Self::page) end with an entry, including this entry.
    #[must_use]
    pub fn through(mut self, id: &MessageId) -> Self {
        self.through = Some(id.clone());
        self
    }

    /// Returns the last entry that was read, or the one passed to [`after`](Self::after).
    #[must_use]
    pub const fn position(&self) -> Option<&MessageId> {
        self.cursor.position()
    }

    /// Reads at most `count` entries, the oldest first, and moves past them. A page also ends with the entry that
    /// reaches [`PAGE_BYTES`](eventbus::support::PAGE_BYTES), so it exceeds this size by at most one entry. At the end
    /// of the stream it is empty.
    ///
    /// # Errors
    /// [`RedisCommandError`], also if the id at which to begin or end is not an id. The position stays.
    #[doc(alias = "xrange")]
    pub async fn page(&mut self, count: usize) -> Result<Vec<StreamEntry>, RedisCommandError> {
        Ok(to_stream_entries(self.cursor.page(self.through.as_ref(), count).await?))
    }

    /// Reads the last `count` entries after the position, the oldest of them first, and moves to the end. Returns fewer
    /// if the newest of them reach [`PAGE_BYTES`](eventbus::support::PAGE_BYTES).
    ///
    /// # Errors
    /// [`RedisCommandError`]; the position stays.
    #[doc(alias = "xrevrange")]
    pub async fn last(&mut self, count: usize) -> Result<Vec<StreamEntry>, RedisCommandError> {
        Ok(to_stream_entries(self.cursor.last(count).await?))
    }

    /// Moves to the end of the stream: reads return only entries that are added from now on, and miss none of them.
    ///
    /// # Errors
    /// [`RedisCommandError`]; the position stays.
    pub async fn skip_to_end(&mut self) -> Result<(), RedisCommandError> {
        self.last(0).await?;
        if self.position().is_none() {
            self.cursor.move_behind(&MessageId::new("0-0"));
        }
        Ok(())
    }

    /// Waits for entries after the position, at most `block`, and reads a [page](Self::page) of them; empty if none
    /// arrive.
    ///
    /// The reader has its own connection. Dropping the future, as `select!` and timeouts do, loses no entry.
    ///
    /// # Errors
    /// [`RedisCommandError`]; the position stays.
    #[doc(alias = "xread")]
    pub async fn wait(&mut self, options: Consume) -> Result<Vec<StreamEntry>, RedisCommandError> {
        let until = Deadline::after(options.block);
        loop {
            let page = self.cursor.wait(options.count.max(1), Some(until.remaining_slice())).await?;
            if !page.entries.is_empty() || until.is_past() {
                return Ok(to_stream_entries(page.entries));
            }
        }
    }
}

fn to_stream_entries(entries: Vec<Entry>) -> Vec<StreamEntry> {
    entries.into_iter().map(StreamEntry::from).collect()
}
