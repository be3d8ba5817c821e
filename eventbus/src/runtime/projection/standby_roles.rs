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

/// Time limit of a joint request, for which the other standbys wait.
const JOINT_REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// Time after a joint request that failed, in which each standby asks for its role alone: only some roles may be the
/// cause.
const ALONE_AFTER_FAILURE: Duration = Duration::from_secs(10);

/// The roles of a process that stands by. Cloning shares them.
#[derive(Clone)]
pub(crate) struct StandbyRoles(Arc<StandbyInner>);

struct StandbyInner {
    store: Arc<dyn EventStore>,
    clock: SharedClock,
    /// Locked: standbys of other roles begin and end meanwhile.
    roles: parking_lot::Mutex<BTreeSet<Name>>,
    /// Locked while one standby asks the store: the others wait for its answer.
    last: tokio::sync::Mutex<JointAnswer>,
}

/// The last joint answer.
#[derive(Default)]
struct JointAnswer {
    states: BTreeMap<Name, RoleState>,
    /// Set if the last joint request failed.
    failed_at: Option<Instant>,
}

impl StandbyRoles {
    pub(crate) fn new(store: Arc<dyn EventStore>, clock: SharedClock) -> Self {
        let (roles, last) = Default::default();
        Self(Arc::new(StandbyInner { store, clock, roles, last }))
    }

    /// Adds a role, until the returned value is dropped.
    pub(super) fn add(&self, role: &Name) -> StandbyRole {
        self.0.roles.lock().insert(role.clone());
        StandbyRole { roles: self.clone(), role: role.clone(), since: self.0.clock.instant() }
    }

    /// Asks the store for all roles together.
    async fn load_all(&self) -> Result<BTreeMap<Name, RoleState>, BoxError> {
        let StandbyInner { store, clock, roles, .. } = &*self.0;
        let requested: Vec<_> = roles.lock().iter().cloned().collect();
        let sent_at = clock.instant();
        let (leases, checkpoints) = (store.leases_of(&requested).await?, store.load_checkpoints(&requested).await?);
        let answers = requested.into_iter().zip(leases).zip(checkpoints);
        let states = answers.map(|((role, lease), checkpoint)| {
            let (epoch, checkpoint) = (lease.map(|lease| lease.epoch), checkpoint.unwrap_or_default());
            (role, RoleState { epoch, checkpoint, sent_at })
        });
        Ok(states.collect())
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
        let StandbyInner { clock, last, .. } = &*self.roles.0;
        let mut last = last.lock().await;
        let is_young = |state: &&RoleState| state.sent_at > self.since && clock.elapsed(state.sent_at) < age_max;
        if let Some(state) = last.states.get(&self.role).filter(is_young) {
            return Ok(*state);
        }
        last.states.clear();
        if last.failed_at.is_none_or(|at| clock.elapsed(at) >= ALONE_AFTER_FAILURE) {
            if let Ok(Ok(states)) = clock.timeout(JOINT_REQUEST_TIMEOUT, self.roles.load_all()).await {
                *last = JointAnswer { states, failed_at: None };
                if let Some(state) = last.states.get(&self.role) {
                    return Ok(*state);
                }
            }
            last.failed_at = Some(clock.instant());
        }
        drop(last);
        self.load_alone().await
    }

    async fn load_alone(&self) -> Result<RoleState, BoxError> {
        let StandbyInner { store, clock, .. } = &*self.roles.0;
        let sent_at = clock.instant();
        let (lease, checkpoint) = (store.lease_of(&self.role).await?, store.load_checkpoint(&self.role).await?);
        Ok(RoleState { epoch: lease.map(|lease| lease.epoch), checkpoint: checkpoint.unwrap_or_default(), sent_at })
    }
}

impl Drop for StandbyRole {
    fn drop(&mut self) {
        self.roles.0.roles.lock().remove(&self.role);
    }
}
