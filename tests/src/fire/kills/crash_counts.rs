//! Counts the deaths of processes, by fail point.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

use super::process_slot::{LEADER, WRITERS};
use crate::fire::{
    failpoints::{CrashPoint, FAIL_POINTS},
    run_summary::RunSummary,
};

/// Number of deaths after which every fail point is reached.
const KILLS_FOR_ALL_POINTS: u64 = 60;

/// The deaths so far.
#[derive(Debug, Default)]
pub(super) struct CrashCounts {
    writers: AtomicU64,
    workers: AtomicU64,
    leader: AtomicU64,
    points: Mutex<BTreeMap<String, u64>>,
}

impl CrashCounts {
    /// Records the death of a slot's process at a fail point, or at a random time.
    pub(super) fn record(&self, slot: u64, crash: Option<&CrashPoint>) {
        let counter = if slot < WRITERS { &self.writers } else { &self.workers };
        counter.fetch_add(1, Ordering::SeqCst);
        self.leader.fetch_add((slot == LEADER).into(), Ordering::SeqCst);
        if let Some(crash) = crash {
            let mut points = self.points.lock();
            *points.entry(name(&crash.point, crash.after)).or_default() += 1;
        }
    }

    /// Returns `true` once three quarters of `kills` were workers, a third the worker that often relays, and each fail
    /// point was reached; on a slow machine the latter takes more deaths, at most `kills` of that worker.
    pub(super) fn is_enough(&self, kills: u64) -> bool {
        let [workers, leads] = [&self.workers, &self.leader].map(|count| count.load(Ordering::SeqCst));
        let is_complete = kills < KILLS_FOR_ALL_POINTS || leads >= kills || self.unreached_points().is_empty();
        workers >= kills - kills / 4 && leads >= kills / 3 && is_complete
    }

    /// Returns the fail points at which no process died.
    fn unreached_points(&self) -> Vec<String> {
        let points = self.points.lock();
        let all = FAIL_POINTS.into_iter().map(|(point, after)| name(point, after));
        all.filter(|point| !points.contains_key(point)).collect()
    }

    pub(super) fn report_to(&self, kills: u64, figures: &mut RunSummary) {
        let [writers, workers] = [&self.writers, &self.workers].map(|count| count.load(Ordering::SeqCst));
        let missed = self.unreached_points();
        let points = self.points.lock();
        let at_points: u64 = points.values().sum();
        figures.faults = writers + workers;
        figures.description = format!("{writers} writers and {workers} workers, {at_points} at named points:");
        for (point, times) in &*points {
            figures.description += &format!(" {point} {times},");
        }
        figures.description += " the others at random times";
        if kills >= KILLS_FOR_ALL_POINTS && !missed.is_empty() {
            figures.failures.push(format!("no process died {}", missed.join(", ")));
        }
    }
}

fn name(point: &str, after: bool) -> String {
    format!("{} {point}", if after { "after" } else { "before" })
}
