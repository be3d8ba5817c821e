//! A place in a stream, and reads of the entries after it, without a group.
//!
//! Invariant: the cursor moves only past entries that were returned to the caller, so that a failed or dropped read
//! loses none.

use std::{sync::Arc, time::Duration};

use eventbus::port::MessageId;
use redis::{ScriptInvocation, Value};

use crate::{
    RedisCommandError,
    blocking_read::{BlockingReader, READ_BLOCK_MAX},
    command::{
        self,
        pages::{self, EntryPage},
    },
    connection::SharedConnection,
    entry_id::EntryId,
    error::CommandError,
    reply::Entry,
};

/// A place in a stream; at first before its oldest entry.
#[derive(derive_more::Debug)]
#[debug("{key} after {after:?}")]
pub(crate) struct EntryCursor {
    link: Arc<SharedConnection>,
    key: String,
    reply_timeout: Duration,
    after: Option<MessageId>,
    reader: BlockingReader<RequestedPage>,
}

/// A page with its request: the entry after which it begins, and the number of entries.
struct RequestedPage {
    request: (Option<String>, usize),
    page: EntryPage,
}

impl EntryCursor {
    /// `reply_timeout` limits the reply of a read that does not wait.
    pub(crate) fn new(link: &Arc<SharedConnection>, key: &str, reply_timeout: Duration) -> Self {
        let (link, reader) = (Arc::clone(link), BlockingReader::default());
        Self { link, key: key.into(), reply_timeout, after: None, reader }
    }

    pub(crate) const fn position(&self) -> Option<&MessageId> {
        self.after.as_ref()
    }

    /// Moves behind an entry, which need not exist.
    pub(crate) fn move_behind(&mut self, id: &MessageId) {
        self.after = Some(id.clone());
    }

    /// Reads a page of entries, up to `through` if it is given.
    pub(crate) async fn page(
        &mut self,
        through: Option<&MessageId>,
        count: usize,
    ) -> Result<Vec<Entry>, RedisCommandError> {
        let (after, through) = (self.check_id(self.after.as_ref())?, self.check_id(through)?);
        let entries = self.read(&pages::page(&self.key, after, through, count)).await?;
        self.advance_past(&entries);
        Ok(entries)
    }

    /// Reads the last `count` entries, the oldest of them first, and moves to the end of the stream.
    pub(crate) async fn last(&mut self, count: usize) -> Result<Vec<Entry>, RedisCommandError> {
        // reads at least the newest entry: its id is the end of the stream
        let newest = pages::newest(&self.key, self.check_id(self.after.as_ref())?, count.max(1));
        let mut entries = self.read(&newest).await?;
        entries.reverse();
        self.advance_past(&entries);
        entries.drain(..entries.len().saturating_sub(count));
        Ok(entries)
    }

    /// Waits for entries, at most [`READ_BLOCK_MAX`], and reads a page of them. Resumes the pending read of a call that
    /// was dropped, and discards its page if it had a different request.
    pub(crate) async fn wait(&mut self, count: usize, block: Option<Duration>) -> Result<EntryPage, RedisCommandError> {
        let after = self.check_id(self.after.as_ref())?.map(str::to_owned);
        let (request, timeout) = ((after.clone(), count), self.reply_timeout.saturating_add(READ_BLOCK_MAX));
        let page = loop {
            let wait = block.map(|block| command::wait_for_entry(&self.key, after.as_deref(), block));
            let (page, answered) = (pages::page(&self.key, after.as_deref(), None, count), request.clone());
            let read = self.reader.start_or_resume(&self.link, timeout, |mut connection| async move {
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
            match read.await.map_err(CommandError::Sent) {
                Ok(read) if read.request == request => break read.page,
                Ok(_) => {}
                Err(error) if command::is_unblocked(&error) => break EntryPage::default(),
                Err(error) => return Err(RedisCommandError::from_command_error(&self.key, error)),
            }
        };
        self.advance_past(&page.entries);
        Ok(page)
    }

    async fn read(&self, page: &ScriptInvocation<'_>) -> Result<Vec<Entry>, RedisCommandError> {
        let page: Result<EntryPage, _> = self.link.run_idempotent(page).await;
        let page = page.map_err(|error| RedisCommandError::from_command_error(&self.key, error))?;
        Ok(page.entries)
    }

    fn advance_past(&mut self, entries: &[Entry]) {
        if let Some(last) = entries.last() {
            self.after = Some(MessageId::new(last.id.as_str()));
        }
    }

    /// Returns the text of an id, and an error for any other text: words such as `$` have a special meaning for the
    /// server.
    fn check_id<'i>(&self, id: Option<&'i MessageId>) -> Result<Option<&'i str>, RedisCommandError> {
        let Some(text) = id.map(MessageId::as_str) else {
            return Ok(None);
        };
        if EntryId::parse_id_or_time(text).is_some() {
            return Ok(Some(text));
        }
        let source = format!("`{text}` is not an id of an entry").into();
        Err(RedisCommandError::Refused { stream: self.key.clone(), source })
    }
}
