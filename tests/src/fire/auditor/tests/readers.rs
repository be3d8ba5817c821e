//! Readers that break their promises.

use std::sync::Arc;

use eventbus::Uuid;

use super::{Violation, caught};
use crate::fire::evidence::{Effect, Folded};

#[test]
fn a_projection_that_skips_an_event() {
    caught(&[Violation::CheckpointAhead], |run, random| {
        let at = random.usize(..run.readers[0].effects.len());
        run.readers[0].effects.remove(at);
    });
}

#[test]
fn a_handler_that_skips_an_event() {
    caught(&[Violation::Skipped], |run, random| {
        let seen = &mut run.readers[1].effects;
        let skipped = seen[random.usize(..seen.len())].event;
        seen.retain(|seen| seen.event != skipped);
    });
}

#[test]
fn an_event_applied_twice() {
    caught(&[Violation::Repeated], |run, random| {
        let seen = &mut run.readers[0].effects;
        let at = random.usize(..seen.len());
        seen.insert(at, seen[at]);
    });
}

#[test]
fn two_events_applied_in_the_wrong_order() {
    caught(&[Violation::Reordered], |run, random| {
        let at = random.usize(1..39);
        run.readers[0].effects.swap(at - 1, at);
    });
}

#[test]
fn a_handler_that_turns_the_events_of_an_aggregate_around() {
    caught(&[Violation::Reordered], |run, random| {
        // the two events of one append
        let pairs: Vec<_> =
            run.stored.chunks(2).map(|pair| (pair[0].stored_at.event, pair[1].stored_at.event)).collect();
        let seen = &mut run.readers[1].effects;
        let at = loop {
            let at = random.usize(6..seen.len() - 2);
            if pairs.contains(&(seen[at].event, seen[at + 1].event)) {
                break at;
            }
        };
        seen.swap(at, at + 1);
    });
}

#[test]
fn a_handler_may_handle_two_aggregates_in_any_order() {
    caught(&[], |run, random| {
        let streams: Vec<_> =
            run.stored.iter().map(|stored| (stored.stored_at.event, Arc::clone(&stored.stream))).collect();
        let stream_of = |seen: Effect| &streams.iter().find(|(event, _)| *event == seen.event).unwrap().1;
        let at = (6..run.readers[1].effects.len() - 2).find(|at| {
            let seen = &run.readers[1].effects;
            random.bool() && stream_of(seen[*at]) != stream_of(seen[at + 1])
        });
        if let Some(at) = at {
            run.readers[1].effects.swap(at, at + 1);
        }
    });
}

#[test]
fn a_former_owner_that_writes() {
    caught(&[Violation::StaleOwner], |run, random| {
        run.readers[0].effects[random.usize(41..120)].epoch = 3;
    });
}

#[test]
fn a_checkpoint_saved_before_its_effect() {
    caught(&[Violation::CheckpointAhead, Violation::WrongModel], |run, _| {
        let last = run.readers[0].effects.pop().unwrap().event;
        run.readers[0].model = Some(run.fold(|stored| stored.stored_at.event != last));
    });
}

#[test]
fn an_effect_without_its_checkpoint() {
    caught(&[Violation::CheckpointBehind], |run, random| {
        run.readers[0].checkpoint = Some(run.stored[random.usize(..run.stored.len() - 1)].stored_at.position);
    });
}

#[test]
fn a_dead_letter_that_is_missing() {
    caught(&[Violation::Skipped], |run, random| {
        let dead = &mut run.readers[1].dead;
        dead.remove(random.usize(..dead.len()));
    });
}

#[test]
fn a_dead_letter_of_what_was_applied() {
    caught(&[Violation::DeadAndApplied], |run, random| {
        let handler = &mut run.readers[1];
        handler.dead.push(handler.effects[random.usize(..handler.effects.len())].event);
    });
}

#[test]
fn a_dead_letter_of_what_could_be_handled() {
    caught(&[Violation::NeedlessDeadLetter], |run, random| {
        let handler = &mut run.readers[1];
        let given_up = handler.effects[random.usize(..handler.effects.len())].event;
        handler.effects.retain(|seen| seen.event != given_up);
        handler.dead.push(given_up);
    });
}

#[test]
fn a_dead_letter_of_nothing_or_twice() {
    caught(&[Violation::UnknownDeadLetter], |run, random| {
        let dead = &mut run.readers[1].dead;
        dead.push(if random.bool() { dead[0] } else { Uuid::now_v7() });
    });
}

#[test]
fn a_read_model_off_by_one() {
    caught(&[Violation::WrongModel], |run, random| {
        let model = run.readers[0].model.as_mut().unwrap();
        let at = random.usize(..model.len());
        let folded = model.values_mut().nth(at).unwrap();
        match random.u8(..3) {
            0 => folded.events += 1,
            1 => folded.total -= 1,
            _ => folded.digest += 1,
        }
    });
}

#[test]
fn a_read_model_of_streams_that_are_not_there() {
    caught(&[Violation::WrongModel], |run, _| {
        run.readers[0].model.as_mut().unwrap().insert("Account/none".into(), Folded::default());
    });
}

#[test]
fn an_effect_of_what_is_not_stored() {
    caught(&[Violation::UnknownEffect], |run, random| {
        let ghost = Effect { event: Uuid::now_v7(), epoch: 0 };
        run.readers[1].effects.insert(random.usize(..50), ghost);
    });
}
