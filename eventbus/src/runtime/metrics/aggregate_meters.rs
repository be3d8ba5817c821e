//! Counters by type of aggregate.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::runtime::definition::AggregateRegistration;

/// The label of all aggregates that no linked code derives.
const OTHER: &str = "other";

/// Where a load found the state of an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoadSource {
    /// In the cache of its repository; the load read at most the events after it.
    Cache,
    /// In a snapshot; the load read the events after it.
    Snapshot,
    /// Nowhere: the load read all events.
    Events,
}

impl LoadSource {
    /// All sources, in the order of their counters.
    pub(crate) const ALL: [Self; 3] = [Self::Cache, Self::Snapshot, Self::Events];

    /// Returns the value of the label `source`.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Snapshot => "snapshot",
            Self::Events => "events",
        }
    }
}

/// The counters of one type of aggregate.
#[derive(Debug, Default)]
pub(crate) struct AggregateMeter {
    conflicts: AtomicU64,
    loads: [AtomicU64; LoadSource::ALL.len()],
    snapshots_taken: AtomicU64,
    snapshots_failed: AtomicU64,
}

impl AggregateMeter {
    /// Counts an append at which another writer was first.
    pub(crate) fn count_conflict(&self) {
        self.conflicts.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_load(&self, source: LoadSource) {
        self.loads[source as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an attempt to take a snapshot.
    pub(crate) fn count_snapshot(&self, is_taken: bool) {
        let counter = if is_taken { &self.snapshots_taken } else { &self.snapshots_failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn conflicts(&self) -> u64 {
        self.conflicts.load(Ordering::Relaxed)
    }

    pub(crate) fn loads(&self, source: LoadSource) -> u64 {
        self.loads[source as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn snapshots(&self, is_taken: bool) -> u64 {
        let counter = if is_taken { &self.snapshots_taken } else { &self.snapshots_failed };
        counter.load(Ordering::Relaxed)
    }
}

/// The counters of all linked types of aggregates. The table is made once, so that finding a type takes no lock.
#[derive(Debug)]
pub(super) struct AggregateMeters {
    declared: BTreeMap<&'static str, Arc<AggregateMeter>>,
    other: Arc<AggregateMeter>,
}

impl AggregateMeters {
    /// Creates the counters of the types that are linked into the program.
    pub(super) fn new() -> Self {
        let linked = inventory::iter::<AggregateRegistration>().filter(|aggregate| !aggregate.is_fold);
        Self::of(linked.map(|aggregate| aggregate.aggregate_type))
    }

    fn of(types: impl Iterator<Item = &'static str>) -> Self {
        Self { declared: types.map(|name| (name, Arc::default())).collect(), other: Arc::default() }
    }

    /// Returns the counters of a type; the counters of all other types if no linked code declares it.
    pub(super) fn of_type(&self, aggregate_type: &str) -> &Arc<AggregateMeter> {
        self.declared.get(aggregate_type).unwrap_or(&self.other)
    }

    /// Returns the counters with the value of their label `aggregate`.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &AggregateMeter)> {
        self.declared.iter().map(|(name, meter)| (*name, &**meter)).chain([(OTHER, &*self.other)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_declared_type_has_its_counters_and_all_others_share_one() {
        let meters = AggregateMeters::of(["Order", "Account", "Order"].into_iter());
        for name in ["Order", "Account", "Order", "order-4711", "order-4712"] {
            meters.of_type(name).count_conflict();
        }
        meters.of_type("Order").count_load(LoadSource::Snapshot);
        let counts: Vec<_> = meters.iter().map(|(name, meter)| (name, meter.conflicts())).collect();
        assert_eq!(counts, [("Account", 1), ("Order", 2), ("other", 2)]);
        let loads = LoadSource::ALL.map(|source| meters.of_type("Order").loads(source));
        assert_eq!(loads, [0, 1, 0]);
    }
}
