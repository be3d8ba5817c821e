//! Leases: one owner at a time for a role.

use std::time::Duration;

use async_trait::async_trait;
use auto_impl::auto_impl;

use crate::domain::{error::BoxError, name::Name};

/// The leases of roles, kept where the events are.
///
/// A lease alone keeps no process from writing: its owner may have been paused and not know that the lease has ended.
/// Data that a former owner must not write is fenced by the [epoch](Lease::epoch), in the same transaction or script
/// that writes it.
///
/// Leases use the store's clock, so the clocks of processes do not matter. A lease that would end later than its `ttl`
/// from now on is free: it was acquired or renewed before the store's clock was set back.
///
/// | lease of the role | event | effect |
/// |---|---|---|
/// | free, expired | `acquire_lease` | held, with a higher epoch |
/// | held | `acquire_lease` by its owner | held, with a higher epoch |
/// | held | `acquire_lease` by a different owner | none: `None` |
/// | any | `seize_lease` | held, with a higher epoch |
/// | held, expired | `renew_lease` with its epoch | held for `ttl` from now on |
/// | held, expired | `release_lease` with its epoch | free |
/// | any | `renew_lease` or `release_lease` with a former epoch | none |
/// | held | `ttl` passes | expired |
#[async_trait]
#[auto_impl(Arc)]
pub trait Leases: Send + Sync {
    /// Acquires the lease of `role` for `ttl` if it is free, has expired, or is `owner`'s already.
    ///
    /// Each acquired lease has a higher epoch than all earlier ones of the same role, so an owner that acquires it
    /// again fences its former self too. Returns `None` if a different owner holds it.
    ///
    /// # Errors
    /// [`LeaseError`] if the store cannot be reached; the lease may have been acquired all the same.
    async fn acquire_lease(&self, role: &Name, owner: &Name, ttl: Duration) -> Result<Option<Lease>, LeaseError>;

    /// Acquires the lease of `role` for `ttl` from any owner, with a higher epoch: the former owner is fenced from now
    /// on.
    ///
    /// # Errors
    /// [`LeaseError`] if the store cannot be reached; the lease may have been acquired all the same.
    async fn seize_lease(&self, role: &Name, owner: &Name, ttl: Duration) -> Result<Lease, LeaseError>;

    /// Renews a lease for `ttl` from now on, also one that has expired. Returns `false` if it is not the newest of its
    /// role.
    ///
    /// # Errors
    /// [`LeaseError`] if the store cannot be reached; the lease may be renewed all the same.
    async fn renew_lease(&self, lease: &Lease, ttl: Duration) -> Result<bool, LeaseError>;

    /// Releases a lease, so that the next owner need not wait; has no effect if it was acquired again since.
    ///
    /// # Errors
    /// [`LeaseError`] if the store cannot be reached; then the lease expires by itself.
    async fn release_lease(&self, lease: &Lease) -> Result<(), LeaseError>;

    /// Returns the current lease of `role`; `None` if it is free or has expired.
    ///
    /// # Errors
    /// [`LeaseError`] if the store cannot be reached.
    async fn lease_of(&self, role: &Name) -> Result<Option<Lease>, LeaseError>;

    /// Returns the current lease of each role, in order, as [`lease_of`](Self::lease_of) does, if possible in one
    /// request. The provided body asks for one after the other.
    ///
    /// # Errors
    /// [`LeaseError`], with one of the roles, if the store cannot be reached.
    async fn leases_of(&self, roles: &[Name]) -> Result<Vec<Option<Lease>>, LeaseError> {
        let mut leases = Vec::with_capacity(roles.len());
        for role in roles {
            leases.push(self.lease_of(role).await?);
        }
        Ok(leases)
    }
}

/// A role that one owner holds until the lease expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The role, for example `relay:redis:orders:stream`; durable.
    pub role: Name,
    /// The owner; differs between processes, also between two starts of one program.
    pub owner: Name,
    /// The fencing token: grows with each acquisition, so a process with a lower epoch is no longer the owner.
    pub epoch: u64,
}

/// The error of reading, acquiring, renewing or releasing a lease.
#[derive(Debug, thiserror::Error)]
#[error("lease of `{role}` is unavailable")]
#[non_exhaustive]
pub struct LeaseError {
    /// The role.
    pub role: Name,
    /// The error of the store.
    pub source: BoxError,
}

impl LeaseError {
    /// Wraps the error of the store.
    pub fn new(role: &Name, source: impl Into<BoxError>) -> Self {
        Self { role: role.clone(), source: source.into() }
    }
}
