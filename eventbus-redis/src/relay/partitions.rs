//! Publishing for relays to several partitions, each with its own record.
//!
//! Invariant: a partition without events moves its position too; else the lowest position, from which the relay
//! continues, would never move.

use std::collections::BTreeMap;

use eventbus::{
    Name, Position, RecordedEvent,
    port::{MessageId, PublishError},
    relay::{GroupFloor, GroupFloors, PublishRange, Publisher, RangeOutcome, ResyncOutcome},
};

use super::{group_floors_of_stream, last_event_id, publish_to_stream};
use crate::inner::BusInner;

/// Merges the outcomes of a resync or a rewind: if one partition refuses, the outcome is a refusal. Else the relay
/// continues from the lowest position, and partitions that are ahead pass over the events that they have.
pub(super) fn merge_outcomes(all: Option<ResyncOutcome>, part: ResyncOutcome) -> ResyncOutcome {
    match (all, part) {
        (None, part) => part,
        (Some(refused @ (ResyncOutcome::Fenced | ResyncOutcome::OtherStore(_))), _) => refused,
        (Some(ResyncOutcome::Moved(all)), ResyncOutcome::Moved(part)) => ResyncOutcome::Moved(all.min(part)),
        (
            Some(ResyncOutcome::At(all) | ResyncOutcome::Moved(all)),
            ResyncOutcome::At(part) | ResyncOutcome::Moved(part),
        ) => ResyncOutcome::At(all.min(part)),
        (Some(_), refused) => refused,
    }
}

/// Returns the lower one of a group's low-water marks in two partitions.
fn lower_floor(one: GroupFloor, other: GroupFloor) -> GroupFloor {
    let rank = |floor: GroupFloor| match floor {
        GroupFloor::Gap => 0,
        GroupFloor::Missing => 1,
        GroupFloor::At(_) => 3,
        _ => 2,
    };
    match (one, other) {
        (GroupFloor::At(one), GroupFloor::At(other)) => GroupFloor::At(one.min(other)),
        _ if rank(one) <= rank(other) => one,
        _ => other,
    }
}

/// Publishes to each partition its own events of a range; a partition without any only moves its position. A
/// partition that is ahead after an attempt that ended half way gets only its missing events.
pub(super) async fn publish_by_partition(
    bus: &BusInner,
    publisher: Publisher,
    range: PublishRange<'_>,
) -> Result<RangeOutcome, PublishError> {
    let mut ids: Vec<(Position, MessageId)> = Vec::with_capacity(range.events.len());
    // the lowest position of the partitions that were not at the start of the range
    let mut lowest: Option<Position> = None;
    let mut has_published = false;
    for part in bus.partitions() {
        let is_its = |event: &&RecordedEvent| bus.partition_for(event.metadata().stream()).stream() == part.stream();
        let mut events: Vec<RecordedEvent> = range.events.iter().filter(is_its).cloned().collect();
        let mut after = range.after;
        loop {
            let own = PublishRange { after, through: range.through, events: &events };
            match publish_to_stream(part, publisher, own, last_event_id(range)).await? {
                RangeOutcome::Published(published) => {
                    let positions = events.iter().filter_map(RecordedEvent::position);
                    ids.extend(positions.zip(published));
                    has_published = true;
                }
                RangeOutcome::Moved(at) if at > after && at < range.through => {
                    after = at;
                    events.retain(|event| event.position() > Some(at));
                    continue;
                }
                RangeOutcome::Moved(at) => lowest = Some(lowest.map_or(at, |lowest| lowest.min(at))),
                refused => return Ok(refused),
            }
            break;
        }
    }
    if let Some(lowest) = lowest.filter(|lowest| !has_published || *lowest < range.after) {
        return Ok(RangeOutcome::Moved(lowest));
    }
    ids.sort_by_key(|(position, _)| *position);
    let is_known = ids.len() == range.events.len();
    let ids = ids.into_iter().filter(|_| is_known).map(|(_, id)| id);
    Ok(RangeOutcome::Published(ids.collect()))
}

/// Returns each group's lowest low-water mark. A partition reports a group that has not begun there only if the
/// request names it, so the loop repeats until the request names every group found.
pub(super) async fn group_floors_by_partition(
    bus: &BusInner,
    publisher: Publisher,
    known: &[Name],
) -> Result<GroupFloors, PublishError> {
    let mut requested = known.to_vec();
    loop {
        let mut all: BTreeMap<Name, GroupFloor> = BTreeMap::new();
        for part in bus.partitions() {
            let GroupFloors::Groups(groups) = group_floors_of_stream(part, publisher, &requested).await? else {
                return Ok(GroupFloors::Lost);
            };
            for (group, floor) in groups {
                all.entry(group).and_modify(|other| *other = lower_floor(*other, floor)).or_insert(floor);
            }
        }
        let new: Vec<Name> = all.keys().filter(|group| !requested.contains(group)).cloned().collect();
        if new.is_empty() {
            return Ok(GroupFloors::Groups(all.into_iter().collect()));
        }
        requested.extend(new);
    }
}
