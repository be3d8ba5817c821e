//! The findings of the auditor.

use std::{collections::BTreeMap, fmt};

/// A broken promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Violation {
    /// A version of a stream is missing.
    VersionGap,
    /// In a stream a higher version has a lower position.
    StreamOrder,
    /// Two events have one position.
    PositionTwice,
    /// An event is stored twice.
    StoredTwice,
    /// An acknowledged event is missing in the store.
    LostAck,
    /// An acknowledged event is stored at a different place than the answer said.
    MovedAck,
    /// A stored event was never appended.
    Phantom,
    /// An event is stored although each of its appends was refused.
    RefusedStored,
    /// An append is stored in part, or its events are not consecutive.
    HalfAppend,
    /// An event had no effect.
    Skipped,
    /// An event had more than one effect.
    Repeated,
    /// Events had their effects in the wrong order.
    Reordered,
    /// An event that is not stored had an effect.
    UnknownEffect,
    /// A former owner of a lease wrote.
    StaleOwner,
    /// A checkpoint has passed an event that had no effect.
    CheckpointAhead,
    /// A checkpoint is behind an event that had its effect in the checkpoint's transaction.
    CheckpointBehind,
    /// A dead letter is of no stored event, or there are two of one event.
    UnknownDeadLetter,
    /// A dead letter of an event that could have been handled.
    NeedlessDeadLetter,
    /// An event is a dead letter and had an effect.
    DeadAndApplied,
    /// The read model differs from the fold of all events.
    WrongModel,
}

/// The violations found, counted, with examples.
#[derive(Debug, Clone, Default)]
pub struct Report(BTreeMap<Violation, (u64, Vec<String>)>);

impl Report {
    const EXAMPLES: usize = 5;

    pub(in crate::fire) fn add(&mut self, violation: Violation, what: impl FnOnce() -> String) {
        let (times, examples) = self.0.entry(violation).or_default();
        *times += 1;
        if examples.len() < Self::EXAMPLES {
            examples.push(what());
        }
    }

    /// Returns `true` if every promise was kept.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns how often promises of these kinds were broken.
    #[must_use]
    pub fn count(&self, kinds: &[Violation]) -> u64 {
        kinds.iter().filter_map(|kind| self.0.get(kind)).map(|(times, _)| times).sum()
    }

    /// Returns the kinds of broken promises.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.0.keys().copied().collect()
    }

    /// Adds the findings of a second report.
    pub fn merge(&mut self, other: Self) {
        for (violation, (times, examples)) in other.0 {
            let known = self.0.entry(violation).or_default();
            known.0 += times;
            let room = Self::EXAMPLES.saturating_sub(known.1.len());
            known.1.extend(examples.into_iter().take(room));
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            return f.write_str("every promise was kept");
        }
        for (violation, (times, examples)) in &self.0 {
            writeln!(f, "{violation:?}, {times} times: {}", examples.join("; "))?;
        }
        Ok(())
    }
}
