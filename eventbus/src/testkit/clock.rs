//! A clock that only a test moves.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::{sync::watch, time::Instant};
use uuid::{Builder, Uuid};

use crate::domain::clock::{Clock, Sleep, SystemClock};

/// The longest step of [`ManualClock::advance`]: an `Instant` cannot represent every duration.
const ADVANCE_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Real time that a test waits for a sleeper before it fails. Long, because the machine may be busy.
const SLEEPER_WAIT_TIMEOUT: Duration = Duration::from_secs(120);

/// A clock that stands still until a test moves it. Clones share one clock.
///
/// Give one to the store, the bus and the app; then let hours pass in an instant:
///
/// ```
/// use eventbus::{clock::{Clock, SharedClock}, testkit::ManualClock};
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
    /// Signals each new sleeper to the tasks that wait for one.
    sleeper_added: watch::Sender<()>,
}

struct ManualClockState {
    now: OffsetDateTime,
    /// Sum of all advances of monotonic time.
    advanced: Duration,
    /// The sleepers by deadline, then in the order they arrived, each with the run of a handler that sleeps.
    sleepers: BTreeMap<(Instant, u64), (Waker, Option<usize>)>,
    /// The sleepers that the clock has woken and whose tasks have not run since.
    woken: BTreeSet<(Instant, u64)>,
    /// Number of sleepers so far.
    last_sleeper_number: u64,
    ids: u32,
}

impl ManualClockState {
    fn remove(&mut self, key: (Instant, u64)) {
        self.sleepers.remove(&key);
        self.woken.remove(&key);
    }
}

tokio::task_local! {
    /// The run of a handler that the current task is in.
    static RUN: usize;
}

/// Runs a handler so that the clock knows which runs sleep on it.
pub(super) fn in_run<F: Future>(number: usize, run: F) -> impl Future<Output = F::Output> {
    RUN.scope(number, run)
}

impl ManualClock {
    /// Returns a clock that stands at the current time of the machine.
    #[must_use]
    pub fn new() -> Self {
        Self::at(SystemClock.now())
    }

    /// Returns a clock that stands at this time of day.
    #[must_use]
    pub fn at(now: OffsetDateTime) -> Self {
        let state = ManualClockState {
            now,
            advanced: Duration::ZERO,
            sleepers: BTreeMap::new(),
            woken: BTreeSet::new(),
            last_sleeper_number: 0,
            ids: 0,
        };
        let (state, slept) = (Mutex::new(state), watch::Sender::new(()));
        Self(Arc::new(ManualClockInner { base: SystemClock.instant(), state, sleeper_added: slept }))
    }

    /// Moves the clock and wakes each sleeper whose deadline has passed, in the order of their deadlines.
    ///
    /// Returns before the woken tasks run: wait for their effects. Moves at most a hundred years per call.
    pub fn advance(&self, by: Duration) {
        let mut state = self.0.state.lock();
        let by = by.min(ADVANCE_MAX);
        state.advanced += by;
        state.now = state.now.saturating_add(time::Duration::try_from(by).unwrap_or_default());
        let now = self.0.base + state.advanced;
        let later = state.sleepers.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut state.sleepers, later);
        state.woken.extend(due.keys());
        drop(state);
        due.into_values().for_each(|(waker, _)| waker.wake());
    }

    /// Sets the time of day, forward or back; monotonic time stays.
    pub fn set(&self, now: OffsetDateTime) {
        self.0.state.lock().now = now;
    }

    /// Returns the number of tasks that sleep now.
    #[must_use]
    pub fn sleeping(&self) -> usize {
        self.0.state.lock().sleepers.len()
    }

    /// Returns the number of sleeps that have begun so far.
    pub(super) fn sleeps_begun(&self) -> u64 {
        self.0.state.lock().last_sleeper_number
    }

    /// Returns the number of tasks that the clock has woken and that have not run since.
    pub(super) fn woken(&self) -> usize {
        self.0.state.lock().woken.len()
    }

    /// Returns the number of runs of handlers that sleep on this clock.
    pub(super) fn sleeping_runs(&self) -> usize {
        let state = self.0.state.lock();
        state.sleepers.values().filter_map(|(_, run)| *run).collect::<BTreeSet<_>>().len()
    }

    /// Returns the first deadline of a sleeper.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.0.state.lock().sleepers.keys().next().map(|(deadline, _)| *deadline)
    }

    /// Returns the deadlines of the sleepers that came after the first `count`.
    pub(super) fn deadlines_after(&self, count: u64) -> Vec<Instant> {
        let state = self.0.state.lock();
        state.sleepers.keys().filter(|(_, number)| *number > count).map(|(deadline, _)| *deadline).collect()
    }

    /// Waits until at least `count` tasks sleep.
    ///
    /// # Panics
    /// After two minutes of real time.
    pub async fn wait_for_sleepers(&self, count: usize) {
        self.wait_until_sleeping(&format!("{count} sleepers"), |left| left.len() >= count).await;
    }

    /// Waits until a task sleeps whose deadline is at least `at_least` from now, and returns the time until the first
    /// such deadline.
    ///
    /// # Panics
    /// After two minutes of real time.
    pub async fn wait_for_sleeper(&self, at_least: Duration) -> Duration {
        let is_so_long = |left: &Duration| *left >= at_least;
        self.wait_until_sleeping(&format!("a sleeper for {at_least:?}"), |left| left.iter().any(is_so_long)).await;
        self.remaining_times().into_iter().find(is_so_long).unwrap_or(at_least)
    }

    /// Returns the time from now until each sleeper's deadline, in ascending order.
    fn remaining_times(&self) -> Vec<Duration> {
        let state = self.0.state.lock();
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
        // a limit in real time: only this test moves the clock, so it would wait for a missing sleeper for ever
        let slept_in_time = tokio::time::timeout(SLEEPER_WAIT_TIMEOUT, waiting).await;
        assert!(
            slept_in_time.is_ok(),
            "timed out waiting for {what}; deadlines from now: {:?}",
            self.remaining_times()
        );
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> OffsetDateTime {
        self.0.state.lock().now
    }

    fn instant(&self) -> Instant {
        let state = self.0.state.lock();
        self.0.base + state.advanced
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        let number = {
            let mut state = self.0.state.lock();
            state.last_sleeper_number += 1;
            state.last_sleeper_number
        };
        Box::pin(Sleeper { clock: self.clone(), key: (deadline, number) })
    }

    /// Returns ids that sort after earlier ones while the clock is not set back.
    fn new_id(&self) -> Uuid {
        let mut state = self.0.state.lock();
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
        let state = self.0.state.lock();
        f.debug_struct("ManualClock").field("now", &state.now).field("sleeping", &state.sleepers.len()).finish()
    }
}

/// The future of one sleep.
struct Sleeper {
    clock: ManualClock,
    key: (Instant, u64),
}

impl Future for Sleeper {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let inner = &self.clock.0;
        let mut state = inner.state.lock();
        if self.key.0 <= inner.base + state.advanced {
            state.remove(self.key);
            return Poll::Ready(());
        }
        let sleeper = (context.waker().clone(), RUN.try_with(|run| *run).ok());
        let is_new = state.sleepers.insert(self.key, sleeper).is_none();
        drop(state);
        if is_new {
            inner.sleeper_added.send_replace(());
        }
        Poll::Pending
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.clock.0.state.lock().remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::domain::clock::SharedClock;

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
