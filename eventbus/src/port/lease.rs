//! Leases: one owner at a time for a role.

use std::time::Duration;

use async_trait::async_trait;

use crate::domain::{error::BoxError, name::Name};

/// Hands out leases, kept where the events are.
///
/// A lease alone keeps nobody from writing: its owner may have been paused and not know that it ended. What must not be
/// written by a former owner is fenced by the [epoch](Lease::epoch), in the same transaction or script that writes it.
///
/// Time is the store's own, so clocks of processes do not matter. A lease that was taken or renewed in the future, so that
/// it would end later than its `ttl` from now on, is free: the store's clock was set back.
#[async_trait]
pub trait Leases: Send + Sync {
    /// Takes the lease of `role` for `ttl` if nobody has it, it has run out, or `owner` has it already.
    ///
    /// Each lease that is taken has a higher epoch than all before it of the same role, so an owner that begins anew
    /// fences its former self too. `None`: somebody else has it.
    ///
    /// # Errors
    /// [`LeaseError`] if the store cannot be reached; the lease may have been taken all the same.
    async fn acquire_lease(&self, role: &Name, owner: &Name, ttl: Duration) -> Result<Option<Lease>, LeaseError>;

    /// Takes the lease of `role` for `ttl`, whoever has it, with a higher epoch: its owner is fenced from now on.
    ///
    /// # Errors
    /// [`LeaseError`] if the store cannot be reached; the lease may have been taken all the same.
    async fn seize_lease(&self, role: &Name, owner: &Name, ttl: Duration) -> Result<Lease, LeaseError>;

    /// Keeps a lease for `ttl` from now on. False: it has passed to somebody else; one that only ran out is kept.
    ///
    /// # Errors
    /// [`LeaseError`] if the store cannot be reached; the lease may be kept all the same.
    async fn renew_lease(&self, lease: &Lease, ttl: Duration) -> Result<bool, LeaseError>;

    /// Gives a lease back, so that the next owner need not wait; one that has passed on is left alone.
    ///
    /// # Errors
    /// [`LeaseError`] if the store cannot be reached; then it runs out by itself.
    async fn release_lease(&self, lease: &Lease) -> Result<(), LeaseError>;

    /// Who has the lease of `role` now; `None` if nobody has, or it has run out.
    ///
    /// # Errors
    /// [`LeaseError`] if the store cannot be reached.
    async fn lease_of(&self, role: &Name) -> Result<Option<Lease>, LeaseError>;
}

/// A role that somebody has for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What it is about, for example `relay:redis:orders:stream`; durable.
    pub role: Name,
    /// Who has it; differs between processes, also between two starts of one program.
    pub owner: Name,
    /// Grows with every change of hands: whoever has a lower one is no owner any more.
    pub epoch: u64,
}

/// A lease that could not be taken, kept or given back.
#[derive(Debug, thiserror::Error)]
#[error("lease of `{role}` is unavailable")]
#[non_exhaustive]
pub struct LeaseError {
    /// The role.
    pub role: Name,
    /// What the store said.
    pub source: BoxError,
}

impl LeaseError {
    /// Wraps what the store said.
    pub fn new(role: &Name, source: impl Into<BoxError>) -> Self {
        Self { role: role.clone(), source: source.into() }
    }
}

__delegate!(<L> Arc<L>, self => (**self); Leases);
