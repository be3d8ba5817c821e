//! What readers did against what is stored and what is promised of them.

use std::collections::{HashMap, HashSet};

use eventbus::Uuid;

use super::{Broken, ById, Report};
use crate::fire::evidence::{Evidence, Order, Reader, Stored};

pub(super) fn check(reader: &Reader, evidence: &Evidence, by_id: &ById<'_>, report: &mut Report) {
    let mut audit = Audit { reader, by_id, report };
    let first = audit.first_effects();
    audit.order(&first);
    audit.epochs();
    let dead = audit.letters(&first);
    audit.completeness(evidence, &first, &dead);
    audit.model(evidence, &dead);
}

struct Audit<'a> {
    reader: &'a Reader,
    by_id: &'a ById<'a>,
    report: &'a mut Report,
}

impl<'a> Audit<'a> {
    fn add(&mut self, broken: Broken, what: impl FnOnce() -> String) {
        let name = &self.reader.name;
        self.report.add(broken, || format!("`{name}`: {}", what()));
    }

    /// The events that had an effect, in the order in which they had their first one.
    fn first_effects(&mut self) -> Vec<&'a Stored> {
        let mut known = HashSet::with_capacity(self.reader.seen.len());
        let mut first = Vec::with_capacity(self.reader.seen.len());
        for seen in &self.reader.seen {
            match self.by_id.get(&seen.event) {
                None => self.add(Broken::Ghost, || format!("event {}", seen.event)),
                Some(stored) if known.insert(seen.event) => first.push(*stored),
                Some(stored) if self.reader.promise.once => {
                    self.add(Broken::Repeated, || at(stored));
                }
                Some(_) => {}
            }
        }
        first
    }

    fn order(&mut self, first: &[&Stored]) {
        let mut last: HashMap<&str, &Stored> = HashMap::new();
        for stored in first {
            let line = match self.reader.promise.order {
                Order::None => return,
                Order::PerAggregate => &stored.stream,
                Order::Total => "",
            };
            let before = last.insert(line, stored);
            if let Some(before) = before.filter(|before| before.place.position > stored.place.position) {
                self.add(Broken::Reordered, || format!("{} after {}", at(stored), at(before)));
            }
        }
    }

    /// Epochs never go back: who has a lower one than somebody before is no owner any more.
    fn epochs(&mut self) {
        let mut highest = 0;
        for seen in &self.reader.seen {
            if seen.epoch < highest {
                let (event, epoch) = (seen.event, seen.epoch);
                self.add(Broken::StaleOwner, || format!("epoch {epoch} wrote {event} after epoch {highest}"));
            }
            highest = highest.max(seen.epoch);
        }
    }

    fn letters(&mut self, first: &[&Stored]) -> HashSet<Uuid> {
        let applied: HashSet<Uuid> = first.iter().map(|stored| stored.place.event).collect();
        let mut dead = HashSet::new();
        for event in &self.reader.dead {
            let broken = if !self.by_id.contains_key(event) || !dead.insert(*event) {
                Broken::StrangeLetter
            } else if applied.contains(event) {
                Broken::DeadAndApplied
            } else if !self.reader.hopeless.contains(event) {
                Broken::NeedlessLetter
            } else {
                continue;
            };
            self.add(broken, || format!("event {event}"));
        }
        dead
    }

    /// Everything stored had an effect or is a dead letter; what is beyond a checkpoint has no effect yet.
    fn completeness(&mut self, evidence: &Evidence, first: &[&Stored], dead: &HashSet<Uuid>) {
        let done: HashSet<Uuid> = first.iter().map(|stored| stored.place.event).chain(dead.iter().copied()).collect();
        for stored in evidence.stored.iter().filter(|stored| !done.contains(&stored.place.event)) {
            let is_passed = self.reader.checkpoint.is_some_and(|checkpoint| stored.place.position <= checkpoint);
            self.add(if is_passed { Broken::CheckpointAhead } else { Broken::Skipped }, || at(stored));
        }
        let Some(checkpoint) = self.reader.checkpoint.filter(|_| self.reader.promise.once) else { return };
        for stored in first.iter().filter(|stored| stored.place.position > checkpoint) {
            self.add(Broken::CheckpointBehind, || format!("checkpoint {checkpoint}, effect of {}", at(stored)));
        }
    }

    fn model(&mut self, evidence: &Evidence, dead: &HashSet<Uuid>) {
        let Some(model) = &self.reader.model else { return };
        let expected = evidence.fold(|stored| !dead.contains(&stored.place.event));
        for (stream, folded) in &expected {
            if model.get(stream) != Some(folded) {
                self.add(Broken::WrongModel, || format!("{stream} is {:?}, not {folded:?}", model.get(stream)));
            }
        }
        for stream in model.keys().filter(|stream| !expected.contains_key(*stream)) {
            self.add(Broken::WrongModel, || format!("{stream} has no events"));
        }
    }
}

fn at(stored: &Stored) -> String {
    format!("{} version {} at {}", stored.stream, stored.place.version, stored.place.position)
}
