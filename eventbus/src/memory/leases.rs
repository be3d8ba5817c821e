//! Lease table of the store in memory.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    domain::{clock::SharedClock, name::Name},
    port::{Lease, listings::StoredLease},
};

#[derive(Debug, Default)]
pub(super) struct LeaseTable {
    /// Each change is made as a whole or not at all, so a panic leaves a sound value. The same holds for the locks of
    /// the store.
    rows: Mutex<HashMap<Name, LeaseRow>>,
    clock: SharedClock,
}

#[derive(Debug)]
struct LeaseRow {
    lease: Lease,
    /// The time when the lease expires; `None` if never.
    until: Option<Instant>,
}

impl LeaseTable {
    pub(super) fn new(clock: SharedClock) -> Self {
        Self { clock, ..Self::default() }
    }

    pub(super) fn acquire(&self, role: &Name, owner: &Name, ttl: Duration) -> Option<Lease> {
        let mut rows = self.rows.lock();
        let is_taken = rows.get(role).is_some_and(|held| held.is_valid(&self.clock) && held.lease.owner != *owner);
        (!is_taken).then(|| self.grant(&mut rows, role, owner, ttl))
    }

    pub(super) fn seize(&self, role: &Name, owner: &Name, ttl: Duration) -> Lease {
        self.grant(&mut self.rows.lock(), role, owner, ttl)
    }

    /// Renews a lease; returns `false` if it was acquired again since.
    pub(super) fn renew(&self, lease: &Lease, ttl: Duration) -> bool {
        let mut rows = self.rows.lock();
        let Some(held) = rows.get_mut(&lease.role).filter(|held| held.lease.epoch == lease.epoch) else {
            return false;
        };
        held.until = self.clock.instant().checked_add(ttl);
        true
    }

    /// Returns the lease of a role, unless it has expired.
    pub(super) fn lease_of(&self, role: &Name) -> Option<Lease> {
        self.rows.lock().get(role).filter(|held| held.is_valid(&self.clock)).map(|held| held.lease.clone())
    }

    /// Returns all leases, also expired ones.
    pub(super) fn list(&self) -> Vec<StoredLease> {
        let rows = self.rows.lock();
        let list = rows.values().map(|held| StoredLease {
            lease: held.lease.clone(),
            is_held: held.is_valid(&self.clock),
            expires_at: None,
        });
        list.collect()
    }

    fn grant(&self, rows: &mut HashMap<Name, LeaseRow>, role: &Name, owner: &Name, ttl: Duration) -> Lease {
        let epoch = rows.get(role).map_or(1, |held| held.lease.epoch + 1);
        let lease = Lease { role: role.clone(), owner: owner.clone(), epoch };
        let until = self.clock.instant().checked_add(ttl);
        rows.insert(role.clone(), LeaseRow { lease: lease.clone(), until });
        lease
    }
}

impl LeaseRow {
    fn is_valid(&self, clock: &SharedClock) -> bool {
        self.until.is_none_or(|until| clock.instant() < until)
    }
}
