//! Tests of the auditor: a correct run passes, and it names each break made on purpose.

mod appends;
mod readers;

use std::sync::Arc;

use eventbus::Uuid;

use super::{Violation, audit};
use crate::fire::{
    evidence::{Effect, Evidence, Order, Promise, Reader, Stored},
    history::{AppendRecord, StoredAt},
};

const STREAMS: u64 = 7;
const EVENTS: u64 = 120;

/// Returns a run that keeps every promise: appends of two events, conflicts, a repeat, an unknown outcome that is
/// stored and one that is not, a projection whose lease changed owner, a handler with dead letters and a repeat.
fn good(seed: u64) -> Evidence {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut run = Evidence::default();
    let mut position = 0;
    for round in 0..EVENTS / 2 {
        let stream: Arc<str> = format!("Account/{}", random.u64(..STREAMS)).into();
        let version = run.stored.iter().filter(|stored| stored.stream == stream).count() as u64;
        position += random.u64(0..3); // rolled back appends leave holes
        let places =
            [1, 2].map(|nth| StoredAt { event: Uuid::now_v7(), version: version + nth, position: position + nth });
        position += 2;
        let ids = places.map(|place| place.event).to_vec();
        run.append_records.push(AppendRecord::Sent(ids.clone()));
        match round % 6 {
            0 => {} // the answer was lost
            1 => run.append_records.extend([
                AppendRecord::Stored(places.into()),
                AppendRecord::Sent(ids),
                AppendRecord::Stored(places.into()),
            ]),
            2 => run.append_records.extend([
                AppendRecord::Refused(ids.clone()),
                AppendRecord::Sent(ids),
                AppendRecord::Stored(places.into()),
            ]),
            _ => run.append_records.push(AppendRecord::Stored(places.into())),
        }
        for place in places {
            run.stored.push(Stored { stored_at: place, stream: Arc::clone(&stream), amount: random.i64(-50..50) });
        }
    }
    let (refused, lost) = (vec![Uuid::now_v7()], vec![Uuid::now_v7()]);
    run.append_records.extend([
        AppendRecord::Sent(refused.clone()),
        AppendRecord::Refused(refused),
        AppendRecord::Sent(lost),
    ]);
    run.readers = vec![projection(&run), handler(&run)];
    run
}

fn projection(run: &Evidence) -> Reader {
    let seen = |(nth, stored): (usize, &Stored)| Effect { event: stored.stored_at.event, epoch: 3 + nth as u64 / 40 };
    Reader {
        name: "balances".into(),
        promise: Promise { once: true, order: Order::Total },
        effects: run.stored.iter().enumerate().map(seen).collect(),
        model: Some(run.fold(|_| true)),
        checkpoint: run.stored.last().map(|stored| stored.stored_at.position),
        ..Reader::default()
    }
}

fn handler(run: &Evidence) -> Reader {
    let is_dead = |stored: &&Stored| stored.stored_at.position.is_multiple_of(10);
    let mut seen: Vec<_> = run
        .stored
        .iter()
        .filter(|stored| !is_dead(stored))
        .map(|stored| Effect { event: stored.stored_at.event, epoch: 0 })
        .collect();
    seen.push(seen[5]); // at least once
    let dead: Vec<_> = run.stored.iter().filter(is_dead).map(|stored| stored.stored_at.event).collect();
    Reader {
        name: "mail".into(),
        promise: Promise { once: false, order: Order::PerAggregate },
        effects: seen,
        poison: dead.iter().copied().collect(),
        dead,
        ..Reader::default()
    }
}

/// Breaks a correct run; the auditor must report exactly the expected violations.
#[track_caller]
fn caught(expected: &[Violation], mutate: impl Fn(&mut Evidence, &mut fastrand::Rng)) {
    for seed in 0..20 {
        let mut run = good(seed);
        mutate(&mut run, &mut fastrand::Rng::with_seed(seed + 1_000));
        let report = audit(&run);
        assert_eq!(report.violations(), expected, "seed {seed}: {report}");
    }
}

#[test]
fn a_good_run_passes() {
    for seed in 0..200 {
        let report = audit(&good(seed));
        assert!(report.is_clean(), "seed {seed}: {report}");
    }
}
