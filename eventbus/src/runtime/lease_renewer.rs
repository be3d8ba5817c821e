//! Renewal of the leases of the projections that this process feeds: of all at once, in one request to the store.
//!
//! Invariant: a lease that a joint renewal has not renewed is renewed alone, in a task of its own. So no lease waits
//! for another one, nor ends because of it.
//!
//! Invariant: a request runs until the store has answered it, in a task of its own, also past its timeout; a release
//! waits for it, for up to a second. Otherwise the store could renew a lease after its release. A panic of the store
//! ends only the request.
//!
//! Real time, not the given clock: the timeouts of a renewal, which wait for the reply of a store.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, OwnedRwLockReadGuard, RwLock},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{clock::SharedClock, name::Name},
    port::{EventStore, Lease, LeaseError},
    support::Outage,
};

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

    pub(super) fn ends(&self, role: &Name, message: &'static str) {
        if let Some(lasted) = self.0.lock().ends() {
            tracing::info!(%role, ?lasted, "{message}");
        }
    }
}

/// The validity of a lease: its renewer writes it, its owner reads it.
pub(super) struct LeaseValidity {
    lease: Lease,
    /// Send time of the last successful renewal; `None` once the lease has passed on.
    sent_at: Mutex<Option<Instant>>,
    /// Cancelled when the lease has ended.
    ended: CancellationToken,
    outage: LeaseOutage,
    /// Set while a task renews this lease alone.
    is_renewed_alone: AtomicBool,
    /// Read-locked by each request to renew this lease, until the store has answered.
    requests: Arc<RwLock<()>>,
}

impl LeaseValidity {
    pub(super) fn new(lease: Lease, sent_at: Instant, ended: CancellationToken, outage: LeaseOutage) -> Self {
        let (is_renewed_alone, requests) = Default::default();
        Self { lease, sent_at: Mutex::new(Some(sent_at)), ended, outage, is_renewed_alone, requests }
    }

    pub(super) const fn lease(&self) -> &Lease {
        &self.lease
    }

    pub(super) const fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    pub(super) fn is_valid(&self, ttl: Duration, clock: &SharedClock) -> bool {
        self.sent_at.lock().is_some_and(|sent_at| clock.elapsed(sent_at) < ttl)
    }

    /// Waits until the store has answered all requests to renew this lease, which has ended.
    pub(super) async fn requests_answered(&self) {
        drop(self.requests.write().await);
    }

    /// Begins a request to renew this lease, which the guard counts as unanswered; `None` if the lease has ended.
    fn begin_request(&self) -> Option<OwnedRwLockReadGuard<()>> {
        let unanswered = Arc::clone(&self.requests).try_read_owned().ok()?;
        // locked before this check: a release ends the lease, then waits for the lock
        (!self.ended.is_cancelled()).then_some(unanswered)
    }

    /// Records a renewal that was sent at this time; a lease that has passed on stays so.
    fn note_renewal(&self, sent_at: Instant) {
        if let Some(last) = &mut *self.sent_at.lock() {
            *last = sent_at.max(*last);
        }
    }
}

/// Renews the leases of one process while it holds them, each three times in its time to live. Cloning shares it.
#[derive(Clone)]
pub(crate) struct LeaseRenewer(Arc<RenewerInner>);

struct RenewerInner {
    store: Arc<dyn EventStore>,
    clock: SharedClock,
    /// Time until an unrenewed lease expires.
    ttl: Duration,
    /// Locked: held leases are added and dropped while the task renews them.
    held: Mutex<HeldLeases>,
    /// Wakes the task when the last lease has ended.
    none_held: Notify,
}

#[derive(Default)]
struct HeldLeases {
    leases: Vec<Arc<LeaseValidity>>,
    /// Set while a task renews them.
    has_task: bool,
}

impl HeldLeases {
    /// Drops the leases that have ended. Returns `true` if none is left.
    fn drop_ended(&mut self) -> bool {
        self.leases.retain(|lease| !lease.ended.is_cancelled());
        self.leases.is_empty()
    }
}

impl LeaseRenewer {
    pub(crate) fn new(store: Arc<dyn EventStore>, clock: SharedClock, ttl: Duration) -> Self {
        let (held, none_held) = Default::default();
        Self(Arc::new(RenewerInner { store, clock, ttl, held, none_held }))
    }

    /// Renews a lease until it ends.
    pub(super) fn add(&self, lease: Arc<LeaseValidity>) {
        let mut held = self.0.held.lock();
        held.leases.push(lease);
        if !std::mem::replace(&mut held.has_task, true) {
            tokio::spawn(self.clone().run());
        }
    }

    /// Ends the task if no lease is held any more, and with it its hold on the store.
    pub(super) fn note_end(&self) {
        if self.0.held.lock().drop_ended() {
            self.0.none_held.notify_one();
        }
    }

    /// Renews the leases until none is held.
    async fn run(self) {
        let pause = self.0.ttl / 3;
        let (mut due_at, mut joint_request) = (self.0.clock.after(pause), None);
        loop {
            // the end of the last lease does not wait for the next renewal: until then the task keeps the store open
            tokio::select! {
                () = self.0.clock.sleep_until(due_at) => {
                    due_at = self.0.clock.after(pause);
                    self.renew_all(pause, &mut joint_request).await;
                }
                () = self.0.none_held.notified() => {}
            }
            let mut held = self.0.held.lock();
            if held.drop_ended() {
                held.has_task = false;
                return;
            }
        }
    }

    /// Renews all leases once: together, unless the last joint request is still unanswered, and then alone.
    async fn renew_all(&self, timeout: Duration, joint_request: &mut Option<JoinHandle<Vec<bool>>>) {
        let is_due =
            |lease: &&Arc<LeaseValidity>| !lease.ended.is_cancelled() && !lease.is_renewed_alone.load(Ordering::SeqCst);
        let mut due: Vec<_> = self.0.held.lock().leases.iter().filter(is_due).cloned().collect();
        if due.len() > 1 && joint_request.as_ref().is_none_or(JoinHandle::is_finished) {
            // before the request, as the store counts the ttl from its arrival
            let sent_at = self.0.clock.instant();
            let request = joint_request.insert(self.send_joint_request(&mut due));
            // half of the time: the other half is left to renew each alone
            let answer = tokio::time::timeout(timeout / 2, request).await;
            let mut renewed = answer.ok().and_then(Result::ok).unwrap_or_default().into_iter();
            due.retain(|lease| {
                let is_renewed = renewed.next().unwrap_or_default();
                if is_renewed {
                    lease.note_renewal(sent_at);
                }
                !is_renewed
            });
        }
        for lease in due {
            lease.is_renewed_alone.store(true, Ordering::SeqCst);
            tokio::spawn(self.clone().renew_alone(lease, timeout));
        }
    }

    /// Sends the request to renew these leases, without those that have ended.
    fn send_joint_request(&self, due: &mut Vec<Arc<LeaseValidity>>) -> JoinHandle<Vec<bool>> {
        let mut unanswered = Vec::new();
        due.retain(|lease| lease.begin_request().map(|request| unanswered.push(request)).is_some());
        let leases: Vec<_> = due.iter().map(|lease| lease.lease.clone()).collect();
        let inner = Arc::clone(&self.0);
        tokio::spawn(async move {
            let _unanswered = unanswered;
            inner.store.renew_leases(&leases, inner.ttl).await.unwrap_or_default()
        })
    }

    /// Renews one lease; ends it if it has passed to a new owner, or may have by now.
    async fn renew_alone(self, lease: Arc<LeaseValidity>, timeout: Duration) {
        // a lease that ended needs no further renewal
        let is_held = lease.ended.run_until_cancelled(self.renew(&lease, timeout)).await;
        lease.is_renewed_alone.store(false, Ordering::SeqCst);
        if is_held == Some(false) {
            lease.ended.cancel();
        }
    }

    /// Renews one lease. Returns `false` if it has passed to a new owner, or may have by now.
    async fn renew(&self, validity: &LeaseValidity, timeout: Duration) -> bool {
        let (RenewerInner { clock, ttl, .. }, lease) = (&*self.0, &validity.lease);
        let Some(unanswered) = validity.begin_request() else {
            return false;
        };
        let sent_at = clock.instant();
        let (inner, sent_lease) = (Arc::clone(&self.0), lease.clone());
        let request = tokio::spawn(async move {
            let _unanswered = unanswered;
            inner.store.renew_lease(&sent_lease, inner.ttl).await
        });
        let answer = async { request.await.unwrap_or_else(|panicked| Err(LeaseError::new(&lease.role, panicked))) };
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(true)) => {
                validity.note_renewal(sent_at);
                return true;
            }
            Ok(Ok(false)) => {
                tracing::info!(role = %lease.role, "the role has passed to another process");
                *validity.sent_at.lock() = None;
                return false;
            }
            Ok(Err(error)) => tracing::debug!(role = %lease.role, %error, "lease was not renewed, trying again"),
            Err(_) => tracing::debug!(role = %lease.role, "lease renewal timed out, trying again"),
        }
        let has_time = validity.is_valid(*ttl, clock);
        if !has_time {
            validity.outage.begins(&lease.role);
        }
        has_time
    }
}
