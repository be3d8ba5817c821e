//! Who has which role, of the store in memory.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{domain::name::Name, port::Lease};

#[derive(Debug, Default)]
pub(super) struct Roles(Mutex<HashMap<Name, Held>>);

#[derive(Debug)]
struct Held {
    lease: Lease,
    /// `None`: for ever.
    until: Option<Instant>,
}

impl Roles {
    pub(super) fn acquire(&self, role: &Name, owner: &Name, ttl: Duration) -> Option<Lease> {
        let mut roles = self.lock();
        let is_taken = roles.get(role).is_some_and(|held| held.is_live() && held.lease.owner != *owner);
        (!is_taken).then(|| take(&mut roles, role, owner, ttl))
    }

    pub(super) fn seize(&self, role: &Name, owner: &Name, ttl: Duration) -> Lease {
        take(&mut self.lock(), role, owner, ttl)
    }

    /// False: it has passed on.
    pub(super) fn renew(&self, lease: &Lease, ttl: Duration) -> bool {
        let mut roles = self.lock();
        let Some(held) = roles.get_mut(&lease.role).filter(|held| held.lease.epoch == lease.epoch) else {
            return false;
        };
        held.until = Instant::now().checked_add(ttl);
        true
    }

    /// Who has it, unless it has run out.
    pub(super) fn lease_of(&self, role: &Name) -> Option<Lease> {
        self.lock().get(role).filter(|held| held.is_live()).map(|held| held.lease.clone())
    }

    /// A change is made as a whole or not at all, so a poisoned lock still guards a sound value.
    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn is_live(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }
}

fn take(roles: &mut HashMap<Name, Held>, role: &Name, owner: &Name, ttl: Duration) -> Lease {
    let epoch = roles.get(role).map_or(1, |held| held.lease.epoch + 1);
    let lease = Lease { role: role.clone(), owner: owner.clone(), epoch };
    roles.insert(role.clone(), Held { lease: lease.clone(), until: Instant::now().checked_add(ttl) });
    lease
}
