//! How far consumer groups have finished what a store's relay published.

use std::collections::BTreeSet;

use eventbus::{
    Name,
    port::{Publisher, SeenFloor, SeenFloors},
};

use super::Relayed;
use crate::{
    error::{FileQueueError, Result},
    queue::Shared,
};

/// How many events are looked at to find one of a store.
const MOST_READ: u64 = 500;

impl Shared {
    pub(super) fn group_floors(&self, publisher: Publisher, known: Vec<Name>) -> Result<SeenFloors> {
        let Some(relayed) = self.relayed(publisher.store)? else {
            return Ok(SeenFloors::Lost);
        };
        let groups: BTreeSet<Name> = known.into_iter().chain(self.known_groups()?).collect();
        let seen = |group| Ok((self.floor_of(&relayed, &group)?, group));
        let seen = groups.into_iter().map(seen).map(|seen| seen.map(|(floor, group)| (group, floor)));
        Ok(SeenFloors::Groups(seen.collect::<Result<_>>()?))
    }

    fn floor_of(&self, relayed: &Relayed, group: &Name) -> Result<SeenFloor> {
        let (owner, progress) = match self.group(group) {
            Err(error @ FileQueueError::Torn { .. }) => {
                tracing::warn!(%group, error = error.log(), "how far the group has come cannot be told");
                return Ok(SeenFloor::Unknown);
            }
            group => group?,
        };
        if owner.is_none() {
            return Ok(SeenFloor::Missing);
        }
        let finished = self.finished(relayed, progress.finished_through())?;
        Ok(finished.map_or(SeenFloor::Unknown, |position| SeenFloor::At(position.into())))
    }

    /// The position up to which everything is published that a store has up to an id, at the latest; `None` if that would
    /// take long to tell.
    fn finished(&self, relayed: &Relayed, through: u64) -> Result<Option<u64>> {
        let record = &relayed.now;
        let begun_again = record.begun.iter().filter(|begun| begun.id > through).map(|begun| begun.after).min();
        let at_most = |position: u64| Some(begun_again.map_or(position, |after| after.min(position)));
        for id in through + 1..=record.through.min(through + MOST_READ) {
            let file = match self.log.file(id) {
                Err(FileQueueError::Torn { .. }) => None,
                file => file?,
            };
            let own = file.filter(|file| file.store == Some(record.store));
            if let Some((position, _)) = own.and_then(|file| file.event?.place()) {
                return Ok(at_most(position.saturating_sub(1)));
            }
        }
        Ok(if record.through > through + MOST_READ { None } else { at_most(record.position) })
    }
}
