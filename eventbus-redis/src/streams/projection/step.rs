//! One step of a projection: what some entries write, and the checkpoint.

use std::collections::BTreeSet;

use super::{
    Applied, EventProjection, Failure, StreamProjectionError,
    ahead::{Ahead, Mark},
};
use crate::{
    RedisCommandError, StreamEntry,
    command::streams,
    keys,
    store::{Effect, Program, Undo},
    streams::Effects,
};

/// The checkpoint of a projection that has processed nothing.
pub(super) const START: &str = "0";
/// What the keys begin with that are the projections' own.
const OWN: &str = "projection:";

/// How many commands are written in one step, if they are not all of one entry: the server does nothing else meanwhile
/// (some milliseconds).
const MOST_EFFECTS: usize = 1_000;

/// Where a step writes.
pub(super) enum Place<'p> {
    /// What is served.
    Live,
    /// The copies of the rebuild that has this token.
    Copies(&'p str),
}

/// What came of a step.
pub(super) enum Step {
    Done,
    /// The checkpoint is elsewhere; nothing was written.
    Lost,
}

/// What a script replied.
pub(super) enum Reply {
    Done,
    Lost,
    Superseded,
    Refused { key: String, command: String, said: String },
}

/// What an entry is to write.
struct Prepared<'e> {
    entry: &'e StreamEntry,
    effects: Vec<Effect>,
    unknown: Option<&'e str>,
    is_skipped: bool,
}

impl EventProjection {
    /// Processes what is ahead. What comes before an entry that fails is written.
    pub(super) async fn step(
        &self,
        place: &Place<'_>,
        ahead: &Ahead,
        applied: &mut Applied,
    ) -> Result<Step, StreamProjectionError> {
        let (mut prepared, mut failed) = (Vec::with_capacity(ahead.entries.len()), None);
        for entry in &ahead.entries {
            match self.prepare(entry) {
                Ok(one) => prepared.push(one),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        let written = match prepared.is_empty() {
            true => Step::Done,
            false => self.write(place, ahead, &prepared, applied).await?,
        };
        match (written, failed) {
            (Step::Done, Some(error)) => Err(error),
            (written, _) => Ok(written),
        }
    }

    fn prepare<'e>(&self, entry: &'e StreamEntry) -> Result<Prepared<'e>, StreamProjectionError> {
        let nothing = Prepared { entry, effects: Vec::new(), unknown: None, is_skipped: false };
        if self.skips.iter().any(|is_skipped| is_skipped(entry)) {
            tracing::info!(projection = self.name, stream = self.stream, entry = %entry.id, "skipping an entry");
            return Ok(Prepared { is_skipped: true, ..nothing });
        }
        let (projection, stream) = (|| self.name.clone(), || self.stream.clone());
        let of_entry = |source| StreamProjectionError::Entry { projection: projection(), stream: stream(), source };
        let event_type = entry.event_type().map_err(of_entry)?;
        let Some(handle) = self.handlers.get(event_type) else {
            return Ok(Prepared { unknown: Some(event_type), ..nothing });
        };
        let mut effects = Effects::default();
        handle(entry, &mut effects).map_err(|failure| match failure {
            Failure::Entry(error) => of_entry(error),
            Failure::Handler(source) => StreamProjectionError::Handler {
                projection: projection(),
                stream: stream(),
                entry: entry.id.clone(),
                event_type: event_type.into(),
                source,
            },
        })?;
        let effects = effects.list;
        match effects.iter().find(|effect| effect.key.is_empty() || effect.key.starts_with(OWN)) {
            None => Ok(Prepared { effects, ..nothing }),
            Some(effect) => {
                Err(self.refused(entry, &effect.key, &effect.name, "it is no key for a projection to write"))
            }
        }
    }

    fn refused(&self, entry: &StreamEntry, key: &str, command: &str, said: &str) -> StreamProjectionError {
        StreamProjectionError::Effect {
            projection: self.name.clone(),
            entry: entry.id.clone(),
            key: key.into(),
            command: command.into(),
            source: said.into(),
        }
    }

    /// Writes all in one step; where the server refuses a part of it, one after the other, to find out which.
    async fn write(
        &self,
        place: &Place<'_>,
        ahead: &Ahead,
        prepared: &[Prepared<'_>],
        applied: &mut Applied,
    ) -> Result<Step, StreamProjectionError> {
        let (mut from, mut written, mut is_one_by_one) = (ahead.from.clone(), 0, false);
        while let Some(next) = prepared.get(written) {
            let count = if is_one_by_one { 1 } else { together(&prepared[written..]) };
            let mark = ahead.mark_behind(written + count);
            let part = &prepared[written..written + count];
            match self.write_together(place, &from, mark, part, applied).await? {
                Reply::Done => (from, written) = (mark.at.to_string(), written + count),
                Reply::Lost => return Ok(Step::Lost),
                Reply::Superseded => return Err(self.superseded()),
                Reply::Refused { .. } if count > 1 => is_one_by_one = true,
                Reply::Refused { key, command, said } => return Err(self.refused(next.entry, &key, &command, &said)),
            }
        }
        Ok(Step::Done)
    }

    async fn write_together(
        &self,
        place: &Place<'_>,
        from: &str,
        mark: Mark,
        prepared: &[Prepared<'_>],
        applied: &mut Applied,
    ) -> Result<Reply, StreamProjectionError> {
        let to = mark.at.to_string();
        let (checkpoint, listed) = self.places(place);
        let mut program = Program::default();
        self.begin_program(&mut program, place, from);
        let effects: Vec<_> = prepared.iter().flat_map(|one| &one.effects).collect();
        for key in effects.iter().map(|effect| &effect.named).collect::<BTreeSet<_>>() {
            program.word("list").key(&listed).word(key);
        }
        for (number, effect) in effects.into_iter().enumerate() {
            let aside = self.key(&format!("aside:{number}"));
            program.effect(&self.placed(place, &effect.named), &aside, effect);
        }
        self.note(&mut program, place, mark);
        program.word("set").key(&checkpoint).word(&to);
        let mut reply = self.send(&program).await?;
        if matches!((&reply, place), (Reply::Lost, Place::Copies(_))) {
            // nobody else fills these copies: the reply to a first try was lost
            let at: Option<String> = self.ask(&streams::get(&checkpoint)).await?;
            reply = if at.as_ref() == Some(&to) { Reply::Done } else { Reply::Lost };
        }
        if matches!(reply, Reply::Done) {
            applied.processed += prepared.len() as u64;
            applied.skipped += prepared.iter().filter(|one| one.is_skipped).count() as u64;
            for unknown in prepared.iter().filter_map(|one| one.unknown) {
                let known = applied.unknown.entry(unknown.to_owned()).or_default();
                if *known == 0 {
                    let (projection, stream) = (&self.name, &self.stream);
                    tracing::info!(projection, stream, event_type = unknown, "no handler for the events of a type");
                }
                *known += 1;
            }
        }
        Ok(reply)
    }

    /// Begins with what must hold: the copies are still this rebuild's, and the checkpoint is where it was.
    pub(super) fn begin_program(&self, program: &mut Program, place: &Place<'_>, from: &str) {
        if let Place::Copies(token) = place {
            program.word("claim").key(&self.key("rebuilding")).word(token);
        }
        program.word("at").key(&self.places(place).0).word(from);
    }

    /// The key of the checkpoint, and of the set of keys that were written.
    pub(super) fn places(&self, place: &Place<'_>) -> (String, String) {
        match place {
            Place::Live => (self.key("checkpoint"), self.key("keys")),
            Place::Copies(_) => (self.key("rebuilding:checkpoint"), self.key("rebuilding:keys")),
        }
    }

    /// The key that is written for one that a handler names.
    pub(super) fn placed(&self, place: &Place<'_>, key: &str) -> String {
        match place {
            Place::Live => key.to_owned(),
            Place::Copies(_) => self.key(&format!("copy:{key}")),
        }
    }

    /// Notes how far the projection has come, for those who trim the stream, and what is known of the place.
    pub(super) fn note(&self, program: &mut Program, place: &Place<'_>, mark: Mark) {
        let args = vec![self.noted_as(place).into_bytes(), mark.to_string().into_bytes()];
        self.change_notes(program, "HSET", args);
    }

    /// What it is called among the projections of the stream.
    pub(super) fn noted_as(&self, place: &Place<'_>) -> String {
        match place {
            Place::Live => self.field(),
            Place::Copies(_) => self.rebuilding(),
        }
    }

    pub(super) fn change_notes(&self, program: &mut Program, command: &str, args: Vec<Vec<u8>>) {
        let key = keys::projections(&self.stream);
        let (named, name) = (key.clone(), command.to_owned());
        let effect = Effect { key: key.clone(), named, undo: Undo::Field, name, args, is_general: false };
        program.effect(&key, "", &effect);
    }

    /// The checkpoint of what is served.
    pub(super) async fn served_at(&self) -> Result<String, RedisCommandError> {
        let at: Option<String> = self.ask(&streams::get(&self.key("checkpoint"))).await?;
        Ok(at.unwrap_or_else(|| START.to_owned()))
    }

    pub(super) fn refuses(&self, said: &str) -> StreamProjectionError {
        RedisCommandError::Refused { stream: self.stream.clone(), source: said.into() }.into()
    }

    pub(super) fn superseded(&self) -> StreamProjectionError {
        StreamProjectionError::Superseded { projection: self.name.clone() }
    }

    /// Runs a step, twice if the connection was lost: the second time finds what the first one did.
    pub(super) async fn send(&self, program: &Program) -> Result<Reply, StreamProjectionError> {
        self.check_slots(program.keys())?;
        let reply: Result<Vec<String>, _> = self.streams.link().rerun(&program.script()).await;
        let mut reply = reply.map_err(|error| RedisCommandError::of(&self.stream, error))?.into_iter();
        let mut next = || reply.next().unwrap_or_default();
        Ok(match next().as_str() {
            "ok" => Reply::Done,
            "lost" => Reply::Lost,
            "late" => Reply::Superseded,
            _ => Reply::Refused { key: next(), command: next(), said: next() },
        })
    }

    pub(super) fn check_slots(&self, keys: &[String]) -> Result<(), StreamProjectionError> {
        let checkpoint = self.key("checkpoint");
        let is_elsewhere = |key: &&String| keys::hash_tag(key) != keys::hash_tag(&checkpoint);
        match keys.iter().find(is_elsewhere).filter(|_| self.streams.shared.is_cluster) {
            None => Ok(()),
            Some(key) => {
                Err(StreamProjectionError::OtherSlot { projection: self.name.clone(), key: key.clone(), checkpoint })
            }
        }
    }
}

/// How many of some entries are written together; at least one.
fn together(prepared: &[Prepared<'_>]) -> usize {
    let mut effects = 0;
    let fits = |one: &&Prepared<'_>| {
        effects += one.effects.len();
        effects <= MOST_EFFECTS
    };
    prepared.iter().take_while(fits).count().max(1)
}
