//! How many died, and where.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::slot::{LEADER, WRITERS};
use crate::fire::{
    doom::{Death, POINTS},
    figures::Figures,
};

/// With so many deaths each named point is reached.
const ENOUGH: u64 = 60;

/// How often what died.
#[derive(Debug, Default)]
pub(super) struct Tally {
    writers: AtomicU64,
    workers: AtomicU64,
    leads: AtomicU64,
    points: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    /// The process of a slot died, at this point or at a random time.
    pub(super) fn add(&self, slot: u64, death: Option<&Death>) {
        let counter = if slot < WRITERS { &self.writers } else { &self.workers };
        counter.fetch_add(1, Ordering::SeqCst);
        self.leads.fetch_add((slot == LEADER).into(), Ordering::SeqCst);
        if let Some(death) = death {
            let mut points = self.points.lock().unwrap_or_else(PoisonError::into_inner);
            *points.entry(name(&death.point, death.after)).or_default() += 1;
        }
    }

    /// A quarter of those that die are writers, and a third the worker that often relays; all go on until both are
    /// enough, and on a slow machine until each point was reached.
    pub(super) fn is_enough(&self, kills: u64) -> bool {
        let [workers, leads] = [&self.workers, &self.leads].map(|count| count.load(Ordering::SeqCst));
        let is_complete = kills < ENOUGH || leads >= kills || self.missed().is_empty();
        workers >= kills - kills / 4 && leads >= kills / 3 && is_complete
    }

    /// The points at which nobody died.
    fn missed(&self) -> Vec<String> {
        let points = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        let all = POINTS.into_iter().map(|(point, after)| name(point, after));
        all.filter(|point| !points.contains_key(point)).collect()
    }

    pub(super) fn tell(&self, kills: u64, figures: &mut Figures) {
        let [writers, workers] = [&self.writers, &self.workers].map(|count| count.load(Ordering::SeqCst));
        let missed = self.missed();
        let points = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        let at_points: u64 = points.values().sum();
        figures.faults = writers + workers;
        figures.what = format!("{writers} writers and {workers} workers, {at_points} at named points:");
        for (point, times) in &*points {
            figures.what += &format!(" {point} {times},");
        }
        figures.what += " the others at random times";
        if kills >= ENOUGH && !missed.is_empty() {
            figures.objections.push(format!("nobody died {}", missed.join(", ")));
        }
    }
}

fn name(point: &str, after: bool) -> String {
    format!("{} {point}", if after { "after" } else { "before" })
}
