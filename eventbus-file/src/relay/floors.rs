//! Low-water marks: how far consumer groups have finished the events of a store's relay.

use std::collections::{BTreeMap, btree_map::Entry};

use eventbus::{
    Name,
    relay::{GroupFloor, GroupFloors, Publisher},
};

use crate::{
    error::{FileQueueError, Result},
    group_store::LoadedGroup,
    inner::QueueInner,
    log::EventLog,
    relay_log::RelayState,
};

/// Maximum number of events that are read to find an event of a store.
const FLOOR_SCAN_MAX: u64 = 500;

pub(super) fn group_floors(queue: &QueueInner, publisher: Publisher, known: Vec<Name>) -> Result<GroupFloors> {
    let Some(relayed) = queue.relays().load_relay_state(publisher.store)? else {
        return Ok(GroupFloors::Lost);
    };
    let mut floors = BTreeMap::new();
    for (group, loaded) in queue.groups().load_groups()? {
        let floor = floor_of(queue, &relayed, &group, loaded)?;
        floors.insert(group, floor);
    }
    for group in known {
        if let Entry::Vacant(missing) = floors.entry(group) {
            let loaded = queue.groups().load_group(missing.key());
            let floor = floor_of(queue, &relayed, missing.key(), loaded)?;
            missing.insert(floor);
        }
    }
    Ok(GroupFloors::Groups(floors.into_iter().collect()))
}

fn floor_of(queue: &QueueInner, relayed: &RelayState, group: &Name, loaded: Result<LoadedGroup>) -> Result<GroupFloor> {
    let (owner, progress) = match loaded {
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
