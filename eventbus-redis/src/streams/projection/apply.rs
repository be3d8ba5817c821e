//! One step of a projection: the effects of some entries, and the checkpoint.

use std::collections::BTreeSet;

use super::{
    Applied, StreamProjectionError,
    batch::ProjectionBatch,
    handlers::{EventHandlers, PreparedEntry},
    keys::ProjectionTarget,
    position::StreamPosition,
    step_runner::StepRunner,
};
use crate::{
    program::{AtomicProgram, ProgramReply},
    reply,
};

/// Most commands of one step, unless a single entry has more: the server runs no other command meanwhile (some
/// milliseconds).
const STEP_EFFECTS_MAX: usize = 1_000;

/// Outcome of a step.
pub(super) enum StepOutcome {
    Done,
    /// The checkpoint has moved; the step wrote no key.
    CheckpointMoved,
}

/// Processes a batch. If an entry fails, the entries before it are written.
pub(super) async fn apply_batch(
    runner: &StepRunner,
    handlers: &EventHandlers,
    target: &ProjectionTarget<'_>,
    batch: &ProjectionBatch,
    applied: &mut Applied,
) -> Result<StepOutcome, StreamProjectionError> {
    let (mut prepared, mut failed) = (Vec::with_capacity(batch.entries.len()), None);
    for entry in &batch.entries {
        match handlers.prepare_entry(runner.keys(), entry) {
            Ok(one) => prepared.push(one),
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    let written = match prepared.is_empty() {
        true => StepOutcome::Done,
        false => write_prepared(runner, target, batch, &prepared, applied).await?,
    };
    match (written, failed) {
        (StepOutcome::Done, Some(error)) => Err(error),
        (written, _) => Ok(written),
    }
}

/// Writes the entries in as few steps as possible; if the server refuses one, entry by entry, to find out which.
async fn write_prepared(
    runner: &StepRunner,
    target: &ProjectionTarget<'_>,
    batch: &ProjectionBatch,
    prepared: &[PreparedEntry<'_>],
    applied: &mut Applied,
) -> Result<StepOutcome, StreamProjectionError> {
    let (mut from, mut written, mut is_one_by_one) = (batch.checkpoint.clone(), 0, false);
    while let Some(next) = prepared.get(written) {
        let count = if is_one_by_one { 1 } else { step_len(&prepared[written..]) };
        let position = batch.position_after(written + count);
        let part = &prepared[written..written + count];
        match write_in_one_step(runner, target, &from, position, part, applied).await? {
            ProgramReply::Done(_) => (from, written) = (position.id.to_string(), written + count),
            ProgramReply::Moved => return Ok(StepOutcome::CheckpointMoved),
            ProgramReply::Refused { .. } if count > 1 => is_one_by_one = true,
            ProgramReply::Refused { key, command, reason } => {
                return Err(StreamProjectionError::effect(runner.keys().name(), next.entry, &key, &command, &reason));
            }
            other => return Err(runner.step_error(other)),
        }
    }
    Ok(StepOutcome::Done)
}

async fn write_in_one_step(
    runner: &StepRunner,
    target: &ProjectionTarget<'_>,
    from: &str,
    position: StreamPosition,
    prepared: &[PreparedEntry<'_>],
    applied: &mut Applied,
) -> Result<ProgramReply, StreamProjectionError> {
    let to = position.id.to_string();
    let (checkpoint, listed) = runner.keys().progress_keys(target);
    let mut program = AtomicProgram::default();
    runner.add_checks(&mut program, target, from);
    let effects: Vec<_> = prepared.iter().flat_map(|one| &one.effects).collect();
    for key in effects.iter().map(|effect| &effect.key).collect::<BTreeSet<_>>() {
        program.list_key(&listed, key);
    }
    for (number, effect) in effects.into_iter().enumerate() {
        let backup_key = runner.keys().own_key(&format!("aside:{number}"));
        program.effect(&runner.keys().target_key(target, &effect.key), &backup_key, effect);
    }
    runner.add_position_note(&mut program, target, position);
    program.set(&checkpoint, &to);
    let mut reply = runner.run_program(&program).await?;
    if matches!((&reply, target), (ProgramReply::Moved, ProjectionTarget::Rebuild(_))) {
        // only this rebuild fills these copies: if its step has moved the checkpoint, the reply to a first run was
        // lost
        let at: Option<String> = runner.query_idempotent(&reply::get(&checkpoint)).await?;
        reply = if at.as_ref() == Some(&to) { ProgramReply::Done(Vec::new()) } else { ProgramReply::Moved };
    }
    if matches!(reply, ProgramReply::Done(_)) {
        applied.processed += prepared.len() as u64;
        applied.skipped += prepared.iter().filter(|one| one.is_skipped).count() as u64;
        for unknown in prepared.iter().filter_map(|one| one.unknown) {
            let known = applied.unknown.entry(unknown.to_owned()).or_default();
            if *known == 0 {
                let (projection, stream) = (runner.keys().name(), runner.keys().stream());
                tracing::info!(projection, stream, event_type = unknown, "projection has no handler for event type");
            }
            *known += 1;
        }
    }
    Ok(reply)
}

/// Returns the number of entries to write in one step; at least one.
fn step_len(prepared: &[PreparedEntry<'_>]) -> usize {
    let mut effects = 0;
    let fits = |one: &&PreparedEntry<'_>| {
        effects += one.effects.len();
        effects <= STEP_EFFECTS_MAX
    };
    prepared.iter().take_while(fits).count().max(1)
}
