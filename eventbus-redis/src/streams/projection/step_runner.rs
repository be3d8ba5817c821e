//! Runs the steps of a projection: each writes keys and moves the checkpoint at once.
//!
//! Invariant: a note beside the checkpoint holds how many of all entries ever added to the stream are not after the
//! checkpoint. One script reads checkpoint, note and stream at the same instant, so that they fit each other.

use std::collections::BTreeSet;

use eventbus::{Name, port::MessageId, support::PAGE_BYTES};
use eventbus_redis_core::script::PROGRAM;

use super::{
    Applied, StreamProjectionError,
    handlers::{EventHandlers, PreparedEntry},
    position::{ProjectionBatch, StreamPosition},
};
use crate::{
    RedisCommandError,
    command::streams as commands,
    entry_id::EntryId,
    hash_tag, keys,
    program::{AtomicProgram, Effect, ProgramReply, Undo},
    reply, script,
    streams::RedisStreams,
};

/// The checkpoint of a projection that has processed no entry.
const CHECKPOINT_START: &str = "0";

/// Most entries of a batch; fewer if they have [`PAGE_BYTES`].
const PROJECTION_BATCH_MAX: usize = 100;

/// Most commands of one step, unless a single entry has more: the server runs no other command meanwhile (some
/// milliseconds).
const STEP_EFFECTS_MAX: usize = 1_000;

/// Runs the steps of one projection over one stream.
#[derive(Clone)]
pub(super) struct StepRunner {
    streams: RedisStreams,
    name: String,
    stream: String,
}

impl StepRunner {
    pub(super) fn new(streams: &RedisStreams, name: &str, stream: &str) -> Self {
        Self { streams: streams.clone(), name: name.into(), stream: stream.into() }
    }

    pub(super) fn streams(&self) -> &RedisStreams {
        &self.streams
    }

    /// The name of the projection.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The key of the stream.
    pub(super) fn stream(&self) -> &str {
        &self.stream
    }

    fn own_key(&self, what: &str) -> String {
        keys::projection_key(&self.streams.config().stream_prefix, &self.stream, &self.name, what)
    }

    fn checkpoint_key(&self) -> String {
        self.own_key("checkpoint")
    }

    /// The set of the keys that the projection has written.
    fn written_keys(&self) -> String {
        self.own_key("keys")
    }

    /// The name of the projection among those of the stream.
    fn note_field(&self) -> String {
        keys::projection_field(&self.streams.config().stream_prefix, &self.name)
    }

    /// Returns the checkpoint as Redis holds it.
    async fn load_checkpoint(&self) -> Result<String, RedisCommandError> {
        let at: Option<String> = self.query_idempotent(&reply::get(&self.checkpoint_key())).await?;
        Ok(at.unwrap_or_else(|| CHECKPOINT_START.to_owned()))
    }

    /// Returns the last processed entry.
    pub(super) async fn checkpoint(&self) -> Result<Option<MessageId>, RedisCommandError> {
        Ok(checkpoint_id(&self.load_checkpoint().await?))
    }

    /// Loads the entries after the checkpoint, and saves the projection's note, which trimming respects.
    pub(super) async fn next_batch(&self) -> Result<ProjectionBatch, StreamProjectionError> {
        loop {
            let batch = self.load_batch("").await?;
            if let Some(entries) = batch.missing {
                let after = MessageId::new(batch.position.id.to_string());
                let (projection, stream) = (self.name.clone(), self.stream.clone());
                return Err(StreamProjectionError::Missing { projection, stream, after, entries });
            }
            if batch.noted == Some(batch.position) || self.save_position(&batch, None).await? {
                return Ok(batch);
            }
        }
    }

    /// Sets the checkpoint on request, after an entry or before the oldest one.
    pub(super) async fn set_checkpoint_after(&self, entry: Option<&MessageId>) -> Result<(), StreamProjectionError> {
        let text = entry.map_or(CHECKPOINT_START, MessageId::as_str);
        let at = EntryId::parse_id_or_time(text)
            .ok_or_else(|| self.refused_error(&format!("`{text}` is not an id of an entry")))?;
        loop {
            let batch = self.load_batch(&at.to_string()).await?;
            if self.save_position(&batch, Some(at)).await? {
                return Ok(());
            }
        }
    }

    /// Removes the checkpoint and all keys that the projection has written, in one step.
    pub(super) async fn reset(&self) -> Result<(), StreamProjectionError> {
        self.check_name()?;
        loop {
            let checkpoint = self.load_checkpoint().await?;
            let written: Vec<String> = self.query_idempotent(&commands::members(&self.written_keys())).await?;
            let mut program = AtomicProgram::default();
            program.require_value(&self.checkpoint_key(), &checkpoint);
            self.add_note(&mut program, StreamPosition::default());
            for key in written {
                program.unlink(&key);
            }
            program.unlink(&self.written_keys());
            program.unlink(&self.checkpoint_key());
            if self.run_or_moved(&program).await? {
                return Ok(());
            }
        }
    }

    /// Removes the projection's note from the stream.
    pub(super) async fn retire(&self) -> Result<(), RedisCommandError> {
        let delete = commands::delete_field(&keys::projections(&self.stream), &self.note_field());
        self.query_idempotent::<u64>(&delete).await.map(drop)
    }

    /// Processes a batch. If an entry fails, the entries before it are written. Returns early, without an error, if a
    /// concurrent runner has moved the checkpoint.
    pub(super) async fn apply(
        &self,
        handlers: &EventHandlers,
        batch: &ProjectionBatch,
        applied: &mut Applied,
    ) -> Result<(), StreamProjectionError> {
        let (mut prepared, mut failed) = (Vec::with_capacity(batch.entries.len()), Ok(()));
        for entry in &batch.entries {
            match handlers.prepare_entry((self.name(), self.stream()), entry) {
                Ok(one) => prepared.push(one),
                Err(error) => {
                    failed = Err(error);
                    break;
                }
            }
        }
        // in as few steps as possible; if the server refuses one, entry by entry, to find out which
        let (mut from, mut written, mut is_one_by_one) = (batch.checkpoint.clone(), 0, false);
        while let Some(next) = prepared.get(written) {
            let count = if is_one_by_one { 1 } else { step_len(&prepared[written..]) };
            let position = batch.position_after(written + count);
            match self.write_step(&from, position, &prepared[written..written + count], applied).await? {
                ProgramReply::Done(_) => (from, written) = (position.id.to_string(), written + count),
                ProgramReply::Moved => return Ok(()),
                ProgramReply::Refused { .. } if count > 1 => is_one_by_one = true,
                ProgramReply::Refused { key, command, reason } => {
                    return Err(StreamProjectionError::effect(&self.name, next.entry, &key, &command, &reason));
                }
                other => return Err(self.step_error(other)),
            }
        }
        failed
    }

    /// Writes the effects of some entries, and moves the checkpoint.
    async fn write_step(
        &self,
        from: &str,
        position: StreamPosition,
        prepared: &[PreparedEntry<'_>],
        applied: &mut Applied,
    ) -> Result<ProgramReply, StreamProjectionError> {
        let mut program = AtomicProgram::default();
        program.require_value(&self.checkpoint_key(), from);
        let effects: Vec<_> = prepared.iter().flat_map(|one| &one.effects).collect();
        for key in effects.iter().map(|effect| &effect.key).collect::<BTreeSet<_>>() {
            program.list_key(&self.written_keys(), key);
        }
        for (number, effect) in effects.into_iter().enumerate() {
            program.effect(&effect.key, &self.own_key(&format!("aside:{number}")), effect);
        }
        self.add_note(&mut program, position);
        program.set(&self.checkpoint_key(), &position.id.to_string());
        let reply = self.run_program(&program).await?;
        if matches!(reply, ProgramReply::Done(_)) {
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

    /// Saves the note of a batch, and moves the checkpoint if `to` is given. Returns `false` if the checkpoint has moved
    /// since the batch was loaded.
    async fn save_position(&self, batch: &ProjectionBatch, to: Option<EntryId>) -> Result<bool, StreamProjectionError> {
        let mut program = AtomicProgram::default();
        program.require_value(&self.checkpoint_key(), &batch.checkpoint);
        self.add_note(&mut program, batch.position);
        match to {
            None => {}
            Some(EntryId::ZERO) => program.unlink(&self.checkpoint_key()),
            Some(to) => program.set(&self.checkpoint_key(), &to.to_string()),
        }
        self.run_or_moved(&program).await
    }

    /// Loads the entries after an id, or after the checkpoint if `from` is empty.
    async fn load_batch(&self, from: &str) -> Result<ProjectionBatch, StreamProjectionError> {
        self.check_name()?;
        let keys = [self.stream.clone(), self.checkpoint_key(), keys::projections(&self.stream)];
        self.check_slots(&keys)?;
        let mut script = script::streams::NEXT_PROJECTION_BATCH.key(&keys);
        script.arg(self.note_field()).arg(from).arg(PROJECTION_BATCH_MAX).arg(PAGE_BYTES);
        let reply: Result<_, _> = self.streams.connection().run_idempotent(&script).await;
        let reply = reply.map_err(|error| RedisCommandError::from_command_error(&self.stream, error))?;
        Ok(ProjectionBatch::parse(reply, from))
    }

    /// Adds a write of the projection's note: trimming respects its id, and the next batch detects lost entries with
    /// it.
    fn add_note(&self, program: &mut AtomicProgram, position: StreamPosition) {
        let args = vec![self.note_field().into_bytes(), position.to_string().into_bytes()];
        let key = keys::projections(&self.stream);
        let effect = Effect { key: key.clone(), undo: Undo::Field, command: "HSET".into(), args };
        program.effect(&key, &self.own_key("aside:note"), &effect);
    }

    /// Runs a step, twice if the connection was lost: a second run finds the checkpoint where the first one moved it.
    async fn run_program(&self, program: &AtomicProgram) -> Result<ProgramReply, StreamProjectionError> {
        self.check_slots(program.keys())?;
        let reply = self.streams.connection().run_idempotent(&program.invocation(&PROGRAM)).await;
        let reply = reply.map_err(|error| RedisCommandError::from_command_error(&self.stream, error))?;
        Ok(ProgramReply::parse(reply))
    }

    /// Runs a step; returns `false` if the checkpoint has moved.
    async fn run_or_moved(&self, program: &AtomicProgram) -> Result<bool, StreamProjectionError> {
        match self.run_program(program).await? {
            ProgramReply::Done(_) => Ok(true),
            ProgramReply::Moved => Ok(false),
            other => Err(self.step_error(other)),
        }
    }

    fn refused_error(&self, reason: &str) -> StreamProjectionError {
        RedisCommandError::Refused { stream: self.stream.clone(), source: reason.into() }.into()
    }

    /// Returns the error of a step that did not write.
    fn step_error(&self, reply: ProgramReply) -> StreamProjectionError {
        match reply {
            ProgramReply::Refused { key, reason, .. } => self.refused_error(&format!("`{key}`: {reason}")),
            other => self.refused_error(&format!("unexpected reply: {other:?}")),
        }
    }

    fn check_slots(&self, keys: &[String]) -> Result<(), StreamProjectionError> {
        let checkpoint = self.checkpoint_key();
        let is_elsewhere = |key: &&String| hash_tag::hash_tag(key) != hash_tag::hash_tag(&checkpoint);
        match keys.iter().find(is_elsewhere).filter(|_| self.streams.is_cluster()) {
            None => Ok(()),
            Some(key) => {
                let (projection, key) = (self.name.clone(), key.clone());
                Err(StreamProjectionError::OtherSlot { projection, key, checkpoint })
            }
        }
    }

    async fn query_idempotent<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, RedisCommandError> {
        self.streams.query_idempotent(&self.stream, command).await
    }

    fn check_name(&self) -> Result<(), StreamProjectionError> {
        Name::new("projection", &*self.name).map(drop).map_err(|reason| StreamProjectionError::InvalidName {
            projection: self.name.clone(),
            reason: reason.into(),
        })
    }
}

/// Returns the id of the last processed entry.
pub(super) fn checkpoint_id(checkpoint: &str) -> Option<MessageId> {
    Some(MessageId::new(checkpoint)).filter(|_| checkpoint != CHECKPOINT_START)
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
