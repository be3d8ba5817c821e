//! How far the consumer groups of a bus have finished, kept in the store while the bus still knows.
//!
//! Keep: a floor is what the bus said last, lower ones too: a group that was set back has finished less. What the bus
//! cannot tell leaves the former floor as it is.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use super::checkpoint_name;
use crate::{
    domain::{
        clock::SharedClock,
        error::{BoxError, ErrorLine},
        name::Name,
        stream::Position,
    },
    port::{EventBus, EventStore, Floor, GroupFloor, GroupFloors, Outage, Publisher, RelayTarget},
};

/// After how long a group that finishes nothing, while there is something to finish, is worth a line in the log.
const IDLE_GROUP_WARN_AFTER: Duration = Duration::from_secs(3_600);

/// What became of the groups.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum GroupCheck {
    /// Nothing to do.
    Healthy,
    /// The bus does not hold what was published last.
    Lost,
    /// A group misses what was published after this position; nothing that is known, if there is none.
    Gap(Option<Position>),
}

/// What is known of the groups of a bus, while this process relays.
#[derive(Debug, Default)]
pub(super) struct GroupFloorTracker {
    tracked: HashMap<Name, TrackedGroup>,
    outage: Outage,
    clock: SharedClock,
}

#[derive(Debug)]
struct TrackedGroup {
    floor: Position,
    /// Since when it is there.
    unchanged_since: Instant,
    is_logged: bool,
    is_missing: bool,
}

impl GroupFloorTracker {
    pub(super) fn new(clock: SharedClock) -> Self {
        Self { outage: Outage::new(clock.clone()), clock, ..Self::default() }
    }

    /// Asks the bus how far the groups are, and saves what is new.
    pub(super) async fn check(
        &mut self,
        store: &dyn EventStore,
        destination: &Name,
        target: &dyn RelayTarget,
        publisher: Publisher,
    ) -> Result<GroupCheck, BoxError> {
        let known: BTreeMap<Name, Position> =
            store.floors(destination).await?.into_iter().map(|floor| (floor.group, floor.position)).collect();
        let names: Vec<Name> = known.keys().cloned().collect();
        let GroupFloors::Groups(reported_floors) = target.group_floors(publisher, &names).await? else {
            return Ok(GroupCheck::Lost);
        };
        let (mut changed, mut gaps) = (Vec::new(), Vec::new());
        for (group, floor) in reported_floors {
            let former = known.get(&group).copied();
            if let GroupFloor::At(position) = floor
                && former != Some(position)
            {
                changed.push(Floor { group: group.clone(), position });
            }
            self.track(destination, &group, floor, former);
            if floor == GroupFloor::Gap {
                tracing::warn!(
                    %destination, %group, floor = former.map(Position::get),
                    "somebody removed entries that a group had not finished: they are published again"
                );
                gaps.push(former);
            }
        }
        self.tracked.retain(|group, _| known.contains_key(group) || changed.iter().any(|floor| floor.group == *group));
        if !changed.is_empty() {
            store.save_floors(destination, &changed).await?;
        }
        Ok(if gaps.is_empty() { GroupCheck::Healthy } else { GroupCheck::Gap(gaps.into_iter().flatten().min()) })
    }

    /// Logs that they cannot be looked after, and once which of them hold everything back although there is something to
    /// finish before `published`.
    pub(super) fn log_problems(&mut self, destination: &Name, published: Position, failure: Option<&BoxError>) {
        if let Some(error) = failure {
            if self.outage.begins() {
                tracing::warn!(%destination, error = %ErrorLine(&**error), "how far the groups are cannot be kept, trying again");
            }
        } else if let Some(lasted) = self.outage.ends() {
            tracing::info!(%destination, ?lasted, "how far the groups are is kept again");
        }
        for (group, tracked_group) in &mut self.tracked {
            let age = self.clock.elapsed(tracked_group.unchanged_since);
            if tracked_group.floor < published && age >= IDLE_GROUP_WARN_AFTER && !tracked_group.is_logged {
                tracked_group.is_logged = true;
                let (floor, minutes) = (tracked_group.floor, age.as_secs() / 60);
                tracing::warn!(
                    %destination, %group, %floor, minutes,
                    "a group has finished nothing for long; what follows on its floor is kept for it, and is published \
                     again if the bus loses its data: if nobody consumes it any more, retire it on the bus, then say \
                     `app.forget_group(..)`"
                );
            }
        }
    }

    /// Notes for how long a group has been where it is.
    fn track(&mut self, destination: &Name, group: &Name, reported_floors: GroupFloor, former: Option<Position>) {
        let at = if let GroupFloor::At(position) = reported_floors { Some(position) } else { former };
        let Some(floor) = at else {
            return;
        };
        let since = self.clock.instant();
        let fresh = || TrackedGroup { floor, unchanged_since: since, is_logged: false, is_missing: false };
        let tracked_group = self.tracked.entry(group.clone()).or_insert_with(fresh);
        if tracked_group.floor != floor {
            *tracked_group = TrackedGroup { is_missing: tracked_group.is_missing, ..fresh() };
        }
        let is_missing = reported_floors == GroupFloor::Missing;
        if is_missing && !tracked_group.is_missing {
            tracing::warn!(%destination, %group, %floor, "a group is gone from the bus; whoever consumes next makes it again");
        }
        tracked_group.is_missing = is_missing;
    }
}

/// From where on, and for whom, everything is published anew.
///
/// A group that has finished nothing while others have, or while something was published before, is fresh where the bus
/// gives it what it misses for itself: what the others have finished is not published again for it.
pub(super) async fn plan_resync(
    store: &dyn EventStore,
    destination: &Name,
    gives_to_one: bool,
) -> Result<ResyncPlan, BoxError> {
    let mut floors = store.floors(destination).await?;
    let groups = floors.iter().map(|floor| floor.group.clone()).collect();
    let mut fresh = Vec::new();
    if gives_to_one {
        let is_fresh = |floor: &mut Floor| floor.position == Position::START;
        fresh = floors.extract_if(.., is_fresh).map(|floor| floor.group).collect();
    }
    let newest = store.head().await?;
    let lowest = floors.iter().map(|floor| floor.position).min();
    let floor = match lowest {
        Some(floor) => floor,
        None => store.load_checkpoint(&checkpoint_name(destination)).await?.unwrap_or_default(),
    };
    // a store that was restored may have floors that are ahead of it
    Ok(ResyncPlan { floor: floor.min(newest), groups, fresh })
}

/// From where a store is to be published to a bus that has lost what was published, and for whom.
#[derive(Debug)]
pub(super) struct ResyncPlan {
    pub(super) floor: Position,
    /// The known groups.
    pub(super) groups: Vec<Name>,
    /// Those of them that are given what is before the floor for themselves.
    pub(super) fresh: Vec<Name>,
}

/// Gives each of these groups a floor before it consumes: so it is known should the bus lose its data a moment later.
pub(crate) async fn register_groups(
    store: &dyn EventStore,
    bus: &dyn EventBus,
    groups: &[Name],
) -> Result<(), BoxError> {
    let Some(target) = bus.relay_target() else {
        return Ok(());
    };
    let destination = bus.destination();
    let known = store.floors(destination).await?;
    let is_new = |group: &&Name| known.iter().all(|floor| floor.group != **group);
    let new: Vec<_> = groups.iter().filter(is_new).collect();
    if new.is_empty() {
        return Ok(());
    }
    let publisher = Publisher { store: store.store_id().await?, epoch: 0 };
    let (reported_floors, default_floor) = match target.group_floors(publisher, &[]).await {
        Ok(GroupFloors::Groups(reported_floors)) => (reported_floors, Position::START),
        // nothing was published by a relay that keeps floors: what one without them did stays done
        Ok(GroupFloors::Lost) if known.is_empty() && bus.backlogs().is_none() => {
            (Vec::new(), plan_resync(store, destination, false).await?.floor)
        }
        Ok(GroupFloors::Lost) | Err(_) => (Vec::new(), Position::START),
    };
    let floor = |group: &Name| {
        let reported_floors = reported_floors.iter().find_map(|(name, floor)| match floor {
            GroupFloor::At(position) if name == group => Some(*position),
            _ => None,
        });
        Floor { group: group.clone(), position: reported_floors.unwrap_or(default_floor) }
    };
    let floors: Vec<_> = new.into_iter().map(floor).collect();
    Ok(store.save_floors(destination, &floors).await?)
}
