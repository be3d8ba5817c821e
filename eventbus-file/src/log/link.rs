//! Linking staged events to ids.

use std::{collections::VecDeque, ops::Range};

use super::EventLog;
use crate::{
    disk::StagedFile,
    error::{FileQueueError, Result},
};

/// Reaction to an id that is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnTakenId {
    TryNext,
    Stop,
}

/// Outcome of linking.
#[derive(Debug, Default)]
pub(crate) struct LinkOutcome {
    pub(crate) ids: Vec<u64>,
    /// Number of ids that were in use.
    pub(crate) collisions: u64,
    /// The error that ended it early.
    pub(crate) error: Option<FileQueueError>,
}

impl EventLog {
    /// Links staged events to the reserved ids that are free, or, without reserved ids, to the next ones after the
    /// newest file. Returns the linked ids in order; the events that remain in `staged` have none yet.
    pub(crate) fn link(&self, staged: &mut VecDeque<StagedFile>, reserved: Option<Range<u64>>) -> Result<LinkOutcome> {
        let ids = match reserved {
            Some(drawn) => drawn.start.max(self.removed_through()? + 1)..drawn.end,
            None => self.head()? + 1..u64::MAX,
        };
        self.link_range(staged, ids, OnTakenId::TryNext)
    }

    /// Links staged events to the ids after one, up to the first id that is in use.
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

    /// Links a staged event to an id. Returns `false` if a different event has the id, or had it until a removal. No
    /// worker removes an event that is still staged, so if the id is removed after the link, a different event had it.
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
