//! Parts that the clones of a store share.

use std::{io, sync::Arc, time::Duration};

use eventbus::{Name, port::CheckpointError};
use rusqlite::Connection;

use crate::{
    config::SqliteEventStoreConfig,
    connection::{GuardedConnection, open_writer_as},
    error::SqliteConnectError,
    files::OpenFiles,
    location::DatabaseLocation,
    member_locks::MemberLocks,
    migration_step::MigrationStep,
    query::QueryError,
    readers::{ReaderPool, Readers},
    shadow_databases::ShadowDatabases,
    writer::Writer,
};

/// Parts that the clones of a store share.
#[derive(derive_more::Debug)]
#[debug("SqliteEventStore({:?})", location.path())]
pub(crate) struct StoreInner {
    // dropped before the writer: the last connection that closes removes the write-ahead log, and a reader cannot
    readers: Readers,
    shadow_databases: Arc<ShadowDatabases>,
    writer: Arc<Writer>,
    location: DatabaseLocation,
    member_locks: Arc<MemberLocks>,
}

impl StoreInner {
    /// Opens a store; blocks.
    pub(crate) fn open(
        location: DatabaseLocation,
        config: &SqliteEventStoreConfig,
        steps: &[MigrationStep],
    ) -> Result<Self, SqliteConnectError> {
        let connection = open_writer_as(&location, config, steps)?;
        let fault = |error| SqliteConnectError::from_sqlite(location.path(), error);
        // the first attempt of a write runs in a caller's task, which must not wait
        connection.busy_timeout(Duration::ZERO).map_err(fault)?;
        let unavailable = |source: io::Error| SqliteConnectError::Unavailable {
            path: location.path().to_owned(),
            source: source.into(),
        };
        let files = Arc::new(open_files(&location).map_err(unavailable)?);
        let member_locks = Arc::new(MemberLocks::new(&location).map_err(unavailable)?);
        let writer =
            Arc::new(Writer::new(GuardedConnection::new(connection).map_err(fault)?, Arc::clone(&files), config));
        let readers = match &location {
            DatabaseLocation::Memory(_) => Readers::OnWriter(Arc::clone(&writer)),
            DatabaseLocation::File(path) => {
                Readers::Pooled(Arc::new(ReaderPool::new(path.clone(), files, config.busy_timeout, config.readers)))
            }
        };
        let shadow_databases = Arc::new(ShadowDatabases::new(location.clone(), config.busy_timeout));
        Ok(Self { readers, shadow_databases, writer, location, member_locks })
    }

    pub(crate) const fn writer(&self) -> &Arc<Writer> {
        &self.writer
    }

    pub(crate) const fn readers(&self) -> &Readers {
        &self.readers
    }

    pub(crate) const fn shadow_databases(&self) -> &Arc<ShadowDatabases> {
        &self.shadow_databases
    }

    pub(crate) const fn location(&self) -> &DatabaseLocation {
        &self.location
    }

    pub(crate) const fn member_locks(&self) -> &Arc<MemberLocks> {
        &self.member_locks
    }

    /// Reads the progress of `name`.
    pub(crate) async fn read_progress<T: Send + 'static>(
        &self,
        name: &Name,
        read: impl FnOnce(&Connection, &Name) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, CheckpointError> {
        let key = name.clone();
        let found = self.readers.read(move |connection| read(connection, &key)).await;
        found.map_err(|error| CheckpointError::new(name, error))
    }

    /// Changes the progress of `name`.
    pub(crate) async fn write_progress<T: Send + 'static>(
        &self,
        name: &Name,
        mut change: impl FnMut(&Connection, &Name) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, CheckpointError> {
        let key = name.clone();
        let changed = self.writer.write(move |connection| change(connection, &key)).await;
        changed.map_err(|error| CheckpointError::new(name, error))
    }
}

fn open_files(location: &DatabaseLocation) -> io::Result<OpenFiles> {
    match location {
        DatabaseLocation::Memory(_) => Ok(OpenFiles::default()),
        DatabaseLocation::File(path) => OpenFiles::from_database(path),
    }
}
