//! Who gets which id.

use std::{collections::VecDeque, ops::Range};

use super::EventLog;
use crate::{
    disk::StagedFile,
    error::{FileQueueError, Result},
};

/// What to do about an id that somebody else has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnTakenId {
    TryNext,
    Stop,
}

/// What came of linking.
#[derive(Debug, Default)]
pub(crate) struct LinkOutcome {
    pub(crate) ids: Vec<u64>,
    /// How many ids were taken.
    pub(crate) collisions: u64,
    /// Why it ended early.
    pub(crate) error: Option<FileQueueError>,
}

impl EventLog {
    /// Gives staged events ids: those drawn, as far as they are free, or the next ones after the newest file. Returns
    /// the ids given, in order; what is left in `staged` has none yet.
    pub(crate) fn link(&self, staged: &mut VecDeque<StagedFile>, reserved: Option<Range<u64>>) -> Result<LinkOutcome> {
        let ids = match reserved {
            Some(drawn) => drawn.start.max(self.removed_through()? + 1)..drawn.end,
            None => self.head()? + 1..u64::MAX,
        };
        self.link_range(staged, ids, OnTakenId::TryNext)
    }

    /// Gives staged events the ids after one, up to the first that somebody else has.
    pub(crate) fn link_after(&self, staged: &mut VecDeque<StagedFile>, id: u64) -> Result<LinkOutcome> {
        self.link_range(staged, id + 1..u64::MAX, OnTakenId::Stop)
    }

    fn link_range(
        &self,
        staged: &mut VecDeque<StagedFile>,
        mut ids: Range<u64>,
        on_taken_id: OnTakenId,
    ) -> Result<LinkOutcome> {
        let mut linked = LinkOutcome::default();
        while let Some(next) = staged.front()
            && let Some(id) = ids.next()
        {
            match self.link_event(next, id) {
                Ok(true) => {
                    linked.ids.push(id);
                    staged.pop_front();
                }
                Ok(false) => {
                    linked.collisions += 1;
                    if on_taken_id == OnTakenId::Stop {
                        break;
                    }
                }
                Err(error) => {
                    linked.error = Some(error);
                    break;
                }
            }
        }
        if let Err(error) = self.sync_shards(&linked.ids) {
            linked.error.get_or_insert(error);
        }
        Ok(linked)
    }

    /// Gives a staged event an id. `false`: somebody else has it, or had it until it was removed. What is ours is not
    /// removed as long as it is staged, so if the id was removed when we look, it was another's.
    fn link_event(&self, staged: &StagedFile, id: u64) -> Result<bool> {
        let path = self.path(id);
        if !self.disk.link(staged, &path)? {
            return Ok(false);
        }
        let is_ours = id > self.removed_through()?;
        if !is_ours {
            self.disk.remove(&path)?;
        }
        Ok(is_ours)
    }
}
