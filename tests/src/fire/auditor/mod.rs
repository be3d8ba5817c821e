//! Compares the promises of a run with its evidence.
//!
//! Invariant: the auditor shares no code with the code that it checks. `tests` proves each of its checks: they break a
//! correct run in every way that has a name, and expect the auditor to report that name.

mod appends;
mod readers;
mod report;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use eventbus::Uuid;

pub use report::{Report, Violation};

use super::evidence::{Evidence, Stored};

/// The stored events by id.
type ById<'a> = HashMap<Uuid, &'a Stored>;

/// Returns the promises that a run broke.
#[must_use]
pub fn audit(evidence: &Evidence) -> Report {
    let mut report = Report::default();
    let by_id = by_id(evidence, &mut report);
    streams(evidence, &mut report);
    appends::check(evidence, &by_id, &mut report);
    for reader in &evidence.readers {
        readers::check(reader, evidence, &by_id, &mut report);
    }
    report
}

fn by_id<'a>(evidence: &'a Evidence, report: &mut Report) -> ById<'a> {
    let mut by_id = ById::with_capacity(evidence.stored.len());
    for stored in &evidence.stored {
        if by_id.insert(stored.stored_at.event, stored).is_some() {
            report.add(Violation::StoredTwice, || format!("event {}", stored.stored_at.event));
        }
    }
    by_id
}

/// Checks that in each stream versions are contiguous from 1, in position order.
fn streams(evidence: &Evidence, report: &mut Report) {
    let mut last_position = 0;
    let mut versions: HashMap<&str, Vec<u64>> = HashMap::new();
    for Stored { stored_at: place, stream, .. } in &evidence.stored {
        if place.position <= last_position {
            report.add(Violation::PositionTwice, || format!("{} after {last_position}", place.position));
        }
        last_position = place.position;
        versions.entry(stream).or_default().push(place.version);
    }
    for (stream, mut versions) in versions {
        if let Some(pair) = versions.windows(2).find(|pair| pair[1] <= pair[0]) {
            report.add(Violation::StreamOrder, || format!("{stream}: version {} before {}", pair[0], pair[1]));
            versions.sort_unstable();
        }
        if let Some((expected, found)) = (1..).zip(&versions).find(|(expected, found)| expected != *found) {
            report.add(Violation::VersionGap, || format!("{stream}: version {found} where {expected} should be"));
        }
    }
}
