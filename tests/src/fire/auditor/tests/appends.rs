//! Stores that do not keep what they said.

use std::sync::Arc;

use eventbus::Uuid;

use super::{Broken, caught};
use crate::fire::{
    evidence::Stored,
    history::{Place, Told},
};

#[test]
fn an_acknowledged_append_that_is_not_there() {
    caught(&[Broken::LostAck], |run, _| {
        let place = Place { event: Uuid::now_v7(), version: 1, position: 1_000 };
        run.told.extend([Told::Sent(vec![place.event]), Told::Stored(vec![place])]);
    });
}

#[test]
fn an_append_acknowledged_elsewhere() {
    caught(&[Broken::MovedAck], |run, random| {
        let acks: Vec<_> =
            run.told.iter_mut().filter_map(|told| if let Told::Stored(p) = told { Some(p) } else { None }).collect();
        let at = random.usize(..acks.len());
        let place = &mut acks.into_iter().nth(at).unwrap()[0];
        if random.bool() { place.position += 1 } else { place.version += 1 }
    });
}

#[test]
fn an_event_that_nobody_appended() {
    caught(&[Broken::Phantom, Broken::Skipped], |run, _| {
        let place = Place { event: Uuid::now_v7(), version: 1, position: 1_000 };
        run.stored.push(Stored { place, stream: "Account/new".into(), amount: 0 });
        run.readers.remove(0);
    });
}

#[test]
fn a_conflict_that_is_stored_anyway() {
    caught(&[Broken::RefusedStored], |run, random| {
        // neither sent twice nor without an answer
        let at = 6 * random.usize(..10) + 3;
        let ids: Vec<_> = run.stored[2 * at..2 * at + 2].iter().map(|stored| stored.place.event).collect();
        run.told.retain(|told| !matches!(told, Told::Stored(places) if places[0].event == ids[0]));
        run.told.push(Told::Refused(ids));
    });
}

#[test]
fn a_hole_in_the_versions() {
    caught(&[Broken::VersionGap], |run, random| {
        let stream = Arc::clone(&run.stored[random.usize(..run.stored.len())].stream);
        let last = run.stored.iter_mut().rfind(|stored| stored.stream == stream).unwrap();
        last.place.version += 1;
        let place = last.place;
        for told in &mut run.told {
            match told {
                // the answers agree with the store
                Told::Stored(places) => {
                    places.iter_mut().filter(|told| told.event == place.event).for_each(|told| *told = place);
                }
                // so that it is not also an append that is apart
                Told::Sent(events) => events.retain(|event| *event != place.event),
                Told::Refused(_) => {}
            }
        }
        run.told.push(Told::Sent(vec![place.event]));
    });
}

#[test]
fn versions_that_are_not_in_the_order_of_positions() {
    caught(&[Broken::StreamOrder, Broken::HalfAppend], |run, random| {
        let at = 2 * random.usize(..60);
        let versions = [run.stored[at].place.version, run.stored[at + 1].place.version];
        (run.stored[at].place.version, run.stored[at + 1].place.version) = (versions[1], versions[0]);
        let places = [run.stored[at].place, run.stored[at + 1].place];
        for told in &mut run.told {
            if let Told::Stored(told) = told {
                told.iter_mut().zip(places).filter(|(told, place)| told.event == place.event).for_each(|(t, p)| *t = p);
            }
        }
    });
}

#[test]
fn an_event_stored_twice() {
    caught(&[Broken::StoredTwice], |run, random| {
        let first = run.stored[random.usize(..run.stored.len())].place;
        let place = Place { version: 1, position: 1_000, ..first };
        run.stored.push(Stored { place, stream: "Account/copy".into(), amount: 0 });
        run.told = run.stored.iter().map(|stored| Told::Sent(vec![stored.place.event])).collect();
        run.readers.clear();
    });
}

#[test]
fn half_an_append() {
    caught(&[Broken::HalfAppend], |run, random| {
        let Told::Sent(events) = &mut run.told[0] else { panic!("the first was sent") };
        events.insert(random.usize(..=events.len()), Uuid::now_v7());
    });
}

#[test]
fn two_events_at_one_position() {
    caught(&[Broken::PositionTwice], |run, random| {
        // of two streams, so that the order within one is as it should be
        let pairs = 1..run.stored.len();
        let differ: Vec<_> = pairs.filter(|at| run.stored[at - 1].stream != run.stored[*at].stream).collect();
        let at = differ[random.usize(..differ.len())];
        let position = run.stored[at - 1].place.position;
        run.stored[at].place.position = position;
        let place = run.stored[at].place;
        for told in &mut run.told {
            if let Told::Stored(places) = told {
                places.iter_mut().filter(|told| told.event == place.event).for_each(|told| *told = place);
            }
        }
    });
}
