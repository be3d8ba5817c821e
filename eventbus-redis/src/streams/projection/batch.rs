//! Loads the next entries of a projection, and detects entries that are gone before they were processed.
//!
//! Invariant: a note beside the checkpoint holds how many of the entries ever added to the stream are not after it; the
//! rest must exist. One script reads checkpoint, note and stream in one instant, else they would not fit each other.

use std::{fmt, str::FromStr};

use eventbus::port::{MessageId, PAGE_BYTES};
use redis::{RedisError, Value};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    EventProjection, StreamProjectionError,
    apply::{CHECKPOINT_START, ProgramReply, ProjectionTarget},
};
use crate::{RedisCommandError, StreamEntry, entry_id::EntryId, keys, reply, script, store::Program};

/// Most entries of a batch; fewer if they have [`PAGE_BYTES`].
const PROJECTION_BATCH_MAX: usize = 100;

/// A position in a stream, as the note holds it. In the text, `-` stands for an unknown number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct StreamPosition {
    pub(super) id: EntryId,
    /// Number of entries ever added to the stream that are not after this position.
    entries_before: Option<u64>,
    /// Hash of the entry at this position.
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

/// The next entries of a projection.
pub(super) struct ProjectionBatch {
    /// The checkpoint, as Redis holds it.
    pub(super) checkpoint: String,
    /// The entries after the position.
    pub(super) entries: Vec<StreamEntry>,
    /// The position in the note, if it fits the checkpoint.
    saved_position: Option<StreamPosition>,
    /// The position with its numbers as of this batch.
    position: StreamPosition,
    loss: Loss,
}

/// Entries that are gone before they were processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    None,
    /// This many were deleted by name, as `XDEL` does.
    Deleted(u64),
    /// This many were trimmed; `None` if unknown, perhaps none.
    Trimmed(Option<u64>),
    /// The stream is a different one.
    Replaced,
}

/// State of a stream, seen from a position in it.
#[derive(Debug, Clone, Copy)]
struct StreamSnapshot {
    /// Number of entries ever added, if the server counts them.
    added: Option<u64>,
    length: u64,
    first: EntryId,
    newest: EntryId,
    highest_deleted: EntryId,
    /// Number of entries after the position; `None` if they are more than a batch.
    entries_after: Option<u64>,
    /// Number of them that the batch has read.
    entries_read: u64,
    /// Hash of the entry at the position, if it exists.
    entry_hash: Option<u64>,
}

impl StreamSnapshot {
    /// Returns `true` if all existing entries are after a position.
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
            // only `XDEL` leaves a gap behind existing entries, perhaps of an id that steps have passed since
            (Some(missing), false) if self.highest_deleted > EntryId::ZERO => Loss::Deleted(missing),
            (Some(_), false) => Loss::Replaced,
            (Some(1), true) if self.highest_deleted > position.id => Loss::Deleted(1),
            (Some(missing), true) => Loss::Trimmed(Some(missing)),
        }
    }

    /// Returns a position with the numbers of this snapshot: entries that are gone count as behind it.
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
    /// Returns the position behind the first `count` entries.
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
    /// Loads the entries after the checkpoint, and saves the projection's note, which trimming respects. Also returns
    /// the number of entries that were deleted by name before they were processed.
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

    /// Sets the checkpoint by hand, behind an entry or before the oldest one: the projection continues there, with the
    /// entries that the stream has now.
    ///
    /// It is for what a run cannot decide: after [`Missing`](StreamProjectionError::Missing) with the id that it names,
    /// if the missing entries may stay missing; after [`Replaced`](StreamProjectionError::Replaced) with `None`, if all
    /// entries in the stream are new. The projection processes the entries after the checkpoint, **once more if it had
    /// processed them**; [`rebuild`](Self::rebuild) begins from zero instead.
    ///
    /// # Errors
    /// [`StreamProjectionError::Command`]; refused too if `entry` is not an id of an entry.
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
            .ok_or_else(|| self.refused_error(&format!("`{text}` is not an id of an entry")))?;
        loop {
            let batch = self.load_batch(&ProjectionTarget::Live, &at.to_string()).await?;
            if self.save_position(&ProjectionTarget::Live, &batch.checkpoint, Some(at), batch.position).await? {
                return Ok(());
            }
        }
    }

    /// Saves the note of a position, and moves the checkpoint if `to` is given. Returns `false` if the checkpoint is no
    /// longer at `from`.
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
            ProgramReply::Refused { key, reason, .. } => Err(self.refused_error(&format!("`{key}`: {reason}"))),
        }
    }

    /// Loads the entries after an id, or after the checkpoint if `from` is empty.
    async fn load_batch(
        &self,
        target: &ProjectionTarget<'_>,
        from: &str,
    ) -> Result<ProjectionBatch, StreamProjectionError> {
        self.check_name()?;
        let (checkpoint, _) = self.progress_keys(target);
        let keys = [self.stream.clone(), checkpoint, keys::projections(&self.stream)];
        self.check_slots(&keys)?;
        let mut script = script::NEXT_PROJECTION_BATCH.key(&keys);
        script.arg(self.progress_name(target)).arg(from).arg(PROJECTION_BATCH_MAX).arg(PAGE_BYTES);
        let reply: Result<BatchReply, _> = self.streams.connection().run_idempotent(&script).await;
        let failed = |error| RedisCommandError::from_command_error(&self.stream, error);
        Ok(parse_batch(reply.map_err(failed)?, from).map_err(|error| failed(error.into()))?)
    }
}

/// Reply of the script.
type BatchReply = (String, String, Value, Value, bool, i64, u64, String, String, String);

fn parse_batch(reply: BatchReply, from: &str) -> Result<ProjectionBatch, RedisError> {
    let (checkpoint, note, own, entries, has_more, added, length, first, newest, highest_deleted) = reply;
    let id = |text: &str| EntryId::parse_id_or_time(text).unwrap_or(EntryId::ZERO);
    let at = id(if from.is_empty() { &checkpoint } else { from });
    let found = |entries| Ok::<_, RedisError>(reply::parse_range_entries(entries)?.into_iter().map(StreamEntry::from));
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
    let noted = note.parse::<StreamPosition>().ok().filter(|position| position.id == at && from.is_empty());
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
