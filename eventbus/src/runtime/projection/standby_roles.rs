//! The roles that this process stands by for: it asks the store for the leases and checkpoints of all of them together.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    domain::{clock::SharedClock, error::BoxError, name::Name, stream::Position},
    port::EventStore,
};

/// The lease and the checkpoint of a role, as the store had them.
#[derive(Debug, Clone, Copy)]
pub(super) struct RoleState {
    /// The epoch of the lease; `None` if it is free.
    pub(super) epoch: Option<u64>,
    pub(super) checkpoint: Position,
    /// Send time of the request.
    pub(super) sent_at: Instant,
}

/// The roles of a process that stands by. Cloning shares them.
#[derive(Clone)]
pub(crate) struct StandbyRoles(Arc<StandbyInner>);

struct StandbyInner {
    store: Arc<dyn EventStore>,
    clock: SharedClock,
    /// Locked: standbys of other roles begin and end meanwhile.
    roles: parking_lot::Mutex<BTreeSet<Name>>,
    /// Locked while one standby asks the store: the others wait for its answer.
    states: tokio::sync::Mutex<BTreeMap<Name, RoleState>>,
}

impl StandbyRoles {
    pub(crate) fn new(store: Arc<dyn EventStore>, clock: SharedClock) -> Self {
        let (roles, states) = Default::default();
        Self(Arc::new(StandbyInner { store, clock, roles, states }))
    }

    /// Adds a role, until the returned value is dropped.
    pub(super) fn add(&self, role: &Name) -> StandbyRole {
        self.0.roles.lock().insert(role.clone());
        StandbyRole { roles: self.clone(), role: role.clone(), since: self.0.clock.instant() }
    }
}

/// A role that this process stands by for.
pub(super) struct StandbyRole {
    roles: StandbyRoles,
    role: Name,
    /// An earlier state is not used: until then this process may have had the role itself.
    since: Instant,
}

impl StandbyRole {
    /// Returns the state of the role, which is younger than `age_max`. States of successive calls are never older than
    /// those before.
    pub(super) async fn load(&self, age_max: Duration) -> Result<RoleState, BoxError> {
        let StandbyInner { store, clock, roles, states } = &*self.roles.0;
        let mut states = states.lock().await;
        let is_young = |state: &&RoleState| state.sent_at > self.since && clock.elapsed(state.sent_at) < age_max;
        if let Some(state) = states.get(&self.role).filter(is_young) {
            return Ok(*state);
        }
        states.clear();
        let requested: Vec<_> = roles.lock().iter().cloned().collect();
        let sent_at = clock.instant();
        let (leases, checkpoints) = (store.leases_of(&requested).await?, store.load_checkpoints(&requested).await?);
        for ((role, lease), checkpoint) in requested.into_iter().zip(leases).zip(checkpoints) {
            let (epoch, checkpoint) = (lease.map(|lease| lease.epoch), checkpoint.unwrap_or_default());
            states.insert(role, RoleState { epoch, checkpoint, sent_at });
        }
        states.get(&self.role).copied().ok_or_else(|| format!("the store did not answer for `{}`", self.role).into())
    }
}

impl Drop for StandbyRole {
    fn drop(&mut self) {
        self.roles.0.roles.lock().remove(&self.role);
    }
}
