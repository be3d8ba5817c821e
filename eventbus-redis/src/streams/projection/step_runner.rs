//! Runs the steps of a projection: each writes keys and moves the checkpoint at once.

use eventbus::Name;
use eventbus_redis_core::script::PROGRAM;

use super::{
    StreamProjectionError,
    keys::{ProjectionKeys, ProjectionTarget},
    position::StreamPosition,
};
use crate::{
    RedisCommandError, hash_tag,
    program::{AtomicProgram, Effect, ProgramReply, Undo},
    reply,
    streams::RedisStreams,
};

/// The checkpoint of a projection that has processed no entry.
pub(super) const CHECKPOINT_START: &str = "0";

/// Runs the steps of one projection.
#[derive(Clone)]
pub(super) struct StepRunner {
    streams: RedisStreams,
    keys: ProjectionKeys,
}

impl StepRunner {
    pub(super) fn new(streams: &RedisStreams, name: &str, stream: &str) -> Self {
        let keys = ProjectionKeys::new(&streams.config().stream_prefix, name, stream);
        Self { streams: streams.clone(), keys }
    }

    pub(super) fn streams(&self) -> &RedisStreams {
        &self.streams
    }

    pub(super) fn keys(&self) -> &ProjectionKeys {
        &self.keys
    }

    /// Adds the checks of a step: the copies still belong to this rebuild, and the checkpoint is at `from`.
    pub(super) fn add_checks(&self, program: &mut AtomicProgram, target: &ProjectionTarget<'_>, from: &str) {
        if let ProjectionTarget::Rebuild(token) = target {
            program.require_token(&self.keys.rebuild_token(), token);
        }
        program.require_value(&self.keys.progress_keys(target).0, from);
    }

    /// Adds a write of the projection's note: trimming respects its id, and the next batch detects lost entries with
    /// it.
    pub(super) fn add_position_note(
        &self,
        program: &mut AtomicProgram,
        target: &ProjectionTarget<'_>,
        position: StreamPosition,
    ) {
        let args = vec![self.keys.progress_name(target).into_bytes(), position.to_string().into_bytes()];
        self.change_projection_notes(program, "HSET", args);
    }

    pub(super) fn change_projection_notes(&self, program: &mut AtomicProgram, command: &str, args: Vec<Vec<u8>>) {
        let (key, backup_key) = (self.keys.notes(), self.keys.own_key("aside:note"));
        program.effect(
            &key,
            &backup_key,
            &Effect { key: key.clone(), undo: Undo::Field, command: command.into(), args },
        );
    }

    /// Returns the checkpoint of the live keys.
    pub(super) async fn live_checkpoint(&self) -> Result<String, RedisCommandError> {
        let at: Option<String> = self.query_idempotent(&reply::get(&self.keys.own_key("checkpoint"))).await?;
        Ok(at.unwrap_or_else(|| CHECKPOINT_START.to_owned()))
    }

    pub(super) fn refused_error(&self, reason: &str) -> StreamProjectionError {
        RedisCommandError::Refused { stream: self.keys.stream().into(), source: reason.into() }.into()
    }

    pub(super) fn superseded_error(&self) -> StreamProjectionError {
        StreamProjectionError::Superseded { projection: self.keys.name().into() }
    }

    /// Runs a step, twice if the connection was lost: a second run finds the checkpoint where the first one moved it.
    pub(super) async fn run_program(&self, program: &AtomicProgram) -> Result<ProgramReply, StreamProjectionError> {
        self.check_slots(program.keys())?;
        let reply = self.streams.connection().run_idempotent(&program.invocation(&PROGRAM)).await;
        let reply = reply.map_err(|error| RedisCommandError::from_command_error(self.keys.stream(), error))?;
        Ok(ProgramReply::parse(reply))
    }

    /// Returns the error of a step that did not write.
    pub(super) fn step_error(&self, reply: ProgramReply) -> StreamProjectionError {
        match reply {
            ProgramReply::Refused { key, reason, .. } => self.refused_error(&format!("`{key}`: {reason}")),
            ProgramReply::Other(words) => self.refused_error(&words.join(" ")),
            ProgramReply::Done(_) | ProgramReply::Moved | ProgramReply::TokenTaken => self.superseded_error(),
        }
    }

    pub(super) fn check_slots(&self, keys: &[String]) -> Result<(), StreamProjectionError> {
        let checkpoint = self.keys.own_key("checkpoint");
        let is_elsewhere = |key: &&String| hash_tag::hash_tag(key) != hash_tag::hash_tag(&checkpoint);
        match keys.iter().find(is_elsewhere).filter(|_| self.streams.is_cluster()) {
            None => Ok(()),
            Some(key) => Err(StreamProjectionError::OtherSlot {
                projection: self.keys.name().into(),
                key: key.clone(),
                checkpoint,
            }),
        }
    }

    pub(super) async fn query_idempotent<T: redis::FromRedisValue>(
        &self,
        command: &redis::Cmd,
    ) -> Result<T, RedisCommandError> {
        self.streams.query_idempotent(self.keys.stream(), command).await
    }

    pub(super) fn check_name(&self) -> Result<(), StreamProjectionError> {
        match Name::new("projection", self.keys.name()) {
            Ok(_) => Ok(()),
            Err(reason) => {
                Err(StreamProjectionError::InvalidName { projection: self.keys.name().into(), reason: reason.into() })
            }
        }
    }
}
