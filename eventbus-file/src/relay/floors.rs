//! Low-water marks: how far consumer groups have finished the events of a store's relay.

use std::collections::BTreeSet;

use eventbus::{
    Name,
    relay::{GroupFloor, GroupFloors, Publisher},
};

use crate::{
    error::{FileQueueError, Result},
    inner::QueueInner,
    log::EventLog,
    relay_log::RelayState,
};

/// Maximum number of events read to find one of a store.
const FLOOR_SCAN_MAX: u64 = 500;

pub(super) fn group_floors(queue: &QueueInner, publisher: Publisher, known: Vec<Name>) -> Result<GroupFloors> {
    let Some(relayed) = queue.relays().load_relay_state(publisher.store)? else {
        return Ok(GroupFloors::Lost);
    };
    let groups: BTreeSet<Name> = known.into_iter().chain(queue.groups().list_groups()?).collect();
    let seen = |group| Ok((load_group_floor(queue, &relayed, &group)?, group));
    let seen = groups.into_iter().map(seen).map(|seen| seen.map(|(floor, group)| (group, floor)));
    Ok(GroupFloors::Groups(seen.collect::<Result<_>>()?))
}

fn load_group_floor(queue: &QueueInner, relayed: &RelayState, group: &Name) -> Result<GroupFloor> {
    let (owner, progress) = match queue.groups().load_group(group) {
        Err(error @ FileQueueError::Torn { .. }) => {
            tracing::warn!(%group, error = error.log(), "the group's progress is torn, its low-water mark unknown");
            return Ok(GroupFloor::Unknown);
        }
        group => group?,
    };
    if owner.is_none() {
        return Ok(GroupFloor::Missing);
    }
    let finished = find_finished_position(queue.log(), relayed, progress.finished_through())?;
    Ok(finished.map_or(GroupFloor::Unknown, |position| GroupFloor::At(position.into())))
}

/// Returns a position of the store up to which all its events are published at or below an id; `None` if the search
/// would take too long.
fn find_finished_position(log: &EventLog, relayed: &RelayState, through: u64) -> Result<Option<u64>> {
    let record = &relayed.record;
    let begun_again = record.begun.iter().filter(|begun| begun.id > through).map(|begun| begun.after).min();
    let at_most = |position: u64| Some(begun_again.map_or(position, |after| after.min(position)));
    for id in through + 1..=record.through.min(through + FLOOR_SCAN_MAX) {
        let file = match log.read_file(id) {
            Err(FileQueueError::Torn { .. }) => None,
            file => file?,
        };
        let own = file.filter(|file| file.store == Some(record.store));
        if let Some((position, _)) = own.and_then(|file| file.event?.position_and_event_id()) {
            return Ok(at_most(position.saturating_sub(1)));
        }
    }
    Ok(if record.through > through + FLOOR_SCAN_MAX { None } else { at_most(record.position) })
}
