//! What appenders were told against what is stored.

use std::collections::HashMap;

use eventbus::Uuid;

use super::{Broken, ById, Report};
use crate::fire::{
    evidence::Evidence,
    history::{Place, Told},
};

/// What was said of one event.
#[derive(Debug, Default, Clone, Copy)]
struct Said {
    sent: u32,
    refused: u32,
    stored: bool,
}

pub(super) fn check(evidence: &Evidence, by_id: &ById<'_>, report: &mut Report) {
    let mut said: HashMap<Uuid, Said> = HashMap::with_capacity(by_id.len());
    for told in &evidence.told {
        match told {
            Told::Sent(events) => {
                events.iter().for_each(|event| said.entry(*event).or_default().sent += 1);
                is_whole(events, by_id, report);
            }
            Told::Refused(events) => events.iter().for_each(|event| said.entry(*event).or_default().refused += 1),
            Told::Stored(places) => {
                for place in places {
                    said.entry(place.event).or_default().stored = true;
                    is_there(place, by_id, report);
                }
            }
        }
    }
    for event in by_id.keys() {
        match said.get(event) {
            None => report.add(Broken::Phantom, || format!("event {event}")),
            // an append without an answer may be stored, also after another of the same events was refused
            Some(said) if !said.stored && said.refused >= said.sent => {
                report.add(Broken::RefusedStored, || format!("event {event}"));
            }
            Some(_) => {}
        }
    }
}

fn is_there(place: &Place, by_id: &ById<'_>, report: &mut Report) {
    match by_id.get(&place.event) {
        None => report.add(Broken::LostAck, || format!("{place:?}")),
        Some(stored) if stored.place != *place => {
            report.add(Broken::MovedAck, || format!("told {place:?}, stored {:?}", stored.place));
        }
        Some(_) => {}
    }
}

/// All events of an append are there, in one row, or none.
fn is_whole(events: &[Uuid], by_id: &ById<'_>, report: &mut Report) {
    let found: Vec<_> = events.iter().filter_map(|event| by_id.get(event)).collect();
    let in_a_row = found
        .windows(2)
        .all(|pair| pair[0].stream == pair[1].stream && pair[0].place.version + 1 == pair[1].place.version);
    if !found.is_empty() && (found.len() < events.len() || !in_a_row) {
        report.add(Broken::HalfAppend, || format!("{events:?}"));
    }
}
