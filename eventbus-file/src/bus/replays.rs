//! Dead letters that are being replayed: files that were moved to `replays/`, until they are done with.

use std::path::PathBuf;

use eventbus::{
    Name, RecordedEvent,
    port::{Taken, Tries, from_json},
};

use super::letters::{LetterFile, parts, stem, stems};
use crate::{
    disk,
    error::{FileQueueError, Result},
    event::{self, message_id},
    names,
    queue::Shared,
};

impl Shared {
    fn replay_path(&self, stem: &str) -> PathBuf {
        self.disk.root().join(names::REPLAYS).join(format!("{stem}.json"))
    }

    /// Hands a dead letter over to its group. `false`: it is not there any more.
    pub(super) fn begin_replay(&self, stem: &str) -> Result<bool> {
        self.disk.rename(&self.letter_path(stem), &self.replay_path(stem))
    }

    /// The events that are replayed to a group.
    pub(super) fn replays_of(&self, group: &Name) -> Result<Vec<u64>> {
        let stems = stems(&self.disk.root().join(names::REPLAYS))?;
        let of_group = stems.iter().filter_map(|stem| parts(stem).filter(|(_, of)| of == group));
        Ok(of_group.map(|(id, _)| id).collect())
    }

    fn read_replay(&self, id: u64, group: &Name) -> Result<Option<LetterFile>> {
        let path = self.replay_path(&stem(id, group)?);
        let Some(content) = disk::read(&path)? else {
            return Ok(None);
        };
        let file = from_json(&content);
        file.map(Some).map_err(|error| FileQueueError::torn("dead letter", path, error))
    }

    /// What is to be handled again; `None` if there is nothing any more.
    pub(super) fn take_replay(&self, id: u64, group: &Name) -> Result<Option<Taken>> {
        let Some(mut file) = self.read_replay(id, group)? else {
            return Ok(None);
        };
        let tries = file.replay.take().unwrap_or_else(|| Tries::anew(std::mem::take(&mut file.tries.done)));
        let path = self.replay_path(&stem(id, group)?);
        let record = file.record().map_err(|error| FileQueueError::torn("dead letter", path, error))?;
        Ok(record.map(|record| Taken::new(message_id(id), record).with_tries(tries)))
    }

    /// Writes down what came of a replay that goes on.
    pub(super) fn keep_replay(&self, id: u64, group: &Name, tries: Tries) -> Result<()> {
        if let Some(mut file) = self.read_replay(id, group)? {
            file.replay = Some(tries);
            self.disk.replace(&self.replay_path(&stem(id, group)?), &event::pretty("the replay", &file)?)?;
        }
        Ok(())
    }

    /// A replay is done with.
    pub(super) fn end_replay(&self, id: u64, group: &Name) -> Result<()> {
        self.disk.remove(&self.replay_path(&stem(id, group)?)).map(drop)
    }

    /// A replay has failed for good: it is a dead letter again.
    pub(super) fn bury_replay(
        &self,
        id: u64,
        group: &Name,
        record: Option<&RecordedEvent>,
        tries: Tries,
    ) -> Result<()> {
        self.bury(id, group, record, tries)?;
        self.end_replay(id, group)
    }
}
