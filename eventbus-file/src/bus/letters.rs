//! Dead letters: a file each, with the event in it, named by the event and the group that gave it up.
//!
//! Keep: a replay is one rename, so that a dead letter is either there or being replayed.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use eventbus::{
    Name, RecordedEvent,
    port::{
        DeadLetter, DeadLetterError, DeadLetterFilter, DeadLetterPage, DeadLetters, MessageId, PAGE_BYTES, Tries,
        from_json,
    },
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    FileQueue,
    coordination::{about, kind},
    disk,
    error::{FileQueueError, Result},
    event::{self, WrittenRecord, message_id},
    names,
    queue::Shared,
};

/// What is in the file of a dead letter.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LetterFile {
    pub(super) id: u64,
    pub(super) group: String,
    #[serde(with = "time::serde::rfc3339")]
    dead_lettered_at: OffsetDateTime,
    worker_id: String,
    handler: String,
    error: String,
    attempts: u32,
    /// Which handlers have succeeded, which failed, how often and when.
    pub(super) tries: Tries,
    /// The event; nothing if the file of the event holds none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    event: Option<WrittenRecord>,
    /// What came of it since it is being replayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) replay: Option<Tries>,
}

impl LetterFile {
    pub(super) fn new(
        worker: &str,
        id: u64,
        group: &Name,
        record: Option<&RecordedEvent>,
        tries: Tries,
        dead_lettered_at: OffsetDateTime,
    ) -> Result<Self> {
        Ok(Self {
            id,
            group: group.to_string(),
            dead_lettered_at,
            worker_id: worker.into(),
            handler: tries.handlers(),
            error: tries.errors(),
            attempts: tries.most_attempts(),
            event: record.map(|record| WrittenRecord::new(record, None)).transpose()?,
            tries,
            replay: None,
        })
    }

    pub(super) fn record(self) -> Result<Option<RecordedEvent>, eventbus::BoxError> {
        self.event.map(|event| event.into_record(None)).transpose()
    }

    fn into_letter(self, id: MessageId) -> Result<DeadLetter, eventbus::BoxError> {
        let mut letter = DeadLetter::new(id);
        letter.original_message_id = Some(message_id(self.id));
        letter.group = Some(self.group.clone());
        letter.handler = Some(self.handler.clone());
        letter.error = Some(self.error.clone());
        letter.attempts = Some(self.attempts);
        letter.retry_count = Some(self.attempts.saturating_sub(1));
        let after = |millis: u64| time::Duration::try_from(Duration::from_millis(millis)).ok();
        let at = |millis: u64| OffsetDateTime::UNIX_EPOCH.checked_add(after(millis)?);
        letter.first_failed_at = self.tries.first_failed_at.and_then(at);
        letter.last_failed_at = self.tries.last_failed_at.and_then(at);
        letter.dead_lettered_at = Some(self.dead_lettered_at);
        letter.done_handlers.clone_from(&self.tries.done);
        let record = self.record()?;
        letter.event_type = record.as_ref().map(|record| record.event_type().to_string());
        letter.aggregate_id = record.as_ref().map(|record| record.metadata().aggregate_id().to_string());
        letter.record = record;
        Ok(letter)
    }
}

/// `000000000012-default`: the name of a dead letter, without its end.
pub(super) fn stem(id: u64, group: &Name) -> Result<String> {
    Ok(format!("{id:012}-{}", names::encoded("group", group)?))
}

/// The event and the group that a dead letter's name tells.
pub(super) fn parts(stem: &str) -> Option<(u64, Name)> {
    let (id, group) = stem.split_once('-')?;
    let id = names::number(&format!("{id}.json"))?;
    Some((id, Name::new("group", names::decoded(group)?).ok()?))
}

impl Shared {
    pub(super) fn letter_path(&self, stem: &str) -> PathBuf {
        self.disk.root().join(names::DEAD_LETTERS).join(format!("{stem}.json"))
    }

    /// The dead letters, oldest event first.
    pub(crate) fn letter_names(&self) -> Result<Vec<String>> {
        stems(&self.disk.root().join(names::DEAD_LETTERS))
    }

    /// Makes a delivery a dead letter; the one that is there already is of the same delivery.
    pub(super) fn bury(&self, id: u64, group: &Name, record: Option<&RecordedEvent>, tries: Tries) -> Result<()> {
        let event_type = record.map(|record| record.event_type().to_string());
        let dead_letter = stem(id, group)?;
        tracing::error!(
            %group, id, dead_letter, handler = tries.handlers(), error = tries.errors(),
            attempts = tries.most_attempts(), event_type, "delivery given up: it is a dead letter now"
        );
        let letter = LetterFile::new(&self.worker, id, group, record, tries, self.config.clock.now())?;
        let path = self.letter_path(&dead_letter);
        self.disk.replace(&path, &event::pretty("the dead letter", &letter)?)?;
        self.disk.sync_folder(&self.disk.root().join(names::DEAD_LETTERS))
    }

    fn letter(&self, stem: &str) -> Result<Option<DeadLetter>> {
        let path = self.letter_path(stem);
        let Some(content) = disk::read(&path)? else {
            return Ok(None);
        };
        let file: Result<LetterFile, _> = from_json(&content);
        let letter = file.map_err(Into::into).and_then(|file| file.into_letter(MessageId::new(stem)));
        letter.map(Some).map_err(|error| FileQueueError::torn("dead letter", path, error))
    }

    /// A page of dead letters after one; one that is torn tells only that.
    fn letters(&self, filter: &DeadLetterFilter, after: Option<&str>, limit: usize) -> Result<DeadLetterPage> {
        let (mut letters, mut bytes) = (Vec::<DeadLetter>::new(), 0_usize);
        let after = after.and_then(parts);
        for stem in self.letter_names()? {
            if after.is_some() && parts(&stem) <= after {
                continue;
            }
            if let Some(letter) = self.letter_unless_torn(&stem)?.filter(|letter| filter.matches(letter)) {
                if letters.len() == limit.max(1) || bytes >= PAGE_BYTES {
                    let next = letters.last().map(|letter| letter.id.clone());
                    return Ok(DeadLetterPage::new(letters, next));
                }
                bytes = bytes.saturating_add(letter.bytes());
                letters.push(letter);
            }
        }
        Ok(DeadLetterPage::new(letters, None))
    }

    /// Does something with each dead letter that matches; returns with how many.
    fn each(&self, filter: &DeadLetterFilter, end: impl Fn(&Self, &DeadLetter) -> Result<bool>) -> Result<u64> {
        let mut count = 0;
        for stem in self.letter_names()? {
            if let Some(letter) = self.letter_unless_torn(&stem)?.filter(|letter| filter.matches(letter)) {
                count += u64::from(end(self, &letter)?);
            }
        }
        Ok(count)
    }

    /// A dead letter; one that is torn is told and left alone.
    fn letter_unless_torn(&self, stem: &str) -> Result<Option<DeadLetter>> {
        match self.letter(stem) {
            Err(error @ FileQueueError::Torn { .. }) => {
                tracing::error!(error = error.log(), "dead letter passed over and left alone");
                Ok(None)
            }
            letter => letter,
        }
    }

    fn discard(&self, stem: &str) -> Result<bool> {
        self.disk.remove(&self.letter_path(stem))
    }
}

/// Whether a dead letter may be called so.
pub(crate) fn is_letter_name(name: &str) -> bool {
    name.strip_suffix(".json").and_then(parts).is_some()
}

/// Whether a file holds a dead letter.
pub(crate) fn check_letter(path: &Path) -> Result<()> {
    let content = disk::read(path)?.unwrap_or_default();
    let file: Result<LetterFile, _> = from_json(&content);
    file.map(drop).map_err(|error| FileQueueError::torn("dead letter", path, error))
}

/// The names of dead letters in a folder, without their end, sorted.
pub(super) fn stems(folder: &Path) -> Result<Vec<String>> {
    let names = disk::names(folder)?;
    let mut stems: Vec<_> = names.iter().filter_map(|name| name.strip_suffix(".json")).collect();
    stems.retain(|stem| parts(stem).is_some());
    stems.sort_unstable_by_key(|stem| parts(stem));
    Ok(stems.into_iter().map(Into::into).collect())
}

impl FileQueue {
    async fn on_letters<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Shared) -> Result<T> + Send + 'static,
    ) -> Result<T, DeadLetterError> {
        let destination = self.shared.name.clone();
        if self.shared.consuming.is_closed() {
            return Err(DeadLetterError::ShutDown { destination });
        }
        let answer = self.shared.blocking(ask).await;
        answer.map_err(|error| match error.is_retryable() {
            true => DeadLetterError::Unavailable { destination, source: error.into() },
            false => DeadLetterError::Refused { destination, source: error.into() },
        })
    }

    /// Whoever consumes for the group may be another worker.
    async fn tell_replayed(&self, what: &str) {
        self.shared.news.send_replace(());
        self.shared.coordination.tell(kind::REPLAY_EVENT, vec![about("dead_letter_id", what)]).await;
    }

    fn stem(&self, id: &MessageId) -> Result<String, DeadLetterError> {
        let invalid = || DeadLetterError::InvalidId { destination: self.shared.name.clone(), id: id.clone() };
        parts(id.as_str()).map(|_| id.as_str().into()).ok_or_else(invalid)
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
        let after = after.map(|id| self.stem(id)).transpose()?;
        let filter = filter.clone();
        self.on_letters(move |shared| shared.letters(&filter, after.as_deref(), limit)).await
    }

    async fn dead_letter(&self, id: &MessageId) -> Result<Option<DeadLetter>, DeadLetterError> {
        let stem = self.stem(id)?;
        self.on_letters(move |shared| shared.letter(&stem)).await
    }

    async fn replay(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        let Some(letter) = self.dead_letter(id).await? else {
            return Ok(false);
        };
        if letter.record.is_none() {
            return Err(DeadLetterError::Empty { destination: self.shared.name.clone(), id: id.clone() });
        }
        let stem = self.stem(id)?;
        let replayed = self.on_letters(move |shared| shared.begin_replay(&stem)).await?;
        self.tell_replayed(id.as_str()).await;
        Ok(replayed)
    }

    async fn replay_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        let filter = filter.clone();
        let replay = |shared: &Shared, letter: &DeadLetter| match letter.record {
            Some(_) => shared.begin_replay(letter.id.as_str()),
            None => Ok(false),
        };
        let replayed = self.on_letters(move |shared| shared.each(&filter, replay)).await?;
        self.tell_replayed("all").await;
        Ok(replayed)
    }

    async fn discard(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        let stem = self.stem(id)?;
        self.on_letters(move |shared| shared.discard(&stem)).await
    }

    async fn discard_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        let filter = filter.clone();
        let discard = |shared: &Shared, letter: &DeadLetter| shared.discard(letter.id.as_str());
        self.on_letters(move |shared| shared.each(&filter, discard)).await
    }
}
