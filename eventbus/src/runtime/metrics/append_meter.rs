//! Counters of appends.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::port::{
    AppendError,
    histogram::{COUNT_BOUNDS, DURATION_BOUNDS, Histogram, HistogramCounts},
};

/// How an append ended, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AppendOutcome {
    /// The events are stored.
    Appended,
    /// The command or the delivery took effect before: no event was stored.
    Repeated,
    /// Another writer was first.
    Conflict,
    /// The store refuses the events, or another stream holds a unique value.
    Refused,
    /// The store could not be reached.
    Unavailable,
    /// The events may or may not be stored.
    Unknown,
}

impl AppendOutcome {
    /// All outcomes, in the order of their histograms.
    pub(crate) const ALL: [Self; 6] =
        [Self::Appended, Self::Repeated, Self::Conflict, Self::Refused, Self::Unavailable, Self::Unknown];

    /// Returns the outcome of an append that failed.
    pub(crate) fn of_error(error: &AppendError) -> Self {
        match error {
            error if error.is_conflict() => Self::Conflict,
            AppendError::Unavailable(_) => Self::Unavailable,
            AppendError::OutcomeUnknown(_) => Self::Unknown,
            _ => Self::Refused,
        }
    }

    /// Returns the value of the label `outcome`.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Appended => "appended",
            Self::Repeated => "repeated",
            Self::Conflict => "conflict",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Unknown => "unknown",
        }
    }
}

/// The appends of an app's repositories, decisions and handlers.
#[derive(Debug)]
pub(crate) struct AppendMeter {
    /// The durations by outcome, in nanoseconds.
    durations: [Histogram; AppendOutcome::ALL.len()],
    /// The numbers of events of the appends that stored any.
    events: Histogram,
    boundary_conflicts: AtomicU64,
}

impl Default for AppendMeter {
    fn default() -> Self {
        Self {
            durations: AppendOutcome::ALL.map(|_| Histogram::new(DURATION_BOUNDS)),
            events: Histogram::new(COUNT_BOUNDS),
            boundary_conflicts: AtomicU64::new(0),
        }
    }
}

impl AppendMeter {
    /// Records an append that ended; `events` is the number of stored events.
    pub(crate) fn record(&self, took: Duration, outcome: AppendOutcome, events: usize) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.histogram(outcome).record(took);
        if events > 0 {
            self.events.record(events as u64);
        }
    }

    /// Counts a decision to whose boundary an event was added meanwhile.
    pub(crate) fn count_boundary_conflict(&self) {
        self.boundary_conflicts.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the durations of the appends with an outcome, in nanoseconds.
    pub(crate) fn durations(&self, outcome: AppendOutcome) -> HistogramCounts {
        self.histogram(outcome).snapshot()
    }

    /// Returns the histogram of an outcome.
    pub(crate) const fn histogram(&self, outcome: AppendOutcome) -> &Histogram {
        &self.durations[outcome as usize]
    }

    /// Returns the histogram of the numbers of events.
    pub(crate) const fn events(&self) -> &Histogram {
        &self.events
    }

    pub(crate) fn boundary_conflicts(&self) -> u64 {
        self.boundary_conflicts.load(Ordering::Relaxed)
    }
}
