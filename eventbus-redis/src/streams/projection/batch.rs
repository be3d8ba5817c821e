//! Loads the next entries of a projection, and detects entries that are gone before they were processed.
//!
//! Invariant: a note beside the checkpoint holds how many of all entries ever added to the stream are not after the
//! checkpoint; the rest must exist. One script reads checkpoint, note and stream at the same instant, so that they fit
//! each other.

use eventbus::{port::MessageId, support::PAGE_BYTES};

use super::{
    StreamProjectionError,
    keys::ProjectionTarget,
    position::{Loss, StreamPosition, StreamSnapshot, hash_entry},
    step_runner::{CHECKPOINT_START, StepRunner},
};
use crate::{
    RedisCommandError,
    entry_id::EntryId,
    program::{AtomicProgram, ProgramReply},
    reply::Entry,
    script,
    streams::StreamEntry,
};

/// Most entries of a batch; fewer if they have [`PAGE_BYTES`].
const PROJECTION_BATCH_MAX: usize = 100;

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

impl ProjectionBatch {
    /// Returns the position after the first `count` entries.
    pub(super) fn position_after(&self, count: usize) -> StreamPosition {
        match count.checked_sub(1).and_then(|last| self.entries.get(last)) {
            None => self.position,
            Some(last) => self.position.behind(count, last),
        }
    }

    pub(super) fn checkpoint_id(&self) -> Option<MessageId> {
        Some(MessageId::new(&*self.checkpoint)).filter(|_| self.checkpoint != CHECKPOINT_START)
    }
}

/// Loads the entries after the checkpoint, and saves the projection's note, which trimming respects. Also returns
/// the number of entries that were deleted by name before they were processed.
pub(super) async fn next_batch(
    runner: &StepRunner,
    target: &ProjectionTarget<'_>,
) -> Result<(ProjectionBatch, u64), StreamProjectionError> {
    loop {
        let batch = load_batch(runner, target, "").await?;
        let lost = |entries| StreamProjectionError::Missing {
            projection: runner.keys().name().into(),
            stream: runner.keys().stream().into(),
            after: MessageId::new(batch.position.id.to_string()),
            entries,
        };
        let deleted = match batch.loss {
            Loss::None => 0,
            Loss::Deleted(entries) => entries,
            Loss::Trimmed(entries) => return Err(lost(entries)),
            Loss::Replaced => {
                return Err(StreamProjectionError::Replaced {
                    projection: runner.keys().name().into(),
                    stream: runner.keys().stream().into(),
                    checkpoint: MessageId::new(batch.position.id.to_string()),
                });
            }
        };
        if deleted > 0 {
            let projection = runner.keys().name();
            tracing::warn!(projection, deleted, "entries were deleted before they were processed");
        }
        if batch.saved_position == Some(batch.position)
            || save_position(runner, target, &batch.checkpoint, None, batch.position).await?
        {
            return Ok((batch, deleted));
        }
    }
}

/// Sets the checkpoint on request, after an entry or before the oldest one.
pub(super) async fn set_checkpoint_after(
    runner: &StepRunner,
    entry: Option<&MessageId>,
) -> Result<(), StreamProjectionError> {
    let text = entry.map_or(CHECKPOINT_START, MessageId::as_str);
    let at = EntryId::parse_id_or_time(text)
        .ok_or_else(|| runner.refused_error(&format!("`{text}` is not an id of an entry")))?;
    loop {
        let batch = load_batch(runner, &ProjectionTarget::Live, &at.to_string()).await?;
        if save_position(runner, &ProjectionTarget::Live, &batch.checkpoint, Some(at), batch.position).await? {
            return Ok(());
        }
    }
}

/// Saves the note of a position, and moves the checkpoint if `to` is given. Returns `false` if the checkpoint is no
/// longer at `from`.
async fn save_position(
    runner: &StepRunner,
    target: &ProjectionTarget<'_>,
    from: &str,
    to: Option<EntryId>,
    position: StreamPosition,
) -> Result<bool, StreamProjectionError> {
    let (checkpoint, _) = runner.keys().progress_keys(target);
    let mut program = AtomicProgram::default();
    runner.add_checks(&mut program, target, from);
    runner.add_position_note(&mut program, target, position);
    match to {
        None => {}
        Some(EntryId::ZERO) => program.unlink(&checkpoint),
        Some(to) => program.set(&checkpoint, &to.to_string()),
    }
    match runner.run_program(&program).await? {
        ProgramReply::Done(_) => Ok(true),
        ProgramReply::Moved => Ok(false),
        other => Err(runner.step_error(other)),
    }
}

/// Loads the entries after an id, or after the checkpoint if `from` is empty.
async fn load_batch(
    runner: &StepRunner,
    target: &ProjectionTarget<'_>,
    from: &str,
) -> Result<ProjectionBatch, StreamProjectionError> {
    runner.check_name()?;
    let (checkpoint, _) = runner.keys().progress_keys(target);
    let keys = [runner.keys().stream().into(), checkpoint, runner.keys().notes()];
    runner.check_slots(&keys)?;
    let mut script = script::streams::NEXT_PROJECTION_BATCH.key(&keys);
    script.arg(runner.keys().progress_name(target)).arg(from).arg(PROJECTION_BATCH_MAX).arg(PAGE_BYTES);
    let reply: Result<BatchReply, _> = runner.streams().connection().run_idempotent(&script).await;
    let reply = reply.map_err(|error| RedisCommandError::from_command_error(runner.keys().stream(), error))?;
    Ok(parse_batch(reply, from))
}

/// Reply of the script.
type BatchReply = (String, String, Vec<Entry>, Vec<Entry>, bool, i64, u64, String, String, String);

fn parse_batch(reply: BatchReply, from: &str) -> ProjectionBatch {
    let (checkpoint, note, own, entries, has_more, added, length, first, newest, highest_deleted) = reply;
    let id = |text: &str| EntryId::parse_id_or_time(text).unwrap_or(EntryId::ZERO);
    let at = id(if from.is_empty() { &checkpoint } else { from });
    let own = own.into_iter().map(StreamEntry::from).find(|entry| id(entry.id.as_str()) == at);
    let entries: Vec<_> = entries.into_iter().map(StreamEntry::from).collect();
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
    let loss = stream.detect_loss(noted.unwrap_or(StreamPosition::at(at)));
    ProjectionBatch { checkpoint, entries, saved_position: noted, position: stream.position_at(at, noted), loss }
}
