//! Floors of the consumer groups of a bus: low-water marks, saved in the store while the bus still knows them.
//!
//! A group has finished all events up to its floor; after a loss of the bus's data the relay publishes from the lowest.
//!
//! Invariant: the saved floor is the one that the bus reported last, also if lower: a group that was set back has
//! finished less. A floor that the bus does not know leaves the saved one unchanged.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    domain::{
        clock::SharedClock,
        error::{BoxError, ErrorLine},
        name::Name,
        stream::Position,
    },
    port::{
        EventBus, EventStore, Floor, RelayTarget,
        relay::{GroupFloor, GroupFloors, Publisher},
    },
    support::{Outage, relay_to},
};

/// Time after which a group that does not advance, while it has events to finish, is logged.
const IDLE_GROUP_WARN_AFTER: Duration = Duration::from_secs(3_600);

/// Interval at which the saved floors are loaded again: other processes add groups to them, and operators remove some.
const KNOWN_FLOORS_REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// Outcome of a check of the groups.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum GroupCheck {
    /// No group misses events.
    Healthy,
    /// The bus does not hold the last published events.
    Lost,
    /// A group misses events published after this position, its floor; `None` if no such group has a saved floor.
    Gap(Option<Position>),
}

/// The groups of a bus, tracked while this process relays.
#[derive(Debug, Default)]
pub(super) struct GroupFloorTracker {
    tracked: HashMap<Name, TrackedGroup>,
    /// The saved floors, and when they were loaded.
    known: Option<(Instant, BTreeMap<Name, Position>)>,
    outage: Outage,
    clock: SharedClock,
}

#[derive(Debug)]
struct TrackedGroup {
    floor: Position,
    /// Time of the last change of `floor`.
    unchanged_since: Instant,
    is_logged: bool,
    is_missing: bool,
}

impl GroupFloorTracker {
    pub(super) fn new(clock: SharedClock) -> Self {
        Self { outage: Outage::new(clock.clone()), clock, ..Self::default() }
    }

    /// Asks the bus for the floors of the groups, and saves those that changed.
    pub(super) async fn check(
        &mut self,
        store: &dyn EventStore,
        destination: &Name,
        target: &dyn RelayTarget,
        publisher: Publisher,
    ) -> Result<GroupCheck, BoxError> {
        // taken: after an error the floors are loaded again
        let known = self.known.take();
        let known = known.filter(|(loaded_at, _)| self.clock.elapsed(*loaded_at) < KNOWN_FLOORS_REFRESH_INTERVAL);
        let (loaded_at, mut known) = match known {
            Some(known) => known,
            None => {
                let floors = store.floors(destination).await?;
                (self.clock.instant(), floors.into_iter().map(|floor| (floor.group, floor.position)).collect())
            }
        };
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
                    "entries that a group had not finished were removed from the bus: the relay publishes them again"
                );
                gaps.push(former);
            }
        }
        self.tracked.retain(|group, _| known.contains_key(group) || changed.iter().any(|floor| floor.group == *group));
        if !changed.is_empty() {
            store.save_floors(destination, &changed).await?;
            known.extend(changed.into_iter().map(|floor| (floor.group, floor.position)));
        }
        self.known = Some((loaded_at, known));
        Ok(if gaps.is_empty() { GroupCheck::Healthy } else { GroupCheck::Gap(gaps.into_iter().flatten().min()) })
    }

    /// Logs an outage of the checks, and once each group that has not advanced for long although it has events to
    /// finish before `published`.
    pub(super) fn log_problems(&mut self, destination: &Name, published: Position, failure: Option<&BoxError>) {
        if let Some(error) = failure {
            if self.outage.begins() {
                tracing::warn!(%destination, error = %ErrorLine(&**error), "the floors of the groups cannot be saved, trying again");
            }
        } else if let Some(lasted) = self.outage.ends() {
            tracing::info!(%destination, ?lasted, "the floors of the groups are saved again");
        }
        for (group, tracked_group) in &mut self.tracked {
            let age = self.clock.elapsed(tracked_group.unchanged_since);
            if tracked_group.floor < published && age >= IDLE_GROUP_WARN_AFTER && !tracked_group.is_logged {
                tracked_group.is_logged = true;
                let (floor, minutes) = (tracked_group.floor, age.as_secs() / 60);
                tracing::warn!(
                    %destination, %group, %floor, minutes,
                    "a group has not advanced for long; the bus retains the events after its floor for it, and the relay \
                     publishes them again if the bus loses its data: if no consumer reads the group any more, retire it on \
                     the bus, then call `app.forget_group(..)`"
                );
            }
        }
    }

    /// Records since when a group has its floor.
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
            tracing::warn!(%destination, %group, %floor, "a group is gone from the bus; its next consumer creates it again");
        }
        tracked_group.is_missing = is_missing;
    }
}

/// Plans from which position, and for which groups, the relay publishes again.
///
/// On a bus with backlogs (`has_backlogs`) a group with its floor at the start is fresh: the bus fills its backlog, and
/// the relay does not publish again for it what the other groups have finished.
pub(super) async fn plan_resync(
    store: &dyn EventStore,
    destination: &Name,
    has_backlogs: bool,
) -> Result<ResyncPlan, BoxError> {
    let mut floors = store.floors(destination).await?;
    let groups = floors.iter().map(|floor| floor.group.clone()).collect();
    let mut fresh = Vec::new();
    if has_backlogs {
        let is_fresh = |floor: &mut Floor| floor.position == Position::START;
        fresh = floors.extract_if(.., is_fresh).map(|floor| floor.group).collect();
    }
    let newest = store.head().await?;
    let lowest = floors.iter().map(|floor| floor.position).min();
    let floor = match lowest {
        Some(floor) => floor,
        None => store.load_checkpoint(&relay_to(destination)).await?.unwrap_or_default(),
    };
    // a store that was restored may have floors that are ahead of it
    Ok(ResyncPlan { floor: floor.min(newest), groups, fresh })
}

/// The request to a bus that has lost published events.
#[derive(Debug)]
pub(super) struct ResyncPlan {
    /// The relay publishes the events after this position.
    pub(super) floor: Position,
    /// The known groups.
    pub(super) groups: Vec<Name>,
    /// The known groups whose backlogs the bus fills with the events up to `floor`.
    pub(super) fresh: Vec<Name>,
}

/// Saves a floor for each of these groups before it consumes: the store then knows it if the bus loses its data a
/// moment later.
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
        // no relay with floors has published yet: events that one without floors has published are not repeated
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
