//! Progress of a rebuild, as values and as a bar.

use std::{fmt, time::Duration};

use serde::Serialize;
use tokio::time::Instant;

use crate::{
    domain::{clock::SharedClock, shown, stream::Position},
    port::{EventStore, ReadError},
    runtime::definition::ProjectionDefinition,
    support::count_around,
};

/// The callback that reports the progress of a rebuild.
pub(crate) type ProgressCallback<'a> = Box<dyn FnMut(RebuildProgress) + Send + 'a>;

/// Result of a rebuild.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Rebuilt {
    /// Events handled, those before an interruption included.
    pub events: u64,
    /// Events left out because an operator [skipped them](crate::App::skip_event).
    pub skipped: u64,
    /// The position up to which the new state includes all events.
    pub position: Position,
    /// Duration, the time before an interruption not included; in seconds where it is serialized.
    #[serde(serialize_with = "shown::duration")]
    pub took: Duration,
}

impl Rebuilt {
    pub(super) const fn from_progress(end: &RebuildProgress, skipped: u64) -> Self {
        Self { events: end.events, skipped, position: end.position, took: end.took }
    }
}

/// Progress of a rebuild; `Display` shows it as a bar.
///
/// ```text
/// order-rows [########------] 57 % 1,140,000 of 2,000,000 events, 81,000/s, 10 s left
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RebuildProgress {
    /// The projection.
    pub name: &'static str,
    /// Events handled so far, those before an interruption included.
    pub events: u64,
    /// Number of events to handle; events appended during the rebuild are added when they are handled.
    pub of: u64,
    /// All events up to this position are handled.
    pub position: Position,
    /// The end of the store when the rebuild began: `position` gets at least there.
    pub target: Position,
    /// Duration so far, the time before an interruption not included; in seconds where it is serialized.
    #[serde(serialize_with = "shown::duration")]
    pub took: Duration,
    /// Events that were handled before an interruption.
    #[serde(skip)]
    pub(crate) resumed: u64,
}

impl RebuildProgress {
    /// Returns the handled share of the events, from 0 to 1.
    #[must_use]
    pub fn share(&self) -> f64 {
        if self.of == 0 { 1.0 } else { self.events as f64 / self.of as f64 }
    }

    /// Returns the events handled per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        let seconds = self.took.as_secs_f64();
        if seconds > 0.0 { self.events.saturating_sub(self.resumed) as f64 / seconds } else { 0.0 }
    }

    /// Estimates the remaining time; `None` until the first events are handled.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        let events = self.of.saturating_sub(self.events) as f64;
        Duration::try_from_secs_f64(events / self.per_second()).ok()
    }
}

impl fmt::Display for RebuildProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const WIDTH: usize = 14;
        let part_of = |whole: u64| match self.of {
            0 => whole,
            of => whole.saturating_mul(self.events) / of,
        };
        let filled = "#".repeat(usize::try_from(part_of(WIDTH as u64)).unwrap_or(WIDTH));
        let bar = format!("{filled:-<WIDTH$}");
        let (done, of, rate) = (
            with_thousands_commas(self.events),
            with_thousands_commas(self.of),
            with_thousands_commas(self.per_second() as u64),
        );
        write!(f, "{} [{bar}] {} % {done} of {of} events, {rate}/s", self.name, part_of(100))?;
        if self.position >= self.target && self.events >= self.of {
            return write!(f, ", done in {}", human_duration(self.took));
        }
        self.time_left().map_or(Ok(()), |left| write!(f, ", {} left", human_duration(left)))
    }
}

/// Returns a number with commas between thousands.
fn with_thousands_commas(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn human_duration(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..=99 => format!("{seconds} s"),
        seconds @ 100..=5_999 => format!("{} min", seconds / 60),
        seconds => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
    }
}

/// Counts handled events, and reports the progress.
pub(super) struct ProgressMeter<'a> {
    report: ProgressCallback<'a>,
    progress: RebuildProgress,
    began: Instant,
    clock: SharedClock,
}

impl<'a> ProgressMeter<'a> {
    /// Begins a rebuild from the first event to the head of the store, without the skipped positions.
    pub(super) async fn begin(
        definition: &ProjectionDefinition,
        store: &dyn EventStore,
        skips: &[Position],
        report: ProgressCallback<'a>,
        clock: SharedClock,
    ) -> Result<Self, ReadError> {
        let target = store.head().await?;
        let of = count_around(store, target, &definition.events.into(), skips).await?;
        let (position, took) = (Position::START, Duration::ZERO);
        let progress = RebuildProgress { name: definition.name, events: 0, of, position, target, took, resumed: 0 };
        Ok(Self { report, progress, began: clock.instant(), clock })
    }

    pub(super) const fn progress(&self) -> &RebuildProgress {
        &self.progress
    }

    /// Records the events handled before an interruption, up to `position`.
    pub(super) fn resume_at(&mut self, events: u64, position: Position) {
        (self.progress.events, self.progress.resumed) = (events, events);
        self.advance(0, position);
    }

    /// Records `events` more as handled, and all events up to `position`.
    pub(super) fn advance(&mut self, events: u64, position: Position) {
        self.progress.events += events;
        self.progress.of = self.progress.of.max(self.progress.events);
        self.progress.position = self.progress.position.max(position);
        self.progress.took = self.clock.elapsed(self.began);
        (self.report)(self.progress);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(events: u64, of: u64, took: u64, resumed: u64) -> RebuildProgress {
        RebuildProgress {
            name: "order-rows",
            events,
            of,
            position: Position::new(events),
            target: Position::new(of),
            took: Duration::from_secs(took),
            resumed,
        }
    }

    #[test]
    fn a_bar_says_how_far_how_fast_and_how_long_yet() {
        let text = |now: RebuildProgress| now.to_string();
        assert_eq!(
            text(at(1_140_000, 2_000_000, 14, 0)),
            "order-rows [#######-------] 57 % 1,140,000 of 2,000,000 events, 81,428/s, 10 s left"
        );
        assert_eq!(text(at(0, 2_000, 0, 0)), "order-rows [--------------] 0 % 0 of 2,000 events, 0/s");
        assert_eq!(
            text(at(2_000, 2_000, 4, 0)),
            "order-rows [##############] 100 % 2,000 of 2,000 events, 500/s, done in 4 s"
        );
        assert_eq!(text(at(0, 0, 0, 0)), "order-rows [##############] 100 % 0 of 0 events, 0/s, done in 0 s");
    }

    #[test]
    fn what_was_done_before_an_interruption_does_not_count_as_speed() {
        let now = at(1_500, 2_000, 5, 1_000);
        assert_eq!((now.per_second(), now.time_left()), (100.0, Some(Duration::from_secs(5))));
    }

    #[test]
    fn long_times_are_told_in_minutes_and_hours() {
        let words = |seconds| human_duration(Duration::from_secs(seconds));
        assert_eq!([words(99), words(100), words(7_500)], ["99 s", "1 min", "2 h 5 min"]);
    }
}
