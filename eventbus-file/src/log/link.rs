//! Who gets which id.

use std::{collections::VecDeque, ops::Range};

use super::EventLog;
use crate::{
    disk::Staged,
    error::{FileQueueError, Result},
};

/// What to do about an id that somebody else has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IfTaken {
    Next,
    Stop,
}

/// What came of linking.
#[derive(Debug, Default)]
pub(crate) struct Linked {
    pub(crate) ids: Vec<u64>,
    /// How many ids were taken.
    pub(crate) collisions: u64,
    /// Why it ended early.
    pub(crate) error: Option<FileQueueError>,
}

impl EventLog {
    /// Gives staged events ids: those drawn, as far as they are free, or the next ones after the newest file. Returns
    /// the ids given, in order; what is left in `staged` has none yet.
    pub(crate) fn link(&self, staged: &mut VecDeque<Staged>, drawn: Option<Range<u64>>) -> Result<Linked> {
        let ids = match drawn {
            Some(drawn) => drawn.start.max(self.removed_through()? + 1)..drawn.end,
            None => self.head()? + 1..u64::MAX,
        };
        self.link_to(staged, ids, IfTaken::Next)
    }

    /// Gives staged events the ids after one, up to the first that somebody else has.
    pub(crate) fn link_after(&self, staged: &mut VecDeque<Staged>, id: u64) -> Result<Linked> {
        self.link_to(staged, id + 1..u64::MAX, IfTaken::Stop)
    }

    fn link_to(&self, staged: &mut VecDeque<Staged>, mut ids: Range<u64>, if_taken: IfTaken) -> Result<Linked> {
        let mut linked = Linked::default();
        while let Some(next) = staged.front()
            && let Some(id) = ids.next()
        {
            match self.link_one(next, id) {
                Ok(true) => {
                    linked.ids.push(id);
                    staged.pop_front();
                }
                Ok(false) => {
                    linked.collisions += 1;
                    if if_taken == IfTaken::Stop {
                        break;
                    }
                }
                Err(error) => {
                    linked.error = Some(error);
                    break;
                }
            }
        }
        if let Err(error) = self.sync(&linked.ids) {
            linked.error.get_or_insert(error);
        }
        Ok(linked)
    }

    /// Gives a staged event an id. `false`: somebody else has it, or had it until it was removed. What is ours is not
    /// removed as long as it is staged, so if the id was removed when we look, it was another's.
    fn link_one(&self, staged: &Staged, id: u64) -> Result<bool> {
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
