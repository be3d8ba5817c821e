//! Replays: dead letters that were moved to `replays/`, until their delivery ends.

use std::path::PathBuf;

use eventbus::{
    Name, RecordedEvent,
    port::{DeliveryAttempts, InFlightEntry, from_json},
};

use super::dead_letters::{DeadLetterFile, file_stem, list_stems, parse_stem};
use crate::{
    disk,
    error::{FileQueueError, Result},
    event::{self, message_id},
    inner::QueueInner,
    names,
};

impl QueueInner {
    fn replay_path(&self, stem: &str) -> PathBuf {
        self.disk.root().join(names::REPLAYS).join(format!("{stem}.json"))
    }

    /// Moves a dead letter to the replays of its group. Returns `false` if it does not exist any more.
    pub(super) fn start_replay(&self, stem: &str) -> Result<bool> {
        self.disk.rename(&self.dead_letter_path(stem), &self.replay_path(stem))
    }

    pub(super) fn list_replays(&self, group: &Name) -> Result<Vec<u64>> {
        let stems = list_stems(&self.disk.root().join(names::REPLAYS))?;
        let of_group = stems.iter().filter_map(|stem| parse_stem(stem).filter(|(_, of)| of == group));
        Ok(of_group.map(|(id, _)| id).collect())
    }

    fn read_replay_file(&self, id: u64, group: &Name) -> Result<Option<DeadLetterFile>> {
        let path = self.replay_path(&file_stem(id, group)?);
        let Some(content) = disk::read(&path)? else {
            return Ok(None);
        };
        let file = from_json(&content);
        file.map(Some).map_err(|error| FileQueueError::torn("dead letter", path, error))
    }

    /// Loads a replay as an entry; `None` if it does not exist any more.
    pub(super) fn load_replay(&self, id: u64, group: &Name) -> Result<Option<InFlightEntry>> {
        let Some(mut file) = self.read_replay_file(id, group)? else {
            return Ok(None);
        };
        let attempts =
            file.replay.take().unwrap_or_else(|| DeliveryAttempts::replayed(std::mem::take(&mut file.tries.done)));
        let path = self.replay_path(&file_stem(id, group)?);
        let record = file.record().map_err(|error| FileQueueError::torn("dead letter", path, error))?;
        Ok(record.map(|record| InFlightEntry::new(message_id(id), record).with_attempts(attempts)))
    }

    /// Saves the attempts of a replay that goes on.
    pub(super) fn save_replay_attempts(&self, id: u64, group: &Name, attempts: DeliveryAttempts) -> Result<()> {
        if let Some(mut file) = self.read_replay_file(id, group)? {
            file.replay = Some(attempts);
            self.disk
                .replace(&self.replay_path(&file_stem(id, group)?), &event::to_pretty_json("the replay", &file)?)?;
        }
        Ok(())
    }

    pub(super) fn remove_replay(&self, id: u64, group: &Name) -> Result<()> {
        self.disk.remove(&self.replay_path(&file_stem(id, group)?)).map(drop)
    }

    /// Makes a replay that failed for good a dead letter again.
    pub(super) fn return_to_dead_letters(
        &self,
        id: u64,
        group: &Name,
        record: Option<&RecordedEvent>,
        attempts: DeliveryAttempts,
    ) -> Result<()> {
        self.write_dead_letter(id, group, record, attempts)?;
        self.remove_replay(id, group)
    }
}
