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
    Applied, EventProjection, ProjectionProgress, StreamProjectionError,
    apply::{ProgramReply, ProjectionTarget, StepOutcome},
    batch::{ProjectionBatch, StreamPosition},
    progress::ProgressReporter,
};
use crate::{command::streams, keys, reply, store::Program};

impl EventProjection {
    /// Processes the stream from its oldest entry on, into copies of the keys, then renames the copies over the keys
    /// together with the checkpoint. Until then the old numbers are served, and a running projection updates them.
    /// Returns how many entries were [processed](Applied::processed).
    ///
    /// The last step removes keys that the projection wrote before and that the rebuild does not write. `on_progress`
    /// is called after each hundred entries. The next rebuild removes the copies of one that was dropped or killed; of
    /// several at once the one that began last wins. The last step names all keys at once: it takes about a millisecond
    /// for a thousand of them.
    ///
    /// # Errors
    /// [`StreamProjectionError`]; the live keys are then unchanged, and if the server is available, the copies are
    /// removed.
    pub async fn rebuild(&self, on_progress: impl FnMut(ProjectionProgress)) -> Result<Applied, StreamProjectionError> {
        let token = self.streams.config().clock.new_id().to_string();
        let rebuilt = self.rebuild_with_token(&token, on_progress).await;
        if rebuilt.as_ref().is_err_and(|error| !error.is_retryable()) {
            // if this fails too, the next rebuild removes the copies
            drop(self.clear_copies(&token, None).await);
        }
        rebuilt
    }

    async fn rebuild_with_token(
        &self,
        token: &str,
        on_progress: impl FnMut(ProjectionProgress),
    ) -> Result<Applied, StreamProjectionError> {
        let target = ProjectionTarget::Rebuild(token);
        self.start_rebuild(token).await?;
        let mut progress = ProgressReporter::new(
            self.query(&streams::length(&self.stream)).await?,
            on_progress,
            self.streams.config().clock.clone(),
        );
        let mut applied = Applied::default();
        loop {
            // read before the entries: if there are none and the swap finds it unchanged, the copies lack no entry that
            // the live projection has processed
            let live = self.live_checkpoint().await?;
            let (batch, deleted) = self.next_batch(&target).await?;
            applied.deleted += deleted;
            if batch.entries.is_empty() {
                if self.swap_copies(token, &batch, &live).await? {
                    applied.position = batch.checkpoint_id();
                    progress.report_progress(applied.processed);
                    return Ok(applied);
                }
                continue;
            }
            if let StepOutcome::CheckpointMoved = self.apply_batch(&target, &batch, &mut applied).await? {
                return Err(self.superseded_error());
            }
            progress.report_progress(applied.processed);
        }
    }

    /// Takes over from an earlier rebuild, and removes its copies.
    async fn start_rebuild(&self, token: &str) -> Result<(), StreamProjectionError> {
        self.check_name()?;
        let token_key = self.own_key("rebuilding");
        // before the first write, so that a rebuild whose step would be refused leaves no token
        self.check_slots(&[token_key.clone(), keys::projections(&self.stream)])?;
        self.query::<redis::Value>(&reply::set(&token_key, token)).await?;
        self.clear_copies(token, Some(StreamPosition::default())).await
    }

    /// Removes the copies, and notes the position `start`; without it removes the note too.
    async fn clear_copies(&self, token: &str, start: Option<StreamPosition>) -> Result<(), StreamProjectionError> {
        let target = ProjectionTarget::Rebuild(token);
        let (checkpoint, listed) = self.progress_keys(&target);
        let stale: Vec<String> = self.query(&streams::members(&listed)).await?;
        let mut clear = Program::default();
        clear.arg("claim").key(&self.own_key("rebuilding")).arg(token);
        match start {
            Some(position) => self.add_position_note(&mut clear, &target, position),
            None => self.change_projection_notes(&mut clear, "HDEL", vec![self.rebuild_progress_field().into_bytes()]),
        }
        for key in stale {
            clear.arg("drop").key(&self.target_key(&target, &key));
        }
        clear.arg("drop").key(&listed).arg("drop").key(&checkpoint);
        match self.run_program(&clear).await? {
            ProgramReply::Done => Ok(()),
            ProgramReply::CheckpointMoved | ProgramReply::Superseded => Err(self.superseded_error()),
            ProgramReply::Refused { key, reason, .. } => Err(self.refused_error(&format!("`{key}`: {reason}"))),
        }
    }

    /// Renames the copies over the live keys after the last batch. Returns `false` if the live checkpoint is no longer
    /// `live`.
    async fn swap_copies(
        &self,
        token: &str,
        batch: &ProjectionBatch,
        live: &str,
    ) -> Result<bool, StreamProjectionError> {
        let (target, at) = (ProjectionTarget::Rebuild(token), &batch.checkpoint);
        let ((served, served_keys), (filled, copied_keys)) =
            (self.progress_keys(&ProjectionTarget::Live), self.progress_keys(&target));
        let copied: BTreeSet<String> = self.query(&streams::members(&copied_keys)).await?;
        let written: BTreeSet<String> = self.query(&streams::members(&served_keys)).await?;
        let mut program = Program::default();
        self.add_checks(&mut program, &target, at);
        program.arg("at").key(&served).arg(live);
        self.add_position_note(&mut program, &ProjectionTarget::Live, batch.position_after(0));
        self.change_projection_notes(&mut program, "HDEL", vec![self.rebuild_progress_field().into_bytes()]);
        for key in &copied {
            program.arg("swap").key(&self.target_key(&target, key)).key(key);
        }
        for key in written.difference(&copied) {
            program.arg("drop").key(key);
        }
        program.arg("swap").key(&copied_keys).key(&served_keys);
        program.arg("set").key(&served).arg(at);
        let done = format!("done {token}");
        program.arg("drop").key(&filled).arg("set").key(&self.own_key("rebuilding")).arg(&done);
        match self.run_program(&program).await? {
            ProgramReply::Done => Ok(true),
            ProgramReply::CheckpointMoved => Ok(false),
            // perhaps the reply to a first run was lost, which left `done`
            ProgramReply::Superseded => {
                match self.query::<Option<String>>(&reply::get(&self.own_key("rebuilding"))).await? {
                    Some(found) if found == done => Ok(true),
                    _ => Err(self.superseded_error()),
                }
            }
            ProgramReply::Refused { key, reason, .. } => Err(self.refused_error(&format!("`{key}`: {reason}"))),
        }
    }
}
