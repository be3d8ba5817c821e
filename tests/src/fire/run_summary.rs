//! The summary of a run: one row of the table that a long run prints.

use std::{fmt, time::Duration};

use super::auditor::{Report, Violation};

/// The summary of one part of the suite.
#[derive(Debug, Clone)]
pub struct RunSummary {
    /// The part's name.
    pub part: &'static str,
    /// Number of stored events.
    pub events: u64,
    /// Number of faults.
    pub faults: u64,
    /// A description of the faults.
    pub description: String,
    /// The longest time from a fault until readers made progress again, or from the last fault until all events were
    /// handled; `None` if not measured.
    pub slowest_recovery: Option<Duration>,
    /// The duration of the run.
    pub took: Duration,
    /// The auditor's report.
    pub report: Report,
    /// Failures beyond the auditor's report, such as a wrong reader that was not caught.
    pub failures: Vec<String>,
}

impl RunSummary {
    /// Returns an empty summary.
    #[must_use]
    pub fn new(part: &'static str) -> Self {
        Self {
            part,
            events: 0,
            faults: 0,
            description: String::new(),
            slowest_recovery: None,
            took: Duration::ZERO,
            report: Report::default(),
            failures: Vec::new(),
        }
    }

    /// Adds a further run of the part.
    pub fn add(&mut self, other: Self) {
        self.events += other.events;
        self.faults += other.faults;
        self.took += other.took;
        self.description.push_str(&other.description);
        self.description.push_str("; ");
        self.report.merge(other.report);
        self.slowest_recovery = self.slowest_recovery.max(other.slowest_recovery);
        self.failures.extend(other.failures);
    }

    /// Returns `true` if all promises were kept, and the run was able to detect a broken one.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.events > 0 && self.report.is_clean() && self.failures.is_empty()
    }

    /// Returns the header of the table.
    #[must_use]
    pub fn table_header() -> String {
        format!(
            "{:<12} {:>9} {:>7} {:>6} {:>9} {:>13} {:>6} {:>10} {:>8}  {}",
            "part", "events", "faults", "lost", "repeated", "out of order", "other", "recovery", "took", "what"
        )
    }
}

impl fmt::Display for RunSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lost = [Violation::Skipped, Violation::LostAck, Violation::CheckpointAhead];
        let repeated = [Violation::Repeated, Violation::StoredTwice, Violation::CheckpointBehind];
        let order = [Violation::Reordered, Violation::StreamOrder];
        let [lost, repeated, order] = [&lost[..], &repeated, &order].map(|kinds| self.report.count(kinds));
        let other = self.report.count(&self.report.violations()) - lost - repeated - order;
        let recovery = self.slowest_recovery.map_or_else(|| "-".into(), |time| format!("{:.2} s", time.as_secs_f64()));
        write!(
            f,
            "{:<12} {:>9} {:>7} {lost:>6} {repeated:>9} {order:>13} {other:>6} {recovery:>10} {:>6.0} s  {}",
            self.part,
            self.events,
            self.faults,
            self.took.as_secs_f64(),
            self.description
        )?;
        if !self.report.is_clean() {
            write!(f, "\n{}", self.report)?;
        }
        self.failures.iter().try_for_each(|objection| write!(f, "\n  {objection}"))
    }
}
