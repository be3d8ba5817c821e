//! The clock: the only source of time, waiting and new ids.
//!
//! Stores, buses and the app get one from their builders. A test moves a manual clock by hours in an instant; where a
//! wait ends by foreign time (the reply of a server, a lock of the operating system) the code says so.
//!
//! Invariant: no other code of the library asks the system for the time.

use std::{
    fmt,
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::{NoContext, Timestamp, Uuid};

/// The longest wait; a longer one is cut to it, as instants cannot hold every duration.
const WAIT_MAX: Duration = Duration::from_secs(30 * 365 * 86_400);

/// A future that ends at a deadline of a clock.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A source of time, of waiting and of new ids.
///
/// [`SystemClock`] is the default everywhere; a test moves a `testkit::ManualClock`. Monotonic time is an [`Instant`]
/// of tokio, so that deadlines are computed as usual: a manual clock returns a fixed instant plus the time by which the
/// test moved it.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time of day, UTC. It may be set back.
    fn now(&self) -> OffsetDateTime;

    /// Monotonic time, to measure durations and compute deadlines.
    fn instant(&self) -> Instant;

    /// Waits until [`instant`](Self::instant) has reached `deadline`.
    fn sleep_until(&self, deadline: Instant) -> Sleep;

    /// Makes a new id, a UUIDv7 of the time of day.
    fn new_id(&self) -> Uuid {
        let now = self.now();
        let seconds = u64::try_from(now.unix_timestamp()).unwrap_or_default();
        Uuid::new_v7(Timestamp::from_unix(NoContext, seconds, now.nanosecond()))
    }
}

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        Box::pin(tokio::time::sleep_until(deadline))
    }

    /// Later ids of one process sort after earlier ones, also within a millisecond.
    fn new_id(&self) -> Uuid {
        Uuid::now_v7()
    }
}

/// A handle on a [`Clock`] that is cheap to clone; by default on the [`SystemClock`].
///
/// # Examples
/// ```
/// use eventbus::clock::SharedClock;
/// use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let clock = SharedClock::default();
/// let began = clock.instant();
/// let late = clock.timeout(Duration::from_millis(1), std::future::pending::<()>()).await;
/// assert!(late.is_err());
/// assert!(clock.elapsed(began) >= Duration::from_millis(1));
/// # }
/// ```
#[derive(Clone, Default, derive_more::Debug)]
#[debug("{:?}", self.inner())]
pub struct SharedClock(ClockInner);

#[derive(Clone, Default)]
enum ClockInner {
    /// Spares the default the allocations of a trait object.
    #[default]
    System,
    Custom(Arc<dyn Clock>),
}

impl SharedClock {
    /// The clock of the machine.
    pub const SYSTEM: Self = Self(ClockInner::System);

    /// A handle on `clock`.
    #[must_use]
    pub fn new(clock: impl Clock) -> Self {
        Self(ClockInner::Custom(Arc::new(clock)))
    }

    fn inner(&self) -> &dyn Clock {
        match &self.0 {
            ClockInner::System => &SystemClock,
            ClockInner::Custom(clock) => &**clock,
        }
    }

    /// The time of day, UTC, in whole microseconds: what every store and the wire can keep.
    #[must_use]
    pub fn now(&self) -> OffsetDateTime {
        let now = self.inner().now();
        now.replace_nanosecond(now.nanosecond() / 1_000 * 1_000).unwrap_or(now)
    }

    /// The time of day in milliseconds since 1970; 0 before that.
    #[must_use]
    pub fn unix_millis(&self) -> u64 {
        let since_1970 = self.now() - OffsetDateTime::UNIX_EPOCH;
        u64::try_from(since_1970.whole_milliseconds()).unwrap_or_default()
    }

    /// Monotonic time, to measure durations and compute deadlines.
    #[must_use]
    pub fn instant(&self) -> Instant {
        self.inner().instant()
    }

    /// The instant that is `time` from now, at most 30 years.
    #[must_use]
    pub fn after(&self, time: Duration) -> Instant {
        self.instant() + time.min(WAIT_MAX)
    }

    /// Returns the time since `since`; zero if that is still to come.
    #[must_use]
    pub fn elapsed(&self, since: Instant) -> Duration {
        self.instant().saturating_duration_since(since)
    }

    /// Waits until [`instant`](Self::instant) has reached `deadline`.
    pub async fn sleep_until(&self, deadline: Instant) {
        match &self.0 {
            ClockInner::System => tokio::time::sleep_until(deadline).await,
            ClockInner::Custom(clock) => clock.sleep_until(deadline).await,
        }
    }

    /// Waits for `time`, at most for 30 years.
    pub async fn sleep(&self, time: Duration) {
        self.sleep_until(self.after(time)).await;
    }

    /// Waits for `future`, at most for `time`.
    ///
    /// # Errors
    /// [`TimedOut`] if the future has not ended by then; it is dropped.
    pub async fn timeout<F: Future>(&self, time: Duration, future: F) -> Result<F::Output, TimedOut> {
        self.timeout_at(self.after(time), future).await
    }

    /// Waits for `future`, at most until `deadline`.
    ///
    /// # Errors
    /// [`TimedOut`] if the future has not ended by then; it is dropped.
    pub async fn timeout_at<F: Future>(&self, deadline: Instant, future: F) -> Result<F::Output, TimedOut> {
        let future = pin!(future);
        tokio::select! {
            biased; // an output that is ready wins, also after the deadline
            output = future => Ok(output),
            () = self.sleep_until(deadline) => Err(TimedOut),
        }
    }

    /// Makes a new id, a UUIDv7 of the time of day.
    #[must_use]
    pub fn new_id(&self) -> Uuid {
        self.inner().new_id()
    }
}

impl<C: Clock> From<C> for SharedClock {
    fn from(clock: C) -> Self {
        Self::new(clock)
    }
}

impl PartialEq for SharedClock {
    /// Returns `true` if both are the machine's clock, or clones of one handle.
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (ClockInner::System, ClockInner::System) => true,
            (ClockInner::Custom(one), ClockInner::Custom(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl Eq for SharedClock {}

/// The error of a future that did not end in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the future did not end in time")]
pub struct TimedOut;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_longest_durations_are_waited_for_without_a_panic() {
        for clock in [SharedClock::default(), SharedClock::new(SystemClock)] {
            assert!(clock.after(Duration::MAX) > clock.instant());
            let first = clock.timeout(Duration::from_secs(1), clock.sleep(Duration::MAX)).await;
            assert_eq!(first, Err(TimedOut));
            assert_eq!(clock.timeout(Duration::MAX, async { 5 }).await, Ok(5));
            assert_eq!(clock.elapsed(clock.after(Duration::MAX)), Duration::ZERO);
        }
    }

    #[test]
    fn ids_are_of_the_time_of_the_clock() {
        #[derive(Debug)]
        struct Of2001;
        impl Clock for Of2001 {
            fn now(&self) -> OffsetDateTime {
                time::macros::datetime!(2001-09-09 01:46:40 UTC)
            }
            fn instant(&self) -> Instant {
                SystemClock.instant()
            }
            fn sleep_until(&self, deadline: Instant) -> Sleep {
                SystemClock.sleep_until(deadline)
            }
        }
        let id = SharedClock::new(Of2001).new_id();
        let (seconds, _) = id.get_timestamp().unwrap().to_unix();
        assert_eq!((id.get_version_num(), seconds), (7, 1_000_000_000));
    }
}
