//! Beginning a projection anew, while what it wrote before is served.
//!
//! Keep: copies are filled as the projection itself would be, by whoever has the token, and take the place of what is
//! served in the step that moves the checkpoint.

use std::collections::BTreeSet;

use super::{
    Applied, EventProjection, ProjectionProgress, StreamProjectionError,
    apply::{ProgramReply, ProjectionTarget, StepOutcome},
    batch::{ProjectionBatch, StreamPosition},
    progress::ProgressReporter,
};
use crate::{command::streams, keys, store::Program};

impl EventProjection {
    /// Processes the stream from its oldest entry on, into copies of the keys, and puts them in the place of the keys
    /// together with the checkpoint. Until then the old numbers are served, and go on where the projection runs.
    /// Returns how many entries were [processed](Applied::processed).
    ///
    /// Keys that the projection wrote before and that the rebuild does not write are removed. `on_progress` is told
    /// after each hundred entries. What a rebuild leaves that was dropped or killed, the next one clears away; of
    /// several at once the one that began last wins. The last step names all keys at once: it takes about a millisecond
    /// for a thousand of them.
    ///
    /// # Errors
    /// [`StreamProjectionError`]; then nothing that is served has changed, and where the server is there, nothing is left.
    pub async fn rebuild(&self, on_progress: impl FnMut(ProjectionProgress)) -> Result<Applied, StreamProjectionError> {
        let token = self.streams.config().clock.new_id().to_string();
        let rebuilt = self.rebuild_with_token(&token, on_progress).await;
        if rebuilt.as_ref().is_err_and(|error| !error.is_retryable()) {
            // what is left now the next rebuild clears away
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
        let mut meter = ProgressReporter::new(
            self.query(&streams::length(&self.stream)).await?,
            on_progress,
            self.streams.config().clock.clone(),
        );
        let mut applied = Applied::default();
        loop {
            // before the entries: where there are none after it, none was processed that the copies lack
            let live = self.live_checkpoint().await?;
            let (batch, deleted) = self.next_batch(&target).await?;
            applied.deleted += deleted;
            if batch.entries.is_empty() {
                if self.swap_copies(token, &batch, &live).await? {
                    applied.position = batch.checkpoint_id();
                    meter.report_progress(applied.processed);
                    return Ok(applied);
                }
                continue;
            }
            if let StepOutcome::CheckpointMoved = self.apply_batch(&target, &batch, &mut applied).await? {
                return Err(self.superseded_error());
            }
            meter.report_progress(applied.processed);
        }
    }

    /// Takes over from a rebuild that is or was under way, and clears away what it has made.
    async fn start_rebuild(&self, token: &str) -> Result<(), StreamProjectionError> {
        self.check_name()?;
        let claim = self.own_key("rebuilding");
        // before anything of it is written: its step can be sent
        self.check_slots(&[claim.clone(), keys::projections(&self.stream)])?;
        self.query::<redis::Value>(&streams::set(&claim, token)).await?;
        self.clear_copies(token, Some(StreamPosition::default())).await
    }

    /// Clears away the copies, and notes where they begin anew, or nothing.
    async fn clear_copies(&self, token: &str, start: Option<StreamPosition>) -> Result<(), StreamProjectionError> {
        let target = ProjectionTarget::Rebuild(token);
        let (checkpoint, listed) = self.progress_keys(&target);
        let stale: Vec<String> = self.query(&streams::members(&listed)).await?;
        let mut clear = Program::default();
        clear.arg("claim").key(&self.own_key("rebuilding")).arg(token);
        match start {
            Some(mark) => self.add_position_note(&mut clear, &target, mark),
            None => self.change_projection_notes(&mut clear, "HDEL", vec![self.rebuild_progress_field().into_bytes()]),
        }
        for key in stale {
            clear.arg("drop").key(&self.target_key(&target, &key));
        }
        clear.arg("drop").key(&listed).arg("drop").key(&checkpoint);
        match self.run_program(&clear).await? {
            ProgramReply::Done => Ok(()),
            ProgramReply::CheckpointMoved | ProgramReply::Superseded => Err(self.superseded_error()),
            ProgramReply::Refused { key, reason: said, .. } => Err(self.refused_error(&format!("`{key}`: {said}"))),
        }
    }

    /// Puts the copies, behind which nothing is ahead, in the place of what is served, if that is still at `live`.
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
            // perhaps only the reply to a first try was lost
            ProgramReply::Superseded => {
                match self.query::<Option<String>>(&streams::get(&self.own_key("rebuilding"))).await? {
                    Some(found) if found == done => Ok(true),
                    _ => Err(self.superseded_error()),
                }
            }
            ProgramReply::Refused { key, reason: said, .. } => Err(self.refused_error(&format!("`{key}`: {said}"))),
        }
    }
}
