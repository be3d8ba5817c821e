//! Publishing for relays: where a store's events are in the log says how far it is published.
//!
//! Keep: an event of a store is linked under the id that follows on all that were looked at, none of them missing, and
//! under no other. So whoever links it has seen what was published before, and of two relays one links it, however long
//! either was held up. Setting the position back takes an id in the same way.

mod floors;
mod record;

use std::collections::VecDeque;

use async_trait::async_trait;
use eventbus::{
    EventId, Name, Position,
    port::{
        Adopted, Adoption, EventBus as _, Mark, PublishError, PublishRange, Publisher, RangeOutcome, RelayTarget,
        SeenFloors, check_records,
    },
};

pub(crate) use self::record::{Relayed, store_of};
use crate::{
    FileQueue,
    bus::publish_error,
    disk::Staged,
    error::Result,
    event::{self, Again, EventFile, message_id},
    log::Linked,
    patience::Patience,
    publish::Stopped,
    queue::Shared,
};

/// A range that is none, or an event in it that cannot be published.
#[derive(Debug, thiserror::Error)]
enum Unpublishable {
    #[error("event {event_id} has no place in a store, so no relay can publish it")]
    NoPosition { event_id: EventId },
    #[error("event {event_id} at position {position} is not between {after} and {through}, in order")]
    OutOfOrder { event_id: EventId, position: Position, after: Position, through: Position },
    #[error("a range from {after} cannot end at {through}")]
    Backwards { after: Position, through: Position },
}

impl Unpublishable {
    const fn event_id(&self) -> Option<EventId> {
        match self {
            Self::NoPosition { event_id } | Self::OutOfOrder { event_id, .. } => Some(*event_id),
            Self::Backwards { .. } => None,
        }
    }
}

/// What came of one try.
enum Try<T> {
    Done(T),
    /// Somebody else wrote meanwhile: look again.
    Again,
    /// An id is missing: wait for its publisher.
    Wait,
}

/// A range on its way.
struct Sending {
    publisher: Publisher,
    /// How far the store is published if nobody else publishes it.
    position: u64,
    /// How far it is published with this range.
    through: u64,
    /// Where each event belongs that is not published yet.
    left: VecDeque<(u64, EventId)>,
    staged: VecDeque<Staged>,
    /// The ids that were given.
    ids: Vec<u64>,
}

#[async_trait]
impl RelayTarget for FileQueue {
    async fn publish_range(&self, publisher: Publisher, range: PublishRange<'_>) -> Result<RangeOutcome, PublishError> {
        let left = places(range).map_err(|error| {
            let (destination, event_id) = (self.destination().clone(), error.event_id());
            PublishError::Refused { destination, event_id, source: error.into() }
        })?;
        check_records(self.destination(), range.events)?;
        let (position, through) = (range.after.get(), range.through.get());
        let mut sending = Sending { publisher, position, through, left, staged: VecDeque::new(), ids: Vec::new() };
        if !range.events.is_empty() {
            if let Some(refusal) = self.relaying(move |shared| shared.foreseen(publisher, position)).await? {
                return Ok(refusal);
            }
            let (events, store) = (range.events.to_vec(), Some(publisher.store));
            sending.staged = self.relaying(move |shared| shared.stage(&events, event::now(), store)).await?;
        }
        self.send(sending).await
    }

    async fn adopt(&self, publisher: Publisher, adoption: Adoption<'_>) -> Result<Adopted, PublishError> {
        let (floor, shared_too, groups) = (adoption.floor, adoption.shared, adoption.groups.to_vec());
        self.relaying(move |shared| shared.adopt(publisher, floor, shared_too, &groups)).await
    }

    async fn marks(&self, publisher: Publisher) -> Result<Vec<Mark>, PublishError> {
        let relayed = self.relaying(move |shared| shared.relayed(publisher.store)).await?;
        Ok(relayed.map(|relayed| relayed.now.mark()).into_iter().collect())
    }

    /// No group has a hole: what is removed before a group has handled it was to be removed, by [`DoneWhen::Result`].
    ///
    /// [`DoneWhen::Result`]: crate::DoneWhen::Result
    async fn group_floors(&self, publisher: Publisher, known: &[Name]) -> Result<SeenFloors, PublishError> {
        let known = known.to_vec();
        self.relaying(move |shared| shared.group_floors(publisher, known)).await
    }

    async fn rewind(&self, publisher: Publisher, to: Position) -> Result<Adopted, PublishError> {
        let mut patience = Patience::new(&self.shared);
        loop {
            match self.relaying(move |shared| shared.rewind(publisher, to.get())).await? {
                Try::Done(adopted) => return Ok(adopted),
                Try::Again => {}
                Try::Wait => patience.wait().await,
            }
        }
    }
}

/// The places of the events of a range, which must be in order.
fn places(range: PublishRange<'_>) -> Result<VecDeque<(u64, EventId)>, Unpublishable> {
    let PublishRange { mut after, through, events } = range;
    let mut places = VecDeque::with_capacity(events.len());
    for event in events {
        let event_id = event.metadata().event_id();
        let position = event.position().ok_or(Unpublishable::NoPosition { event_id })?;
        if position <= after || position > through {
            return Err(Unpublishable::OutOfOrder { event_id, position, after, through });
        }
        places.push_back((position.get(), event_id));
        after = position;
    }
    match after <= through {
        true => Ok(places),
        false => Err(Unpublishable::Backwards { after: range.after, through }),
    }
}

impl FileQueue {
    /// Asks the file system for a relay.
    async fn relaying<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Shared) -> Result<T> + Send + 'static,
    ) -> Result<T, PublishError> {
        if self.shared.consuming.is_closed() {
            return Err(PublishError::ShutDown { destination: self.destination().clone() });
        }
        self.shared.blocking(ask).await.map_err(|error| publish_error(self.destination(), error.into()))
    }

    async fn send(&self, mut sending: Sending) -> Result<RangeOutcome, PublishError> {
        let unknown = |error| publish_error(self.destination(), Stopped { in_part: true, error });
        let (mut patience, mut told) = (Patience::new(&self.shared), 0);
        loop {
            let send = move |shared: &Shared| {
                let sent = shared.try_to_send(&mut sending);
                if let Ok(Try::Done(_)) = &sent {
                    shared.unstage(&mut sending.staged);
                }
                Ok((sent, sending))
            };
            let (sent, rest) = self.shared.blocking(send).await.map_err(unknown)?;
            sending = rest;
            // what is there is told, whatever comes of the rest
            self.shared.tell_published(&sending.ids[told..]).await;
            self.shared.counters.events_published((sending.ids.len() - told) as u64);
            told = sending.ids.len();
            match sent.map_err(unknown)? {
                Try::Done(outcome) => return Ok(outcome),
                Try::Again => {}
                Try::Wait => patience.wait().await,
            }
        }
    }
}

impl Shared {
    /// What keeps a relay from publishing after a position, as far as that is clear: then nothing need be staged.
    fn foreseen(&self, publisher: Publisher, position: u64) -> Result<Option<RangeOutcome>> {
        Ok(match self.relayed(publisher.store)? {
            Some(relayed) if relayed.is_undecided => None,
            Some(relayed) => refusal(&relayed, publisher, position),
            None => Some(RangeOutcome::Lost),
        })
    }

    fn try_to_send(&self, sending: &mut Sending) -> Result<Try<RangeOutcome>> {
        let publisher = sending.publisher;
        let Some(mut relayed) = self.relayed(publisher.store)? else {
            return Ok(Try::Done(RangeOutcome::Lost));
        };
        if relayed.is_undecided {
            return self.await_missing(&relayed);
        }
        if let Some(refusal) = refusal(&relayed, publisher, sending.position) {
            return Ok(Try::Done(refusal));
        }
        if sending.left.is_empty() {
            if relayed.now.position < sending.through {
                // what comes behind the last event is skipped, and no file tells of it
                let now = &mut relayed.now;
                (now.epoch, now.position, now.event_id) = (publisher.epoch, sending.through, None);
                if !self.write_record(&mut relayed)? {
                    return Ok(Try::Again);
                }
            }
            self.keep(&mut relayed)?;
            let ids = sending.ids.iter().map(|id| message_id(*id)).collect();
            return Ok(Try::Done(RangeOutcome::Published(ids)));
        }
        if publisher.epoch > relayed.now.epoch {
            relayed.now.epoch = publisher.epoch;
            if !self.write_record(&mut relayed)? {
                return Ok(Try::Again);
            }
        }
        let Linked { ids, collisions, error } = self.log.link_after(&mut sending.staged, relayed.now.through)?;
        self.metrics.id_collisions.add(collisions);
        for (id, (position, event_id)) in ids.iter().zip(sending.left.drain(..ids.len())) {
            relayed.now.published(*id, position, event_id);
            sending.position = position;
        }
        sending.ids.extend(ids);
        if let Some(error) = error {
            return Err(error);
        }
        self.keep(&mut relayed)?;
        Ok(Try::Again)
    }

    /// The first missing id is filled when its publisher is overdue.
    fn await_missing<T>(&self, relayed: &Relayed) -> Result<Try<T>> {
        let is_filled = self.log.fill_overdue(relayed.now.through + 1, &self.worker)?;
        Ok(if is_filled { Try::Again } else { Try::Wait })
    }

    fn adopt(&self, publisher: Publisher, floor: Position, is_shared: bool, groups: &[Name]) -> Result<Adopted> {
        let Publisher { store, epoch } = publisher;
        loop {
            if let Some(relayed) = self.relayed(store)? {
                let is_fenced = epoch < relayed.now.epoch;
                return Ok(if is_fenced { Adopted::Fenced } else { Adopted::Moved(relayed.now.position.into()) });
            }
            if !is_shared && let Some(other) = self.relayed_stores()?.into_iter().find(|other| *other != store) {
                return Ok(Adopted::OtherStore(other));
            }
            groups.iter().try_for_each(|group| self.make_group(group))?;
            if self.begin_record(store, epoch, floor.get())? {
                return Ok(Adopted::At(floor));
            }
        }
    }

    fn rewind(&self, publisher: Publisher, to: u64) -> Result<Try<Adopted>> {
        let Publisher { store, epoch } = publisher;
        let Some(relayed) = self.relayed(store)? else {
            return Ok(Try::Done(Adopted::Moved(to.into()))); // the next range is told that it is lost
        };
        if epoch < relayed.now.epoch {
            return Ok(Try::Done(Adopted::Fenced));
        }
        if to >= relayed.now.position {
            return Ok(Try::Done(Adopted::Moved(relayed.now.position.into())));
        }
        if relayed.is_undecided {
            return self.await_missing(&relayed);
        }
        let gap = EventFile::gap(&self.worker, "the relay of a store publishes again what it published before");
        let gap = EventFile { store: Some(store), again: Some(Again { after: to, epoch }), ..gap };
        let mut staged = VecDeque::from([self.disk.stage(&event::pretty("the gap", &gap)?)?]);
        let Linked { ids, error, .. } = self.log.link_after(&mut staged, relayed.now.through)?;
        match error {
            Some(error) => Err(error),
            None if ids.is_empty() => Ok(Try::Again),
            None => Ok(Try::Done(Adopted::At(to.into()))),
        }
    }
}

/// What keeps a relay from publishing after a position.
fn refusal(relayed: &Relayed, publisher: Publisher, position: u64) -> Option<RangeOutcome> {
    let record = &relayed.now;
    if publisher.epoch < record.epoch {
        return Some(RangeOutcome::Fenced);
    }
    (record.position != position).then(|| RangeOutcome::Moved(record.position.into()))
}
