//! Appends moved events to a store, in their order, with their ids and versions.

use std::{collections::HashSet, sync::Arc};

use eventbus::{
    EventId, ExpectedVersion, Name, NewEvent, Position, RecordedEvent, StreamId, Uuid, Version,
    port::{Append, AppendError, Direction},
    store::{EventStore, FeedFilter, MultiStreamAppend},
};
use futures_util::TryStreamExt as _;

use super::chunk::Chunk;
use crate::error::{CommandError, THE_STORE};

/// The prefix of the names of the checkpoints of moves, before the id of the store from which the events are.
pub(crate) const MOVE_PREFIX: &str = "import:";

/// The most streams of one append.
const STREAMS_MAX: usize = 200;

/// Appends moved events to a store.
///
/// The store keeps a checkpoint of the move, so that the move can go on after an interruption. Events that an
/// interrupted move appended after its checkpoint are not appended again.
///
/// Invariant: before a resumed move appends, it has found the last event of the store among the moved events. If an
/// application has begun to use the store, its events come last.
pub(crate) struct Importer {
    store: Arc<dyn EventStore>,
    checkpoint: Name,
    position: Position,
    /// Set until the end of the chunk that an interrupted move may have stored in part.
    may_be_stored: bool,
    /// The last event of the store when the move resumed, until it is found among the moved events.
    unfound: Option<RecordedEvent>,
}

impl std::fmt::Debug for Importer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Importer({}, {})", self.store.describe(), self.position)
    }
}

impl Importer {
    /// Checks a store, which must be empty, or hold an interrupted move of the events of store `from`.
    pub(crate) async fn check(store: &dyn EventStore, from: Uuid) -> Result<(), CommandError> {
        find_move(store, &checkpoint_of(from)?, from).await.map(drop)
    }

    /// Begins or continues to move the events of store `from` into a store that passes [`check`](Self::check).
    pub(crate) async fn begin(store: Arc<dyn EventStore>, from: Uuid) -> Result<Self, CommandError> {
        let checkpoint = checkpoint_of(from)?;
        let begun = find_move(&*store, &checkpoint, from).await?;
        let position = match begun {
            Some(position) => position,
            None => {
                store.save_checkpoint(&checkpoint, Position::START).await?;
                Position::START
            }
        };
        let unfound = load_last(&*store).await?;
        Ok(Self { store, checkpoint, position, may_be_stored: begun.is_some(), unfound })
    }

    /// The position in the source store after which the move goes on: before the last moved event, which may be the
    /// last one of the store.
    pub(crate) const fn begins_after(&self) -> Position {
        Position::new(self.position.get().saturating_sub(1))
    }

    /// Appends the events of a chunk, unless they are stored already.
    pub(crate) async fn add(&mut self, chunk: &Chunk) -> Result<(), CommandError> {
        if chunk.position <= self.begins_after() {
            return Ok(());
        }
        let (mut batch, mut streams): (Vec<Append>, HashSet<StreamId>) = Default::default();
        for line in chunk.parse()? {
            let (stream, version, event) = line.to_event()?;
            if self.may_be_stored && self.is_stored(&stream, version, event.event_id()).await? {
                self.unfound.take_if(|last| *last.metadata().stream() == stream && last.version() == version);
                continue;
            }
            if let Some(last) = &self.unfound {
                let text = format!(
                    "{} holds an event that was not moved: version {} of `{}`; end what appends to it, and move into an \
                     empty store",
                    self.store.describe(),
                    last.version(),
                    last.metadata().stream()
                );
                return Err(CommandError::fault(text));
            }
            match batch.last_mut() {
                Some(last) if last.stream == stream => last.events.push(event),
                _ => {
                    // a batch holds each stream once, which keeps the order of its events
                    if streams.len() >= STREAMS_MAX || streams.contains(&stream) {
                        streams.clear();
                        self.append(std::mem::take(&mut batch)).await?;
                    }
                    streams.insert(stream.clone());
                    batch.push(append_at(stream, version, event));
                }
            }
        }
        self.append(batch).await?;
        if chunk.position > self.position {
            self.store.save_checkpoint(&self.checkpoint, chunk.position).await?;
            self.position = chunk.position;
            // the interrupted chunk may have ended elsewhere
            self.may_be_stored = self.unfound.is_some();
        }
        Ok(())
    }

    /// Returns `true` if the store holds an event at its version. Fails if it holds a different event there: other
    /// software has then appended to it.
    async fn is_stored(&self, stream: &StreamId, version: Version, id: EventId) -> Result<bool, CommandError> {
        let stored = self.store.read_stream(stream, version, Direction::Forward).try_next().await?;
        match stored.map(|stored| stored.metadata().event_id()) {
            None => Ok(false),
            Some(stored) if stored == id => Ok(true),
            Some(_) => {
                Err(CommandError::fault(format!("version {version} of `{stream}` is a different event in the store")))
            }
        }
    }

    async fn append(&self, mut batch: Vec<Append>) -> Result<(), CommandError> {
        match (batch.len(), self.store.multi_stream_appends()) {
            (0, _) => Ok(()),
            (2.., Some(together)) => {
                let appends = MultiStreamAppend { appends: batch, ..MultiStreamAppend::default() };
                together.append_streams(appends).await.map(drop).map_err(append_error)
            }
            _ => {
                for Append { stream, expected, events } in batch.drain(..) {
                    self.store.append(&stream, expected, events).await.map_err(append_error)?;
                }
                Ok(())
            }
        }
    }
}

fn checkpoint_of(from: Uuid) -> Result<Name, CommandError> {
    Name::new("checkpoint", format!("{MOVE_PREFIX}{from}")).map_err(CommandError::fault)
}

/// Returns the position that an interrupted move has reached; `None` if the store is empty.
async fn find_move(store: &dyn EventStore, checkpoint: &Name, from: Uuid) -> Result<Option<Position>, CommandError> {
    if store.store_id().await? == from {
        return Err(CommandError::Usage("the events are of this store itself, or of a copy of it".into()));
    }
    let begun = store.load_checkpoint(checkpoint).await?;
    if begun.is_none() && store.head().await? > Position::START {
        let text = format!("{} holds events already; move into an empty store", store.describe());
        return Err(CommandError::Usage(text));
    }
    Ok(begun)
}

/// Returns the last event of a store.
async fn load_last(store: &dyn EventStore) -> Result<Option<RecordedEvent>, CommandError> {
    let head = store.head().await?;
    // positions may have gaps
    let mut width = 1_u64;
    loop {
        let after = Position::new(head.get().saturating_sub(width));
        let mut feed = store.read_feed(after, head, &FeedFilter::all());
        let mut last = None;
        while let Some(event) = feed.try_next().await? {
            last = Some(event);
        }
        if last.is_some() || after == Position::START {
            return Ok(last);
        }
        width = width.saturating_mul(16);
    }
}

fn append_at(stream: StreamId, version: Version, event: NewEvent) -> Append {
    let expected = ExpectedVersion::Exact(Version::new(version.get().saturating_sub(1)));
    Append { stream, expected, events: vec![event] }
}

pub(super) fn append_error(error: AppendError) -> CommandError {
    match error {
        AppendError::Unavailable(source) | AppendError::OutcomeUnknown(source) => {
            CommandError::unreachable(THE_STORE, source)
        }
        AppendError::Conflict { stream, expected: ExpectedVersion::Exact(before), actual: Version::NONE } => {
            let text = "its earlier events were archived, and a store without them does not accept the later ones";
            CommandError::fault(format!("`{stream}` begins with version {}: {text}", before.get() + 1))
        }
        error => CommandError::fault(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ExitStatus;

    /// A caller that tries again after the status "cannot be reached" resumes the move.
    #[test]
    fn an_append_without_an_answer_can_be_tried_again() {
        for error in [AppendError::Unavailable("away".into()), AppendError::OutcomeUnknown("away".into())] {
            assert_eq!(append_error(error).status(), ExitStatus::Unreachable);
        }
    }
}
