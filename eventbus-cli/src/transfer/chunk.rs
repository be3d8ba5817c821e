//! A chunk: consecutive events of a feed as lines, with the position after them.

use eventbus::{Position, RecordedEvent, port::RecordStream, support::PAGE_BYTES};
use futures_util::TryStreamExt as _;

use super::event_line::EventLine;
use crate::error::CommandError;

/// The most events of a chunk; fewer if they have 4 MiB.
pub(super) const EVENTS_MAX: usize = 1_000;
pub(super) const BYTES_MAX: usize = 4 * PAGE_BYTES;

/// Consecutive events of a feed.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    /// Each event as a line of JSON, with its end.
    pub(super) lines: String,
    pub(crate) events: u64,
    /// The position of the last event.
    pub(crate) position: Position,
}

impl Chunk {
    fn push(&mut self, event: &RecordedEvent) -> Result<(), CommandError> {
        self.lines.push_str(&EventLine::from_record(event)?.to_text()?);
        self.lines.push('\n');
        self.events += 1;
        self.position = event.position().unwrap_or(self.position);
        Ok(())
    }

    /// Parses the events.
    pub(super) fn parse(&self) -> Result<Vec<EventLine>, CommandError> {
        let parse = |line: &str| serde_json::from_str(line).map_err(|error| damaged(self.position, &error));
        self.lines.lines().map(parse).collect()
    }
}

fn damaged(position: Position, error: &serde_json::Error) -> CommandError {
    CommandError::fault(format!("an event before position {position} cannot be read: {error}"))
}

/// Reads the next chunk of a feed; `None` at its end.
pub(crate) async fn read_chunk(feed: &mut RecordStream<'_>) -> Result<Option<Chunk>, CommandError> {
    let mut chunk = Chunk::default();
    while (chunk.events as usize) < EVENTS_MAX && chunk.lines.len() < BYTES_MAX {
        match feed.try_next().await? {
            Some(event) => chunk.push(&event)?,
            None => break,
        }
    }
    Ok(Some(chunk).filter(|chunk| chunk.events > 0))
}
