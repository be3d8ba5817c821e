//! One step of a projection: the effects of some entries, and the checkpoint.

use std::collections::BTreeSet;

use super::{
    Applied, ApplyFailure, EventProjection, StreamProjectionError,
    batch::{ProjectionBatch, StreamPosition},
};
use crate::{
    RedisCommandError, StreamEntry, hash_tag, keys, reply,
    store::{Effect, Program, Undo},
    streams::Effects,
};

/// The checkpoint of a projection that has processed no entry.
pub(super) const CHECKPOINT_START: &str = "0";
/// Prefix of the projections' own keys.
const RESERVED_KEY_PREFIX: &str = "projection:";

/// Most commands of one step, unless a single entry has more: the server runs no other command meanwhile (some
/// milliseconds).
const STEP_EFFECTS_MAX: usize = 1_000;

/// The keys that a step writes.
pub(super) enum ProjectionTarget<'p> {
    /// The live keys.
    Live,
    /// The copies of the rebuild with this token.
    Rebuild(&'p str),
}

/// Outcome of a step.
pub(super) enum StepOutcome {
    Done,
    /// The checkpoint has moved; the step wrote no key.
    CheckpointMoved,
}

/// Reply of the script to a step.
pub(super) enum ProgramReply {
    Done,
    CheckpointMoved,
    Superseded,
    Refused { key: String, command: String, reason: String },
}

/// An entry and its effects.
struct PreparedEntry<'e> {
    entry: &'e StreamEntry,
    effects: Vec<Effect>,
    unknown: Option<&'e str>,
    is_skipped: bool,
}

impl EventProjection {
    /// Processes a batch. If an entry fails, the entries before it are written.
    pub(super) async fn apply_batch(
        &self,
        target: &ProjectionTarget<'_>,
        batch: &ProjectionBatch,
        applied: &mut Applied,
    ) -> Result<StepOutcome, StreamProjectionError> {
        let (mut prepared, mut failed) = (Vec::with_capacity(batch.entries.len()), None);
        for entry in &batch.entries {
            match self.prepare_entry(entry) {
                Ok(one) => prepared.push(one),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        let written = match prepared.is_empty() {
            true => StepOutcome::Done,
            false => self.write_prepared(target, batch, &prepared, applied).await?,
        };
        match (written, failed) {
            (StepOutcome::Done, Some(error)) => Err(error),
            (written, _) => Ok(written),
        }
    }

    fn prepare_entry<'e>(&self, entry: &'e StreamEntry) -> Result<PreparedEntry<'e>, StreamProjectionError> {
        let no_effects = PreparedEntry { entry, effects: Vec::new(), unknown: None, is_skipped: false };
        if self.skip_predicates.iter().any(|is_skipped| is_skipped(entry)) {
            tracing::info!(projection = self.name, stream = self.stream, entry = %entry.id, "skipping an entry");
            return Ok(PreparedEntry { is_skipped: true, ..no_effects });
        }
        let (projection, stream) = (|| self.name.clone(), || self.stream.clone());
        let of_entry = |source| StreamProjectionError::Entry { projection: projection(), stream: stream(), source };
        let event_type = entry.event_type().map_err(of_entry)?;
        let Some(handle) = self.handlers.get(event_type) else {
            return Ok(PreparedEntry { unknown: Some(event_type), ..no_effects });
        };
        let mut effects = Effects::default();
        handle(entry, &mut effects).map_err(|failure| match failure {
            ApplyFailure::Entry(error) => of_entry(error),
            ApplyFailure::Handler(source) => StreamProjectionError::Handler {
                projection: projection(),
                stream: stream(),
                entry: entry.id.clone(),
                event_type: event_type.into(),
                source,
            },
        })?;
        let effects = effects.list;
        match effects.iter().find(|effect| effect.key.is_empty() || effect.key.starts_with(RESERVED_KEY_PREFIX)) {
            None => Ok(PreparedEntry { effects, ..no_effects }),
            Some(effect) => {
                Err(self.effect_error(entry, &effect.key, &effect.name, "a projection cannot write this key"))
            }
        }
    }

    fn effect_error(&self, entry: &StreamEntry, key: &str, command: &str, reason: &str) -> StreamProjectionError {
        StreamProjectionError::Effect {
            projection: self.name.clone(),
            entry: entry.id.clone(),
            key: key.into(),
            command: command.into(),
            source: reason.into(),
        }
    }

    /// Writes the entries in as few steps as possible; if the server refuses one, entry by entry, to find out which.
    async fn write_prepared(
        &self,
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
            match self.write_in_one_step(target, &from, position, part, applied).await? {
                ProgramReply::Done => (from, written) = (position.id.to_string(), written + count),
                ProgramReply::CheckpointMoved => return Ok(StepOutcome::CheckpointMoved),
                ProgramReply::Superseded => return Err(self.superseded_error()),
                ProgramReply::Refused { .. } if count > 1 => is_one_by_one = true,
                ProgramReply::Refused { key, command, reason } => {
                    return Err(self.effect_error(next.entry, &key, &command, &reason));
                }
            }
        }
        Ok(StepOutcome::Done)
    }

    async fn write_in_one_step(
        &self,
        target: &ProjectionTarget<'_>,
        from: &str,
        position: StreamPosition,
        prepared: &[PreparedEntry<'_>],
        applied: &mut Applied,
    ) -> Result<ProgramReply, StreamProjectionError> {
        let to = position.id.to_string();
        let (checkpoint, listed) = self.progress_keys(target);
        let mut program = Program::default();
        self.add_checks(&mut program, target, from);
        let effects: Vec<_> = prepared.iter().flat_map(|one| &one.effects).collect();
        for key in effects.iter().map(|effect| &effect.logical_key).collect::<BTreeSet<_>>() {
            program.arg("list").key(&listed).arg(key);
        }
        for (number, effect) in effects.into_iter().enumerate() {
            let backup_key = self.own_key(&format!("aside:{number}"));
            program.effect(&self.target_key(target, &effect.logical_key), &backup_key, effect);
        }
        self.add_position_note(&mut program, target, position);
        program.arg("set").key(&checkpoint).arg(&to);
        let mut reply = self.run_program(&program).await?;
        if matches!((&reply, target), (ProgramReply::CheckpointMoved, ProjectionTarget::Rebuild(_))) {
            // only this rebuild fills these copies: if its step has moved the checkpoint, the reply to a first run was
            // lost
            let at: Option<String> = self.query(&reply::get(&checkpoint)).await?;
            reply = if at.as_ref() == Some(&to) { ProgramReply::Done } else { ProgramReply::CheckpointMoved };
        }
        if matches!(reply, ProgramReply::Done) {
            applied.processed += prepared.len() as u64;
            applied.skipped += prepared.iter().filter(|one| one.is_skipped).count() as u64;
            for unknown in prepared.iter().filter_map(|one| one.unknown) {
                let known = applied.unknown.entry(unknown.to_owned()).or_default();
                if *known == 0 {
                    let (projection, stream) = (&self.name, &self.stream);
                    tracing::info!(
                        projection,
                        stream,
                        event_type = unknown,
                        "projection has no handler for event type"
                    );
                }
                *known += 1;
            }
        }
        Ok(reply)
    }

    /// Adds the checks of a step: the copies still belong to this rebuild, and the checkpoint is at `from`.
    pub(super) fn add_checks(&self, program: &mut Program, target: &ProjectionTarget<'_>, from: &str) {
        if let ProjectionTarget::Rebuild(token) = target {
            program.arg("claim").key(&self.own_key("rebuilding")).arg(token);
        }
        program.arg("at").key(&self.progress_keys(target).0).arg(from);
    }

    /// Returns the key of the checkpoint, and the key of the set of written keys.
    pub(super) fn progress_keys(&self, target: &ProjectionTarget<'_>) -> (String, String) {
        match target {
            ProjectionTarget::Live => (self.own_key("checkpoint"), self.own_key("keys")),
            ProjectionTarget::Rebuild(_) => (self.own_key("rebuilding:checkpoint"), self.own_key("rebuilding:keys")),
        }
    }

    /// Returns the key to write for a key that a handler names.
    pub(super) fn target_key(&self, target: &ProjectionTarget<'_>, key: &str) -> String {
        match target {
            ProjectionTarget::Live => key.to_owned(),
            ProjectionTarget::Rebuild(_) => self.own_key(&format!("copy:{key}")),
        }
    }

    /// Adds a write of the projection's note: trimming respects its id, and the next batch detects a loss by it.
    pub(super) fn add_position_note(
        &self,
        program: &mut Program,
        target: &ProjectionTarget<'_>,
        position: StreamPosition,
    ) {
        let args = vec![self.progress_name(target).into_bytes(), position.to_string().into_bytes()];
        self.change_projection_notes(program, "HSET", args);
    }

    /// Returns the name of the target among the projections of the stream.
    pub(super) fn progress_name(&self, target: &ProjectionTarget<'_>) -> String {
        match target {
            ProjectionTarget::Live => self.progress_field(),
            ProjectionTarget::Rebuild(_) => self.rebuild_progress_field(),
        }
    }

    pub(super) fn change_projection_notes(&self, program: &mut Program, command: &str, args: Vec<Vec<u8>>) {
        let key = keys::projections(&self.stream);
        let (named, name) = (key.clone(), command.to_owned());
        let effect =
            Effect { key: key.clone(), logical_key: named, undo: Undo::Field, name, args, needs_command_check: false };
        program.effect(&key, "", &effect);
    }

    /// Returns the checkpoint of the live keys.
    pub(super) async fn live_checkpoint(&self) -> Result<String, RedisCommandError> {
        let at: Option<String> = self.query(&reply::get(&self.own_key("checkpoint"))).await?;
        Ok(at.unwrap_or_else(|| CHECKPOINT_START.to_owned()))
    }

    pub(super) fn refused_error(&self, reason: &str) -> StreamProjectionError {
        RedisCommandError::Refused { stream: self.stream.clone(), source: reason.into() }.into()
    }

    pub(super) fn superseded_error(&self) -> StreamProjectionError {
        StreamProjectionError::Superseded { projection: self.name.clone() }
    }

    /// Runs a step, twice if the connection was lost: a second run finds the checkpoint where the first one moved it.
    pub(super) async fn run_program(&self, program: &Program) -> Result<ProgramReply, StreamProjectionError> {
        self.check_slots(program.keys())?;
        let reply: Result<Vec<String>, _> = self.streams.connection().run_idempotent(&program.script()).await;
        let mut reply = reply.map_err(|error| RedisCommandError::from_command_error(&self.stream, error))?.into_iter();
        let mut next = || reply.next().unwrap_or_default();
        Ok(match next().as_str() {
            "ok" => ProgramReply::Done,
            "lost" => ProgramReply::CheckpointMoved,
            "late" => ProgramReply::Superseded,
            _ => ProgramReply::Refused { key: next(), command: next(), reason: next() },
        })
    }

    pub(super) fn check_slots(&self, keys: &[String]) -> Result<(), StreamProjectionError> {
        let checkpoint = self.own_key("checkpoint");
        let is_elsewhere = |key: &&String| hash_tag::hash_tag(key) != hash_tag::hash_tag(&checkpoint);
        match keys.iter().find(is_elsewhere).filter(|_| self.streams.inner.is_cluster) {
            None => Ok(()),
            Some(key) => {
                Err(StreamProjectionError::OtherSlot { projection: self.name.clone(), key: key.clone(), checkpoint })
            }
        }
    }
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
