//! Resources for feeding and rebuilding projections.

use std::{collections::HashSet, sync::Arc, time::Duration};

use super::standby_roles::StandbyRoles;
use crate::{
    domain::{clock::SharedClock, name::Name, stream::Position},
    port::{CheckpointError, EventStore, state::StateMap},
    runtime::{
        feed_head::FeedHead,
        held_lease::{LeaseRequest, command_owner},
        lease_renewer::LeaseRenewer,
    },
    support::ReaderKind,
};

/// Returns the name of the role of feeding a projection, and of its checkpoint.
pub(crate) fn projection_role(projection: &'static str) -> Name {
    ReaderKind::Projection.name_of(&Name::from_static(projection))
}

/// Resources for feeding a projection.
#[derive(Clone)]
pub(crate) struct RunnerContext {
    pub(crate) store: Arc<dyn EventStore>,
    /// The head of the store's feed, polled once for all readers.
    pub(crate) feed_head: FeedHead,
    pub(crate) state: StateMap,
    /// The name of this process as an owner of leases.
    pub(crate) owner: Name,
    pub(crate) lease_ttl: Duration,
    /// Renews the leases of this process's relay and projections.
    lease_renewer: LeaseRenewer,
    /// The roles of the projections that another process feeds.
    pub(crate) standby_roles: StandbyRoles,
    /// The tables that several projections of the app write.
    pub(crate) shared_tables: Arc<[&'static str]>,
    pub(crate) clock: SharedClock,
}

impl RunnerContext {
    pub(crate) fn new(
        store: Arc<dyn EventStore>,
        clock: SharedClock,
        state: StateMap,
        owner: Name,
        lease_ttl: Duration,
    ) -> Self {
        Self {
            feed_head: FeedHead::new(Arc::clone(&store), clock.clone()),
            lease_renewer: LeaseRenewer::new(Arc::clone(&store), clock.clone(), lease_ttl),
            standby_roles: StandbyRoles::new(Arc::clone(&store), clock.clone()),
            shared_tables: Arc::default(),
            store,
            state,
            owner,
            lease_ttl,
            clock,
        }
    }

    /// Notes the tables of the projections of an app.
    pub(crate) fn with_tables(self, tables: impl Iterator<Item = &'static str>) -> Self {
        let (mut seen, mut shared_tables) = (HashSet::new(), Vec::new());
        shared_tables.extend(tables.filter(|table| !seen.insert(*table)));
        Self { shared_tables: shared_tables.into(), ..self }
    }

    /// Loads a checkpoint; the start of the feed if the store has none.
    pub(super) async fn load_checkpoint(&self, role: &Name) -> Result<Position, CheckpointError> {
        Ok(self.store.load_checkpoint(role).await?.unwrap_or(Position::START))
    }

    /// Makes this process's request for a role's lease.
    pub(crate) fn lease_request(&self, role: Name) -> LeaseRequest {
        self.lease_request_of(self.owner.clone(), role).renewed_by(&self.lease_renewer)
    }

    /// Makes the lease request of one command of this process, such as a rebuild.
    pub(crate) fn command_lease_request(&self, role: Name, command: &str) -> LeaseRequest {
        self.lease_request_of(command_owner(&self.owner, command), role)
    }

    fn lease_request_of(&self, owner: Name, role: Name) -> LeaseRequest {
        LeaseRequest::new(Arc::clone(&self.store), role, owner, self.lease_ttl, self.clock.clone())
    }
}
