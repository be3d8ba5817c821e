//! Leases, by the clock of the machine: all processes that share the file share the clock too.
//!
//! Invariant: no statement deletes a row, so that no epoch is used twice.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use eventbus::{
    Name,
    port::{Lease, LeaseError, Leases},
};
use rusqlite::Connection;

use crate::{
    query::{execute, query_rows, query_value},
    row::epoch_to_i64,
    store::SqliteEventStore,
    writer::Writer,
};

#[async_trait]
impl Leases for SqliteEventStore {
    async fn acquire_lease(&self, role: &Name, owner: &Name, ttl: Duration) -> Result<Option<Lease>, LeaseError> {
        take_lease(self.writer(), role, owner, ttl, false).await
    }

    async fn seize_lease(&self, role: &Name, owner: &Name, ttl: Duration) -> Result<Lease, LeaseError> {
        let seized = take_lease(self.writer(), role, owner, ttl, true).await?;
        seized.ok_or_else(|| LeaseError::new(role, "the store keeps no epoch for it"))
    }

    async fn renew_lease(&self, lease: &Lease, ttl: Duration) -> Result<bool, LeaseError> {
        let (role, epoch, micros) = (lease.role.clone(), epoch_to_i64(lease.epoch), ttl_micros(ttl));
        let renew = move |connection: &Connection| {
            execute(connection, include_str!("sql/renew_lease.sql"), (role.as_str(), epoch, micros))
        };
        let renewed = self.writer().write(renew).await;
        renewed.map(|rows| rows == 1).map_err(|error| LeaseError::new(&lease.role, error))
    }

    async fn release_lease(&self, lease: &Lease) -> Result<(), LeaseError> {
        let (role, epoch) = (lease.role.clone(), epoch_to_i64(lease.epoch));
        let release = move |connection: &Connection| {
            execute(connection, include_str!("sql/release_lease.sql"), (role.as_str(), epoch)).map(drop)
        };
        self.writer().write(release).await.map_err(|error| LeaseError::new(&lease.role, error))
    }

    async fn lease_of(&self, role: &Name) -> Result<Option<Lease>, LeaseError> {
        let key = role.clone();
        let load = move |connection: &Connection| {
            let sql = include_str!("sql/lease_of.sql");
            query_rows(connection, sql, [key.as_str()], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))
        };
        let mut found = self.readers().read(load).await.map_err(|error| LeaseError::new(role, error))?;
        let Some((owner, epoch)) = found.pop() else {
            return Ok(None);
        };
        let owner = Name::new("owner", owner).map_err(|error| LeaseError::new(role, error))?;
        Ok(Some(Lease { role: role.clone(), owner, epoch: epoch.cast_unsigned() }))
    }
}

async fn take_lease(
    writer: &Arc<Writer>,
    role: &Name,
    owner: &Name,
    ttl: Duration,
    seize: bool,
) -> Result<Option<Lease>, LeaseError> {
    let lease = Lease { role: role.clone(), owner: owner.clone(), epoch: 0 };
    let micros = ttl_micros(ttl);
    let take = move |connection: &Connection| {
        let parameters = (lease.role.as_str(), lease.owner.as_str(), micros, seize);
        let epoch: Option<i64> = query_value(connection, include_str!("sql/take_lease.sql"), parameters)?;
        Ok(epoch.map(|epoch| Lease { epoch: epoch.cast_unsigned(), ..lease.clone() }))
    };
    writer.write(take).await.map_err(|error| LeaseError::new(role, error))
}

/// Returns a time to live in microseconds, at most the longest that fits after the present time.
pub(crate) fn ttl_micros(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX).min(i64::MAX / 2)
}
