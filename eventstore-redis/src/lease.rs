//! The leases of roles, by the clock of the server.
//!
//! Invariant: the epochs of a role only grow. Each is at least the server's time, so a crash that loses the last of
//! them does no harm. No script removes the key of a role, so setting the clock back does no harm either.

use std::time::Duration;

use async_trait::async_trait;
use eventbus::{
    Name,
    port::{Lease, LeaseError, Leases},
};
use eventbus_redis_core::error::boxed;
use redis::{FromRedisValue, Script, ScriptInvocation};

use crate::{
    RedisEventStore,
    commands::millis,
    inner::StoreInner,
    script::{ACQUIRE_LEASE, LOAD_LEASE, RENEW_LEASE},
};

#[async_trait]
impl Leases for RedisEventStore {
    async fn acquire_lease(&self, role: &Name, owner: &Name, ttl: Duration) -> Result<Option<Lease>, LeaseError> {
        acquire(self.inner(), role, owner, ttl, "free").await
    }

    async fn seize_lease(&self, role: &Name, owner: &Name, ttl: Duration) -> Result<Lease, LeaseError> {
        let lease = acquire(self.inner(), role, owner, ttl, "any").await?;
        lease.ok_or_else(|| LeaseError::new(role, "the server gave no epoch"))
    }

    async fn renew_lease(&self, lease: &Lease, ttl: Duration) -> Result<bool, LeaseError> {
        let mut script = lease_script(self.inner(), &RENEW_LEASE, &lease.role);
        script.arg(lease.owner.as_str()).arg(lease.epoch).arg(millis(ttl));
        run_lease_script(self.inner(), &lease.role, &script).await
    }

    async fn release_lease(&self, lease: &Lease) -> Result<(), LeaseError> {
        self.renew_lease(lease, Duration::ZERO).await.map(drop)
    }

    async fn lease_of(&self, role: &Name) -> Result<Option<Lease>, LeaseError> {
        let found: Option<(String, u64)> =
            run_lease_script(self.inner(), role, &lease_script(self.inner(), &LOAD_LEASE, role)).await?;
        let lease = found.map(|(owner, epoch)| {
            let owner = Name::new("owner", owner).map_err(|error| LeaseError::new(role, error))?;
            Ok(Lease { role: role.clone(), owner, epoch })
        });
        lease.transpose()
    }
}

async fn acquire(
    inner: &StoreInner,
    role: &Name,
    owner: &Name,
    ttl: Duration,
    mode: &str,
) -> Result<Option<Lease>, LeaseError> {
    let mut script = lease_script(inner, &ACQUIRE_LEASE, role);
    script.key(inner.keys().reader_names());
    script.arg(owner.as_str()).arg(millis(ttl)).arg(mode).arg(role.as_str());
    let epoch: Option<u64> = run_lease_script(inner, role, &script).await?;
    Ok(epoch.map(|epoch| Lease { role: role.clone(), owner: owner.clone(), epoch }))
}

fn lease_script(inner: &StoreInner, script: &'static Script, role: &Name) -> ScriptInvocation<'static> {
    let mut script = script.prepare_invoke();
    script.key(inner.keys().lease(role));
    script
}

/// Runs a script of a lease, which may run twice: the last reply is valid.
async fn run_lease_script<T: FromRedisValue>(
    inner: &StoreInner,
    role: &Name,
    script: &ScriptInvocation<'_>,
) -> Result<T, LeaseError> {
    inner.connection().run_idempotent(script).await.map_err(|error| LeaseError::new(role, boxed(error)))
}
