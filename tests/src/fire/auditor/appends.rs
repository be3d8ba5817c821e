//! Compares the answers that appenders received with the stored events.

use std::collections::HashMap;

use eventbus::Uuid;

use super::{ById, Report, Violation};
use crate::fire::{
    evidence::Evidence,
    history::{AppendRecord, StoredAt},
};

/// Counts of the records about one event.
#[derive(Debug, Default, Clone, Copy)]
struct AppendTally {
    sent: u32,
    refused: u32,
    stored: bool,
}

pub(super) fn check(evidence: &Evidence, by_id: &ById<'_>, report: &mut Report) {
    let mut tallies: HashMap<Uuid, AppendTally> = HashMap::with_capacity(by_id.len());
    for record in &evidence.append_records {
        match record {
            AppendRecord::Sent(events) => {
                events.iter().for_each(|event| tallies.entry(*event).or_default().sent += 1);
                check_all_or_nothing(events, by_id, report);
            }
            AppendRecord::Refused(events) => {
                events.iter().for_each(|event| tallies.entry(*event).or_default().refused += 1)
            }
            AppendRecord::Stored(places) => {
                for place in places {
                    tallies.entry(place.event).or_default().stored = true;
                    check_stored_at(place, by_id, report);
                }
            }
        }
    }
    for event in by_id.keys() {
        match tallies.get(event) {
            None => report.add(Violation::Phantom, || format!("event {event}")),
            // an append without an answer may be stored, also after a second append of the same events was refused
            Some(tallies) if !tallies.stored && tallies.refused >= tallies.sent => {
                report.add(Violation::RefusedStored, || format!("event {event}"));
            }
            Some(_) => {}
        }
    }
}

fn check_stored_at(place: &StoredAt, by_id: &ById<'_>, report: &mut Report) {
    match by_id.get(&place.event) {
        None => report.add(Violation::LostAck, || format!("{place:?}")),
        Some(stored) if stored.stored_at != *place => {
            report.add(Violation::MovedAck, || format!("acknowledged as {place:?}, stored {:?}", stored.stored_at));
        }
        Some(_) => {}
    }
}

/// Checks that each append is stored whole, as consecutive events, or not at all.
fn check_all_or_nothing(events: &[Uuid], by_id: &ById<'_>, report: &mut Report) {
    let found: Vec<_> = events.iter().filter_map(|event| by_id.get(event)).collect();
    let in_a_row = found
        .windows(2)
        .all(|pair| pair[0].stream == pair[1].stream && pair[0].stored_at.version + 1 == pair[1].stored_at.version);
    if !found.is_empty() && (found.len() < events.len() || !in_a_row) {
        report.add(Violation::HalfAppend, || format!("{events:?}"));
    }
}
