//! When a test's clock must stop on its way.
//!
//! Pollers sleep and wake, find nothing and sleep again, four times a second: a day has 350,000 of these. So sleeps that
//! begin while nothing changes are polls, at whose deadlines the clock need not stop one by one; all other deadlines are
//! scheduled.
//!
//! Invariant: a deadline that was scheduled once stays scheduled until the clock has reached it, also if its sleep ends
//! before.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::clock::ManualClock;
use crate::domain::clock::Clock as _;

/// Least number of steps in which polls are repeated on the way of one call.
const POLL_STEPS: u32 = 200;

/// The deadlines at which a clock stops. `E` is all that events change in an app.
#[derive(Debug)]
pub(super) struct Schedule<E> {
    deadlines: BTreeSet<Instant>,
    /// The sleeps up to this number are known.
    sleeps: u64,
    effects: Option<E>,
}

impl<E> Default for Schedule<E> {
    fn default() -> Self {
        Self { deadlines: BTreeSet::new(), sleeps: 0, effects: None }
    }
}

impl<E: PartialEq> Schedule<E> {
    /// Notes the sleeps that have begun since the last call, which led to `effects`.
    pub(super) fn note(&mut self, clock: &ManualClock, effects: E) {
        if self.effects.as_ref() != Some(&effects) {
            self.deadlines.extend(clock.deadlines_after(self.sleeps));
            self.effects = Some(effects);
        }
        self.sleeps = clock.sleeps_begun();
        let now = clock.instant();
        self.deadlines.retain(|deadline| *deadline > now);
    }

    /// Returns the time until the next stop on a way of this length.
    pub(super) fn next_step(&self, clock: &ManualClock, way: Duration) -> Duration {
        let now = clock.instant();
        let until = |deadline: Instant| deadline.saturating_duration_since(now);
        let poll = clock.next_deadline().map(|next| until(next).max(way / POLL_STEPS));
        let scheduled = self.deadlines.first().copied().map(until);
        scheduled.into_iter().chain(poll).min().unwrap_or(way).max(Duration::from_nanos(1))
    }
}
