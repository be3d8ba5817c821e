//! Leases: the owner of each role, by the clock of the server.

use std::time::Duration;

use async_trait::async_trait;
use eventbus::{
    Name,
    port::{Lease, LeaseError, Leases},
};
use sqlx::{Row, SqlStr, postgres::PgRow};

use crate::{config::microseconds, pool::Query, store::PgEventStore, store_inner::StoreInner};

#[async_trait]
impl Leases for PgEventStore {
    async fn acquire_lease(&self, role: &Name, owner: &Name, ttl: Duration) -> Result<Option<Lease>, LeaseError> {
        query_lease(self.inner(), &self.inner().statements().acquire_lease, role, owner, ttl).await
    }

    async fn seize_lease(&self, role: &Name, owner: &Name, ttl: Duration) -> Result<Lease, LeaseError> {
        let lease = query_lease(self.inner(), &self.inner().statements().seize_lease, role, owner, ttl).await?;
        lease.ok_or_else(|| LeaseError::new(role, "no answer"))
    }

    async fn renew_lease(&self, lease: &Lease, ttl: Duration) -> Result<bool, LeaseError> {
        let query = sqlx::query(self.inner().statements().renew_lease.clone())
            .bind(lease.role.as_str())
            .bind(i64::try_from(lease.epoch).unwrap_or(i64::MAX))
            .bind(microseconds(ttl));
        Ok(lease_row(self.inner(), &lease.role, query).await?.is_some())
    }

    async fn release_lease(&self, lease: &Lease) -> Result<(), LeaseError> {
        self.renew_lease(lease, Duration::ZERO).await.map(drop)
    }

    async fn lease_of(&self, role: &Name) -> Result<Option<Lease>, LeaseError> {
        let query = sqlx::query(self.inner().statements().load_lease.clone()).bind(role.as_str());
        let Some(row) = lease_row(self.inner(), role, query).await? else {
            return Ok(None);
        };
        let owner: String = row.try_get(0).map_err(|error| LeaseError::new(role, error))?;
        let owner = Name::new("owner", owner).map_err(|error| LeaseError::new(role, error))?;
        Ok(Some(Lease { role: role.clone(), owner, epoch: decode_epoch(&row, 1, role)? }))
    }
}

async fn query_lease(
    inner: &StoreInner,
    sql: &SqlStr,
    role: &Name,
    owner: &Name,
    ttl: Duration,
) -> Result<Option<Lease>, LeaseError> {
    let query = sqlx::query(sql.clone()).bind(role.as_str()).bind(owner.as_str()).bind(microseconds(ttl));
    let Some(row) = lease_row(inner, role, query).await? else {
        return Ok(None);
    };
    let epoch = decode_epoch(&row, 0, role)?;
    Ok(Some(Lease { role: role.clone(), owner: owner.clone(), epoch }))
}

async fn lease_row(inner: &StoreInner, role: &Name, query: Query<'_>) -> Result<Option<PgRow>, LeaseError> {
    let rows = inner.connections().fetch_all(query).await;
    Ok(rows.map_err(|fault| LeaseError::new(role, fault.into_source()))?.pop())
}

fn decode_epoch(row: &PgRow, column: usize, role: &Name) -> Result<u64, LeaseError> {
    let epoch: i64 = row.try_get(column).map_err(|error| LeaseError::new(role, error))?;
    u64::try_from(epoch).map_err(|error| LeaseError::new(role, error))
}
