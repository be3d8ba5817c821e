//! The deadlines at which a test's clock stops while `advance` moves it.
//!
//! A poller that finds no work sleeps and wakes again four times a second: 350,000 times a day. So a sleep that begins
//! while no effect changes is a poll, and the clock need not stop at each of its deadlines. All other deadlines are
//! scheduled: the clock stops at each.
//!
//! Invariant: once scheduled, a deadline stays scheduled until the clock has reached it, also if its sleep ends early.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::clock::ManualClock;
use crate::domain::clock::Clock as _;

/// Most steps of one call of `advance` that are for polls alone.
const POLL_STEPS: u32 = 200;

/// The scheduled deadlines of a clock. `E` holds the changes that events make in an app.
#[derive(Debug)]
pub(super) struct Schedule<E> {
    deadlines: BTreeSet<Instant>,
    /// Number of the last sleep that `note` has seen.
    sleeps: u64,
    effects: Option<E>,
}

impl<E> Default for Schedule<E> {
    fn default() -> Self {
        Self { deadlines: BTreeSet::new(), sleeps: 0, effects: None }
    }
}

impl<E: PartialEq> Schedule<E> {
    /// Schedules the sleeps that have begun since the last call, unless `effects` are still the same: then they are
    /// polls.
    pub(super) fn note(&mut self, clock: &ManualClock, effects: E) {
        if self.effects.as_ref() != Some(&effects) {
            self.deadlines.extend(clock.deadlines_after(self.sleeps));
            self.effects = Some(effects);
        }
        self.sleeps = clock.sleeps_begun();
        let now = clock.instant();
        self.deadlines.retain(|deadline| *deadline > now);
    }

    /// Returns the time until the next stop of the clock, in a call of `advance` by `way`.
    pub(super) fn next_step(&self, clock: &ManualClock, way: Duration) -> Duration {
        let now = clock.instant();
        let until = |deadline: Instant| deadline.saturating_duration_since(now);
        let poll = clock.next_deadline().map(|next| until(next).max(way / POLL_STEPS));
        let scheduled = self.deadlines.first().copied().map(until);
        scheduled.into_iter().chain(poll).min().unwrap_or(way).max(Duration::from_nanos(1))
    }
}
