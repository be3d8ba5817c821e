//! What a projection has to process next, and whether entries are gone that it had not processed.
//!
//! Keep: beside the checkpoint it is noted how many of the entries that the stream ever got are behind it; all others
//! must be there. Checkpoint, note and stream are looked at in one instant, else they do not fit each other.

use std::{fmt, str::FromStr};

use eventbus::port::{MessageId, PAGE_BYTES};
use redis::{RedisError, Value};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    EventProjection, StreamProjectionError,
    apply::{CHECKPOINT_START, ProgramReply, ProjectionTarget},
};
use crate::{RedisCommandError, StreamEntry, command, entry_id::EntryId, keys, script, store::Program};

/// How many entries are processed in one step; fewer if they have [`PAGE_BYTES`].
const PROJECTION_BATCH_MAX: usize = 100;

/// What is known of a place in a stream. What is not known is a `-` in the text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct StreamPosition {
    pub(super) id: EntryId,
    /// How many of the entries that the stream ever got are not after it.
    entries_before: Option<u64>,
    /// What the entry itself is, as a hash.
    entry_hash: Option<u64>,
}

impl fmt::Display for StreamPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        write!(f, "{} {} {}", self.id, text(self.entries_before), text(self.entry_hash))
    }
}

impl FromStr for StreamPosition {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split(' ');
        let at = words.next().unwrap_or_default().parse().map_err(drop)?;
        let mut number = || words.next().and_then(|word| word.parse().ok());
        Ok(Self { id: at, entries_before: number(), entry_hash: number() })
    }
}

/// What a projection has before it.
pub(super) struct ProjectionBatch {
    /// The checkpoint, as it stands there.
    pub(super) checkpoint: String,
    /// What comes next.
    pub(super) entries: Vec<StreamEntry>,
    /// What is noted of the place.
    saved_position: Option<StreamPosition>,
    /// The place, with what is known of it now.
    position: StreamPosition,
    loss: Loss,
}

/// Whether entries are gone that were not processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    None,
    /// So many were deleted by name, as `XDEL` does.
    Deleted(u64),
    /// So many were trimmed away; `None` if nobody knows.
    Trimmed(Option<u64>),
    /// It is another stream.
    Replaced,
}

/// How a stream stands, seen from a place in it.
#[derive(Debug, Clone, Copy)]
struct StreamSnapshot {
    /// How many entries it ever got, if the server counts.
    added: Option<u64>,
    length: u64,
    first: EntryId,
    newest: EntryId,
    highest_deleted: EntryId,
    /// How many it has after the place; `None` if they are many.
    entries_after: Option<u64>,
    /// How many of those were read.
    entries_read: u64,
    /// What the entry of the place is, if it is there.
    entry_hash: Option<u64>,
}

impl StreamSnapshot {
    /// Whether all entries that it has are after a place.
    fn starts_after(&self, at: EntryId) -> bool {
        self.length == 0 || self.first > at
    }

    fn detect_loss(&self, position: StreamPosition) -> Loss {
        let Some(added) = self.added else {
            return Loss::None;
        };
        let is_other = self.entry_hash.is_some_and(|found| position.entry_hash.is_some_and(|seen| seen != found));
        if is_other || self.newest < position.id {
            return Loss::Replaced;
        }
        let Some(behind) = position.entries_before else {
            let may_miss = self.starts_after(position.id) && position.id != EntryId::ZERO && self.newest > position.id;
            return if may_miss { Loss::Trimmed(None) } else { Loss::None };
        };
        let Some(missing) = added.checked_sub(behind.saturating_add(self.entries_after.unwrap_or(self.entries_read)))
        else {
            return Loss::Replaced;
        };
        match (self.entries_after.map(|_| missing), self.starts_after(position.id)) {
            (None | Some(0), _) => Loss::None,
            // in the middle nothing is trimmed; it may be that steps have passed what was deleted
            (Some(missing), false) if self.highest_deleted > EntryId::ZERO => Loss::Deleted(missing),
            (Some(_), false) => Loss::Replaced,
            (Some(1), true) if self.highest_deleted > position.id => Loss::Deleted(1),
            (Some(missing), true) => Loss::Trimmed(Some(missing)),
        }
    }

    /// What is known of a place, if nothing that is gone after it counts.
    fn position_at(&self, at: EntryId, noted: Option<StreamPosition>) -> StreamPosition {
        let counted = self.entries_after.and_then(|after| self.added?.checked_sub(after));
        let noted = noted.unwrap_or_default();
        StreamPosition {
            id: at,
            entries_before: counted.or(noted.entries_before),
            entry_hash: self.entry_hash.or(noted.entry_hash),
        }
    }
}

impl ProjectionBatch {
    /// The place behind so many of the entries.
    pub(super) fn position_after(&self, count: usize) -> StreamPosition {
        match count.checked_sub(1).and_then(|last| self.entries.get(last)) {
            None => self.position,
            Some(last) => StreamPosition {
                id: last.id.as_str().parse().unwrap_or(EntryId::ZERO),
                entries_before: self.position.entries_before.map(|behind| behind.saturating_add(count as u64)),
                entry_hash: Some(hash_entry(last)),
            },
        }
    }

    pub(super) fn checkpoint_id(&self) -> Option<MessageId> {
        Some(MessageId::new(&*self.checkpoint)).filter(|_| self.checkpoint != CHECKPOINT_START)
    }
}

impl EventProjection {
    /// Looks from the checkpoint on, and makes the projection known to those who trim. Returns how many entries were
    /// deleted by name before they were processed, too.
    pub(super) async fn next_batch(
        &self,
        target: &ProjectionTarget<'_>,
    ) -> Result<(ProjectionBatch, u64), StreamProjectionError> {
        loop {
            let batch = self.load_batch(target, "").await?;
            let lost = |entries| StreamProjectionError::Missing {
                projection: self.name.clone(),
                stream: self.stream.clone(),
                after: MessageId::new(batch.position.id.to_string()),
                entries,
            };
            let deleted = match batch.loss {
                Loss::None => 0,
                Loss::Deleted(entries) => entries,
                Loss::Trimmed(entries) => return Err(lost(entries)),
                Loss::Replaced => {
                    return Err(StreamProjectionError::Replaced {
                        projection: self.name.clone(),
                        stream: self.stream.clone(),
                        checkpoint: MessageId::new(batch.position.id.to_string()),
                    });
                }
            };
            if deleted > 0 {
                tracing::warn!(projection = self.name, deleted, "entries were deleted before they were processed");
            }
            if batch.saved_position == Some(batch.position)
                || self.save_position(target, &batch.checkpoint, None, batch.position).await?
            {
                return Ok((batch, deleted));
            }
        }
    }

    /// Sets the checkpoint by hand, behind an entry or before the oldest one: the projection goes on there, with what
    /// the stream has now.
    ///
    /// It is for what a run cannot decide: after [`Missing`](StreamProjectionError::Missing) with the id that it names,
    /// if what is missing may stay missing; after [`Replaced`](StreamProjectionError::Replaced) with `None`, if all that
    /// is in the stream now is new. What is after the entry is processed, **once more if it was**;
    /// [`rebuild`](Self::rebuild) begins from zero instead.
    ///
    /// # Errors
    /// [`StreamProjectionError::Command`]; refused too if it is no id of an entry.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn run(stats: eventbus_redis::EventProjection) -> eventbus::Result<()> {
    /// use eventbus_redis::StreamProjectionError;
    /// if let Err(StreamProjectionError::Missing { after, entries, .. }) = stats.catch_up().await {
    ///     eprintln!("{entries:?} orders are missing in the statistics from now on");
    ///     stats.set_checkpoint_after(Some(&after)).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "save_checkpoint")]
    pub async fn set_checkpoint_after(&self, entry: Option<&MessageId>) -> Result<(), StreamProjectionError> {
        let text = entry.map_or(CHECKPOINT_START, MessageId::as_str);
        let at = EntryId::parse_id_or_time(text)
            .ok_or_else(|| self.refused_error(&format!("`{text}` is no id of an entry")))?;
        loop {
            let batch = self.load_batch(&ProjectionTarget::Live, &at.to_string()).await?;
            if self.save_position(&ProjectionTarget::Live, &batch.checkpoint, Some(at), batch.position).await? {
                return Ok(());
            }
        }
    }

    /// Notes what is known of a place, if the checkpoint is still there; and moves it, if it is to be moved.
    async fn save_position(
        &self,
        target: &ProjectionTarget<'_>,
        from: &str,
        to: Option<EntryId>,
        position: StreamPosition,
    ) -> Result<bool, StreamProjectionError> {
        let (checkpoint, _) = self.progress_keys(target);
        let mut program = Program::default();
        self.add_checks(&mut program, target, from);
        self.add_position_note(&mut program, target, position);
        match to {
            None => {}
            Some(EntryId::ZERO) => drop(program.arg("drop").key(&checkpoint)),
            Some(to) => drop(program.arg("set").key(&checkpoint).arg(to.to_string())),
        }
        match self.run_program(&program).await? {
            ProgramReply::Done => Ok(true),
            ProgramReply::CheckpointMoved => Ok(false),
            ProgramReply::Superseded => Err(self.superseded_error()),
            ProgramReply::Refused { key, reason: said, .. } => Err(self.refused_error(&format!("`{key}`: {said}"))),
        }
    }

    /// Looks from an id on, or from the checkpoint.
    async fn load_batch(
        &self,
        target: &ProjectionTarget<'_>,
        from: &str,
    ) -> Result<ProjectionBatch, StreamProjectionError> {
        self.check_name()?;
        let (checkpoint, _) = self.progress_keys(target);
        let keys = [self.stream.clone(), checkpoint, keys::projections(&self.stream)];
        self.check_slots(&keys)?;
        let mut look = script::NEXT_PROJECTION_BATCH.key(&keys);
        look.arg(self.progress_name(target)).arg(from).arg(PROJECTION_BATCH_MAX).arg(PAGE_BYTES);
        let reply: Result<BatchReply, _> = self.streams.connection().run_idempotent(&look).await;
        let failed = |error| RedisCommandError::from_command_error(&self.stream, error);
        Ok(parse_batch(reply.map_err(failed)?, from).map_err(|error| failed(error.into()))?)
    }
}

/// What the script replies.
type BatchReply = (String, String, Value, Value, bool, i64, u64, String, String, String);

fn parse_batch(looked: BatchReply, from: &str) -> Result<ProjectionBatch, RedisError> {
    let (checkpoint, note, own, entries, has_more, added, length, first, newest, highest_deleted) = looked;
    let id = |text: &str| EntryId::parse_id_or_time(text).unwrap_or(EntryId::ZERO);
    let at = id(if from.is_empty() { &checkpoint } else { from });
    let found =
        |entries| Ok::<_, RedisError>(command::parse_range_entries(entries)?.into_iter().map(StreamEntry::from));
    let own = found(own)?.find(|entry| id(entry.id.as_str()) == at);
    let entries: Vec<_> = found(entries)?.collect();
    let (first, read) = (id(&first), entries.len() as u64);
    let mut stream = StreamSnapshot {
        added: u64::try_from(added).ok(),
        length,
        first,
        newest: id(&newest),
        highest_deleted: id(&highest_deleted),
        entries_after: (!has_more).then_some(read),
        entries_read: read,
        entry_hash: own.as_ref().map(hash_entry),
    };
    if stream.starts_after(at) {
        stream.entries_after = Some(length);
    }
    let noted = note.parse::<StreamPosition>().ok().filter(|mark| mark.id == at && from.is_empty());
    let loss = stream.detect_loss(noted.unwrap_or(StreamPosition { id: at, ..StreamPosition::default() }));
    Ok(ProjectionBatch { checkpoint, entries, saved_position: noted, position: stream.position_at(at, noted), loss })
}

fn hash_entry(entry: &StreamEntry) -> u64 {
    let mut all = Vec::new();
    for (name, value) in entry.fields() {
        for part in [name.as_bytes(), value] {
            all.extend_from_slice(&part.len().to_le_bytes());
            all.extend_from_slice(part);
        }
    }
    xxh3_64(&all)
}
