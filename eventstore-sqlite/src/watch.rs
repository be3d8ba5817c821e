//! Ends a transaction whose time is up, and takes a turn back that nobody takes.
//!
//! On a thread of its own, which is there while it is needed: a user who keeps a task busy would keep a timer of the
//! runtime from ever running.
//!
//! Real time, not the given clock: a lock that other threads wait for.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use crate::{
    lent::{End, Lent},
    offer::Offer,
};

/// How long the thread stays at least, and sleeps at most.
const NAP: Duration = Duration::from_secs(1);

/// The transaction that appends wait for, if there is one, and who looks at the clock.
#[derive(Default)]
pub(crate) struct Watch(Mutex<Watched>);

#[derive(Default)]
struct Watched {
    lent: Weak<Lent>,
    offer: Weak<Offer>,
    is_running: bool,
}

impl Watch {
    /// Notes the transaction, and sees to it that it ends in time. Without a thread its time is looked at whenever it is
    /// used.
    pub(crate) fn begin(self: &Arc<Self>, lent: &Arc<Lent>) {
        let mut watched = self.lock();
        watched.lent = Arc::downgrade(lent);
        self.run_for(&mut watched);
    }

    /// Notes that the connection is held out to somebody, and sees to it that it comes back if he does not take it.
    pub(crate) fn offered(self: &Arc<Self>, offer: &Arc<Offer>) {
        let mut watched = self.lock();
        watched.offer = Arc::downgrade(offer);
        self.run_for(&mut watched);
    }

    fn run_for(self: &Arc<Self>, watched: &mut Watched) {
        if !watched.is_running {
            let watch = Arc::clone(self);
            let thread = std::thread::Builder::new().name("eventstore-sqlite".into());
            match thread.spawn(move || watch.run()) {
                Ok(_) => watched.is_running = true,
                Err(error) => tracing::warn!(%error, "no thread looks after transactions that are open for too long"),
            }
        }
    }

    pub(crate) fn lent(&self) -> Option<Arc<Lent>> {
        self.lock().lent.upgrade()
    }

    fn run(&self) {
        while let Some(deadline) = self.deadline_or_leave() {
            match deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                Some(left) => std::thread::sleep(left.min(NAP)),
                None => self.end(),
            }
        }
    }

    /// When the transaction has to end, or to begin; nothing if there is none, and then the thread is not there any more.
    fn deadline_or_leave(&self) -> Option<Instant> {
        let mut watched = self.lock();
        let of_lent = watched.lent.upgrade().and_then(|lent| lent.deadline());
        let of_offer = watched.offer.upgrade().and_then(|offer| offer.deadline());
        let deadline = of_lent.into_iter().chain(of_offer).min();
        watched.is_running = deadline.is_some();
        deadline
    }

    fn end(&self) {
        if let Some((lent, limit)) = self.lent().and_then(|lent| lent.expired().map(|limit| (lent, limit))) {
            tracing::warn!(?limit, "a transaction is rolled back: it was open for too long");
            lent.end_and_wait(End::TimedOut(limit));
        }
        let offer = self.lock().offer.upgrade();
        if let Some(turn) = offer.and_then(|offer| offer.take_back()) {
            tracing::warn!("a transaction is not begun: whoever asked for it has not looked for its turn");
            drop(turn);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
