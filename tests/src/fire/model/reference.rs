//! The model of a store: a plain vector.

use std::collections::HashMap;

use eventbus::{EventId, Position, RecordedEvent, StreamId, Version, port::Append};

use crate::fire::{HarnessError, evidence::Folded, workload};

/// All events as the store recorded them, in position order.
#[derive(Debug, Default)]
pub(super) struct Reference {
    events: Vec<RecordedEvent>,
    /// The head before the step. The step's appends come after it; those made at once to several streams, in any order.
    step_start: Position,
}

/// The result of an append.
#[derive(Debug)]
pub(super) enum Answer {
    Stored(Vec<RecordedEvent>),
    Conflict(Version),
    IdTaken,
}

/// The result that an append must have.
#[derive(Debug)]
pub(super) enum ExpectedAnswer {
    /// The events that are already stored.
    Known(Vec<RecordedEvent>),
    /// The append, stored after this version.
    New(Append, Version),
    Conflict(Version),
    /// The append mixes a known id with new ones.
    IdTaken,
}

impl Reference {
    /// Starts a step of the program.
    pub(super) fn begin_step(&mut self) {
        self.step_start = self.events.last().and_then(RecordedEvent::position).unwrap_or(self.step_start);
    }

    pub(super) fn version(&self, stream: &StreamId) -> Version {
        self.events_of(stream).last().map_or(Version::NONE, RecordedEvent::version)
    }

    fn events_of(&self, stream: &StreamId) -> impl DoubleEndedIterator<Item = &RecordedEvent> {
        self.events.iter().filter(move |record| record.metadata().stream() == stream)
    }

    pub(super) fn append(&self, append: &Append) -> ExpectedAnswer {
        let by_id: HashMap<EventId, &RecordedEvent> =
            self.events_of(&append.stream).map(|record| (record.metadata().event_id(), record)).collect();
        let known: Vec<_> = append.events.iter().filter_map(|event| by_id.get(&event.event_id()).copied()).collect();
        let version = self.version(&append.stream);
        let is_repeat = known.len() == append.events.len()
            && known.windows(2).all(|pair| pair[0].version().next() == pair[1].version());
        if is_repeat {
            return ExpectedAnswer::Known(known.into_iter().cloned().collect());
        }
        if !known.is_empty() {
            return ExpectedAnswer::IdTaken;
        }
        if append.expected.matches(version) {
            ExpectedAnswer::New(append.clone(), version)
        } else {
            ExpectedAnswer::Conflict(version)
        }
    }

    /// Checks an answer against the expected one; adds the stored events.
    pub(super) fn compare(&mut self, expected_answer: &ExpectedAnswer, answer: &Answer) -> Result<(), HarnessError> {
        match (expected_answer, answer) {
            (ExpectedAnswer::Known(expected), Answer::Stored(found)) => self.check_equal(found, expected, "repeat"),
            (ExpectedAnswer::New(append, version), Answer::Stored(found)) => self.accept(append, *version, found),
            (ExpectedAnswer::Conflict(expected), Answer::Conflict(found)) if expected == found => Ok(()),
            // both errors apply: the store may return either
            (ExpectedAnswer::IdTaken, Answer::IdTaken | Answer::Conflict(_)) => Ok(()),
            (expected_answer, answer) => Err(format!("{answer:?} where {expected_answer:?} was due").into()),
        }
    }

    fn accept(&mut self, append: &Append, version: Version, found: &[RecordedEvent]) -> Result<(), HarnessError> {
        let last = self.events_of(&append.stream).last().and_then(RecordedEvent::position).unwrap_or(self.step_start);
        let last = last.max(self.step_start);
        let positions: Vec<_> = found.iter().filter_map(RecordedEvent::position).collect();
        let grow = positions.first().is_none_or(|first| *first > last) && positions.is_sorted_by(|a, b| a < b);
        if positions.len() != append.events.len() || !grow {
            return Err(format!("positions {positions:?} after {last}").into());
        }
        let expected_events: Vec<_> = append
            .events
            .iter()
            .zip(found.iter().zip(&positions))
            .enumerate()
            .map(|(nth, (event, (found, position)))| {
                let expected_events =
                    event.clone().recorded_as(append.stream.clone(), version.plus(nth + 1), Some(*position));
                expected_events.with_recorded_at(found.metadata().recorded_at())
            })
            .collect();
        self.check_equal(found, &expected_events, "append")?;
        self.events.extend(expected_events);
        self.events.sort_by_key(RecordedEvent::position);
        Ok(())
    }

    pub(super) fn load(&self, stream: &StreamId, from: Version, backward: bool) -> Vec<RecordedEvent> {
        let events = self.events_of(stream);
        if backward {
            return events.rev().filter(|record| record.version() <= from).cloned().collect();
        }
        events.filter(|record| record.version() >= from).cloned().collect()
    }

    /// Returns the events after the first `after` of all events; all of them if there are fewer.
    pub(super) fn feed(&self, after: usize) -> (Option<Position>, &[RecordedEvent]) {
        match self.events.get(after) {
            Some(record) => (record.position(), &self.events[after + 1..]),
            None => (None, &self.events),
        }
    }

    pub(super) fn fold(&self, stream: &StreamId) -> Folded {
        let amounts = self.events_of(stream).filter_map(|record| workload::amount(record).ok());
        amounts.fold(Folded::default(), Folded::plus)
    }

    pub(super) fn check_equal(
        &self,
        found: &[RecordedEvent],
        expected_events: &[RecordedEvent],
        what: &str,
    ) -> Result<(), HarnessError> {
        if found == expected_events {
            return Ok(());
        }
        let brief = |records: &[RecordedEvent]| {
            let brief = |record: &RecordedEvent| (record.metadata().stream().to_string(), record.version().get());
            records.iter().map(brief).collect::<Vec<_>>()
        };
        Err(format!("{what} gave {:?}, not {:?}", brief(found), brief(expected_events)).into())
    }
}
