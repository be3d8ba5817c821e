//! The state that the clones of a store share.

use std::sync::Arc;

use eventbus::support::ListedEventTypes;

use crate::{
    append::GroupCommit, config::PgEventStoreConfig, notify::AppendNotifier, pool::ConnectionPools,
    statements::Statements,
};

/// The connections, statements and queue that the clones of a store share.
pub(crate) struct StoreInner {
    config: PgEventStoreConfig,
    connections: ConnectionPools,
    statements: Arc<Statements>,
    append_notifier: Arc<AppendNotifier>,
    group_commit: Arc<GroupCommit>,
    listed_types: Arc<ListedEventTypes>,
}

impl StoreInner {
    pub(crate) fn new(
        config: PgEventStoreConfig,
        connections: ConnectionPools,
        statements: Statements,
        append_notifier: Arc<AppendNotifier>,
    ) -> Self {
        let statements = Arc::new(statements);
        let listed_types = Arc::default();
        let group_commit = GroupCommit::new(
            &config,
            connections.clone(),
            Arc::clone(&statements),
            Arc::clone(&listed_types),
            Arc::clone(&append_notifier),
        );
        Self { config, connections, statements, append_notifier, group_commit, listed_types }
    }

    pub(crate) fn config(&self) -> &PgEventStoreConfig {
        &self.config
    }

    pub(crate) fn connections(&self) -> &ConnectionPools {
        &self.connections
    }

    pub(crate) fn statements(&self) -> &Arc<Statements> {
        &self.statements
    }

    pub(crate) fn append_notifier(&self) -> &Arc<AppendNotifier> {
        &self.append_notifier
    }

    pub(crate) fn group_commit(&self) -> &Arc<GroupCommit> {
        &self.group_commit
    }

    /// Returns the event types known to be in the store's table of types.
    pub(crate) fn listed_types(&self) -> &ListedEventTypes {
        &self.listed_types
    }

    /// See [`PgEventStore::close`](crate::PgEventStore::close).
    pub(crate) async fn close(&self) {
        self.append_notifier.close().await;
        self.group_commit.close();
        self.connections.close().await;
    }
}
