//! The state that the clones of a store share.

use std::{collections::BTreeSet, sync::Arc};

use eventbus::{
    BoxError, Name,
    port::{CheckpointError, ReadError},
    store::AppendBatches,
    support::ListedEventTypes,
};
use sqlx::postgres::PgRow;

use crate::{
    config::PgEventStoreConfig,
    joint_pages::JointPages,
    notify::AppendNotifier,
    pool::{ConnectionPools, Query},
    statements::Statements,
    stream_numbers::{PageStreams, StreamNumbers},
};

/// The connections and statements that the clones of a store share.
#[derive(Debug)]
pub(crate) struct StoreInner {
    config: PgEventStoreConfig,
    connections: ConnectionPools,
    statements: Statements,
    transaction_statements: Statements,
    append_notifier: Arc<AppendNotifier>,
    listed_types: ListedEventTypes,
    stream_numbers: StreamNumbers,
    append_batches: AppendBatches,
    joint_pages: JointPages,
}

impl StoreInner {
    pub(crate) fn new(
        config: PgEventStoreConfig,
        connections: ConnectionPools,
        statements: Statements,
        append_notifier: Arc<AppendNotifier>,
    ) -> Self {
        let transaction_statements = statements.in_transactions();
        let (listed_types, stream_numbers, append_batches, joint_pages) = Default::default();
        Self {
            config,
            connections,
            statements,
            transaction_statements,
            append_notifier,
            listed_types,
            stream_numbers,
            append_batches,
            joint_pages,
        }
    }

    /// The sizes of the batches in which appends share a statement.
    pub(crate) const fn append_batches(&self) -> &AppendBatches {
        &self.append_batches
    }

    pub(crate) const fn joint_pages(&self) -> &JointPages {
        &self.joint_pages
    }

    pub(crate) fn config(&self) -> &PgEventStoreConfig {
        &self.config
    }

    pub(crate) fn connections(&self) -> &ConnectionPools {
        &self.connections
    }

    pub(crate) fn statements(&self) -> &Statements {
        &self.statements
    }

    /// Returns the statements that run in a transaction of a handler or of the application.
    pub(crate) fn transaction_statements(&self) -> &Statements {
        &self.transaction_statements
    }

    /// Returns `true` if the store lends transactions.
    pub(crate) fn has_transactions(&self) -> bool {
        self.config.max_transactions > 0
    }

    pub(crate) fn append_notifier(&self) -> &AppendNotifier {
        &self.append_notifier
    }

    /// Loads the streams with these numbers, unless the store remembers them.
    pub(crate) async fn load_streams(&self, numbers: BTreeSet<i64>) -> Result<PageStreams, ReadError> {
        let possible_restores = self.append_notifier.signal.possible_restores();
        let (mut streams, unknown) = self.stream_numbers.find(numbers, possible_restores);
        if !unknown.is_empty() {
            let query = self.statements.query(include_str!("sql/streams.sql")).bind(unknown);
            let rows = self.connections.fetch_all(query).await?;
            let added = self.stream_numbers.add(&rows, &mut streams, possible_restores);
            added.map_err(|error| ReadError::Unavailable(error.into()))?;
        }
        Ok(streams)
    }

    /// Returns the event types known to be in the store's table of types.
    pub(crate) fn listed_types(&self) -> &ListedEventTypes {
        self.listed_types.forget_after(self.append_notifier.signal.possible_restores());
        &self.listed_types
    }

    /// Runs a statement, and decodes the rows of its answer.
    pub(crate) async fn fetch<T>(
        &self,
        query: Query<'_>,
        decode: impl Fn(&PgRow) -> Result<T, BoxError>,
    ) -> Result<Vec<T>, BoxError> {
        self.connections.fetch_all(query).await?.iter().map(decode).collect()
    }

    /// Runs a statement about the progress of `name`, and decodes the rows of its answer.
    pub(crate) async fn fetch_progress<T>(
        &self,
        name: &Name,
        query: Query<'_>,
        decode: impl Fn(&PgRow) -> Result<T, BoxError>,
    ) -> Result<Vec<T>, CheckpointError> {
        self.fetch(query, decode).await.map_err(|error| CheckpointError::new(name, error))
    }
}
