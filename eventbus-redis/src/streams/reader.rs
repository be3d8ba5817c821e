//! Reads a stream without a consumer group and without acknowledgements.
//!
//! Invariant: the position moves only past entries that were returned to the caller, so a failed or dropped read loses
//! none.

use eventbus::port::MessageId;
use redis::ScriptInvocation;

use super::{Consume, RedisStreams, StreamEntry};
use crate::{
    RedisCommandError,
    blocking_read::{BlockingPageReader, Deadline},
    command::{
        self,
        pages::{self, EntryPage},
    },
    entry_id::EntryId,
    error::CommandError,
};

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
#[derive(derive_more::Debug)]
pub struct StreamReader {
    #[debug(skip)]
    streams: RedisStreams,
    key: String,
    after: Option<MessageId>,
    through: Option<MessageId>,
    #[debug(skip)]
    page_reader: BlockingPageReader,
}

impl StreamReader {
    pub(super) fn new(streams: &RedisStreams, key: &str) -> Self {
        let (streams, page_reader) = (streams.clone(), BlockingPageReader::default());
        Self { streams, key: key.into(), after: None, through: None, page_reader }
    }

    /// Moves past an entry, which need not exist: reads return entries after it.
    #[must_use]
    pub fn after(mut self, id: &MessageId) -> Self {
        self.after = Some(id.clone());
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
        self.after.as_ref()
    }

    /// Reads at most `count` entries, the oldest first, and moves past them. A page also ends with the entry that
    /// reaches [`PAGE_BYTES`](eventbus::support::PAGE_BYTES), so it exceeds this size by at most one entry. At the end
    /// of the stream it is empty.
    ///
    /// # Errors
    /// [`RedisCommandError`], also if the id at which to begin or end is not an id. The position stays.
    #[doc(alias = "xrange")]
    pub async fn page(&mut self, count: usize) -> Result<Vec<StreamEntry>, RedisCommandError> {
        let (after, through) = (check_id(&self.key, self.after.as_ref())?, check_id(&self.key, self.through.as_ref())?);
        let entries = self.read(&pages::page(&[&self.key], after, through, count)).await?;
        Ok(self.advance_past(entries))
    }

    /// Reads the last `count` entries after the position, the oldest of them first, and moves to the end. Returns fewer
    /// if the newest of them reach [`PAGE_BYTES`](eventbus::support::PAGE_BYTES).
    ///
    /// # Errors
    /// [`RedisCommandError`]; the position stays.
    #[doc(alias = "xrevrange")]
    pub async fn last(&mut self, count: usize) -> Result<Vec<StreamEntry>, RedisCommandError> {
        let newest = pages::newest(&[&self.key], check_id(&self.key, self.after.as_ref())?, count.max(1));
        let mut entries = self.read(&newest).await?;
        entries.reverse();
        let mut entries = self.advance_past(entries);
        entries.drain(..entries.len().saturating_sub(count));
        Ok(entries)
    }

    /// Moves to the end of the stream: reads return only entries that are added from now on, and miss none of them.
    ///
    /// # Errors
    /// [`RedisCommandError`]; the position stays.
    pub async fn skip_to_end(&mut self) -> Result<(), RedisCommandError> {
        self.last(0).await?;
        self.after.get_or_insert_with(|| MessageId::new("0-0"));
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
            let (streams, count) = (&self.streams, options.count.max(1));
            let after = check_id(&self.key, self.after.as_ref())?;
            let block = Some(until.remaining_slice());
            let read = self
                .page_reader
                .read_page(streams.connection(), streams.read_timeout(), &[&self.key], after, count, block)
                .await;
            match read.map_err(CommandError::Sent) {
                Ok(page) if page.entries.is_empty() && !until.is_past() => {}
                Err(error) if command::is_unblocked(&error) => {}
                Ok(page) => return Ok(self.advance_past(page.entries.into_iter().map(StreamEntry::from).collect())),
                Err(error) => return Err(RedisCommandError::from_command_error(&self.key, error)),
            }
        }
    }

    async fn read(&self, page: &ScriptInvocation<'_>) -> Result<Vec<StreamEntry>, RedisCommandError> {
        let page: Result<EntryPage, _> = self.streams.connection().run_idempotent(page).await;
        let page = page.map_err(|error| RedisCommandError::from_command_error(&self.key, error))?;
        Ok(page.entries.into_iter().map(StreamEntry::from).collect())
    }

    fn advance_past(&mut self, entries: Vec<StreamEntry>) -> Vec<StreamEntry> {
        if let Some(last) = entries.last() {
            self.after = Some(last.id.clone());
        }
        entries
    }
}

/// Returns the text of an id, and an error for any other text: words such as `$` have a special meaning for the server.
fn check_id<'i>(stream: &str, id: Option<&'i MessageId>) -> Result<Option<&'i str>, RedisCommandError> {
    let Some(text) = id.map(MessageId::as_str) else {
        return Ok(None);
    };
    if EntryId::parse_id_or_time(text).is_some() {
        return Ok(Some(text));
    }
    let source = format!("`{text}` is not an id of an entry").into();
    Err(RedisCommandError::Refused { stream: stream.into(), source })
}
