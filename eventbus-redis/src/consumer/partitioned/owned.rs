//! Which partitions a consumer owns, and what it has of them.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use eventbus::port::MessageId;

use super::Consumer;
use crate::{bus::Shared, command::Entry, entry_id::EntryId};

#[derive(Default)]
pub(super) struct Owned {
    parts: BTreeMap<usize, Part>,
    /// The partitions of the entries in hand.
    places: HashMap<MessageId, usize>,
}

/// A partition.
struct Part {
    consumer: Arc<Consumer>,
    stage: Stage,
    /// Whether its last owner showed no life.
    is_recovered: bool,
    /// Counts how often its reading began anew.
    reader: u64,
    /// What was read and is not in hand yet.
    stash: VecDeque<(EntryId, Entry)>,
    /// Whether there may be more behind the stash.
    has_more: bool,
    /// Where to wait for more.
    last: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// What is pending is being taken in hand, from this id on.
    CatchingUp(String),
    Reading,
    /// It is let go as soon as nothing of it is being handled.
    Leaving,
    /// Somebody else owns it.
    Lost,
}

/// A partition whose pending entries are to be taken in hand.
pub(super) struct Behind {
    pub(super) consumer: Arc<Consumer>,
    pub(super) from: String,
    /// Who reads it, if the server is to be told.
    pub(super) new_reader: Option<u64>,
    pub(super) is_recovered: bool,
}

/// A partition that may be read.
pub(super) struct Readable {
    pub(super) consumer: Arc<Consumer>,
    pub(super) reader: u64,
}

impl Part {
    fn begin_anew(&mut self) {
        self.stage = Stage::CatchingUp("-".into());
        self.reader += 1;
        self.stash.clear();
        self.has_more = false;
    }
}

impl Owned {
    pub(super) fn add(&mut self, number: usize, consumer: Consumer, is_recovered: bool, last: String) {
        let consumer = Arc::new(consumer);
        let stage = Stage::CatchingUp("-".into());
        let (stash, has_more) = (VecDeque::new(), false);
        self.parts.insert(number, Part { consumer, stage, is_recovered, reader: 1, stash, has_more, last });
    }

    pub(super) fn consumers(&self) -> Vec<(usize, Arc<Consumer>)> {
        self.parts.iter().map(|(number, part)| (*number, Arc::clone(&part.consumer))).collect()
    }

    pub(super) fn streams(&self) -> Vec<Arc<Shared>> {
        self.parts.values().map(|part| Arc::clone(&part.consumer.shared)).collect()
    }

    /// The epoch under which it owns a partition.
    pub(super) fn epoch(&self, number: usize) -> &str {
        let fence = self.parts.get(&number).and_then(|part| part.consumer.fence.as_ref());
        fence.map_or("", |fence| &fence.epoch)
    }

    fn part(&mut self, consumer: &Arc<Consumer>) -> Option<&mut Part> {
        self.parts.values_mut().find(|part| Arc::ptr_eq(&part.consumer, consumer))
    }

    /// Somebody else owns it; the keeper will let it go.
    pub(super) fn lost(&mut self, consumer: &Arc<Consumer>) {
        if let Some(part) = self.part(consumer) {
            part.stage = Stage::Lost;
        }
    }

    pub(super) fn all_lost(&self) -> Vec<usize> {
        let lost = self.parts.iter().filter(|(_, part)| part.stage == Stage::Lost);
        lost.map(|(number, _)| *number).collect()
    }

    /// Takes all that is pending in hand before reading on.
    pub(super) fn read_again(&mut self, consumer: &Arc<Consumer>) {
        if let Some(part) = self.part(consumer).filter(|part| !matches!(part.stage, Stage::Leaving | Stage::Lost)) {
            part.begin_anew();
        }
    }

    pub(super) fn read_all_again(&mut self) {
        for part in self.parts.values_mut().filter(|part| !matches!(part.stage, Stage::Leaving | Stage::Lost)) {
            part.begin_anew();
        }
    }

    /// The partitions whose pending entries are not all in hand.
    pub(super) fn behind(&self) -> Vec<Behind> {
        let behind = |part: &Part| match &part.stage {
            Stage::CatchingUp(from) => Some(Behind {
                consumer: Arc::clone(&part.consumer),
                from: from.clone(),
                new_reader: (from == "-").then_some(part.reader),
                is_recovered: part.is_recovered,
            }),
            _ => None,
        };
        self.parts.values().filter_map(behind).collect()
    }

    /// The pending entries up to an id are about to be in hand; without one all of them are. False: that is not what is
    /// to be done any more.
    pub(super) fn caught_up(
        &mut self,
        behind: &Behind,
        to: Option<String>,
        ids: impl Iterator<Item = MessageId>,
    ) -> bool {
        let asked = Stage::CatchingUp(behind.from.clone());
        let Some((number, part)) =
            self.parts.iter_mut().find(|(_, part)| Arc::ptr_eq(&part.consumer, &behind.consumer))
        else {
            return false;
        };
        if part.stage != asked {
            return false;
        }
        part.is_recovered &= to.is_some();
        part.stage = to.map_or(Stage::Reading, Stage::CatchingUp);
        self.places.extend(ids.map(|id| (id, *number)));
        true
    }

    /// The partitions of which nothing is left that was read. Those of which something is left are not read beside them, so
    /// there may be more behind it that is earlier than what these have.
    pub(super) fn readable(&mut self) -> Vec<Readable> {
        for part in self.parts.values_mut().filter(|part| !part.stash.is_empty()) {
            part.has_more = true;
        }
        let readable = self.parts.values().filter(|part| part.stage == Stage::Reading && part.stash.is_empty());
        readable.map(|part| Readable { consumer: Arc::clone(&part.consumer), reader: part.reader }).collect()
    }

    /// Some entries were read, as many as were asked for or all there are.
    pub(super) fn read(&mut self, of: &Readable, entries: Vec<Entry>, has_more: bool) {
        let Some(part) = self.part(&of.consumer).filter(|part| part.reader == of.reader) else {
            return; // they stay pending for whoever owns it now
        };
        if part.stage != Stage::Reading {
            return;
        }
        if let Some(last) = entries.last() {
            part.last.clone_from(&last.id);
        }
        part.has_more = has_more;
        part.stash.extend(entries.into_iter().map(|entry| (entry.id.parse().unwrap_or(EntryId::ZERO), entry)));
    }

    /// Whether something was read that is not in hand yet.
    pub(super) fn has_read(&self) -> bool {
        self.parts.values().any(|part| !part.stash.is_empty())
    }

    /// The entry that was published first of those that were read; none, as long as an earlier one may have to be read.
    pub(super) fn next(&mut self) -> Option<(Arc<Consumer>, Entry)> {
        let reading = || self.parts.iter().filter(|(_, part)| part.stage == Stage::Reading);
        if reading().any(|(_, part)| part.has_more && part.stash.is_empty()) {
            return None;
        }
        let first = |(number, part): (&usize, &Part)| Some((part.stash.front()?.0, *number));
        let (_, number) = reading().filter_map(first).min()?;
        let part = self.parts.get_mut(&number)?;
        let (_, entry) = part.stash.pop_front()?;
        self.places.insert(MessageId::new(entry.id.as_str()), number);
        Some((Arc::clone(&part.consumer), entry))
    }

    /// Where to wait for entries.
    pub(super) fn ends(&self) -> Vec<(String, String)> {
        let reading = self.parts.values().filter(|part| part.stage == Stage::Reading);
        reading.map(|part| (part.consumer.shared.stream.clone(), part.last.clone())).collect()
    }

    /// There is an entry in a stream.
    pub(super) fn seen(&mut self, stream: &str, id: String) {
        if let Some(part) = self.parts.values_mut().find(|part| part.consumer.shared.stream == stream) {
            part.last = id;
        }
    }

    pub(super) fn place(&self, id: &MessageId) -> Option<usize> {
        self.places.get(id).copied()
    }

    /// Lets go of partitions as soon as may be, those first of which least is in hand.
    pub(super) fn leave(&mut self, count: usize) {
        let mut in_hand: BTreeMap<usize, usize> = BTreeMap::new();
        for number in self.places.values() {
            *in_hand.entry(*number).or_default() += 1;
        }
        let staying = self.parts.iter().filter(|(_, part)| !matches!(part.stage, Stage::Leaving | Stage::Lost));
        let mut staying: Vec<usize> = staying.map(|(number, _)| *number).collect();
        let leaving = count.saturating_sub(self.parts.len() - staying.len());
        staying.sort_by_key(|number| in_hand.get(number).copied().unwrap_or_default());
        for number in staying.into_iter().take(leaving) {
            if let Some(part) = self.parts.get_mut(&number) {
                part.stage = Stage::Leaving;
                part.stash.clear();
            }
        }
    }

    pub(super) fn leaving(&self) -> Vec<usize> {
        let leaving = self.parts.iter().filter(|(_, part)| part.stage == Stage::Leaving);
        leaving.map(|(number, _)| *number).collect()
    }

    /// Forgets a partition; returns its entries.
    pub(super) fn remove(&mut self, number: usize) -> Vec<MessageId> {
        self.parts.remove(&number);
        let ids = self.places.iter().filter(|(_, place)| **place == number).map(|(id, _)| id.clone()).collect();
        self.places.retain(|_, place| *place != number);
        ids
    }

    /// Forgets entries that are not in hand any more, now and then.
    pub(super) fn tidy(&mut self, in_hand: usize, is_in_hand: impl Fn(&MessageId) -> bool) {
        const SLACK: usize = 1_000;
        if self.places.len() > 2 * in_hand + SLACK {
            self.places.retain(|id, _| is_in_hand(id));
        }
    }
}
