//! Beginning a projection anew, while what it wrote before is served.
//!
//! Keep: copies are filled as the projection itself would be, by whoever has the token, and take the place of what is
//! served in the step that moves the checkpoint.

use std::collections::BTreeSet;

use super::{
    Applied, EventProjection, ProjectionProgress, StreamProjectionError,
    ahead::{Ahead, Mark},
    progress::Meter,
    step::{Place, Reply, Step},
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
        let rebuilt = self.rebuild_as(&token, on_progress).await;
        if rebuilt.as_ref().is_err_and(|error| !error.is_retryable()) {
            // what is left now the next rebuild clears away
            drop(self.clear(&token, None).await);
        }
        rebuilt
    }

    async fn rebuild_as(
        &self,
        token: &str,
        on_progress: impl FnMut(ProjectionProgress),
    ) -> Result<Applied, StreamProjectionError> {
        let place = Place::Copies(token);
        self.begin(token).await?;
        let mut meter = Meter::new(
            self.ask(&streams::length(&self.stream)).await?,
            on_progress,
            self.streams.config().clock.clone(),
        );
        let mut applied = Applied::default();
        loop {
            // before the entries: where there are none after it, none was processed that the copies lack
            let live = self.served_at().await?;
            let (ahead, deleted) = self.ahead(&place).await?;
            applied.deleted += deleted;
            if ahead.entries.is_empty() {
                if self.switch(token, &ahead, &live).await? {
                    applied.position = ahead.position();
                    meter.tell(applied.processed);
                    return Ok(applied);
                }
                continue;
            }
            if let Step::Lost = self.step(&place, &ahead, &mut applied).await? {
                return Err(self.superseded());
            }
            meter.tell(applied.processed);
        }
    }

    /// Takes over from a rebuild that is or was under way, and clears away what it has made.
    async fn begin(&self, token: &str) -> Result<(), StreamProjectionError> {
        self.check_name()?;
        let claim = self.key("rebuilding");
        // before anything of it is written: its step can be sent
        self.check_slots(&[claim.clone(), keys::projections(&self.stream)])?;
        self.ask::<redis::Value>(&streams::set(&claim, token)).await?;
        self.clear(token, Some(Mark::default())).await
    }

    /// Clears away the copies, and notes where they begin anew, or nothing.
    async fn clear(&self, token: &str, begins: Option<Mark>) -> Result<(), StreamProjectionError> {
        let place = Place::Copies(token);
        let (checkpoint, listed) = self.places(&place);
        let stale: Vec<String> = self.ask(&streams::members(&listed)).await?;
        let mut clear = Program::default();
        clear.word("claim").key(&self.key("rebuilding")).word(token);
        match begins {
            Some(mark) => self.note(&mut clear, &place, mark),
            None => self.change_notes(&mut clear, "HDEL", vec![self.rebuilding().into_bytes()]),
        }
        for key in stale {
            clear.word("drop").key(&self.placed(&place, &key));
        }
        clear.word("drop").key(&listed).word("drop").key(&checkpoint);
        match self.send(&clear).await? {
            Reply::Done => Ok(()),
            Reply::Lost | Reply::Superseded => Err(self.superseded()),
            Reply::Refused { key, said, .. } => Err(self.refuses(&format!("`{key}`: {said}"))),
        }
    }

    /// Puts the copies, behind which nothing is ahead, in the place of what is served, if that is still at `live`.
    async fn switch(&self, token: &str, ahead: &Ahead, live: &str) -> Result<bool, StreamProjectionError> {
        let (place, at) = (Place::Copies(token), &ahead.from);
        let ((served, served_keys), (filled, copied_keys)) = (self.places(&Place::Live), self.places(&place));
        let copied: BTreeSet<String> = self.ask(&streams::members(&copied_keys)).await?;
        let written: BTreeSet<String> = self.ask(&streams::members(&served_keys)).await?;
        let mut program = Program::default();
        self.begin_program(&mut program, &place, at);
        program.word("at").key(&served).word(live);
        self.note(&mut program, &Place::Live, ahead.mark_behind(0));
        self.change_notes(&mut program, "HDEL", vec![self.rebuilding().into_bytes()]);
        for key in &copied {
            program.word("swap").key(&self.placed(&place, key)).key(key);
        }
        for key in written.difference(&copied) {
            program.word("drop").key(key);
        }
        program.word("swap").key(&copied_keys).key(&served_keys);
        program.word("set").key(&served).word(at);
        let done = format!("done {token}");
        program.word("drop").key(&filled).word("set").key(&self.key("rebuilding")).word(&done);
        match self.send(&program).await? {
            Reply::Done => Ok(true),
            Reply::Lost => Ok(false),
            // perhaps only the reply to a first try was lost
            Reply::Superseded => match self.ask::<Option<String>>(&streams::get(&self.key("rebuilding"))).await? {
                Some(found) if found == done => Ok(true),
                _ => Err(self.superseded()),
            },
            Reply::Refused { key, said, .. } => Err(self.refuses(&format!("`{key}`: {said}"))),
        }
    }
}
