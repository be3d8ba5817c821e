//! Progress of a rebuild, as values and as a bar.

use std::{fmt, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::time::Instant;

use super::{meter::ProjectionMeter, progress::ProgressCell};
use crate::{
    domain::{clock::SharedClock, shown, stream::Position},
    port::{EventStore, ReadError},
    runtime::definition::ProjectionDefinition,
};

/// The callback that reports the progress of a rebuild.
pub(crate) type ProgressCallback<'a> = Box<dyn FnMut(RebuildProgress) + Send + 'a>;

/// Result of a rebuild.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Rebuilt {
    /// Events handled, also those before an interruption.
    pub events: u64,
    /// Events left out because an operator [skipped them](crate::App::skip_event).
    pub skipped: u64,
    /// The position up to which the new state includes all events.
    pub position: Position,
    /// Duration, without the time before an interruption; in seconds where it is serialized.
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
/// order-rows [#######-------] 57 % 1,140,000 events, 81,428/s, 10 s left
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RebuildProgress {
    /// The projection.
    pub name: &'static str,
    /// Events handled so far, also those before an interruption.
    pub events: u64,
    /// All events up to this position are handled.
    pub position: Position,
    /// The position that the rebuild has to reach: the end of the store when it began, or an earlier one if a server
    /// took over that lacks the last events.
    pub target: Position,
    /// Duration so far, without the time before an interruption; in seconds where it is serialized.
    #[serde(serialize_with = "shown::duration")]
    pub took: Duration,
    /// Events that were handled before an interruption.
    #[serde(skip)]
    pub(crate) resumed: u64,
    /// The position at which the rebuild was interrupted.
    #[serde(skip)]
    pub(crate) resumed_at: Position,
}

impl RebuildProgress {
    /// Returns the share of the store's positions that the rebuild has passed, from 0 to 1.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.share_at(self.position)
    }

    fn share_at(&self, position: Position) -> f64 {
        if position < self.target { position.get() as f64 / self.target.get() as f64 } else { 1.0 }
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
        let passed = self.share() - self.share_at(self.resumed_at);
        Duration::try_from_secs_f64(self.took.as_secs_f64() * (1.0 - self.share()) / passed).ok()
    }
}

impl fmt::Display for RebuildProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const WIDTH: usize = 14;
        let part_of = |whole: u64| match self.target.get() {
            target if self.position < self.target => whole.saturating_mul(self.position.get()) / target,
            _ => whole,
        };
        let filled = "#".repeat(usize::try_from(part_of(WIDTH as u64)).unwrap_or(WIDTH));
        let bar = format!("{filled:-<WIDTH$}");
        let percent = part_of(100);
        let (done, rate) = (with_thousands_commas(self.events), with_thousands_commas(self.per_second() as u64));
        write!(f, "{} [{bar}] {percent} % {done} events, {rate}/s", self.name)?;
        if self.position >= self.target {
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
    meter: Arc<ProjectionMeter>,
}

impl<'a> ProgressMeter<'a> {
    /// Begins a rebuild from the first event to the head of the store; `live` is the progress of the projection.
    pub(super) async fn begin(
        definition: &ProjectionDefinition,
        store: &dyn EventStore,
        report: ProgressCallback<'a>,
        live: &ProgressCell,
    ) -> Result<Self, ReadError> {
        let target = store.head().await?;
        let progress = RebuildProgress {
            name: definition.name,
            events: 0,
            position: Position::START,
            target,
            took: Duration::ZERO,
            resumed: 0,
            resumed_at: Position::START,
        };
        let (clock, meter) = (live.clock(), Arc::clone(live.meter()));
        meter.begin_rebuild();
        Ok(Self { report, progress, began: clock.instant(), clock, meter })
    }

    pub(super) const fn progress(&self) -> &RebuildProgress {
        &self.progress
    }

    /// Records the events handled before an interruption, up to `position`.
    pub(super) fn resume_at(&mut self, events: u64, position: Position) {
        (self.progress.events, self.progress.resumed, self.progress.resumed_at) = (events, events, position);
        self.advance(0, position);
    }

    /// Ends the rebuild at `end` at the latest: the store may end before the head that it had.
    pub(super) fn end_at(&mut self, end: Position) {
        self.progress.target = self.progress.target.min(end);
    }

    /// Records `events` more as handled, and all events up to `position`.
    pub(super) fn advance(&mut self, events: u64, position: Position) {
        self.progress.events += events;
        self.progress.position = self.progress.position.max(position);
        self.progress.took = self.clock.elapsed(self.began);
        self.meter.count_rebuild_events(events, self.progress.share());
        (self.report)(self.progress);
    }
}

impl Drop for ProgressMeter<'_> {
    fn drop(&mut self) {
        self.meter.end_rebuild();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Half of the positions hold events for the projection.
    fn at(events: u64, target: u64, took: u64, resumed: u64) -> RebuildProgress {
        RebuildProgress {
            name: "order-rows",
            events,
            position: Position::new(2 * events),
            target: Position::new(target),
            took: Duration::from_secs(took),
            resumed,
            resumed_at: Position::new(2 * resumed),
        }
    }

    #[test]
    fn a_bar_says_how_far_how_fast_and_how_long_yet() {
        let text = |now: RebuildProgress| now.to_string();
        assert_eq!(
            text(at(1_140_000, 4_000_000, 14, 0)),
            "order-rows [#######-------] 57 % 1,140,000 events, 81,428/s, 10 s left"
        );
        assert_eq!(text(at(0, 2_000, 0, 0)), "order-rows [--------------] 0 % 0 events, 0/s");
        assert_eq!(text(at(1_000, 2_000, 4, 0)), "order-rows [##############] 100 % 1,000 events, 250/s, done in 4 s");
        // what came since the rebuild began is handled too
        assert_eq!(text(at(1_500, 2_000, 4, 0)), "order-rows [##############] 100 % 1,500 events, 375/s, done in 4 s");
        assert_eq!(text(at(0, 0, 0, 0)), "order-rows [##############] 100 % 0 events, 0/s, done in 0 s");
    }

    #[test]
    fn what_was_done_before_an_interruption_does_not_count_as_speed() {
        let now = at(1_500, 4_000, 5, 1_000);
        assert_eq!((now.per_second(), now.time_left()), (100.0, Some(Duration::from_secs(5))));
    }

    #[test]
    fn long_times_are_told_in_minutes_and_hours() {
        let words = |seconds| human_duration(Duration::from_secs(seconds));
        assert_eq!([words(99), words(100), words(7_500)], ["99 s", "1 min", "2 h 5 min"]);
    }
}
