//! The backlog of a group: a stream of its own with what it is given beside what the stream holds for all.
//!
//! A new group begins with the oldest event of each store that publishes here: what the stream lacks of it, as it was
//! trimmed or lost, goes there from the store. So does what a group skipped of a type that it announces for the first time,
//! from the stream or, if that was trimmed, from the store.
//!
//! Keep: how far a backlog is filled moves in the script that fills it, so any number of processes may fill one.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use eventbus::{
    Name, Position, RecordedEvent,
    port::{
        Announced, Backlogs, ConsumeError, Fill, Filled, GroupProgress, HandlerStart, PublishError, SkippedBefore,
        StopSignal,
    },
};
use redis::ScriptInvocation;
use tracing::Span;
use uuid::Uuid;

use crate::{
    RedisEventBus,
    bus::Shared,
    connection::{CommandError, boxed},
    keys::{self, field},
    partition::partition_of,
    relay::BEHIND_THE_SEVEN,
    script,
    trace::Carrier,
};

/// How many entries of the stream are looked at in one step: the server does nothing else meanwhile.
const TOGETHER: usize = 200;

/// What there is to know about the backlog of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Backlog {
    /// There is none.
    None,
    /// It is being filled, or not everything in it is finished.
    More {
        /// Whether the group is new, so that nothing else comes before what it has to do there.
        is_first: bool,
        /// The stores of which events are missing while no process with them shows life, separated by spaces.
        forsaken: String,
        /// How many entries of it are left, without those that are not filled in yet.
        left: u64,
        /// What is to be copied into it: the number of a stream, and an event type.
        copies: Vec<(usize, String)>,
    },
    /// It is finished, and was removed.
    Finished,
}

#[async_trait]
impl Backlogs for RedisEventBus {
    async fn fills(&self, store: Uuid) -> Result<Vec<Fill>, PublishError> {
        self.shared.ensure_publishing()?;
        let mut all = Vec::new();
        for (number, part) in self.shared.parts().into_iter().enumerate() {
            let mut list = script::LIST_FILLS.key(keys::fills(&part.stream));
            let found: Vec<(String, String, String, String)> =
                self.shared.link.rerun(list.arg(store.to_string())).await.map_err(|error| part.not_published(error))?;
            all.extend(found.into_iter().filter_map(|found| read_fill(store, number, found)));
        }
        Ok(all)
    }

    async fn fill(&self, fill: &Fill, through: Position, events: &[RecordedEvent]) -> Result<Filled, PublishError> {
        self.shared.ensure_publishing()?;
        let parts = self.shared.parts();
        let Some(part) = parts.get(fill.part) else {
            return Ok(Filled::Moved); // the number of partitions was changed
        };
        let is_here = |event: &&RecordedEvent| {
            parts.len() == 1 || {
                let id = event.metadata().aggregate_id().as_str();
                partition_of(id, self.shared.config.partitions) as usize == fill.part
            }
        };
        let event_type = fill.event_type.as_ref().map_or("", Name::as_str);
        let store = fill.store.to_string();
        let mut add = script::FILL.key(keys::fills(&part.stream));
        add.key(keys::backlog(&self.shared.home, &fill.group));
        add.arg(format!("fill {store} {}\n{event_type}", fill.group)).arg(fill.group.as_str());
        add.arg(fill.after.get()).arg(through.get());
        let carrier = Carrier::of(part, &Span::none());
        for event in events.iter().filter(is_here) {
            let refused = |source| PublishError::Refused {
                destination: part.destination.clone(),
                event_id: Some(event.metadata().event_id()),
                source,
            };
            let mut fields = part.encode(event, &carrier).map_err(refused)?;
            fields.insert(BEHIND_THE_SEVEN, (field::STORE, store.as_bytes().into()));
            add.arg(fields.len() * 2);
            for (name, value) in &fields {
                add.arg(*name).arg(&**value);
            }
        }
        let said: String = self.shared.link.run(&add).await.map_err(|error| part.not_published(error))?;
        Ok(match said.as_str() {
            "filled" => Filled::Done,
            "full" => Filled::Full,
            _ => Filled::Moved,
        })
    }
}

fn read_fill(
    store: Uuid,
    part: usize,
    (group, event_type, at, through): (String, String, String, String),
) -> Option<Fill> {
    let position = |text: &str| text.parse().ok().map(Position::new);
    let event_type = match event_type.as_str() {
        "" => None,
        name => Some(Name::new("event type", name).ok()?),
    };
    let (after, through) = (position(&at)?, position(&through)?);
    Some(Fill { store, group: Name::new("group", group).ok()?, event_type, after, through, part })
}

impl Shared {
    /// The same bus, reading the backlog of a group. With partitions one consumer has all of it at a time, so that its
    /// order holds; else the consumers of the group share it.
    pub(crate) fn backlog_of(&self, group: &Name) -> Self {
        let stream = keys::backlog(&self.home, group);
        let mut backlog = Self {
            root: self.home.clone(),
            home: stream.clone(),
            stream,
            partitions: Vec::new(),
            generation: Arc::default(),
            ..self.clone()
        };
        (backlog.config.trim_max_length, backlog.config.trim_max_age_seconds) = (None, None);
        if !self.partitions.is_empty() {
            backlog.partitions = vec![Arc::new(backlog.clone())];
        }
        backlog
    }

    /// Whether this is the backlog of a group.
    pub(crate) fn is_backlog(&self) -> bool {
        self.home != self.root
    }

    /// Looks how the backlog of a group is.
    pub(crate) async fn look_at_backlog(&self, group: &Name) -> Result<Backlog, CommandError> {
        self.look_at_backlog_as(group, None).await
    }

    /// The same as a consumer of the backlog, of which so many entries in hand are tried again, or parked behind such.
    pub(crate) async fn look_at_backlog_as(
        &self,
        group: &Name,
        consumer: Option<(&str, usize)>,
    ) -> Result<Backlog, CommandError> {
        let backlog = keys::backlog(&self.home, group);
        let mut look = script::LOOK_AT_BACKLOG.key(&backlog);
        look.key(keys::retry(&backlog, &self.config.retry_key_prefix, group)).key(keys::members(&backlog, group));
        look.key(keys::floors(&backlog)).key(keys::lease(&backlog, group)).key(keys::relay(&backlog));
        look.key(keys::retried(&backlog));
        for part in self.parts() {
            look.key(keys::fills(&part.stream));
        }
        look.arg(group.as_str());
        if let Some((name, retried)) = consumer {
            look.arg(name).arg(retried);
        }
        let mut said: Vec<String> = self.link.rerun(&look).await?;
        let copies = said.split_off(4.min(said.len()));
        let copy = |text: String| {
            let (number, event_type) = text.split_once(' ')?;
            Some((number.parse().ok()?, event_type.to_owned()))
        };
        let copies = copies.into_iter().filter_map(copy).collect();
        let is_first = said.get(1).is_some_and(|said| said == "1");
        let forsaken = said.get(2).cloned().unwrap_or_default();
        let left = said.get(3).and_then(|left| left.parse().ok()).unwrap_or_default();
        Ok(match said.first().map(String::as_str) {
            Some("more") => Backlog::More { is_first, forsaken, left, copies },
            Some("finished") => Backlog::Finished,
            _ => Backlog::None,
        })
    }

    /// Whether a group has a backlog that comes before everything else.
    pub(crate) async fn is_backlog_first(&self, group: &Name) -> Result<bool, CommandError> {
        let backlog = self.look_at_backlog(group).await?;
        Ok(matches!(backlog, Backlog::More { is_first: true, forsaken, .. } if forsaken.is_empty()))
    }

    /// Copies what a group skipped of a type from a stream into its backlog.
    pub(crate) async fn copy_to_backlog(
        &self,
        group: &Name,
        (number, event_type): &(usize, String),
        stop: &StopSignal,
    ) -> Result<(), CommandError> {
        let parts = self.parts();
        let Some(part) = parts.get(*number) else {
            return Ok(());
        };
        loop {
            let mut copy = script::COPY.key(&part.stream);
            copy.key(keys::fills(&part.stream)).key(keys::backlog(&self.home, group));
            copy.arg(group.as_str()).arg(event_type).arg(TOGETHER);
            if !self.link.run::<bool>(&copy).await? || stop.is_stopped() {
                return Ok(());
            }
        }
    }

    /// Announces what groups handle.
    pub(crate) async fn announce(&self, announced: &[Announced]) -> Result<Vec<SkippedBefore>, CommandError> {
        let mut older = Vec::new();
        let mut groups: Vec<&Name> = announced.iter().map(|announced| &announced.group).collect();
        groups.sort();
        groups.dedup();
        for group in groups {
            let of_group = announced.iter().filter(|announced| announced.group == *group);
            let undecided: Vec<(String, u64, u64)> = self.link.rerun(&self.announcing(group, of_group)).await?;
            older.extend(undecided.into_iter().map(|(event_type, count, age)| SkippedBefore {
                group: group.clone(),
                event_type,
                count,
                age: Duration::from_millis(age),
            }));
        }
        Ok(older)
    }

    fn announcing<'a>(
        &self,
        group: &Name,
        announced: impl Iterator<Item = &'a Announced>,
    ) -> ScriptInvocation<'static> {
        let mut announce = script::ANNOUNCE.key(keys::known_types(&self.home, group));
        for part in self.parts() {
            let stream = &part.stream;
            announce.key(stream).key(keys::relay(stream)).key(keys::skipped(stream, group)).key(keys::fills(stream));
        }
        let within = self.config.deliver_skipped_within.as_millis();
        announce.arg(group.as_str()).arg(u64::try_from(within).unwrap_or(u64::MAX));
        for Announced { event_type, schema_version, start, .. } in announced {
            announce.arg(event_type.as_ref().map_or("*", Name::as_str)).arg(schema_version);
            announce.arg(match start {
                Some(HandlerStart::Oldest) => "oldest",
                Some(HandlerStart::Now) => "now",
                None => "",
            });
        }
        announce
    }

    /// Whether the server still has what it noted of the types that a group announced.
    pub(crate) async fn has_noted(&self, group: &Name, noted: &[String]) -> Result<bool, CommandError> {
        if noted.is_empty() {
            return Ok(true);
        }
        let mut look = redis::cmd("HMGET");
        look.arg(keys::known_types(&self.home, group)).arg(noted);
        let found: Vec<Option<String>> = self.link.query(&look).await?;
        Ok(found.iter().all(Option::is_some))
    }

    /// What a group has yet to do of its backlog.
    pub(crate) async fn backlog_progress(&self, group: &Name) -> Result<GroupProgress, CommandError> {
        match self.look_at_backlog(group).await? {
            Backlog::None | Backlog::Finished => Ok(GroupProgress::default()),
            Backlog::More { .. } => {
                let backlog = self.backlog_of(group);
                let mut progress = backlog.ask_progress(group).await?;
                // it may not be filled yet
                progress.unread = progress.unread.max(u64::from(progress.pending == 0));
                Ok(progress)
            }
        }
    }
}

/// What the server notes of an announcement: not the types of which it is undecided whether older events are delivered.
pub(crate) fn noted(announced: &[Announced], undecided: &[SkippedBefore]) -> Vec<String> {
    let is_noted = |announced: &&Announced| match &announced.event_type {
        Some(name) => undecided.iter().all(|skipped| skipped.event_type != name.as_str()),
        None => undecided.is_empty(),
    };
    let field = |announced: &Announced| match &announced.event_type {
        Some(name) => format!("{name}@{}", announced.schema_version),
        None => "*".to_owned(),
    };
    announced.iter().filter(is_noted).map(field).collect()
}

pub(crate) fn consume_error(shared: &Shared, error: CommandError) -> ConsumeError {
    ConsumeError::Unavailable { destination: shared.destination.clone(), source: boxed(error) }
}
