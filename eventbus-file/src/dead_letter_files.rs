//! Dead letters and their replays: each is a file that holds the event, and whose name has the event's id and the
//! group.
//!
//! Invariant: one rename begins a replay, and one rename ends a replay that fails for good. So a dead letter is either
//! stored or being replayed, whenever a process dies.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use eventbus::{
    Name, RecordedEvent,
    clock::SharedClock,
    delivery::{DeliveryAttempts, InFlightEntry},
    port::{DeadLetter, DeadLetterFilter, DeadLetterPage, MessageId},
    support::PAGE_BYTES,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    disk::{self, Disk},
    error::{FileQueueError, Result},
    event::{self, WrittenRecord, message_id},
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
/// | in `replays/` | it fails for good | in `dead_letters/`, by a rename |
/// | in `replays/` | an operator retires its group | in `dead_letters/`, by a rename |
#[derive(Debug, Serialize, Deserialize)]
struct DeadLetterFile {
    id: u64,
    group: String,
    #[serde(with = "time::serde::rfc3339")]
    dead_lettered_at: OffsetDateTime,
    worker_id: String,
    handler: String,
    error: String,
    attempts: u32,
    /// The handlers that succeeded, and those that failed, how often and when.
    delivery_attempts: DeliveryAttempts,
    /// The epoch in which the group began anew, as in its progress: a dead letter of before a retirement has a different
    /// one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_epoch: Option<u64>,
    /// The event; `None` if the event's file is torn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    event: Option<WrittenRecord>,
    /// The attempts since the replay began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replay: Option<DeliveryAttempts>,
}

impl DeadLetterFile {
    fn record(self) -> Result<Option<RecordedEvent>, eventbus::BoxError> {
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
        dead_letter.first_failed_at = self.delivery_attempts.first_failed_at.and_then(at);
        dead_letter.last_failed_at = self.delivery_attempts.last_failed_at.and_then(at);
        dead_letter.dead_lettered_at = Some(self.dead_lettered_at);
        dead_letter.done_handlers.clone_from(&self.delivery_attempts.done);
        let record = self.record()?;
        dead_letter.event_type = record.as_ref().map(|record| record.event_type().to_string());
        dead_letter.aggregate_id = record.as_ref().map(|record| record.metadata().aggregate_id().to_string());
        dead_letter.record = record;
        Ok(dead_letter)
    }
}

/// The files of dead letters, and those of replays: dead letters that were moved to `replays/`, until their delivery
/// ends.
#[derive(Debug)]
pub(crate) struct DeadLetterFiles {
    disk: Arc<Disk>,
    worker_id: String,
    clock: SharedClock,
}

impl DeadLetterFiles {
    pub(crate) fn new(disk: Arc<Disk>, worker_id: String, clock: SharedClock) -> Self {
        Self { disk, worker_id, clock }
    }

    fn path(&self, stem: &str) -> PathBuf {
        self.disk.root().join(names::DEAD_LETTERS).join(format!("{stem}.json"))
    }

    /// Returns the names of all dead letters, oldest event first.
    pub(crate) fn list_dead_letter_stems(&self) -> Result<Vec<String>> {
        list_stems(&self.disk.root().join(names::DEAD_LETTERS))
    }

    /// Makes a delivery a dead letter; replaces an existing dead letter of the same delivery, and ends its replay.
    ///
    /// If there is a replay, it writes the replay's file anew, then moves it. If the process dies before the move, the
    /// next owner of the group delivers the replay again, with fresh attempts; after the move, there is only the dead
    /// letter.
    pub(crate) fn write_dead_letter(
        &self,
        id: u64,
        group: &Name,
        first_epoch: Option<u64>,
        record: Option<&RecordedEvent>,
        attempts: DeliveryAttempts,
    ) -> Result<()> {
        let dead_letter = file_stem(id, group)?;
        let file = DeadLetterFile {
            id,
            group: group.to_string(),
            dead_lettered_at: self.clock.now(),
            worker_id: self.worker_id.clone(),
            handler: attempts.handlers(),
            error: attempts.errors(),
            attempts: attempts.most_attempts(),
            first_epoch,
            event: record.map(|record| WrittenRecord::new(record, None)).transpose()?,
            delivery_attempts: attempts,
            replay: None,
        };
        let (path, replay) = (self.path(&dead_letter), self.replay_path(&dead_letter));
        let content = event::to_pretty_json("the dead letter", &file)?;
        if disk::exists(&replay)? {
            self.disk.replace(&replay, &content)?;
            self.disk.rename(&replay, &path)?;
        } else {
            self.disk.replace(&path, &content)?;
        }
        self.disk.sync_folder(&self.disk.root().join(names::DEAD_LETTERS))?;
        let DeadLetterFile { handler, error, attempts, .. } = file;
        let event_type = record.map(|record| record.event_type().as_str());
        tracing::error!(
            %group, id, dead_letter, handler, error, attempts, event_type,
            "delivery given up: it is a dead letter now"
        );
        Ok(())
    }

    pub(crate) fn load_dead_letter(&self, stem: &str) -> Result<Option<DeadLetter>> {
        let path = self.path(stem);
        let file = disk::read_json::<DeadLetterFile>(&path, "dead letter")?;
        let dead_letter = file.map(|file| file.into_dead_letter(MessageId::new(stem))).transpose();
        dead_letter.map_err(|error| FileQueueError::torn("dead letter", path, error))
    }

    /// Loads the page of dead letters that follow a given one; passes torn ones over.
    pub(crate) fn load_dead_letter_page(
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
    pub(crate) fn for_each_matching(
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

    pub(crate) fn remove_dead_letter(&self, stem: &str) -> Result<bool> {
        self.disk.remove(&self.path(stem))
    }

    /// Returns `true` if an event became a dead letter of the group that began in this epoch; `false` if its dead letter
    /// is of before the group's retirement.
    pub(crate) fn has_dead_letter(&self, id: u64, group: &Name, first_epoch: Option<u64>) -> Result<bool> {
        match disk::read_json::<DeadLetterFile>(&self.path(&file_stem(id, group)?), "dead letter") {
            // the file does not show of when it is: delivering the event once more loses none
            Err(FileQueueError::Torn { .. }) => Ok(false),
            file => Ok(file?.is_some_and(|file| file.first_epoch == first_epoch)),
        }
    }

    fn replay_path(&self, stem: &str) -> PathBuf {
        self.disk.root().join(names::REPLAYS).join(format!("{stem}.json"))
    }

    /// Moves a dead letter to the replays of its group. Returns `false` if it does not exist any more.
    pub(crate) fn start_replay(&self, stem: &str) -> Result<bool> {
        self.disk.rename(&self.path(stem), &self.replay_path(stem))
    }

    pub(crate) fn list_replays(&self, group: &Name) -> Result<Vec<u64>> {
        let stems = list_stems(&self.disk.root().join(names::REPLAYS))?;
        let of_group = stems.iter().filter_map(|stem| parse_stem(stem).filter(|(_, of)| of == group));
        Ok(of_group.map(|(id, _)| id).collect())
    }

    /// Makes the replays of a group dead letters again; returns their number.
    pub(crate) fn return_replays(&self, group: &Name) -> Result<u64> {
        let mut returned = 0;
        for id in self.list_replays(group)? {
            let stem = file_stem(id, group)?;
            // the next replay runs the other handlers, with fresh attempts; a torn file is moved as it is
            if let Ok(Some(mut file)) = self.read_replay_file(id, group)
                && let Some(attempts) = file.replay.take()
            {
                file.delivery_attempts.done = attempts.done;
                self.disk.replace(&self.replay_path(&stem), &event::to_pretty_json("the dead letter", &file)?)?;
            }
            returned += u64::from(self.disk.rename(&self.replay_path(&stem), &self.path(&stem))?);
        }
        if returned > 0 {
            self.disk.sync_folder(&self.disk.root().join(names::DEAD_LETTERS))?;
        }
        Ok(returned)
    }

    fn read_replay_file(&self, id: u64, group: &Name) -> Result<Option<DeadLetterFile>> {
        disk::read_json(&self.replay_path(&file_stem(id, group)?), "dead letter")
    }

    /// Loads a replay as an entry; `None` if it does not exist any more.
    pub(crate) fn load_replay(&self, id: u64, group: &Name) -> Result<Option<InFlightEntry>> {
        let Some(mut file) = self.read_replay_file(id, group)? else {
            return Ok(None);
        };
        let attempts = file
            .replay
            .take()
            .unwrap_or_else(|| DeliveryAttempts::replayed(std::mem::take(&mut file.delivery_attempts.done)));
        let path = self.replay_path(&file_stem(id, group)?);
        let record = file.record().map_err(|error| FileQueueError::torn("dead letter", path, error))?;
        Ok(record.map(|record| InFlightEntry::new(message_id(id), record).with_attempts(attempts)))
    }

    /// Saves the attempts of a replay that goes on; leaves a torn file as it is, which the consumer passes over when it
    /// reads the replay again.
    pub(crate) fn save_replay_attempts(&self, id: u64, group: &Name, attempts: DeliveryAttempts) -> Result<()> {
        let file = match self.read_replay_file(id, group) {
            Err(FileQueueError::Torn { .. }) => None,
            file => file?,
        };
        if let Some(mut file) = file {
            file.replay = Some(attempts);
            self.disk
                .replace(&self.replay_path(&file_stem(id, group)?), &event::to_pretty_json("the replay", &file)?)?;
        }
        Ok(())
    }

    pub(crate) fn remove_replay(&self, id: u64, group: &Name) -> Result<()> {
        self.disk.remove(&self.replay_path(&file_stem(id, group)?)).map(drop)
    }
}

/// Returns the name of a dead letter without its suffix: `000000000012-default`.
fn file_stem(id: u64, group: &Name) -> Result<String> {
    Ok(format!("{id:012}-{}", names::encode("group", group)?))
}

/// Returns the event's id and the group in the name of a dead letter.
pub(crate) fn parse_stem(stem: &str) -> Option<(u64, Name)> {
    let (id, group) = stem.split_once('-')?;
    let id = names::parse_file_name(&format!("{id}.json"))?;
    Some((id, Name::new("group", names::decode(group)?).ok()?))
}

pub(crate) fn is_dead_letter_name(name: &str) -> bool {
    name.strip_suffix(".json").and_then(parse_stem).is_some()
}

/// Returns an error unless a file holds a dead letter.
pub(crate) fn check_dead_letter(path: &Path) -> Result<()> {
    disk::read_json::<DeadLetterFile>(path, "dead letter").map(drop)
}

/// Returns the names of dead letters in a folder, without their suffix, sorted.
fn list_stems(folder: &Path) -> Result<Vec<String>> {
    let names = disk::list_names(folder)?;
    let mut stems: Vec<_> = names.iter().filter_map(|name| name.strip_suffix(".json")).collect();
    stems.retain(|stem| parse_stem(stem).is_some());
    stems.sort_unstable_by_key(|stem| parse_stem(stem));
    Ok(stems.into_iter().map(Into::into).collect())
}
