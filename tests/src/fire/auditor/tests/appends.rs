//! Stores that do not keep the events that they acknowledged.

use std::sync::Arc;

use eventbus::Uuid;

use super::{Violation, caught};
use crate::fire::{
    evidence::Stored,
    history::{AppendRecord, StoredAt},
};

#[test]
fn an_acknowledged_append_that_is_not_there() {
    caught(&[Violation::LostAck], |run, _| {
        let place = StoredAt { event: Uuid::now_v7(), version: 1, position: 1_000 };
        run.append_records.extend([AppendRecord::Sent(vec![place.event]), AppendRecord::Stored(vec![place])]);
    });
}

#[test]
fn an_append_acknowledged_elsewhere() {
    caught(&[Violation::MovedAck], |run, random| {
        let acks: Vec<_> = run
            .append_records
            .iter_mut()
            .filter_map(|record| if let AppendRecord::Stored(p) = record { Some(p) } else { None })
            .collect();
        let at = random.usize(..acks.len());
        let place = &mut acks.into_iter().nth(at).unwrap()[0];
        if random.bool() { place.position += 1 } else { place.version += 1 }
    });
}

#[test]
fn an_event_that_nobody_appended() {
    caught(&[Violation::Phantom, Violation::Skipped], |run, _| {
        let place = StoredAt { event: Uuid::now_v7(), version: 1, position: 1_000 };
        run.stored.push(Stored { stored_at: place, stream: "Account/new".into(), amount: 0 });
        run.readers.remove(0);
    });
}

#[test]
fn a_conflict_that_is_stored_anyway() {
    caught(&[Violation::RefusedStored], |run, random| {
        // an append that is neither repeated nor unanswered
        let at = 6 * random.usize(..10) + 3;
        let ids: Vec<_> = run.stored[2 * at..2 * at + 2].iter().map(|stored| stored.stored_at.event).collect();
        run.append_records
            .retain(|record| !matches!(record, AppendRecord::Stored(places) if places[0].event == ids[0]));
        run.append_records.push(AppendRecord::Refused(ids));
    });
}

#[test]
fn a_hole_in_the_versions() {
    caught(&[Violation::VersionGap], |run, random| {
        let stream = Arc::clone(&run.stored[random.usize(..run.stored.len())].stream);
        let last = run.stored.iter_mut().rfind(|stored| stored.stream == stream).unwrap();
        last.stored_at.version += 1;
        let place = last.stored_at;
        for record in &mut run.append_records {
            match record {
                // the answers agree with the store
                AppendRecord::Stored(places) => {
                    places.iter_mut().filter(|record| record.event == place.event).for_each(|record| *record = place);
                }
                // so that it does not count as a split append too
                AppendRecord::Sent(events) => events.retain(|event| *event != place.event),
                AppendRecord::Refused(_) => {}
            }
        }
        run.append_records.push(AppendRecord::Sent(vec![place.event]));
    });
}

#[test]
fn versions_that_are_not_in_the_order_of_positions() {
    caught(&[Violation::StreamOrder, Violation::HalfAppend], |run, random| {
        let at = 2 * random.usize(..60);
        let versions = [run.stored[at].stored_at.version, run.stored[at + 1].stored_at.version];
        (run.stored[at].stored_at.version, run.stored[at + 1].stored_at.version) = (versions[1], versions[0]);
        let places = [run.stored[at].stored_at, run.stored[at + 1].stored_at];
        for record in &mut run.append_records {
            if let AppendRecord::Stored(record) = record {
                record
                    .iter_mut()
                    .zip(places)
                    .filter(|(record, place)| record.event == place.event)
                    .for_each(|(t, p)| *t = p);
            }
        }
    });
}

#[test]
fn an_event_stored_twice() {
    caught(&[Violation::StoredTwice], |run, random| {
        let first = run.stored[random.usize(..run.stored.len())].stored_at;
        let place = StoredAt { version: 1, position: 1_000, ..first };
        run.stored.push(Stored { stored_at: place, stream: "Account/copy".into(), amount: 0 });
        run.append_records = run.stored.iter().map(|stored| AppendRecord::Sent(vec![stored.stored_at.event])).collect();
        run.readers.clear();
    });
}

#[test]
fn half_an_append() {
    caught(&[Violation::HalfAppend], |run, random| {
        let AppendRecord::Sent(events) = &mut run.append_records[0] else { panic!("the first was sent") };
        events.insert(random.usize(..=events.len()), Uuid::now_v7());
    });
}

#[test]
fn two_events_at_one_position() {
    caught(&[Violation::PositionTwice], |run, random| {
        // of two streams, so that the order within each stream stays correct
        let pairs = 1..run.stored.len();
        let differ: Vec<_> = pairs.filter(|at| run.stored[at - 1].stream != run.stored[*at].stream).collect();
        let at = differ[random.usize(..differ.len())];
        let position = run.stored[at - 1].stored_at.position;
        run.stored[at].stored_at.position = position;
        let place = run.stored[at].stored_at;
        for record in &mut run.append_records {
            if let AppendRecord::Stored(places) = record {
                places.iter_mut().filter(|record| record.event == place.event).for_each(|record| *record = place);
            }
        }
    });
}
