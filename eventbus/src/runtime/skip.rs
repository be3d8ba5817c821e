//! Events that an operator has taken out of the way of a projection or the relay: skipped, with a reason.
//!
//! Keep: the event stays in the store, and others read it. What a reader skips is a note of the store, changed under a lease,
//! and read around: a row that cannot even be read is never asked for.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    projection::{ProjectionError, RebuildError},
    shown,
    tenure::Candidate,
};
use crate::{
    domain::{clock::SharedClock, error::BoxError, name::Name, stream::Position},
    port::{CheckpointError, EventStore, FeedFilter, LeaseError, ReadError, RecordStream},
};

/// For how long a note is changed at most, before another may change it.
const LEASE: Duration = Duration::from_secs(10);
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// An event that a reader of the feed skips, because an operator said so: it cannot be decoded, or fails for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SkippedEvent {
    /// The reader: `projection:{name}`, or `relay:{destination}`.
    #[serde(serialize_with = "shown::display")]
    pub reader: Name,
    /// Where the event is in the feed.
    pub position: Position,
    /// Why, in the operator's words.
    pub reason: String,
    /// The process in which that was said: host, process id, and digits that no other start has.
    pub by: String,
    /// When, in whole microseconds.
    #[serde(serialize_with = "shown::moment")]
    pub at: OffsetDateTime,
}

/// Why an event was not skipped, or not taken again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SkipError {
    /// The app has no such projection.
    #[error(transparent)]
    NotRunning(#[from] ProjectionError),
    /// The store ends before that position, or it is 0, where nothing is.
    #[error("there is no event at position {position}: the store ends at {head}")]
    NoSuchPosition {
        /// The position.
        position: Position,
        /// Where the store ends.
        head: Position,
    },
    /// The store keeps no notes.
    #[error("the store cannot keep which events `{reader}` skips")]
    NotKept {
        /// The reader.
        reader: Name,
    },
    /// Another process changes what the reader skips, for longer than that takes.
    #[error("another process changes what `{reader}` skips")]
    Busy {
        /// The reader.
        reader: Name,
    },
    /// The note in the store cannot be understood: another program wrote it.
    #[error("what `{reader}` skips cannot be read")]
    Damaged {
        /// The reader.
        reader: Name,
        /// What is wrong with it.
        source: BoxError,
    },
    /// The event is skipped, but the state in memory could not be folded anew.
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
    /// The store could not be asked where it ends.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The note could not be read or written.
    #[error(transparent)]
    Note(#[from] CheckpointError),
    /// The note could not be kept from others.
    #[error(transparent)]
    Lease(#[from] LeaseError),
}

/// A skipped event as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    position: u64,
    reason: String,
    by: String,
    /// Microseconds since 1970.
    at: i64,
}

impl Kept {
    fn of(event: &SkippedEvent) -> Self {
        let micros = event.at.unix_timestamp_nanos() / 1_000;
        let at = i64::try_from(micros).unwrap_or(i64::MAX);
        Self { position: event.position.get(), reason: event.reason.clone(), by: event.by.clone(), at }
    }

    fn event(self, reader: &Name) -> Result<SkippedEvent, BoxError> {
        let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.at) * 1_000)?;
        let position = Position::new(self.position);
        Ok(SkippedEvent { reader: reader.clone(), position, reason: self.reason, by: self.by, at })
    }
}

fn note_of(reader: &Name) -> Name {
    Name::prefixed("skipped:", reader)
}

/// What the relay to a bus is called where it skips events.
pub(crate) fn relay_to(destination: &Name) -> Name {
    Name::prefixed("relay:", destination)
}

/// What a reader skips, sorted by position.
pub(crate) async fn skipped(store: &dyn EventStore, reader: &Name) -> Result<Vec<SkippedEvent>, SkipError> {
    let Some(notes) = store.notes() else {
        return Ok(Vec::new());
    };
    let Some(text) = notes.load_note(&note_of(reader)).await? else {
        return Ok(Vec::new());
    };
    let damaged = |source: BoxError| SkipError::Damaged { reader: reader.clone(), source };
    let kept: Vec<Kept> = serde_json::from_str(&text).map_err(|error| damaged(error.into()))?;
    kept.into_iter().map(|kept| kept.event(reader).map_err(damaged)).collect()
}

/// Who changes what readers skip.
pub(crate) struct Operator {
    pub(crate) store: Arc<dyn EventStore>,
    pub(crate) owner: Name,
    pub(crate) clock: SharedClock,
}

impl Operator {
    /// Notes that `reader` skips an event. Returns `false` if it did so before; the former reason stays then.
    pub(crate) async fn skip(&self, reader: &Name, position: Position, reason: &str) -> Result<bool, SkipError> {
        let head = self.store.head().await?;
        if position == Position::START || position > head {
            return Err(SkipError::NoSuchPosition { position, head });
        }
        let (by, at) = (self.owner.to_string(), self.clock.now());
        let event = SkippedEvent { reader: reader.clone(), position, reason: reason.to_owned(), by, at };
        let is_new = self
            .change(reader, |skipped| match skipped.binary_search_by_key(&position, |event| event.position) {
                Ok(_) => false,
                Err(place) => {
                    skipped.insert(place, event);
                    true
                }
            })
            .await?;
        if is_new {
            tracing::warn!(%reader, %position, reason, "an event is skipped from now on");
        }
        Ok(is_new)
    }

    /// Lets `reader` take an event again. Returns `false` if it did not skip it.
    pub(crate) async fn unskip(&self, reader: &Name, position: Position) -> Result<bool, SkipError> {
        let was_skipped = self
            .change(reader, |skipped| {
                let before = skipped.len();
                skipped.retain(|event| event.position != position);
                skipped.len() < before
            })
            .await?;
        if was_skipped {
            tracing::warn!(%reader, %position, "an event is skipped no more");
        }
        Ok(was_skipped)
    }

    /// Changes the note of a reader; two who do so at once take turns.
    async fn change(
        &self,
        reader: &Name,
        change: impl FnOnce(&mut Vec<SkippedEvent>) -> bool,
    ) -> Result<bool, SkipError> {
        let notes = self.store.notes().ok_or_else(|| SkipError::NotKept { reader: reader.clone() })?;
        let candidate = Candidate {
            store: Arc::clone(&self.store),
            role: note_of(reader),
            owner: self.owner.joined("/", &format!("skip-{:08x}", fastrand::u32(..))),
            ttl: LEASE,
            clock: self.clock.clone(),
        };
        let began = self.clock.instant();
        let tenure = loop {
            match candidate.take(&tokio_util::sync::CancellationToken::new()).await? {
                Some(tenure) => break tenure,
                None if self.clock.elapsed(began) > 2 * LEASE => {
                    return Err(SkipError::Busy { reader: reader.clone() });
                }
                None => self.clock.sleep(ASK_AGAIN).await,
            }
        };
        let changed = async {
            let mut events = skipped(&*self.store, reader).await?;
            let has_changed = change(&mut events);
            if has_changed {
                let kept: Vec<_> = events.iter().map(Kept::of).collect();
                let damaged =
                    |error: serde_json::Error| SkipError::Damaged { reader: reader.clone(), source: error.into() };
                let text = serde_json::to_string(&kept).map_err(damaged)?;
                notes.save_note(&note_of(reader), &text).await?;
            }
            Ok(has_changed)
        };
        let changed = changed.await;
        tenure.give_back().await;
        changed
    }
}

/// The feed without some positions, sorted: what is there is not even asked for.
pub(crate) fn read_around<'s>(
    store: &'s dyn EventStore,
    after: Position,
    through: Position,
    filter: &FeedFilter,
    skipped: &[Position],
) -> RecordStream<'s> {
    let within = skipped.iter().copied().filter(|position| *position > after && *position <= through);
    let (mut parts, mut from) = (Vec::new(), after);
    for position in within {
        let before = Position::new(position.get() - 1);
        if from < before {
            parts.push((from, before));
        }
        from = position;
    }
    if parts.is_empty() && from == after {
        return store.read_feed(after, through, filter);
    }
    if from < through {
        parts.push((from, through));
    }
    let filter = filter.clone();
    Box::pin(stream::iter(parts).flat_map(move |(after, through)| store.read_feed(after, through, &filter)))
}
