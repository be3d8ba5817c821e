//! Held leases: acquired for a role, renewed in the background, released. Used by projections and to edit skips.
//!
//! Invariant: a lease ends before the next owner's begins only by the store's clock; this process may notice later. So
//! a write that a former owner must not make is fenced by the lease's epoch, in the transaction or script that writes.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{clock::SharedClock, name::Name},
    port::{EventStore, Lease, LeaseError},
    support::Outage,
};

/// The shortest lease: a shorter one would expire between two renewals, and pass to and fro between busy processes.
pub(crate) const LEASE_TTL_MIN: Duration = Duration::from_millis(100);

/// Timeout of a release; a lease that was not released expires. Real time: it waits for the reply of a store.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Makes a name for this start of the program: host, process, and eight digits that no other start has.
pub(crate) fn new_owner() -> Name {
    let host = std::env::var("HOSTNAME").ok().filter(|host| !host.is_empty());
    let host = host.or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok());
    let host: String = host.as_deref().unwrap_or("host").trim().chars().take(100).collect();
    let name = format!("{host}:{}:{:08x}", std::process::id(), fastrand::u32(..));
    Name::new("owner", name).unwrap_or_else(|_| Name::numbered(&Name::from_static("host"), std::process::id() as usize))
}

/// The request of one process for a role's lease.
#[derive(Clone)]
pub(crate) struct LeaseRequest {
    pub(crate) store: Arc<dyn EventStore>,
    pub(crate) role: Name,
    pub(crate) owner: Name,
    /// Time until an unrenewed lease expires; the renewal task renews it three times in that time.
    pub(crate) ttl: Duration,
    pub(crate) clock: SharedClock,
    /// From the loss of the lease until this process sees an owner again.
    pub(crate) outage: LeaseOutage,
}

/// Outage of a role whose lease could not be renewed; shared by successive held leases, which log it once.
#[derive(Clone)]
pub(crate) struct LeaseOutage(Arc<Mutex<Outage>>);

impl LeaseOutage {
    pub(crate) fn new(clock: &SharedClock) -> Self {
        Self(Arc::new(Mutex::new(Outage::new(clock.clone()))))
    }

    fn begins(&self, role: &Name) {
        if self.0.lock().begins() {
            tracing::warn!(%role, "this process could not renew the lease in time and gives up the role");
        }
    }

    fn ends(&self, role: &Name, message: &'static str) {
        if let Some(lasted) = self.0.lock().ends() {
            tracing::info!(%role, ?lasted, "{message}");
        }
    }
}

impl LeaseRequest {
    /// Acquires the role's lease; `None` if a different owner holds it. Cancelling `cancel` ends the held lease too.
    pub(crate) async fn acquire(&self, cancel: &CancellationToken) -> Result<Option<HeldLease>, LeaseError> {
        // before the request, as the store counts the ttl from its arrival
        let sent_at = self.clock.instant();
        let lease = self.store.acquire_lease(&self.role, &self.owner, self.ttl).await?;
        let message = if lease.is_some() { "this process has the role again" } else { "another process has the role" };
        self.outage.ends(&self.role, message);
        Ok(lease.map(|lease| self.start_renewal(lease, sent_at, cancel)))
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
        let ended = cancel.child_token();
        let renewal = Arc::new(LeaseRenewal { request: self.clone(), lease, sent_at: Mutex::new(Some(sent_at)) });
        let task = tokio::spawn(Arc::clone(&renewal).run(ended.clone()));
        HeldLease { renewal, ended, task }
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
    renewal: Arc<LeaseRenewal>,
    ended: CancellationToken,
    task: JoinHandle<()>,
}

impl HeldLease {
    pub(crate) fn lease(&self) -> &Lease {
        &self.renewal.lease
    }

    /// Returns the time until an unrenewed lease expires.
    pub(crate) fn ttl(&self) -> Duration {
        self.renewal.request.ttl
    }

    /// Cancelled when the lease has passed to a new owner, could not be renewed in time, or the caller cancels.
    pub(crate) const fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Returns `true` if a new owner may have the role by now; correct also right after a pause of the process, as it
    /// needs no timer.
    pub(crate) fn may_have_expired(&self) -> bool {
        !self.renewal.is_valid()
    }

    /// Releases the lease, so that the next owner need not wait.
    pub(crate) async fn release(self) {
        self.task.abort();
        let LeaseRenewal { request, lease, .. } = &*self.renewal;
        if let Ok(Err(error)) = tokio::time::timeout(RELEASE_TIMEOUT, request.store.release_lease(lease)).await {
            tracing::debug!(role = %lease.role, %error, "lease was not released, it expires by itself");
        }
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.task.abort();
        self.ended.cancel();
    }
}

/// The renewal of a lease: a task renews it, and its owner reads how long it is valid.
struct LeaseRenewal {
    request: LeaseRequest,
    lease: Lease,
    /// Send time of the last successful renewal; `None` once the lease has passed on. Locked: the task writes it, the
    /// owner reads it.
    sent_at: Mutex<Option<Instant>>,
}

impl LeaseRenewal {
    fn is_valid(&self) -> bool {
        let sent_at = *self.sent_at.lock();
        sent_at.is_some_and(|sent_at| self.request.clock.elapsed(sent_at) < self.request.ttl)
    }

    /// Renews the lease until it ends.
    async fn run(self: Arc<Self>, ended: CancellationToken) {
        let pause = self.request.ttl / 3;
        loop {
            // a lease that ended needs no further renewal
            if ended.run_until_cancelled(self.request.clock.sleep(pause)).await.is_none() {
                return;
            }
            if !self.renew(pause).await {
                return ended.cancel();
            }
        }
    }

    /// Renews the lease once. Returns `false` if it has passed to a new owner, or may have by now.
    async fn renew(&self, timeout: Duration) -> bool {
        let LeaseRequest { store, ttl, clock, outage, .. } = &self.request;
        let sent_at = clock.instant();
        match tokio::time::timeout(timeout, store.renew_lease(&self.lease, *ttl)).await {
            Ok(Ok(true)) => {
                *self.sent_at.lock() = Some(sent_at);
                return true;
            }
            Ok(Ok(false)) => {
                tracing::info!(role = %self.lease.role, "the role has passed to another process");
                *self.sent_at.lock() = None;
                return false;
            }
            Ok(Err(error)) => tracing::debug!(role = %self.lease.role, %error, "lease was not renewed, trying again"),
            Err(_) => tracing::debug!(role = %self.lease.role, "lease renewal timed out, trying again"),
        }
        let has_time = self.is_valid();
        if !has_time {
            outage.begins(&self.lease.role);
        }
        has_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{memory::InMemoryEventStore, port::Leases};

    const ROLE: Name = Name::from_static("projection:rows");
    const TTL: Duration = Duration::from_secs(10);

    fn request(store: &InMemoryEventStore, owner: &'static str) -> LeaseRequest {
        LeaseRequest {
            store: Arc::new(store.clone()),
            role: ROLE,
            owner: Name::from_static(owner),
            ttl: TTL,
            clock: SharedClock::SYSTEM,
            outage: LeaseOutage::new(&SharedClock::SYSTEM),
        }
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
    }

    #[test]
    fn owners_differ_between_starts() {
        assert_ne!(new_owner(), new_owner());
    }
}
