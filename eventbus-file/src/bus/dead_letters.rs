//! Dead letters: a file each, with the event in it, named by the event and the group.
//!
//! Invariant: a replay begins by one rename, so that a dead letter is either stored or being replayed.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use eventbus::{
    Name, RecordedEvent,
    port::{
        DeadLetter, DeadLetterError, DeadLetterFilter, DeadLetterPage, DeadLetters, DeliveryAttempts, MessageId,
        PAGE_BYTES, from_json,
    },
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    FileQueue,
    coordination::{message_data, message_kind},
    disk,
    error::{FileQueueError, Result},
    event::{self, WrittenRecord, message_id},
    inner::QueueInner,
    names,
};

/// Content of the file of a dead letter, or of a replay.
///
/// | state | event | next state |
/// |---|---|---|
/// | none | a delivery fails for good | in `dead_letters/` |
/// | in `dead_letters/` | an operator replays it | in `replays/` |
/// | in `dead_letters/` | an operator discards it | removed |
/// | in `replays/` | a handler fails and has attempts left | in `replays/`, with `replay` set |
/// | in `replays/` | its handlers succeed, or skip it | removed |
/// | in `replays/` | it fails for good | in `dead_letters/`, then removed from `replays/` |
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct DeadLetterFile {
    pub(super) id: u64,
    pub(super) group: String,
    #[serde(with = "time::serde::rfc3339")]
    dead_lettered_at: OffsetDateTime,
    worker_id: String,
    handler: String,
    error: String,
    attempts: u32,
    /// The handlers that succeeded, and those that failed, how often and when.
    pub(super) tries: DeliveryAttempts,
    /// The event; `None` if the event's file is torn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    event: Option<WrittenRecord>,
    /// The attempts since the replay began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) replay: Option<DeliveryAttempts>,
}

impl DeadLetterFile {
    pub(super) fn new(
        worker: &str,
        id: u64,
        group: &Name,
        record: Option<&RecordedEvent>,
        delivery_attempts: DeliveryAttempts,
        dead_lettered_at: OffsetDateTime,
    ) -> Result<Self> {
        Ok(Self {
            id,
            group: group.to_string(),
            dead_lettered_at,
            worker_id: worker.into(),
            handler: delivery_attempts.handlers(),
            error: delivery_attempts.errors(),
            attempts: delivery_attempts.most_attempts(),
            event: record.map(|record| WrittenRecord::new(record, None)).transpose()?,
            tries: delivery_attempts,
            replay: None,
        })
    }

    pub(super) fn record(self) -> Result<Option<RecordedEvent>, eventbus::BoxError> {
        self.event.map(|event| event.into_record(None)).transpose()
    }

    fn into_dead_letter(self, id: MessageId) -> Result<DeadLetter, eventbus::BoxError> {
        let mut dead_letter = DeadLetter::new(id);
        dead_letter.original_message_id = Some(message_id(self.id));
        dead_letter.group = Some(self.group.clone());
        dead_letter.handler = Some(self.handler.clone());
        dead_letter.error = Some(self.error.clone());
        dead_letter.attempts = Some(self.attempts);
        dead_letter.retry_count = Some(self.attempts.saturating_sub(1));
        let after = |millis: u64| time::Duration::try_from(Duration::from_millis(millis)).ok();
        let at = |millis: u64| OffsetDateTime::UNIX_EPOCH.checked_add(after(millis)?);
        dead_letter.first_failed_at = self.tries.first_failed_at.and_then(at);
        dead_letter.last_failed_at = self.tries.last_failed_at.and_then(at);
        dead_letter.dead_lettered_at = Some(self.dead_lettered_at);
        dead_letter.done_handlers.clone_from(&self.tries.done);
        let record = self.record()?;
        dead_letter.event_type = record.as_ref().map(|record| record.event_type().to_string());
        dead_letter.aggregate_id = record.as_ref().map(|record| record.metadata().aggregate_id().to_string());
        dead_letter.record = record;
        Ok(dead_letter)
    }
}

/// Returns the name of a dead letter without its suffix: `000000000012-default`.
pub(super) fn file_stem(id: u64, group: &Name) -> Result<String> {
    Ok(format!("{id:012}-{}", names::encode("group", group)?))
}

/// Returns the event and the group in the name of a dead letter.
pub(super) fn parse_stem(stem: &str) -> Option<(u64, Name)> {
    let (id, group) = stem.split_once('-')?;
    let id = names::parse_file_name(&format!("{id}.json"))?;
    Some((id, Name::new("group", names::decode(group)?).ok()?))
}

impl QueueInner {
    pub(super) fn dead_letter_path(&self, stem: &str) -> PathBuf {
        self.disk.root().join(names::DEAD_LETTERS).join(format!("{stem}.json"))
    }

    /// Returns the names of all dead letters, oldest event first.
    pub(crate) fn list_dead_letter_stems(&self) -> Result<Vec<String>> {
        list_stems(&self.disk.root().join(names::DEAD_LETTERS))
    }

    /// Makes a delivery a dead letter; replaces an existing one, which is of the same delivery.
    pub(super) fn write_dead_letter(
        &self,
        id: u64,
        group: &Name,
        record: Option<&RecordedEvent>,
        attempts: DeliveryAttempts,
    ) -> Result<()> {
        let event_type = record.map(|record| record.event_type().to_string());
        let dead_letter = file_stem(id, group)?;
        tracing::error!(
            %group, id, dead_letter, handler = attempts.handlers(), error = attempts.errors(),
            attempts = attempts.most_attempts(), event_type, "delivery given up: it is a dead letter now"
        );
        let file = DeadLetterFile::new(&self.worker_id, id, group, record, attempts, self.config.clock.now())?;
        let path = self.dead_letter_path(&dead_letter);
        self.disk.replace(&path, &event::to_pretty_json("the dead letter", &file)?)?;
        self.disk.sync_folder(&self.disk.root().join(names::DEAD_LETTERS))
    }

    fn load_dead_letter(&self, stem: &str) -> Result<Option<DeadLetter>> {
        let path = self.dead_letter_path(stem);
        let Some(content) = disk::read(&path)? else {
            return Ok(None);
        };
        let file: Result<DeadLetterFile, _> = from_json(&content);
        let dead_letter = file.map_err(Into::into).and_then(|file| file.into_dead_letter(MessageId::new(stem)));
        dead_letter.map(Some).map_err(|error| FileQueueError::torn("dead letter", path, error))
    }

    /// Loads a page of dead letters after one; passes torn ones over.
    fn load_dead_letter_page(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<DeadLetterPage> {
        let (mut dead_letters, mut bytes) = (Vec::<DeadLetter>::new(), 0_usize);
        let after = after.and_then(parse_stem);
        for stem in self.list_dead_letter_stems()? {
            if after.is_some() && parse_stem(&stem) <= after {
                continue;
            }
            if let Some(dead_letter) = self.load_intact_dead_letter(&stem)?.filter(|found| filter.matches(found)) {
                if dead_letters.len() == limit.max(1) || bytes >= PAGE_BYTES {
                    let next = dead_letters.last().map(|dead_letter| dead_letter.id.clone());
                    return Ok(DeadLetterPage::new(dead_letters, next));
                }
                bytes = bytes.saturating_add(dead_letter.bytes());
                dead_letters.push(dead_letter);
            }
        }
        Ok(DeadLetterPage::new(dead_letters, None))
    }

    /// Applies `end` to each dead letter that matches; returns the number of those for which it returned `true`.
    fn for_each_matching(
        &self,
        filter: &DeadLetterFilter,
        end: impl Fn(&Self, &DeadLetter) -> Result<bool>,
    ) -> Result<u64> {
        let mut count = 0;
        for stem in self.list_dead_letter_stems()? {
            if let Some(dead_letter) = self.load_intact_dead_letter(&stem)?.filter(|found| filter.matches(found)) {
                count += u64::from(end(self, &dead_letter)?);
            }
        }
        Ok(count)
    }

    /// Loads a dead letter; logs a torn one and passes it over.
    fn load_intact_dead_letter(&self, stem: &str) -> Result<Option<DeadLetter>> {
        match self.load_dead_letter(stem) {
            Err(error @ FileQueueError::Torn { .. }) => {
                tracing::error!(error = error.log(), "torn dead letter passed over");
                Ok(None)
            }
            dead_letter => dead_letter,
        }
    }

    fn remove_dead_letter(&self, stem: &str) -> Result<bool> {
        self.disk.remove(&self.dead_letter_path(stem))
    }
}

pub(crate) fn is_dead_letter_name(name: &str) -> bool {
    name.strip_suffix(".json").and_then(parse_stem).is_some()
}

/// Returns an error unless a file holds a dead letter.
pub(crate) fn check_dead_letter(path: &Path) -> Result<()> {
    let content = disk::read(path)?.unwrap_or_default();
    let file: Result<DeadLetterFile, _> = from_json(&content);
    file.map(drop).map_err(|error| FileQueueError::torn("dead letter", path, error))
}

/// Returns the names of dead letters in a folder, without their suffix, sorted.
pub(super) fn list_stems(folder: &Path) -> Result<Vec<String>> {
    let names = disk::list_names(folder)?;
    let mut stems: Vec<_> = names.iter().filter_map(|name| name.strip_suffix(".json")).collect();
    stems.retain(|stem| parse_stem(stem).is_some());
    stems.sort_unstable_by_key(|stem| parse_stem(stem));
    Ok(stems.into_iter().map(Into::into).collect())
}

impl FileQueue {
    async fn with_dead_letters<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&QueueInner) -> Result<T> + Send + 'static,
    ) -> Result<T, DeadLetterError> {
        let destination = self.inner.name.clone();
        if self.inner.consuming.is_closed() {
            return Err(DeadLetterError::ShutDown { destination });
        }
        let answer = self.inner.blocking(ask).await;
        answer.map_err(|error| match error.is_retryable() {
            true => DeadLetterError::Unavailable { destination, source: error.into() },
            false => DeadLetterError::Refused { destination, source: error.into() },
        })
    }

    /// Wakes the consumer of the group, here or in a different worker.
    async fn notify_replayed(&self, what: &str) {
        self.inner.change_signal.send_replace(());
        self.inner.coordination.broadcast(message_kind::REPLAY_EVENT, vec![message_data("dead_letter_id", what)]).await;
    }

    fn parse_id(&self, id: &MessageId) -> Result<String, DeadLetterError> {
        let invalid = || DeadLetterError::InvalidId { destination: self.inner.name.clone(), id: id.clone() };
        parse_stem(id.as_str()).map(|_| id.as_str().into()).ok_or_else(invalid)
    }
}

#[async_trait]
impl DeadLetters for FileQueue {
    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&MessageId>,
        limit: usize,
    ) -> Result<DeadLetterPage, DeadLetterError> {
        let after = after.map(|id| self.parse_id(id)).transpose()?;
        let filter = filter.clone();
        self.with_dead_letters(move |queue| queue.load_dead_letter_page(&filter, after.as_deref(), limit)).await
    }

    async fn dead_letter(&self, id: &MessageId) -> Result<Option<DeadLetter>, DeadLetterError> {
        let stem = self.parse_id(id)?;
        self.with_dead_letters(move |queue| queue.load_dead_letter(&stem)).await
    }

    async fn replay(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        let Some(dead_letter) = self.dead_letter(id).await? else {
            return Ok(false);
        };
        if dead_letter.record.is_none() {
            return Err(DeadLetterError::Empty { destination: self.inner.name.clone(), id: id.clone() });
        }
        let stem = self.parse_id(id)?;
        let replayed = self.with_dead_letters(move |queue| queue.start_replay(&stem)).await?;
        self.notify_replayed(id.as_str()).await;
        Ok(replayed)
    }

    async fn replay_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        let filter = filter.clone();
        let replay = |queue: &QueueInner, dead_letter: &DeadLetter| match dead_letter.record {
            Some(_) => queue.start_replay(dead_letter.id.as_str()),
            None => Ok(false),
        };
        let replayed = self.with_dead_letters(move |queue| queue.for_each_matching(&filter, replay)).await?;
        self.notify_replayed("all").await;
        Ok(replayed)
    }

    async fn discard(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        let stem = self.parse_id(id)?;
        self.with_dead_letters(move |queue| queue.remove_dead_letter(&stem)).await
    }

    async fn discard_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        let filter = filter.clone();
        let discard = |queue: &QueueInner, dead_letter: &DeadLetter| queue.remove_dead_letter(dead_letter.id.as_str());
        self.with_dead_letters(move |queue| queue.for_each_matching(&filter, discard)).await
    }
}
