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

impl JointAnswer {
    /// Returns the state of a role, or the error of the request; `None` if the role was not asked for.
    fn state_of(&self, role: &Name) -> Option<Result<RoleState, BoxError>> {
        match &self.states {
            Ok(states) => states.get(role).copied().map(Ok),
            Err(error) => Some(Err(error.clone().into())),
        }
    }
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
    last: tokio::sync::Mutex<Option<JointAnswer>>,
}

/// The last joint answer.
struct JointAnswer {
    /// The states, or the error.
    states: Result<BTreeMap<Name, RoleState>, String>,
    sent_at: Instant,
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
        let is_young = |answer: &&JointAnswer| answer.sent_at > self.since && clock.elapsed(answer.sent_at) < age_max;
        if let Some(state) = last.as_ref().filter(is_young).and_then(|answer| answer.state_of(&self.role)) {
            return state;
        }
        let sent_at = clock.instant();
        let loaded = clock.timeout(JOINT_REQUEST_TIMEOUT, self.roles.load_all()).await;
        let states = loaded.unwrap_or_else(|_| Err("the store does not answer".into()));
        let answer = last.insert(JointAnswer { states: states.map_err(|error| error.to_string()), sent_at });
        answer.state_of(&self.role).unwrap_or_else(|| Err("the store has left out the role".into()))
    }
}

impl Drop for StandbyRole {
    fn drop(&mut self) {
        self.roles.0.roles.lock().remove(&self.role);
    }
}
