//! A file of events that another program wrote: a JSON object per line, in zstd if its name ends with `.zst`.
//!
//! Unlike an export it has no header and no checksums. An event without an id gets one that is made of its stream and
//! version, so that a later file of the same events has the same ids.

use std::{
    io::{BufRead, BufReader},
    path::Path,
};

use super::{
    chunk,
    event_line::EventLine,
    export_file::{is_compressed, open_regular},
    importer::append_error,
};
use crate::error::CommandError;
use eventbus::{
    ExpectedVersion, NewEvent, Position, RecordedEvent, StreamId, Version,
    port::{Append, AppendError},
    store::EventStore,
};

/// Limits of the events of one call of a store, which then makes one step of them: of several steps a later one may
/// succeed after a failed one, and the feed would not have the order of the lines.
const CALL_EVENTS_MAX: usize = 256;
const CALL_BYTES_MAX: usize = 1024 * 1024;

/// An event of the file, and where it is to be stored.
#[derive(Debug)]
pub(crate) struct ForeignEvent {
    /// The number of its line, from 1.
    line: u64,
    stream: StreamId,
    /// The version before it.
    before: Version,
    event: NewEvent,
}

/// Reads the events of a file.
pub(crate) struct ForeignReader {
    lines: Box<dyn BufRead + Send + Sync>,
    path: String,
    line: u64,
    bytes: u64,
    /// The highest position so far.
    highest: Position,
    early: Option<EarlyEvents>,
}

/// Events that the feed has before events of earlier lines.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EarlyEvents {
    /// The line of the first one.
    pub(crate) line: u64,
    pub(crate) count: u64,
}

impl std::fmt::Debug for ForeignReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ForeignReader({}, line {})", self.path, self.line)
    }
}

impl ForeignReader {
    pub(crate) fn open(path: &Path) -> Result<Self, CommandError> {
        let file = open_regular(path, "to find mistakes")?;
        let lines: Box<dyn BufRead + Send + Sync> = match is_compressed(path) {
            true => Box::new(BufReader::new(zstd::Decoder::new(file)?)),
            false => Box::new(BufReader::new(file)),
        };
        let (highest, early) = (Position::START, None);
        Ok(Self { lines, path: path.display().to_string(), line: 0, bytes: 0, highest, early })
    }

    /// Returns the appended events that the feed has before events of earlier lines: an earlier import stored these
    /// later, or another program wrote.
    pub(crate) const fn early(&self) -> Option<EarlyEvents> {
        self.early
    }

    /// The number of lines that were read: events, and empty lines.
    pub(crate) const fn lines(&self) -> u64 {
        self.line
    }

    /// Reads the next events, as many as an export has in a chunk; none at the end of the file.
    ///
    /// # Errors
    /// [`CommandError::Fault`] that names the line, if it holds no event.
    pub(crate) fn next_chunk(&mut self) -> Result<Vec<ForeignEvent>, CommandError> {
        let (mut events, mut text, begin) = (Vec::new(), String::new(), self.bytes);
        while events.len() < chunk::EVENTS_MAX && self.bytes - begin < chunk::BYTES_MAX as u64 {
            text.clear();
            let read = self.lines.read_line(&mut text).map_err(|error| self.fault(self.line + 1, error))?;
            if read == 0 {
                break;
            }
            self.bytes += read as u64;
            self.line += 1;
            if !text.trim().is_empty() {
                events.push(parse(&text, self.line).map_err(|error| self.fault(self.line, error))?);
            }
        }
        Ok(events)
    }

    /// Appends events to a store, and compares what the store then has with them. Events that are stored already are
    /// not stored again.
    ///
    /// # Errors
    /// Names the line of the first event that the store refuses, or has with other data.
    pub(crate) async fn append(&mut self, store: &dyn EventStore, events: &[ForeignEvent]) -> Result<(), CommandError> {
        for call in calls(events) {
            self.append_call(store, call).await?;
        }
        Ok(())
    }

    async fn append_call(&mut self, store: &dyn EventStore, events: &[ForeignEvent]) -> Result<(), CommandError> {
        let results = store.append_many(events.iter().map(ForeignEvent::to_append).collect()).await;
        for (foreign, result) in events.iter().zip(results) {
            let stored = result.map_err(|error| match error {
                error @ (AppendError::Unavailable(_) | AppendError::OutcomeUnknown(_)) => append_error(error),
                error => self.fault(foreign.line, error),
            })?;
            let wanted = foreign.event.clone().recorded_as(foreign.stream.clone(), foreign.before.next(), None);
            let wanted = EventLine::from_record(&wanted)?.to_text()?;
            let found = stored.first().map(EventLine::from_record).transpose()?;
            let found = found.as_ref().map(EventLine::to_text).transpose()?;
            if found.as_ref() != Some(&wanted) {
                let text = format!(
                    "the store has this event with other data; import a changed file into an empty store: {}",
                    found.unwrap_or_default()
                );
                return Err(self.fault(foreign.line, text));
            }
            let position = stored.first().and_then(RecordedEvent::position).unwrap_or_default();
            if position < self.highest {
                let early = self.early.get_or_insert(EarlyEvents { line: foreign.line, count: 0 });
                early.count += 1;
            }
            self.highest = self.highest.max(position);
        }
        Ok(())
    }

    fn fault(&self, line: u64, reason: impl std::fmt::Display) -> CommandError {
        CommandError::fault(format!("`{}`, line {line}: {reason}", self.path))
    }
}

/// Splits events for the calls of a store, each within the limits or of one event.
fn calls(events: &[ForeignEvent]) -> impl Iterator<Item = &[ForeignEvent]> {
    let (mut count, mut bytes) = (0, 0);
    events.chunk_by(move |event, next| {
        (count, bytes) = (count + 1, bytes + event.event.payload().len());
        let fits = count < CALL_EVENTS_MAX && bytes + next.event.payload().len() <= CALL_BYTES_MAX;
        if !fits {
            (count, bytes) = (0, 0);
        }
        fits
    })
}

impl ForeignEvent {
    fn to_append(&self) -> Append {
        Append {
            stream: self.stream.clone(),
            expected: ExpectedVersion::Exact(self.before),
            events: vec![self.event.clone()],
        }
    }
}

fn parse(text: &str, line: u64) -> eventbus::Result<ForeignEvent> {
    let foreign: EventLine = serde_json::from_str(text).map_err(|error| in_column(&error))?;
    let before = foreign.version.checked_sub(1).ok_or("the versions of a stream begin with 1")?;
    let (stream, _, event) = foreign.complete().to_event()?;
    event.check()?;
    Ok(ForeignEvent { line, stream, before: Version::new(before), event })
}

/// Describes an error in a line of its own, of which serde says that it is the first line.
fn in_column(error: &serde_json::Error) -> String {
    let said = error.to_string();
    let problem = said.split(" at line ").next().unwrap_or_default();
    format!("{problem} (column {})", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_events_of_one_call_are_few_and_small_or_a_single_one() {
        let line = |version: usize, bytes: usize| {
            let fields = format!("{{\"text\":\"{}\"}}", "x".repeat(bytes));
            let line = format!(
                "{{\"aggregate_type\":\"Note\",\"aggregate_id\":\"n\",\"version\":{version},\"event_type\":\"Noted\",\
                 \"occurred_at\":\"2019-05-17T08:30:00Z\",\"fields\":{fields}}}"
            );
            parse(&line, version as u64).unwrap()
        };
        let sizes = [vec![1; 600], vec![400_000; 5], vec![2_000_000, 1, 1]].concat();
        let events: Vec<_> = sizes.iter().enumerate().map(|(index, bytes)| line(index + 1, *bytes)).collect();
        let lengths: Vec<_> = calls(&events).map(<[_]>::len).collect();
        // the last 88 small ones go with two of 400 kB
        assert_eq!(lengths, [256, 256, 90, 2, 1, 1, 2]);
        let lines = calls(&events).flatten().map(|event| event.line);
        assert!(lines.eq(1..=sizes.len() as u64), "in order");
    }
}
