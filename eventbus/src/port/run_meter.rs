//! Counters of the runs of one handler, for metrics.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{
    delivery::{HandlerError, HandlerErrorKind},
    histogram::{DURATION_BOUNDS, Histogram, HistogramCounts},
};

/// How a run of a handler ended, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunOutcome {
    /// The handler returned without an error.
    Succeeded,
    /// It failed, and is retried while it has attempts left.
    Failed,
    /// It failed, and a retry cannot help.
    Permanent,
    /// It reached its time limit.
    TimedOut,
    /// It panicked.
    Panicked,
    /// Its database had a fault, or began no transaction before the app stopped: the run used up no attempt.
    Postponed,
}

impl RunOutcome {
    /// All outcomes, in the order of their histograms.
    pub(crate) const ALL: [Self; 6] =
        [Self::Succeeded, Self::Failed, Self::Permanent, Self::TimedOut, Self::Panicked, Self::Postponed];

    /// Returns the outcome of a run that returned `result`.
    pub(crate) fn of(result: &Result<(), HandlerError>) -> Self {
        let Err(error) = result else { return Self::Succeeded };
        match error.kind() {
            HandlerErrorKind::Retry | HandlerErrorKind::RetryAfter(_) | HandlerErrorKind::NewerVersion => Self::Failed,
            HandlerErrorKind::Permanent | HandlerErrorKind::Undecodable => Self::Permanent,
            HandlerErrorKind::TimedOut => Self::TimedOut,
            HandlerErrorKind::Panicked => Self::Panicked,
            HandlerErrorKind::NotBegun | HandlerErrorKind::ServerFault => Self::Postponed,
        }
    }

    /// Returns the value of the label `outcome`.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Permanent => "permanent",
            Self::TimedOut => "timed_out",
            Self::Panicked => "panicked",
            Self::Postponed => "postponed",
        }
    }
}

/// The runs of one handler since it joined its bus.
#[derive(Debug)]
pub(crate) struct RunMeter {
    /// The durations by outcome, in nanoseconds.
    durations: [Histogram; RunOutcome::ALL.len()],
    retries: AtomicU64,
    running: AtomicU64,
}

impl Default for RunMeter {
    fn default() -> Self {
        let durations = RunOutcome::ALL.map(|_| Histogram::new(DURATION_BOUNDS));
        Self { durations, retries: AtomicU64::new(0), running: AtomicU64::new(0) }
    }
}

impl RunMeter {
    /// Counts a run as running until the guard is dropped, also if its future is dropped before it ends.
    pub(crate) fn begin(&self) -> RunningRun<'_> {
        self.running.fetch_add(1, Ordering::Relaxed);
        RunningRun(self)
    }

    /// Records a run that ended; `attempt` is 1 for the first one of its delivery.
    pub(crate) fn record(&self, took: Duration, attempt: u32, outcome: RunOutcome) {
        if attempt > 1 {
            self.retries.fetch_add(1, Ordering::Relaxed);
        }
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.durations[outcome as usize].record(took);
    }

    /// Returns the durations of the runs with an outcome, in nanoseconds.
    pub(crate) fn durations(&self, outcome: RunOutcome) -> HistogramCounts {
        self.durations[outcome as usize].snapshot()
    }

    /// Returns the histogram of an outcome.
    #[cfg(feature = "opentelemetry")]
    pub(crate) const fn histogram(&self, outcome: RunOutcome) -> &Histogram {
        &self.durations[outcome as usize]
    }

    /// Returns the number of runs that were not the first one of their delivery.
    pub(crate) fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Returns the number of current runs.
    pub(crate) fn running(&self) -> u64 {
        self.running.load(Ordering::Relaxed)
    }
}

/// A current run.
pub(crate) struct RunningRun<'a>(&'a RunMeter);

impl Drop for RunningRun<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_has_its_histogram_and_label() {
        let errors = [
            ("failed", HandlerError::from("no")),
            ("failed", HandlerError::retry_after(Duration::ZERO, "no")),
            ("permanent", HandlerError::permanent("no")),
            ("timed_out", HandlerError::timed_out(Duration::ZERO)),
            ("panicked", HandlerError::from_panic(&"no")),
            ("postponed", HandlerError::not_begun()),
        ];
        let meter = RunMeter::default();
        meter.record(Duration::from_secs(1), 1, RunOutcome::of(&Ok(())));
        for (_, error) in errors {
            meter.record(Duration::from_secs(2), 2, RunOutcome::of(&Err(error)));
        }
        let counts = RunOutcome::ALL.map(|outcome| (outcome.label(), meter.durations(outcome).count()));
        let expected =
            [("succeeded", 1), ("failed", 2), ("permanent", 1), ("timed_out", 1), ("panicked", 1), ("postponed", 1)];
        assert_eq!((counts, meter.retries()), (expected, 6));
        assert_eq!(meter.durations(RunOutcome::Failed).sum, 4_000_000_000);
    }

    #[test]
    fn a_run_that_is_dropped_runs_no_more() {
        let meter = RunMeter::default();
        let (one, other) = (meter.begin(), meter.begin());
        drop(one);
        assert_eq!(meter.running(), 1);
        drop(other);
        assert_eq!(meter.running(), 0);
    }
}
