//! The read-ahead window of a consumer: the entries that its workers finish in [`READ_AHEAD_TIME`].
//!
//! Invariant: the window is no larger than that, since an entry that was read is not available to the other consumers
//! of the group, and is redelivered if the process ends.

use std::time::Duration;

/// The time for which entries that were read ahead keep the workers busy: far longer than a round trip, and so short
/// that the other consumers of the group hardly wait for their share.
const READ_AHEAD_TIME: Duration = Duration::from_millis(100);
/// The weight of the latest duration in the average.
const AVERAGE_WEIGHT: f64 = 0.125;

/// The measured pace of a consumer's workers, and the window that follows from it.
///
/// The window begins with two deliveries per worker and grows by one with each delivery that ends, up to the number
/// that the workers finish in [`READ_AHEAD_TIME`] at the measured pace; at least one per worker.
#[derive(Debug, Default)]
pub(super) struct ReadAhead {
    /// The average duration of a delivery, in seconds; `None` before the first has ended.
    average: Option<f64>,
    window: usize,
    /// The estimated size of an event, in bytes.
    event_bytes: usize,
}

impl ReadAhead {
    /// Returns how many deliveries `workers` may have, running and read ahead together.
    pub(super) fn window(&self, workers: usize, limit: usize) -> usize {
        let least = if self.average.is_none() { workers.saturating_mul(2) } else { workers };
        self.window.max(least).min(limit)
    }

    /// Records that a delivery ended after `took`.
    pub(super) fn ended(&mut self, took: Duration, workers: usize) {
        let took = took.as_secs_f64();
        let average = self.average.map_or(took, |average| average + (took - average) * AVERAGE_WEIGHT);
        self.average = Some(average);
        let each = (READ_AHEAD_TIME.as_secs_f64() / average.max(1e-9)).min(1e9);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let target = (each.max(1.0) * workers as f64) as usize;
        self.window = (self.window.max(workers) + 1).min(target.max(workers));
    }

    /// Resets the window after the workers were idle: the consumers of the group share the next entries anew.
    pub(super) fn reset_window(&mut self) {
        self.window = 0;
    }

    /// Records that an event of this size was read.
    pub(super) fn read(&mut self, bytes: usize) {
        // grows at once, as too low an estimate costs memory, and shrinks slowly
        self.event_bytes = bytes.max(self.event_bytes - self.event_bytes / 8);
    }

    /// Returns the estimated size of so many events, in bytes.
    pub(super) fn bytes_of(&self, events: usize) -> usize {
        self.event_bytes.saturating_mul(events)
    }

    /// Returns the estimated number of events that fit into so many bytes.
    pub(super) fn fitting(&self, bytes: usize) -> usize {
        bytes / self.event_bytes.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(count: usize, took: Duration, workers: usize) -> ReadAhead {
        let mut pace = ReadAhead::default();
        (0..count).for_each(|_| pace.ended(took, workers));
        pace
    }

    #[test]
    fn it_begins_with_two_deliveries_per_worker_and_grows_with_each_while_they_are_fast() {
        assert_eq!(ReadAhead::default().window(3, 1_000), 6);
        let fast = Duration::from_micros(10);
        assert_eq!(after(1, fast, 1).window(1, 1_000), 2);
        assert_eq!(after(3, fast, 1).window(1, 1_000), 4);
        assert_eq!(after(5_000, fast, 1).window(1, 1_000), 1_000);
    }

    #[test]
    fn it_is_what_the_workers_finish_in_a_tenth_of_a_second() {
        assert_eq!(after(500, Duration::from_millis(10), 1).window(1, 1_000), 10);
        assert_eq!(after(500, Duration::from_millis(10), 4).window(4, 1_000), 40);
        assert_eq!(after(500, Duration::from_secs(1), 4).window(4, 1_000), 4);
    }

    #[test]
    fn it_shrinks_at_once_when_a_delivery_takes_long() {
        let mut pace = after(5_000, Duration::from_micros(10), 1);
        pace.ended(Duration::from_secs(2), 1);
        assert_eq!(pace.window(1, 1_000), 1);
    }

    #[test]
    fn large_events_count_at_once_and_are_forgotten_slowly() {
        let mut pace = ReadAhead::default();
        pace.read(100);
        assert_eq!(pace.fitting(1_000), 10);
        pace.read(1_000);
        assert_eq!(pace.fitting(1_000), 1);
        pace.read(100);
        assert_eq!(pace.fitting(1_000), 1, "more of them may come");
    }
}
