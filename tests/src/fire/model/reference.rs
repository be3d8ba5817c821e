//! A store as a plain vector.

use std::collections::HashMap;

use eventbus::{EventId, Position, RecordedEvent, StreamId, Version, port::Append};

use crate::fire::{Trouble, evidence::Folded, workload};

/// All events, in position order, as the store has recorded them.
#[derive(Debug, Default)]
pub(super) struct Reference {
    events: Vec<RecordedEvent>,
    /// Where the step began: what it appends comes after. Appends made at once to several streams come in any order.
    floor: Position,
}

/// What came of an append.
#[derive(Debug)]
pub(super) enum Answer {
    Stored(Vec<RecordedEvent>),
    Conflict(Version),
    IdTaken,
}

/// What has to come of an append.
#[derive(Debug)]
pub(super) enum Due {
    /// These are stored already.
    Known(Vec<RecordedEvent>),
    /// They follow the version.
    New(Append, Version),
    Conflict(Version),
    /// A known id among new ones.
    IdTaken,
}

impl Reference {
    /// A step of the program begins.
    pub(super) fn begin_step(&mut self) {
        self.floor = self.events.last().and_then(RecordedEvent::position).unwrap_or(self.floor);
    }

    pub(super) fn version(&self, stream: &StreamId) -> Version {
        self.of(stream).last().map_or(Version::NONE, RecordedEvent::version)
    }

    fn of(&self, stream: &StreamId) -> impl DoubleEndedIterator<Item = &RecordedEvent> {
        self.events.iter().filter(move |record| record.metadata().stream() == stream)
    }

    pub(super) fn append(&self, append: &Append) -> Due {
        let by_id: HashMap<EventId, &RecordedEvent> =
            self.events.iter().map(|record| (record.metadata().event_id(), record)).collect();
        let known: Vec<_> = append.events.iter().filter_map(|event| by_id.get(&event.event_id()).copied()).collect();
        let version = self.version(&append.stream);
        let is_repeat = known.len() == append.events.len()
            && known.iter().all(|record| *record.metadata().stream() == append.stream)
            && known.windows(2).all(|pair| pair[0].version().next() == pair[1].version());
        if is_repeat {
            return Due::Known(known.into_iter().cloned().collect());
        }
        if !known.is_empty() {
            return Due::IdTaken;
        }
        if append.expected.matches(version) { Due::New(append.clone(), version) } else { Due::Conflict(version) }
    }

    /// Whether that came which was due; takes in what was stored.
    pub(super) fn compare(&mut self, due: &Due, answer: &Answer) -> Result<(), Trouble> {
        match (due, answer) {
            (Due::Known(expected), Answer::Stored(found)) => self.same(found, expected, "repeat"),
            (Due::New(append, version), Answer::Stored(found)) => self.take(append, *version, found),
            (Due::Conflict(expected), Answer::Conflict(found)) if expected == found => Ok(()),
            // both are true of it: the store may say either
            (Due::IdTaken, Answer::IdTaken | Answer::Conflict(_)) => Ok(()),
            (due, answer) => Err(format!("{answer:?} where {due:?} was due").into()),
        }
    }

    fn take(&mut self, append: &Append, version: Version, found: &[RecordedEvent]) -> Result<(), Trouble> {
        let last = self.of(&append.stream).last().and_then(RecordedEvent::position).unwrap_or(self.floor);
        let last = last.max(self.floor);
        let positions: Vec<_> = found.iter().filter_map(RecordedEvent::position).collect();
        let grow = positions.first().is_none_or(|first| *first > last) && positions.is_sorted_by(|a, b| a < b);
        if positions.len() != append.events.len() || !grow {
            return Err(format!("positions {positions:?} after {last}").into());
        }
        let due: Vec<_> = append
            .events
            .iter()
            .zip(found.iter().zip(&positions))
            .enumerate()
            .map(|(nth, (event, (found, position)))| {
                let due = event.clone().recorded_as(append.stream.clone(), version.plus(nth + 1), Some(*position));
                due.with_recorded_at(found.metadata().recorded_at())
            })
            .collect();
        self.same(found, &due, "append")?;
        self.events.extend(due);
        self.events.sort_by_key(RecordedEvent::position);
        Ok(())
    }

    pub(super) fn load(&self, stream: &StreamId, from: Version, backward: bool) -> Vec<RecordedEvent> {
        let events = self.of(stream);
        if backward {
            return events.rev().filter(|record| record.version() <= from).cloned().collect();
        }
        events.filter(|record| record.version() >= from).cloned().collect()
    }

    /// What follows after the nth of all events; everything if there are fewer.
    pub(super) fn feed(&self, after: usize) -> (Option<Position>, &[RecordedEvent]) {
        match self.events.get(after) {
            Some(record) => (record.position(), &self.events[after + 1..]),
            None => (None, &self.events),
        }
    }

    pub(super) fn fold(&self, stream: &StreamId) -> Folded {
        let amounts = self.of(stream).filter_map(|record| workload::amount(record).ok());
        amounts.fold(Folded::default(), Folded::and)
    }

    pub(super) fn same(&self, found: &[RecordedEvent], due: &[RecordedEvent], what: &str) -> Result<(), Trouble> {
        if found == due {
            return Ok(());
        }
        let brief = |records: &[RecordedEvent]| {
            let brief = |record: &RecordedEvent| (record.metadata().stream().to_string(), record.version().get());
            records.iter().map(brief).collect::<Vec<_>>()
        };
        Err(format!("{what} gave {:?}, not {:?}", brief(found), brief(due)).into())
    }
}
