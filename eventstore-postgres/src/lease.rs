//! Who has which role, by the clock of the server.

use std::time::Duration;

use async_trait::async_trait;
use eventbus::{
    Name,
    port::{Lease, LeaseError, Leases},
};
use sqlx::{Row, SqlStr, postgres::PgRow};

use crate::{pool::Query, store::PgEventStore};

/// A thousand years: as good as for ever, and within the server's range.
const LEASE_MICROSECONDS_MAX: i64 = 1_000 * 365 * 24 * 3_600 * 1_000_000;

#[async_trait]
impl Leases for PgEventStore {
    async fn acquire_lease(&self, role: &Name, owner: &Name, ttl: Duration) -> Result<Option<Lease>, LeaseError> {
        self.query_lease(&self.statements.acquire_lease, role, owner, ttl).await
    }

    async fn seize_lease(&self, role: &Name, owner: &Name, ttl: Duration) -> Result<Lease, LeaseError> {
        let lease = self.query_lease(&self.statements.seize_lease, role, owner, ttl).await?;
        lease.ok_or_else(|| LeaseError::new(role, "no answer"))
    }

    async fn renew_lease(&self, lease: &Lease, ttl: Duration) -> Result<bool, LeaseError> {
        let query = sqlx::query(self.statements.renew_lease.clone())
            .bind(lease.role.as_str())
            .bind(i64::try_from(lease.epoch).unwrap_or(i64::MAX))
            .bind(microseconds(ttl));
        Ok(self.lease_row(&lease.role, query).await?.is_some())
    }

    async fn release_lease(&self, lease: &Lease) -> Result<(), LeaseError> {
        self.renew_lease(lease, Duration::ZERO).await.map(drop)
    }

    async fn lease_of(&self, role: &Name) -> Result<Option<Lease>, LeaseError> {
        let query = sqlx::query(self.statements.load_lease.clone()).bind(role.as_str());
        let Some(row) = self.lease_row(role, query).await? else {
            return Ok(None);
        };
        let owner: String = row.try_get(0).map_err(|error| LeaseError::new(role, error))?;
        let owner = Name::new("owner", owner).map_err(|error| LeaseError::new(role, error))?;
        Ok(Some(Lease { role: role.clone(), owner, epoch: decode_epoch(&row, 1, role)? }))
    }
}

impl PgEventStore {
    async fn query_lease(
        &self,
        sql: &SqlStr,
        role: &Name,
        owner: &Name,
        ttl: Duration,
    ) -> Result<Option<Lease>, LeaseError> {
        let query = sqlx::query(sql.clone()).bind(role.as_str()).bind(owner.as_str()).bind(microseconds(ttl));
        let Some(row) = self.lease_row(role, query).await? else {
            return Ok(None);
        };
        let epoch = decode_epoch(&row, 0, role)?;
        Ok(Some(Lease { role: role.clone(), owner: owner.clone(), epoch }))
    }

    async fn lease_row(&self, role: &Name, query: Query<'_>) -> Result<Option<PgRow>, LeaseError> {
        let rows = self.connections.fetch_all(query).await;
        Ok(rows.map_err(|fault| LeaseError::new(role, fault.into_source()))?.pop())
    }
}

fn decode_epoch(row: &PgRow, column: usize, role: &Name) -> Result<u64, LeaseError> {
    let epoch: i64 = row.try_get(column).map_err(|error| LeaseError::new(role, error))?;
    u64::try_from(epoch).map_err(|error| LeaseError::new(role, error))
}

/// A time from or until now, as the server can reckon with it.
pub(crate) fn microseconds(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).map_or(LEASE_MICROSECONDS_MAX, |time| time.min(LEASE_MICROSECONDS_MAX))
}
