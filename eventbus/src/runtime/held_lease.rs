//! Held leases: acquired for a role, renewed in the background, released. Used by the relay, by projections and to edit
//! skips.
//!
//! Invariant: a lease ends before the next owner's begins only by the store's clock; this process may notice later. So
//! a write that a former owner must not make is fenced by the lease's epoch, in the transaction or script that writes.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lease_renewer::{LeaseOutage, LeaseRenewer, LeaseValidity};
use crate::{
    domain::{clock::SharedClock, name::Name},
    port::{EventStore, Lease, LeaseError},
};

/// The shortest lease: a shorter one would expire between two renewals, and pass to and fro between busy processes.
pub(crate) const LEASE_TTL_MIN: Duration = Duration::from_millis(100);

/// Interval at which a command tries to acquire a lease that another process holds.
const ACQUIRE_INTERVAL: Duration = Duration::from_millis(200);

/// Timeout of a release: one half for the renewals under way, one for the release itself; a lease that was not released
/// expires. Real time: it waits for the reply of a store.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Makes a name for this start of the program: host, process, and eight digits that no other start has.
pub(crate) fn new_owner() -> Name {
    let host = std::env::var("HOSTNAME").ok().filter(|host| !host.is_empty());
    let host = host.or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok());
    let host: String = host.as_deref().unwrap_or("host").trim().chars().take(100).collect();
    let name = format!("{host}:{}:{:08x}", std::process::id(), fastrand::u32(..));
    Name::new("owner", name).unwrap_or_else(|_| Name::numbered(&Name::from_static("host"), std::process::id() as usize))
}

/// Returns the owner of the leases of one command of a process, such as a rebuild.
///
/// It is not the process's own name: with that, its runner could acquire the lease again, and feed meanwhile.
pub(crate) fn command_owner(process: &Name, command: &str) -> Name {
    process.joined("/", &format!("{command}-{:08x}", fastrand::u32(..)))
}

/// The request of one process for a role's lease.
#[derive(Clone)]
pub(crate) struct LeaseRequest {
    pub(crate) store: Arc<dyn EventStore>,
    pub(crate) role: Name,
    pub(crate) owner: Name,
    /// Time until an unrenewed lease expires.
    pub(crate) ttl: Duration,
    pub(crate) clock: SharedClock,
    /// From the loss of the lease until this process sees an owner again.
    outage: LeaseOutage,
    /// Renews the leases of this process with the same `ttl`; `None` for a lease that is renewed by itself.
    renewer: Option<LeaseRenewer>,
}

impl LeaseRequest {
    pub(crate) fn new(store: Arc<dyn EventStore>, role: Name, owner: Name, ttl: Duration, clock: SharedClock) -> Self {
        let outage = LeaseOutage::new(&clock);
        Self { store, role, owner, ttl, clock, outage, renewer: None }
    }

    /// Lets the lease be renewed together with others.
    pub(crate) fn renewed_by(self, renewer: &LeaseRenewer) -> Self {
        Self { renewer: Some(renewer.clone()), ..self }
    }

    /// Acquires the role's lease; `None` if a different owner holds it. Cancelling `cancel` ends the held lease too.
    pub(crate) async fn acquire(&self, cancel: &CancellationToken) -> Result<Option<HeldLease>, LeaseError> {
        // before the request, as the store counts the ttl from its arrival
        let sent_at = self.clock.instant();
        let lease = self.store.acquire_lease(&self.role, &self.owner, self.ttl).await?;
        let message = if lease.is_some() { "this process has the role again" } else { "another process has the role" };
        self.outage.ends(&self.role, message);
        Ok(lease.map(|lease| self.start_renewal(lease, sent_at, cancel)))
    }

    /// Acquires the role's lease; waits for it up to `timeout`, since its owner may be dead. `None` after that, or if
    /// cancelled.
    pub(crate) async fn acquire_within(
        &self,
        timeout: Duration,
        cancel: &CancellationToken,
    ) -> Result<Option<HeldLease>, LeaseError> {
        let began = self.clock.instant();
        loop {
            let acquired = self.acquire(cancel).await?;
            if acquired.is_some() || cancel.is_cancelled() || self.clock.elapsed(began) > timeout {
                return Ok(acquired);
            }
            cancel.run_until_cancelled(self.clock.sleep(ACQUIRE_INTERVAL.min(timeout / 20))).await;
        }
    }

    /// Seizes the role's lease from its owner, which the higher epoch fences from now on.
    pub(crate) async fn seize(&self, cancel: &CancellationToken) -> Result<HeldLease, LeaseError> {
        // before the request, as the store counts the ttl from its arrival
        let sent_at = self.clock.instant();
        let lease = self.store.seize_lease(&self.role, &self.owner, self.ttl).await?;
        self.outage.ends(&self.role, "this process has the role again");
        Ok(self.start_renewal(lease, sent_at, cancel))
    }

    fn start_renewal(&self, lease: Lease, sent_at: Instant, cancel: &CancellationToken) -> HeldLease {
        let validity = Arc::new(LeaseValidity::new(lease, sent_at, cancel.child_token(), self.outage.clone()));
        let of_its_own = || LeaseRenewer::new(Arc::clone(&self.store), self.clock.clone(), self.ttl);
        let renewer = self.renewer.clone().unwrap_or_else(of_its_own);
        renewer.add(Arc::clone(&validity));
        HeldLease { request: self.clone(), validity, renewer }
    }
}

/// A role that this process has, as far as it knows. Dropping it stops the renewal, and the lease expires.
///
/// | state | event | next state |
/// |---|---|---|
/// | held | the store renews the lease | held, valid for `ttl` from when the request was sent |
/// | held | a renewal fails or times out before `ttl` is over | held |
/// | held | `ttl` passes without a renewal, as in a paused process | expired: `may_have_expired`, `ended` follows |
/// | held, expired | the store answers that the lease has passed on | ended, `may_have_expired` |
/// | expired | a renewal succeeds: no other owner took the role | held |
/// | expired | a renewal fails or times out | ended |
/// | any | release, drop, or the caller's `cancel` | ended |
pub(crate) struct HeldLease {
    request: LeaseRequest,
    validity: Arc<LeaseValidity>,
    renewer: LeaseRenewer,
}

impl HeldLease {
    pub(crate) fn lease(&self) -> &Lease {
        self.validity.lease()
    }

    /// Returns the time until an unrenewed lease expires.
    pub(crate) const fn ttl(&self) -> Duration {
        self.request.ttl
    }

    /// Cancelled when the lease has passed to a new owner, could not be renewed in time, or the caller cancels.
    pub(crate) fn ended(&self) -> &CancellationToken {
        self.validity.ended()
    }

    /// Returns `true` if a new owner may have the role by now; correct also right after a pause of the process, as it
    /// needs no timer.
    pub(crate) fn may_have_expired(&self) -> bool {
        !self.validity.is_valid(self.request.ttl, &self.request.clock)
    }

    /// Renews the lease at once. Returns `false` if it has passed on to a new owner.
    pub(crate) async fn renew(&self) -> Result<bool, LeaseError> {
        self.request.store.renew_lease(self.lease(), self.request.ttl).await
    }

    /// Releases the lease, so that the next owner need not wait.
    pub(crate) async fn release(self) {
        let (lease, store) = (self.validity.lease(), &self.request.store);
        self.validity.ended().cancel();
        // later, one of them would renew the released lease; without an answer it is released in any case
        let _ = tokio::time::timeout(RELEASE_TIMEOUT / 2, self.validity.requests_answered()).await;
        if let Ok(Err(error)) = tokio::time::timeout(RELEASE_TIMEOUT / 2, store.release_lease(lease)).await {
            tracing::debug!(role = %lease.role, %error, "lease was not released, it expires by itself");
        }
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.validity.ended().cancel();
        self.renewer.note_end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{memory::InMemoryEventStore, port::Leases};

    const ROLE: Name = Name::from_static("projection:rows");
    const TTL: Duration = Duration::from_secs(10);

    fn request(store: &InMemoryEventStore, owner: &'static str) -> LeaseRequest {
        LeaseRequest::new(Arc::new(store.clone()), ROLE, Name::from_static(owner), TTL, SharedClock::SYSTEM)
    }

    #[tokio::test(start_paused = true)]
    async fn a_role_is_kept_as_long_as_it_is_needed_and_then_given_back() {
        let (store, cancel) = (InMemoryEventStore::new(), CancellationToken::new());
        let held_lease = request(&store, "a").acquire(&cancel).await.unwrap().unwrap();
        tokio::time::sleep(10 * TTL).await;
        assert!(!held_lease.may_have_expired());
        assert!(request(&store, "b").acquire(&cancel).await.unwrap().is_none());
        held_lease.release().await;
        assert!(request(&store, "b").acquire(&cancel).await.unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_role_that_is_dropped_runs_out() {
        let (store, cancel) = (InMemoryEventStore::new(), CancellationToken::new());
        drop(request(&store, "a").acquire(&cancel).await.unwrap());
        assert!(request(&store, "b").acquire(&cancel).await.unwrap().is_none());
        tokio::time::sleep(TTL).await;
        assert!(request(&store, "b").acquire(&cancel).await.unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_lost_a_role_is_told() {
        let (store, cancel) = (InMemoryEventStore::new(), CancellationToken::new());
        let first = request(&store, "a").acquire(&cancel).await.unwrap().unwrap();
        let second = request(&store, "b").seize(&cancel).await.unwrap();
        tokio::time::timeout(TTL, first.ended().cancelled()).await.unwrap();
        assert!(first.may_have_expired() && !second.may_have_expired());
        first.release().await;
        assert_eq!(store.lease_of(&ROLE).await.unwrap().as_ref(), Some(second.lease()), "the second owner keeps it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_owner_knows_at_once_that_it_may_have_lost_the_role() {
        let (store, cancel) = (InMemoryEventStore::new(), CancellationToken::new());
        let held_lease = request(&store, "a").acquire(&cancel).await.unwrap().unwrap();
        // no timer fires meanwhile, as in a paused process
        tokio::time::advance(TTL).await;
        assert!(held_lease.may_have_expired());
        assert!(held_lease.renew().await.unwrap(), "no other process holds it");
        let _other = request(&store, "b").seize(&cancel).await.unwrap();
        assert!(!held_lease.renew().await.unwrap());
    }

    #[test]
    fn owners_differ_between_starts() {
        assert_ne!(new_owner(), new_owner());
    }
}
