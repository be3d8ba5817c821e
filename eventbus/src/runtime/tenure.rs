//! Having a role: a lease that is taken, kept while it is needed, and given back.
//!
//! Keep: a tenure that is over was over before anybody else's began only by the clock of the store. What must not be
//! written by a former owner is fenced by the lease's epoch, where it is written.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{clock::SharedClock, name::Name},
    port::{EventStore, Lease, LeaseError, Outage},
};

/// The shortest lease: shorter ones would be lost between two renewals, and pass to and fro between busy processes.
pub(crate) const SHORTEST_LEASE: Duration = Duration::from_millis(100);

/// How long giving a lease back may take: it runs out by itself anyway. Real time, as for everything that waits for the
/// reply of a store.
const GIVE_BACK: Duration = Duration::from_secs(2);

/// A name for this start of the program: host, process, and eight digits that no other start has.
pub(crate) fn new_owner() -> Name {
    let host = std::env::var("HOSTNAME").ok().filter(|host| !host.is_empty());
    let host = host.or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok());
    let host: String = host.as_deref().unwrap_or("host").trim().chars().take(100).collect();
    let name = format!("{host}:{}:{:08x}", std::process::id(), fastrand::u32(..));
    Name::new("owner", name).unwrap_or_else(|_| Name::numbered(&Name::from_static("host"), std::process::id() as usize))
}

/// Somebody who wants a role.
#[derive(Clone)]
pub(crate) struct Candidate {
    pub(crate) store: Arc<dyn EventStore>,
    pub(crate) role: Name,
    pub(crate) owner: Name,
    /// How long a lease lasts that is not kept; it is renewed three times in that time.
    pub(crate) ttl: Duration,
    pub(crate) clock: SharedClock,
    /// From when the role was given up, until somebody has it again.
    pub(crate) given_up: GivenUp,
}

/// Of a role that was given up, as its lease could not be renewed: shared by those who take it one after the other.
#[derive(Clone)]
pub(crate) struct GivenUp(Arc<Mutex<Outage>>);

impl GivenUp {
    pub(crate) fn new(clock: &SharedClock) -> Self {
        Self(Arc::new(Mutex::new(Outage::new(clock.clone()))))
    }

    fn begins(&self, role: &Name) {
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).begins() {
            tracing::warn!(%role, "lease could not be renewed in time, the role is given up");
        }
    }

    fn ends(&self, role: &Name, how: &'static str) {
        if let Some(lasted) = self.0.lock().unwrap_or_else(PoisonError::into_inner).ends() {
            tracing::info!(%role, ?lasted, "{how}");
        }
    }
}

impl Candidate {
    /// Takes the role if nobody else has it; over when `cancel` says so, too.
    pub(crate) async fn take(&self, cancel: &CancellationToken) -> Result<Option<Tenure>, LeaseError> {
        let asked = self.clock.instant();
        let lease = self.store.acquire_lease(&self.role, &self.owner, self.ttl).await?;
        let how = if lease.is_some() { "the role is taken again" } else { "another process has the role" };
        self.given_up.ends(&self.role, how);
        Ok(lease.map(|lease| self.begin(lease, asked, cancel)))
    }

    /// Takes the role, whoever has it.
    pub(crate) async fn seize(&self, cancel: &CancellationToken) -> Result<Tenure, LeaseError> {
        let asked = self.clock.instant();
        let lease = self.store.seize_lease(&self.role, &self.owner, self.ttl).await?;
        self.given_up.ends(&self.role, "the role is taken again");
        Ok(self.begin(lease, asked, cancel))
    }

    fn begin(&self, lease: Lease, asked: Instant, cancel: &CancellationToken) -> Tenure {
        let over = cancel.child_token();
        let kept = Arc::new(Kept { since: Mutex::new(Some(asked)), ttl: self.ttl, clock: self.clock.clone() });
        let keeper = Keeper {
            store: Arc::clone(&self.store),
            lease: lease.clone(),
            ttl: self.ttl,
            kept: Arc::clone(&kept),
            given_up: self.given_up.clone(),
        };
        let keeping = tokio::spawn(keeper.keep(over.clone()));
        Tenure { store: Arc::clone(&self.store), lease, over, kept, keeping }
    }
}

/// A role that this process has, as far as it knows. Dropped it is kept no longer, and runs out.
pub(crate) struct Tenure {
    store: Arc<dyn EventStore>,
    lease: Lease,
    over: CancellationToken,
    kept: Arc<Kept>,
    keeping: JoinHandle<()>,
}

impl Tenure {
    pub(crate) const fn lease(&self) -> &Lease {
        &self.lease
    }

    /// How long the lease lasts without a sign of life.
    pub(crate) fn ttl(&self) -> Duration {
        self.kept.ttl
    }

    /// Cancelled when the lease has passed to somebody else, or could not be kept, or the work is to end.
    pub(crate) const fn over(&self) -> &CancellationToken {
        &self.over
    }

    /// Whether somebody else may have the role by now; known at once also after the process was paused.
    pub(crate) fn has_passed(&self) -> bool {
        !self.kept.is_in_time()
    }

    /// Gives the role back, so that the next owner need not wait.
    pub(crate) async fn give_back(self) {
        self.keeping.abort();
        if let Ok(Err(error)) = tokio::time::timeout(GIVE_BACK, self.store.release_lease(&self.lease)).await {
            tracing::debug!(role = %self.lease.role, %error, "lease was not given back, it runs out");
        }
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        self.keeping.abort();
        self.over.cancel();
    }
}

struct Keeper {
    store: Arc<dyn EventStore>,
    lease: Lease,
    ttl: Duration,
    kept: Arc<Kept>,
    given_up: GivenUp,
}

/// When the request was sent that kept a lease last; `None` if it was lost.
struct Kept {
    since: Mutex<Option<Instant>>,
    ttl: Duration,
    clock: SharedClock,
}

impl Kept {
    fn is_in_time(&self) -> bool {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| self.clock.elapsed(since) < self.ttl)
    }

    fn set(&self, since: Option<Instant>) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

impl Keeper {
    /// Renews the lease until it is over.
    async fn keep(self, over: CancellationToken) {
        let pause = self.ttl / 3;
        loop {
            tokio::select! {
                () = over.cancelled() => return,
                () = self.kept.clock.sleep(pause) => {}
            }
            if !self.renew(pause).await {
                return over.cancel();
            }
        }
    }

    /// False: it has passed to somebody else, or may have by now.
    async fn renew(&self, patience: Duration) -> bool {
        let asked = self.kept.clock.instant();
        match tokio::time::timeout(patience, self.store.renew_lease(&self.lease, self.ttl)).await {
            Ok(Ok(true)) => {
                self.kept.set(Some(asked));
                return true;
            }
            Ok(Ok(false)) => {
                tracing::info!(role = %self.lease.role, "the role has passed to somebody else");
                self.kept.set(None);
                return false;
            }
            Ok(Err(error)) => tracing::debug!(role = %self.lease.role, %error, "lease was not renewed, trying again"),
            Err(_) => tracing::debug!(role = %self.lease.role, "renewing the lease takes long, trying again"),
        }
        let has_time = self.kept.is_in_time();
        if !has_time {
            self.given_up.begins(&self.lease.role);
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

    fn candidate(store: &InMemoryEventStore, owner: &'static str) -> Candidate {
        Candidate {
            store: Arc::new(store.clone()),
            role: ROLE,
            owner: Name::from_static(owner),
            ttl: TTL,
            clock: SharedClock::SYSTEM,
            given_up: GivenUp::new(&SharedClock::SYSTEM),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_role_is_kept_as_long_as_it_is_needed_and_then_given_back() {
        let (store, cancel) = (InMemoryEventStore::new(), CancellationToken::new());
        let tenure = candidate(&store, "a").take(&cancel).await.unwrap().unwrap();
        tokio::time::sleep(10 * TTL).await;
        assert!(!tenure.has_passed());
        assert!(candidate(&store, "b").take(&cancel).await.unwrap().is_none());
        tenure.give_back().await;
        assert!(candidate(&store, "b").take(&cancel).await.unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_role_that_is_dropped_runs_out() {
        let (store, cancel) = (InMemoryEventStore::new(), CancellationToken::new());
        drop(candidate(&store, "a").take(&cancel).await.unwrap());
        assert!(candidate(&store, "b").take(&cancel).await.unwrap().is_none());
        tokio::time::sleep(TTL).await;
        assert!(candidate(&store, "b").take(&cancel).await.unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_lost_a_role_is_told() {
        let (store, cancel) = (InMemoryEventStore::new(), CancellationToken::new());
        let first = candidate(&store, "a").take(&cancel).await.unwrap().unwrap();
        let second = candidate(&store, "b").seize(&cancel).await.unwrap();
        tokio::time::timeout(TTL, first.over().cancelled()).await.unwrap();
        assert!(first.has_passed() && !second.has_passed());
        first.give_back().await;
        assert_eq!(store.lease_of(&ROLE).await.unwrap().as_ref(), Some(second.lease()), "it is somebody else's");
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_owner_knows_at_once_that_it_may_have_lost_the_role() {
        let (store, cancel) = (InMemoryEventStore::new(), CancellationToken::new());
        let tenure = candidate(&store, "a").take(&cancel).await.unwrap().unwrap();
        // no timer fires meanwhile, as in a process that stands still
        tokio::time::advance(TTL).await;
        assert!(tenure.has_passed());
    }

    #[test]
    fn owners_differ_between_starts() {
        assert_ne!(new_owner(), new_owner());
    }
}
