//! Compares the effects of readers with the stored events and the readers' promises.

use std::collections::{HashMap, HashSet};

use eventbus::Uuid;

use super::{ById, Report, Violation};
use crate::fire::evidence::{Evidence, Order, Reader, Stored};

pub(super) fn check(reader: &Reader, evidence: &Evidence, by_id: &ById<'_>, report: &mut Report) {
    let mut audit = ReaderAudit { reader, by_id, report };
    let first = audit.first_effects();
    audit.check_order(&first);
    audit.check_epochs();
    let dead = audit.check_dead_letters(&first);
    audit.check_completeness(evidence, &first, &dead);
    audit.check_model(evidence, &dead);
}

struct ReaderAudit<'a> {
    reader: &'a Reader,
    by_id: &'a ById<'a>,
    report: &'a mut Report,
}

impl<'a> ReaderAudit<'a> {
    fn add(&mut self, broken: Violation, what: impl FnOnce() -> String) {
        let name = &self.reader.name;
        self.report.add(broken, || format!("`{name}`: {}", what()));
    }

    /// Returns the stored events that had an effect, in the order of their first effects.
    fn first_effects(&mut self) -> Vec<&'a Stored> {
        let mut known = HashSet::with_capacity(self.reader.effects.len());
        let mut first = Vec::with_capacity(self.reader.effects.len());
        for seen in &self.reader.effects {
            match self.by_id.get(&seen.event) {
                None => self.add(Violation::UnknownEffect, || format!("event {}", seen.event)),
                Some(stored) if known.insert(seen.event) => first.push(*stored),
                Some(stored) if self.reader.promise.once => {
                    self.add(Violation::Repeated, || describe(stored));
                }
                Some(_) => {}
            }
        }
        first
    }

    fn check_order(&mut self, first: &[&Stored]) {
        let mut last: HashMap<&str, &Stored> = HashMap::new();
        for stored in first {
            let line = match self.reader.promise.order {
                Order::None => return,
                Order::PerAggregate => &stored.stream,
                Order::Total => "",
            };
            let before = last.insert(line, stored);
            if let Some(before) = before.filter(|before| before.stored_at.position > stored.stored_at.position) {
                self.add(Violation::Reordered, || format!("{} after {}", describe(stored), describe(before)));
            }
        }
    }

    /// Checks that epochs never decrease: a reader with a lower epoch than an earlier one no longer owns the lease.
    fn check_epochs(&mut self) {
        let mut highest = 0;
        for seen in &self.reader.effects {
            if seen.epoch < highest {
                let (event, epoch) = (seen.event, seen.epoch);
                self.add(Violation::StaleOwner, || format!("epoch {epoch} wrote {event} after epoch {highest}"));
            }
            highest = highest.max(seen.epoch);
        }
    }

    fn check_dead_letters(&mut self, first: &[&Stored]) -> HashSet<Uuid> {
        let applied: HashSet<Uuid> = first.iter().map(|stored| stored.stored_at.event).collect();
        let mut dead = HashSet::new();
        for event in &self.reader.dead {
            let broken = if !self.by_id.contains_key(event) || !dead.insert(*event) {
                Violation::UnknownDeadLetter
            } else if applied.contains(event) {
                Violation::DeadAndApplied
            } else if !self.reader.poison.contains(event) {
                Violation::NeedlessDeadLetter
            } else {
                continue;
            };
            self.add(broken, || format!("event {event}"));
        }
        dead
    }

    /// Checks that every stored event had an effect or is a dead letter; an event beyond the checkpoint has no effect
    /// yet.
    fn check_completeness(&mut self, evidence: &Evidence, first: &[&Stored], dead: &HashSet<Uuid>) {
        let done: HashSet<Uuid> =
            first.iter().map(|stored| stored.stored_at.event).chain(dead.iter().copied()).collect();
        for stored in evidence.stored.iter().filter(|stored| !done.contains(&stored.stored_at.event)) {
            let is_passed = self.reader.checkpoint.is_some_and(|checkpoint| stored.stored_at.position <= checkpoint);
            self.add(if is_passed { Violation::CheckpointAhead } else { Violation::Skipped }, || describe(stored));
        }
        let Some(checkpoint) = self.reader.checkpoint.filter(|_| self.reader.promise.once) else { return };
        for stored in first.iter().filter(|stored| stored.stored_at.position > checkpoint) {
            self.add(Violation::CheckpointBehind, || {
                format!("checkpoint {checkpoint}, effect of {}", describe(stored))
            });
        }
    }

    fn check_model(&mut self, evidence: &Evidence, dead: &HashSet<Uuid>) {
        let Some(model) = &self.reader.model else { return };
        let expected = evidence.fold(|stored| !dead.contains(&stored.stored_at.event));
        for (stream, folded) in &expected {
            if model.get(stream) != Some(folded) {
                self.add(Violation::WrongModel, || format!("{stream} is {:?}, not {folded:?}", model.get(stream)));
            }
        }
        for stream in model.keys().filter(|stream| !expected.contains_key(*stream)) {
            self.add(Violation::WrongModel, || format!("{stream} has no events"));
        }
    }
}

fn describe(stored: &Stored) -> String {
    format!("{} version {} at {}", stored.stream, stored.stored_at.version, stored.stored_at.position)
}
