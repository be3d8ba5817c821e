//! Leases: the owner of each role, by the clock of the server.

use std::time::Duration;

use async_trait::async_trait;
use eventbus::{
    BoxError, Name,
    port::{Lease, LeaseError, Leases},
};
use sqlx::{Row as _, postgres::PgRow};

use crate::{config::microseconds, store::PgEventStore, store_inner::StoreInner};

#[async_trait]
impl Leases for PgEventStore {
    async fn acquire_lease(&self, role: &Name, owner: &Name, ttl: Duration) -> Result<Option<Lease>, LeaseError> {
        take_lease(self.inner(), include_str!("sql/acquire_lease.sql"), role, owner, ttl).await
    }

    async fn seize_lease(&self, role: &Name, owner: &Name, ttl: Duration) -> Result<Lease, LeaseError> {
        let lease = take_lease(self.inner(), include_str!("sql/seize_lease.sql"), role, owner, ttl).await?;
        lease.ok_or_else(|| LeaseError::new(role, "no answer"))
    }

    async fn renew_lease(&self, lease: &Lease, ttl: Duration) -> Result<bool, LeaseError> {
        let query = self.inner().statements().query(include_str!("sql/renew_lease.sql"));
        let query = query
            .bind(lease.role.as_str())
            .bind(i64::try_from(lease.epoch).unwrap_or(i64::MAX))
            .bind(microseconds(ttl))
            .bind(lease.owner.as_str());
        let renewed = self.inner().fetch(query, |_| Ok(())).await;
        renewed.map(|rows| !rows.is_empty()).map_err(|error| LeaseError::new(&lease.role, error))
    }

    async fn release_lease(&self, lease: &Lease) -> Result<(), LeaseError> {
        self.renew_lease(lease, Duration::ZERO).await.map(drop)
    }

    async fn lease_of(&self, role: &Name) -> Result<Option<Lease>, LeaseError> {
        let query = self.inner().statements().query(include_str!("sql/lease_of.sql")).bind(role.as_str());
        let lease = |row: &PgRow| {
            let owner = Name::new("owner", row.try_get::<&str, _>(0)?)?;
            Ok(Lease { role: role.clone(), owner, epoch: decode_epoch(row, 1)? })
        };
        let found = self.inner().fetch(query, lease).await;
        found.map(|mut rows| rows.pop()).map_err(|error| LeaseError::new(role, error))
    }

    async fn leases_of(&self, roles: &[Name]) -> Result<Vec<Option<Lease>>, LeaseError> {
        let Some(first) = roles.first() else {
            return Ok(Vec::new());
        };
        let query = self.inner().statements().query(include_str!("sql/leases_of.sql"));
        let query = query.bind(roles.iter().map(Name::as_str).collect::<Vec<_>>());
        let owner = |row: &PgRow| match row.try_get::<Option<&str>, _>(0)? {
            Some(owner) => Ok(Some((Name::new("owner", owner)?, decode_epoch(row, 1)?))),
            None => Ok(None),
        };
        let owners = self.inner().fetch(query, owner).await.map_err(|error| LeaseError::new(first, error))?;
        let lease = |(role, owner): (&Name, Option<(Name, u64)>)| {
            owner.map(|(owner, epoch)| Lease { role: role.clone(), owner, epoch })
        };
        Ok(roles.iter().zip(owners).map(lease).collect())
    }
}

async fn take_lease(
    inner: &StoreInner,
    sql: &'static str,
    role: &Name,
    owner: &Name,
    ttl: Duration,
) -> Result<Option<Lease>, LeaseError> {
    let query = inner.statements().query(sql).bind(role.as_str()).bind(owner.as_str()).bind(microseconds(ttl));
    let lease = |row: &PgRow| Ok(Lease { role: role.clone(), owner: owner.clone(), epoch: decode_epoch(row, 0)? });
    let taken = inner.fetch(query, lease).await;
    taken.map(|mut rows| rows.pop()).map_err(|error| LeaseError::new(role, error))
}

fn decode_epoch(row: &PgRow, column: usize) -> Result<u64, BoxError> {
    Ok(u64::try_from(row.try_get::<i64, _>(column)?)?)
}
