//! Publishing for relays: the position of a store moves in the step that adds its events.
//!
//! Keep: each step is one script, which checks everything before it writes anything. What a store holds between two
//! positions never changes, so a step whose reply was lost is simply made again.

mod partitions;

use async_trait::async_trait;
use eventbus::{
    BoxError, EventId, Name, Position,
    port::{
        Adopted, Adoption, Mark, MessageId, PublishError, PublishRange, Publisher, RangeOutcome, RelayTarget,
        SeenFloor, SeenFloors,
    },
};
use redis::ScriptInvocation;
use tracing::{Instrument, Span};
use uuid::Uuid;

use self::partitions::together;
use crate::{
    RedisEventBus,
    bus::Shared,
    keys::{self, field},
    otel,
    publish::error_type,
    script,
    trace::{self, Carrier},
    wire,
};

/// A range that is none, or an event in it that cannot be published.
#[derive(Debug, thiserror::Error)]
enum Unpublishable {
    #[error("event {event_id} has no place in a store, so no relay can publish it")]
    NoPosition { event_id: EventId },
    #[error("event {event_id} at position {position} is not between {after} and {through}, in order")]
    OutOfOrder { event_id: EventId, position: Position, after: Position, through: Position },
    #[error("a range from {after} ends before it, at {through}")]
    Backwards { after: Position, through: Position },
    #[error("event {event_id} at position {position} cannot be published")]
    Event { event_id: EventId, position: Position, source: BoxError },
}

impl Unpublishable {
    const fn event_id(&self) -> Option<EventId> {
        match self {
            Self::NoPosition { event_id } | Self::OutOfOrder { event_id, .. } | Self::Event { event_id, .. } => {
                Some(*event_id)
            }
            Self::Backwards { .. } => None,
        }
    }
}

/// Where the field with the store goes: behind those of the shared wire format.
pub(crate) const BEHIND_THE_SEVEN: usize = 7;

#[async_trait]
impl RelayTarget for RedisEventBus {
    async fn publish_range(&self, publisher: Publisher, range: PublishRange<'_>) -> Result<RangeOutcome, PublishError> {
        match self.shared.partitions.is_empty() {
            true => self.shared.publish_range(publisher, range, last_of(range)).await,
            false => self.shared.publish_by_partition(publisher, range).await,
        }
    }

    async fn adopt(&self, publisher: Publisher, adoption: Adoption<'_>) -> Result<Adopted, PublishError> {
        let mut all = None;
        for part in self.shared.parts() {
            all = Some(together(all, part.adopt(publisher, adoption).await?));
        }
        Ok(all.unwrap_or(Adopted::Moved(adoption.floor)))
    }

    async fn marks(&self, publisher: Publisher) -> Result<Vec<Mark>, PublishError> {
        let mut marks = Vec::new();
        for part in self.shared.parts() {
            marks.extend(part.mark(publisher).await?);
        }
        Ok(marks)
    }

    /// Of the groups that nobody asks for, it tells those that are listed, have a consumer or have read something; one
    /// that nobody ever joined has no progress. A group whose name is no [`Name`] is not told.
    async fn group_floors(&self, publisher: Publisher, known: &[Name]) -> Result<SeenFloors, PublishError> {
        match self.shared.partitions.is_empty() {
            true => self.shared.group_floors(publisher, known).await,
            false => self.shared.group_floors_by_partition(publisher, known).await,
        }
    }

    async fn rewind(&self, publisher: Publisher, to: Position) -> Result<Adopted, PublishError> {
        let mut all = None;
        for part in self.shared.parts() {
            all = Some(together(all, part.rewind(publisher, to).await?));
        }
        Ok(all.unwrap_or(Adopted::Moved(to)))
    }
}

/// A script with the keys and the first argument that all have.
fn step(script: &'static redis::Script, shared: &Shared, publisher: Publisher) -> ScriptInvocation<'static> {
    let mut step = script.key(&shared.stream);
    step.key(keys::relay(&shared.stream)).arg(publisher.store.to_string());
    step
}

/// Reads what is told of a group.
fn seen(told: &[Vec<u8>]) -> Option<(Name, SeenFloor)> {
    let group = Name::new("group", str::from_utf8(&told[0]).ok()?).ok()?;
    let floor = match (told[1].as_slice(), position(&told[2])) {
        (b"at", Some(position)) => SeenFloor::At(position),
        (b"missing", _) => SeenFloor::Missing,
        (b"hole", _) => SeenFloor::Hole,
        _ => SeenFloor::Unknown,
    };
    Some((group, floor))
}

fn position(text: &[u8]) -> Option<Position> {
    str::from_utf8(text).ok()?.parse().ok().map(Position::new)
}

/// The event at the end of a range.
fn last_of(range: PublishRange<'_>) -> Option<EventId> {
    let last = range.events.last()?;
    (last.position() == Some(range.through)).then(|| last.metadata().event_id())
}

/// What the script takes for granted.
fn check(range: PublishRange<'_>) -> Result<(), Unpublishable> {
    let PublishRange { mut after, through, events } = range;
    if through < after {
        return Err(Unpublishable::Backwards { after, through });
    }
    for event in events {
        let event_id = event.metadata().event_id();
        let position = event.position().ok_or(Unpublishable::NoPosition { event_id })?;
        if position <= after || position > through {
            return Err(Unpublishable::OutOfOrder { event_id, position, after, through });
        }
        after = position;
    }
    Ok(())
}

impl Shared {
    async fn adopt(&self, publisher: Publisher, adoption: Adoption<'_>) -> Result<Adopted, PublishError> {
        let mut adopt = step(&script::ADOPT, self, publisher);
        adopt.key(keys::floors(&self.stream));
        adopt.arg(publisher.epoch).arg(adoption.floor.get()).arg(u8::from(adoption.shared));
        for group in adoption.groups {
            adopt.arg(group.as_str()).arg(u8::from(adoption.fresh.contains(group)));
        }
        self.adopted(&self.step(&adopt).await?)
    }

    async fn mark(&self, publisher: Publisher) -> Result<Option<Mark>, PublishError> {
        let told = self.step(&step(&script::MARK, self, publisher)).await?;
        match words(&told) {
            ("at", [at, id]) => match position(at.as_bytes()) {
                Some(position) => Ok(Some(Mark { position, event_id: EventId::parse(id).ok() })),
                None => Err(self.not_understood(told)),
            },
            _ => Ok(None),
        }
    }

    async fn group_floors(&self, publisher: Publisher, known: &[Name]) -> Result<SeenFloors, PublishError> {
        let mut ask = step(&script::GROUP_FLOORS, self, publisher);
        ask.key(keys::floors(&self.stream)).arg(publisher.epoch);
        for group in known {
            ask.arg(group.as_str());
        }
        self.ensure_publishing()?;
        let told: Vec<Vec<u8>> = self.link.rerun(&ask).await.map_err(|error| self.not_published(error))?;
        match told.split_first() {
            Some((word, told)) if word == b"groups" => {
                Ok(SeenFloors::Groups(told.chunks_exact(3).filter_map(seen).collect()))
            }
            Some((word, _)) if word == b"lost" => Ok(SeenFloors::Lost),
            _ => Err(self.not_understood(&told)),
        }
    }

    async fn rewind(&self, publisher: Publisher, to: Position) -> Result<Adopted, PublishError> {
        let mut rewind = step(&script::REWIND, self, publisher);
        rewind.arg(publisher.epoch).arg(to.get());
        self.adopted(&self.step(&rewind).await?)
    }

    /// Publishes a range, or what this partition has of one, at whose end `last` is.
    async fn publish_range(
        &self,
        publisher: Publisher,
        range: PublishRange<'_>,
        last: Option<EventId>,
    ) -> Result<RangeOutcome, PublishError> {
        self.ensure_publishing()?;
        let span = if range.events.is_empty() { Span::none() } else { trace::publish(self, range.events) };
        let outcome = self.publish_range_within(&span, publisher, range, last).instrument(span.clone()).await;
        match &outcome {
            Ok(RangeOutcome::Published(ids)) => {
                self.counters.events_published(ids.len() as u64);
                if let [id] = ids.as_slice() {
                    otel::published(&span, id.as_str());
                }
            }
            Ok(_) => {}
            Err(error) => trace::failed(&span, error_type(error)),
        }
        outcome
    }

    async fn publish_range_within(
        &self,
        span: &Span,
        publisher: Publisher,
        range: PublishRange<'_>,
        last: Option<EventId>,
    ) -> Result<RangeOutcome, PublishError> {
        let refused =
            |event_id, source| PublishError::Refused { destination: self.destination.clone(), event_id, source };
        check(range).map_err(|error| refused(error.event_id(), error.into()))?;
        let carrier = Carrier::of(self, span);
        let script = if self.is_partition() { &script::PUBLISH_RANGE_TO_PARTITION } else { &script::PUBLISH_RANGE };
        let mut publish = step(script, self, publisher);
        publish.arg(publisher.epoch).arg(range.after.get()).arg(range.through.get());
        publish.arg(last.map_or_else(|| "-".into(), |id| id.to_string()));
        let store = publisher.store.to_string();
        for event in range.events {
            let (event_id, position) = (event.metadata().event_id(), event.position().unwrap_or_default());
            let refuse = |source| refused(Some(event_id), Unpublishable::Event { event_id, position, source }.into());
            let mut fields = self.encode(event, &carrier).map_err(refuse)?;
            fields.insert(BEHIND_THE_SEVEN, (field::STORE, store.as_bytes().into()));
            publish.arg(position.get());
            add_fields(&mut publish, &fields);
        }
        let told = match self.is_partition() {
            true => {
                self.relying_on_layout(&mut publish);
                self.add_to_partitions::<Vec<String>>(&publish).await
            }
            false => self.link.run::<Vec<String>>(&publish).await,
        };
        let told = told.map_err(|error| self.not_published(error))?;
        match words(&told) {
            ("published", ids) => Ok(RangeOutcome::Published(ids.iter().map(|id| MessageId::new(&**id)).collect())),
            ("moved", [at]) if let Some(at) = position(at.as_bytes()) => Ok(RangeOutcome::Moved(at)),
            ("fenced", _) => Ok(RangeOutcome::Fenced),
            ("lost", _) => Ok(RangeOutcome::Lost),
            _ => Err(self.not_understood(told)),
        }
    }

    /// Runs a script that may run twice, and replies with words.
    async fn step(&self, step: &ScriptInvocation<'_>) -> Result<Vec<String>, PublishError> {
        self.ensure_publishing()?;
        self.link.rerun(step).await.map_err(|error| self.not_published(error))
    }

    fn adopted(&self, told: &[String]) -> Result<Adopted, PublishError> {
        let adopted = match words(told) {
            ("at", [at]) => position(at.as_bytes()).map(Adopted::At),
            ("moved", [at]) => position(at.as_bytes()).map(Adopted::Moved),
            ("other", [store]) => Uuid::try_parse(store).ok().map(Adopted::OtherStore),
            ("fenced", _) => Some(Adopted::Fenced),
            _ => None,
        };
        adopted.ok_or_else(|| self.not_understood(told))
    }

    fn not_understood(&self, told: impl std::fmt::Debug) -> PublishError {
        let source = format!("the server told {told:?}").into();
        PublishError::OutcomeUnknown { destination: self.destination.clone(), source }
    }
}

/// The first word of a reply, and the others.
fn words(told: &[String]) -> (&str, &[String]) {
    told.split_first().map_or(("", &[]), |(word, others)| (word, others))
}

fn add_fields(script: &mut ScriptInvocation<'_>, fields: &wire::Fields<'_>) {
    script.arg(fields.len() * 2);
    for (name, value) in fields {
        script.arg(*name).arg(&**value);
    }
}
