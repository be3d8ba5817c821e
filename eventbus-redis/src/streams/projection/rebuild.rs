//! Rebuilds a projection into copies of its keys, while the live keys are served.
//!
//! Invariant: only the rebuild whose token is in the key `rebuilding` fills the copies, by the same steps as the live
//! projection, and the step that renames them over the live keys also moves the live checkpoint.
//!
//! | state | event | next state |
//! |---|---|---|
//! | none | `start_rebuild` sets `rebuilding` to its token | clearing |
//! | clearing | the copies of an earlier rebuild are removed, the start is noted | filling |
//! | filling | a batch has entries: the step writes the copies and their checkpoint | filling |
//! | filling | a batch is empty, the live checkpoint has not moved: swap | done: `rebuilding` holds `done <token>` |
//! | filling | a batch is empty, but the live checkpoint has moved | filling: loads the next batch |
//! | clearing, filling | `rebuilding` or the copies' checkpoint is not this rebuild's | superseded: returns the error |
//! | clearing, filling | an error that is not retryable | failed: the copies are removed |
//! | clearing, filling | a retryable error, a drop or a crash | abandoned: the next rebuild removes the copies |
//!
//! The swap is the only transition that changes live keys.

use std::collections::BTreeSet;

use super::{
    Applied, ProjectionProgress, StreamProjectionError,
    apply::{StepOutcome, apply_batch},
    batch::{ProjectionBatch, next_batch},
    handlers::EventHandlers,
    keys::ProjectionTarget,
    position::StreamPosition,
    step_runner::StepRunner,
};
use crate::{
    command::streams,
    program::{AtomicProgram, ProgramReply},
    reply,
};

/// Processes the stream into copies of the keys, then renames the copies over the keys.
pub(super) async fn rebuild(
    runner: &StepRunner,
    handlers: &EventHandlers,
    on_progress: impl FnMut(ProjectionProgress),
) -> Result<Applied, StreamProjectionError> {
    let token = runner.streams().config().clock.new_id().to_string();
    let rebuilt = rebuild_with_token(runner, handlers, &token, on_progress).await;
    if rebuilt.as_ref().is_err_and(|error| !error.is_retryable()) {
        // if this fails too, the next rebuild removes the copies
        drop(clear_copies(runner, &token, None).await);
    }
    rebuilt
}

async fn rebuild_with_token(
    runner: &StepRunner,
    handlers: &EventHandlers,
    token: &str,
    mut on_progress: impl FnMut(ProjectionProgress),
) -> Result<Applied, StreamProjectionError> {
    let target = ProjectionTarget::Rebuild(token);
    start_rebuild(runner, token).await?;
    let length: u64 = runner.query_idempotent(&streams::length(runner.keys().stream())).await?;
    let clock = &runner.streams().config().clock;
    let began = clock.instant();
    let mut report_progress =
        |done: u64| on_progress(ProjectionProgress { done, of: length.max(done), took: clock.elapsed(began) });
    let mut applied = Applied::default();
    loop {
        // read before the entries: if there are none and the swap finds it unchanged, the copies have every entry that
        // the live projection has processed
        let live = runner.live_checkpoint().await?;
        let (batch, deleted) = next_batch(runner, &target).await?;
        applied.deleted += deleted;
        if batch.entries.is_empty() {
            if swap_copies(runner, token, &batch, &live).await? {
                applied.position = batch.checkpoint_id();
                report_progress(applied.processed);
                return Ok(applied);
            }
            continue;
        }
        if let StepOutcome::CheckpointMoved = apply_batch(runner, handlers, &target, &batch, &mut applied).await? {
            return Err(runner.superseded_error());
        }
        report_progress(applied.processed);
    }
}

/// Takes over from an earlier rebuild, and removes its copies.
async fn start_rebuild(runner: &StepRunner, token: &str) -> Result<(), StreamProjectionError> {
    runner.check_name()?;
    let token_key = runner.keys().rebuild_token();
    // before the first write, so that a rebuild whose step would be refused leaves no token
    runner.check_slots(&[token_key.clone(), runner.keys().notes()])?;
    runner.query_idempotent::<redis::Value>(&reply::set(&token_key, token)).await?;
    clear_copies(runner, token, Some(StreamPosition::default())).await
}

/// Removes the copies, and notes the position `start`; without it removes the note too.
async fn clear_copies(
    runner: &StepRunner,
    token: &str,
    start: Option<StreamPosition>,
) -> Result<(), StreamProjectionError> {
    let target = ProjectionTarget::Rebuild(token);
    let (checkpoint, listed) = runner.keys().progress_keys(&target);
    let stale: Vec<String> = runner.query_idempotent(&streams::members(&listed)).await?;
    let mut clear = AtomicProgram::default();
    clear.require_token(&runner.keys().rebuild_token(), token);
    match start {
        Some(position) => runner.add_position_note(&mut clear, &target, position),
        None => runner.change_projection_notes(
            &mut clear,
            "HDEL",
            vec![runner.keys().rebuild_progress_field().into_bytes()],
        ),
    }
    for key in stale {
        clear.unlink(&runner.keys().target_key(&target, &key));
    }
    clear.unlink(&listed);
    clear.unlink(&checkpoint);
    match runner.run_program(&clear).await? {
        ProgramReply::Done(_) => Ok(()),
        other => Err(runner.step_error(other)),
    }
}

/// Renames the copies over the live keys after the last batch. Returns `false` if the live checkpoint is no longer
/// `live`.
async fn swap_copies(
    runner: &StepRunner,
    token: &str,
    batch: &ProjectionBatch,
    live: &str,
) -> Result<bool, StreamProjectionError> {
    let (target, at) = (ProjectionTarget::Rebuild(token), &batch.checkpoint);
    let ((served, served_keys), (filled, copied_keys)) =
        (runner.keys().progress_keys(&ProjectionTarget::Live), runner.keys().progress_keys(&target));
    let copied: BTreeSet<String> = runner.query_idempotent(&streams::members(&copied_keys)).await?;
    let written: BTreeSet<String> = runner.query_idempotent(&streams::members(&served_keys)).await?;
    let mut program = AtomicProgram::default();
    runner.add_checks(&mut program, &target, at);
    program.require_value(&served, live);
    runner.add_position_note(&mut program, &ProjectionTarget::Live, batch.position_after(0));
    runner.change_projection_notes(&mut program, "HDEL", vec![runner.keys().rebuild_progress_field().into_bytes()]);
    for key in &copied {
        program.swap(&runner.keys().target_key(&target, key), key);
    }
    for key in written.difference(&copied) {
        program.unlink(key);
    }
    program.swap(&copied_keys, &served_keys);
    program.set(&served, at);
    let done = format!("done {token}");
    program.unlink(&filled);
    program.set(&runner.keys().rebuild_token(), &done);
    match runner.run_program(&program).await? {
        ProgramReply::Done(_) => Ok(true),
        ProgramReply::Moved => Ok(false),
        // perhaps the reply to a first run was lost, which left `done`
        ProgramReply::TokenTaken => {
            match runner.query_idempotent::<Option<String>>(&reply::get(&runner.keys().rebuild_token())).await? {
                Some(found) if found == done => Ok(true),
                _ => Err(runner.superseded_error()),
            }
        }
        other => Err(runner.step_error(other)),
    }
}
