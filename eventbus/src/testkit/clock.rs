//! A clock that is moved by hand.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use time::OffsetDateTime;
use tokio::{sync::watch, time::Instant};
use uuid::{Builder, Uuid};

use crate::{Clock, SystemClock, domain::clock::Sleep};

/// The longest step: instants cannot hold every duration that one can ask for.
const ADVANCE_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// How long, in real time, a sleeper is waited for before the test fails: the machine may be busy.
const SLEEPER_WAIT_TIMEOUT: Duration = Duration::from_secs(120);

/// A clock that stands still until it is moved by hand. Cloning shares it.
///
/// Give one to store, bus and app; then let hours pass in an instant:
///
/// ```
/// use eventbus::{Clock, SharedClock, testkit::ManualClock};
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let manual = ManualClock::new();
/// let clock = SharedClock::new(manual.clone());
/// let hour = Duration::from_secs(3_600);
/// let sleeping = tokio::spawn(async move { clock.sleep(hour).await });
/// manual.wait_for_sleeper(hour).await; // it has begun to sleep
/// manual.advance(hour);
/// sleeping.await.unwrap();
/// # }
/// ```
#[derive(Clone)]
pub struct ManualClock(Arc<ManualClockInner>);

struct ManualClockInner {
    base: Instant,
    state: Mutex<ManualClockState>,
    /// Tells who waits for sleepers that one has come.
    sleeper_added: watch::Sender<()>,
}

struct ManualClockState {
    now: OffsetDateTime,
    /// How far monotonic time was moved.
    advanced: Duration,
    /// The sleepers by deadline, then in the order they came.
    sleepers: BTreeMap<(Instant, u64), Waker>,
    /// How many sleepers there were.
    last_sleeper_number: u64,
    ids: u32,
}

impl ManualClock {
    /// A clock that stands at the time of the machine.
    #[must_use]
    pub fn new() -> Self {
        Self::at(SystemClock.now())
    }

    /// A clock that stands at this time of day.
    #[must_use]
    pub fn at(now: OffsetDateTime) -> Self {
        let state = ManualClockState {
            now,
            advanced: Duration::ZERO,
            sleepers: BTreeMap::new(),
            last_sleeper_number: 0,
            ids: 0,
        };
        let (state, slept) = (Mutex::new(state), watch::Sender::new(()));
        Self(Arc::new(ManualClockInner { base: SystemClock.instant(), state, sleeper_added: slept }))
    }

    /// Moves the clock, and wakes whoever has slept long enough, in the order of their deadlines.
    ///
    /// It returns before they run: wait for what they do. At most a hundred years at once.
    pub fn advance(&self, by: Duration) {
        let mut state = self.0.state();
        let by = by.min(ADVANCE_MAX);
        state.advanced += by;
        state.now = state.now.saturating_add(time::Duration::try_from(by).unwrap_or_default());
        let now = self.0.base + state.advanced;
        let later = state.sleepers.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut state.sleepers, later);
        drop(state);
        due.into_values().for_each(Waker::wake);
    }

    /// Sets the time of day, forth or back; monotonic time stays.
    pub fn set(&self, now: OffsetDateTime) {
        self.0.state().now = now;
    }

    /// How many sleep now.
    #[must_use]
    pub fn sleeping(&self) -> usize {
        self.0.state().sleepers.len()
    }

    /// Waits until at least `count` sleep.
    ///
    /// # Panics
    /// After two minutes of real time.
    pub async fn wait_for_sleepers(&self, count: usize) {
        self.wait_until_sleeping(&format!("{count} sleepers"), |left| left.len() >= count).await;
    }

    /// Waits until somebody sleeps who is to be woken in `at_least` this time from now, and returns in which time the first
    /// of those is due.
    ///
    /// # Panics
    /// After two minutes of real time.
    pub async fn wait_for_sleeper(&self, at_least: Duration) -> Duration {
        let is_so_long = |left: &Duration| *left >= at_least;
        self.wait_until_sleeping(&format!("a sleeper for {at_least:?}"), |left| left.iter().any(is_so_long)).await;
        self.remaining_times().into_iter().find(is_so_long).unwrap_or(at_least)
    }

    /// In which times from now the sleepers are due, the first one first.
    fn remaining_times(&self) -> Vec<Duration> {
        let state = self.0.state();
        let now = self.0.base + state.advanced;
        state.sleepers.keys().map(|(deadline, _)| deadline.saturating_duration_since(now)).collect()
    }

    async fn wait_until_sleeping(&self, what: &str, is_it: impl Fn(&[Duration]) -> bool) {
        let mut slept = self.0.sleeper_added.subscribe();
        let waiting = async {
            while !is_it(&self.remaining_times()) {
                // the sender lives as long as `self`
                let _ = slept.changed().await;
            }
        };
        // a real limit: nobody else moves this clock while the test waits
        let slept_in_time = tokio::time::timeout(SLEEPER_WAIT_TIMEOUT, waiting).await;
        assert!(slept_in_time.is_ok(), "waited in vain for {what}; due are: {:?}", self.remaining_times());
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> OffsetDateTime {
        self.0.state().now
    }

    fn instant(&self) -> Instant {
        let state = self.0.state();
        self.0.base + state.advanced
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        let number = {
            let mut state = self.0.state();
            state.last_sleeper_number += 1;
            state.last_sleeper_number
        };
        Box::pin(Sleeper { clock: self.clone(), key: (deadline, number) })
    }

    /// Later ids sort after earlier ones while the clock is not set back.
    fn new_id(&self) -> Uuid {
        let mut state = self.0.state();
        state.ids = state.ids.wrapping_add(1);
        let since_1970 = state.now - OffsetDateTime::UNIX_EPOCH;
        let millis = u64::try_from(since_1970.whole_milliseconds()).unwrap_or_default();
        let [high, count @ ..] = state.ids.to_be_bytes();
        drop(state);
        let mut bytes: [u8; 10] = std::array::from_fn(|_| fastrand::u8(..));
        // version and variant take bits of the first and the third byte
        (bytes[0], bytes[1], bytes[2]) = (0, high, 0);
        bytes[3..6].copy_from_slice(&count);
        Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid()
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.state();
        f.debug_struct("ManualClock").field("now", &state.now).field("sleeping", &state.sleepers.len()).finish()
    }
}

impl ManualClockInner {
    /// A change is made as a whole or not at all, so a poisoned lock still guards a sound value.
    fn state(&self) -> MutexGuard<'_, ManualClockState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits for the clock to be moved.
struct Sleeper {
    clock: ManualClock,
    key: (Instant, u64),
}

impl Future for Sleeper {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let inner = &self.clock.0;
        let mut state = inner.state();
        if self.key.0 <= inner.base + state.advanced {
            state.sleepers.remove(&self.key);
            return Poll::Ready(());
        }
        let is_new = state.sleepers.insert(self.key, context.waker().clone()).is_none();
        drop(state);
        if is_new {
            inner.sleeper_added.send_replace(());
        }
        Poll::Pending
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.clock.0.state().sleepers.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::SharedClock;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[tokio::test]
    async fn sleepers_wake_in_the_order_of_their_deadlines() {
        let manual = ManualClock::new();
        let (woken, wakes) = mpsc::channel();
        for hours in [3, 1, 2, 9] {
            let (clock, woken) = (SharedClock::new(manual.clone()), woken.clone());
            tokio::spawn(async move {
                clock.sleep(hours * HOUR).await;
                woken.send(hours).unwrap();
            });
        }
        manual.wait_for_sleepers(4).await;
        assert_eq!(manual.wait_for_sleeper(2 * HOUR).await, 2 * HOUR);
        manual.advance(3 * HOUR);
        assert_eq!(manual.sleeping(), 1);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(wakes.try_iter().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(manual.wait_for_sleeper(HOUR).await, 6 * HOUR);
    }

    #[tokio::test]
    async fn one_that_gives_up_sleeps_no_more() {
        let manual = ManualClock::new();
        let clock = SharedClock::new(manual.clone());
        let mut sleep = Box::pin(clock.sleep(HOUR));
        assert!(futures_util::poll!(&mut sleep).is_pending());
        assert_eq!(manual.sleeping(), 1);
        drop(sleep);
        assert_eq!(manual.sleeping(), 0);
    }

    #[tokio::test]
    async fn no_duration_is_too_long() {
        let manual = ManualClock::new();
        let clock = SharedClock::new(manual.clone());
        let mut sleep = Box::pin(clock.sleep(Duration::MAX));
        assert!(futures_util::poll!(&mut sleep).is_pending());
        manual.advance(HOUR);
        assert!(futures_util::poll!(&mut sleep).is_pending());
        assert_eq!(clock.timeout(Duration::MAX, async { 1 }).await, Ok(1));
    }

    #[test]
    fn ids_grow_and_are_of_the_time_of_day() {
        let manual = ManualClock::at(time::macros::datetime!(2001-09-09 01:46:40 UTC));
        let ids: Vec<_> = (0..1_000).map(|_| manual.new_id()).collect();
        assert!(ids.is_sorted());
        let (seconds, _) = ids[0].get_timestamp().unwrap().to_unix();
        assert_eq!((ids[0].get_version_num(), seconds), (7, 1_000_000_000));
    }
}
