//! Which partitions a consumer owns, and what it has of them.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use eventbus::port::MessageId;

use super::Consumer;
use crate::{bus::BusInner, command::Entry, entry_id::EntryId};

#[derive(Default)]
pub(super) struct OwnedPartitions {
    partitions: BTreeMap<usize, OwnedPartition>,
    /// The partitions of the entries in hand.
    partition_by_entry: HashMap<MessageId, usize>,
}

/// A partition.
struct OwnedPartition {
    consumer: Arc<Consumer>,
    stage: PartitionStage,
    /// Whether its last owner showed no life.
    owner_crashed: bool,
    /// Counts how often its reading began anew.
    read_generation: u64,
    /// What was read and is not in hand yet.
    buffered: VecDeque<(EntryId, Entry)>,
    /// Whether there may be more behind the stash.
    has_more: bool,
    /// Where to wait for more.
    last_id: String,
}

#[derive(Debug, PartialEq, Eq)]
enum PartitionStage {
    /// What is pending is being taken in hand, from this id on.
    CatchingUp(String),
    Reading,
    /// It is let go as soon as nothing of it is being handled.
    Releasing,
    /// Somebody else owns it.
    Lost,
}

/// A partition whose pending entries are to be taken in hand.
pub(super) struct CatchUp {
    pub(super) consumer: Arc<Consumer>,
    pub(super) from: String,
    /// Who reads it, if the server is to be told.
    pub(super) new_generation: Option<u64>,
    pub(super) owner_crashed: bool,
}

/// A partition that may be read.
pub(super) struct ReadablePartition {
    pub(super) consumer: Arc<Consumer>,
    pub(super) read_generation: u64,
}

impl OwnedPartition {
    fn restart_reading(&mut self) {
        self.stage = PartitionStage::CatchingUp("-".into());
        self.read_generation += 1;
        self.buffered.clear();
        self.has_more = false;
    }
}

impl OwnedPartitions {
    pub(super) fn add(&mut self, number: usize, consumer: Consumer, is_recovered: bool, last: String) {
        let consumer = Arc::new(consumer);
        let stage = PartitionStage::CatchingUp("-".into());
        let (stash, has_more) = (VecDeque::new(), false);
        self.partitions.insert(
            number,
            OwnedPartition {
                consumer,
                stage,
                owner_crashed: is_recovered,
                read_generation: 1,
                buffered: stash,
                has_more,
                last_id: last,
            },
        );
    }

    pub(super) fn consumers(&self) -> Vec<(usize, Arc<Consumer>)> {
        self.partitions.iter().map(|(number, part)| (*number, Arc::clone(&part.consumer))).collect()
    }

    pub(super) fn streams(&self) -> Vec<Arc<BusInner>> {
        self.partitions.values().map(|part| Arc::clone(&part.consumer.bus)).collect()
    }

    /// The epoch under which it owns a partition.
    pub(super) fn epoch(&self, number: usize) -> &str {
        let fence = self.partitions.get(&number).and_then(|part| part.consumer.fencing_token.as_ref());
        fence.map_or("", |fence| &fence.epoch)
    }

    fn find_partition(&mut self, consumer: &Arc<Consumer>) -> Option<&mut OwnedPartition> {
        self.partitions.values_mut().find(|part| Arc::ptr_eq(&part.consumer, consumer))
    }

    /// Somebody else owns it; the keeper will let it go.
    pub(super) fn mark_lost(&mut self, consumer: &Arc<Consumer>) {
        if let Some(part) = self.find_partition(consumer) {
            part.stage = PartitionStage::Lost;
        }
    }

    pub(super) fn list_lost(&self) -> Vec<usize> {
        let lost = self.partitions.iter().filter(|(_, part)| part.stage == PartitionStage::Lost);
        lost.map(|(number, _)| *number).collect()
    }

    /// Takes all that is pending in hand before reading on.
    pub(super) fn restart_partition(&mut self, consumer: &Arc<Consumer>) {
        if let Some(part) = self
            .find_partition(consumer)
            .filter(|part| !matches!(part.stage, PartitionStage::Releasing | PartitionStage::Lost))
        {
            part.restart_reading();
        }
    }

    pub(super) fn restart_all(&mut self) {
        for part in self
            .partitions
            .values_mut()
            .filter(|part| !matches!(part.stage, PartitionStage::Releasing | PartitionStage::Lost))
        {
            part.restart_reading();
        }
    }

    /// The partitions whose pending entries are not all in hand.
    pub(super) fn list_catching_up(&self) -> Vec<CatchUp> {
        let behind = |part: &OwnedPartition| match &part.stage {
            PartitionStage::CatchingUp(from) => Some(CatchUp {
                consumer: Arc::clone(&part.consumer),
                from: from.clone(),
                new_generation: (from == "-").then_some(part.read_generation),
                owner_crashed: part.owner_crashed,
            }),
            _ => None,
        };
        self.partitions.values().filter_map(behind).collect()
    }

    /// The pending entries up to an id are about to be in hand; without one all of them are. False: that is not what is
    /// to be done any more.
    pub(super) fn record_catch_up(
        &mut self,
        behind: &CatchUp,
        to: Option<String>,
        ids: impl Iterator<Item = MessageId>,
    ) -> bool {
        let asked = PartitionStage::CatchingUp(behind.from.clone());
        let Some((number, part)) =
            self.partitions.iter_mut().find(|(_, part)| Arc::ptr_eq(&part.consumer, &behind.consumer))
        else {
            return false;
        };
        if part.stage != asked {
            return false;
        }
        part.owner_crashed &= to.is_some();
        part.stage = to.map_or(PartitionStage::Reading, PartitionStage::CatchingUp);
        self.partition_by_entry.extend(ids.map(|id| (id, *number)));
        true
    }

    /// The partitions of which nothing is left that was read. Those of which something is left are not read beside them, so
    /// there may be more behind it that is earlier than what these have.
    pub(super) fn list_readable(&mut self) -> Vec<ReadablePartition> {
        for part in self.partitions.values_mut().filter(|part| !part.buffered.is_empty()) {
            part.has_more = true;
        }
        let readable =
            self.partitions.values().filter(|part| part.stage == PartitionStage::Reading && part.buffered.is_empty());
        readable
            .map(|part| ReadablePartition {
                consumer: Arc::clone(&part.consumer),
                read_generation: part.read_generation,
            })
            .collect()
    }

    /// Some entries were read, as many as were asked for or all there are.
    pub(super) fn buffer_entries(&mut self, of: &ReadablePartition, entries: Vec<Entry>, has_more: bool) {
        let Some(part) = self.find_partition(&of.consumer).filter(|part| part.read_generation == of.read_generation)
        else {
            return; // they stay pending for whoever owns it now
        };
        if part.stage != PartitionStage::Reading {
            return;
        }
        if let Some(last) = entries.last() {
            part.last_id.clone_from(&last.id);
        }
        part.has_more = has_more;
        part.buffered.extend(entries.into_iter().map(|entry| (entry.id.parse().unwrap_or(EntryId::ZERO), entry)));
    }

    /// Whether something was read that is not in hand yet.
    pub(super) fn has_buffered(&self) -> bool {
        self.partitions.values().any(|part| !part.buffered.is_empty())
    }

    /// The entry that was published first of those that were read; none, as long as an earlier one may have to be read.
    pub(super) fn pop_oldest(&mut self) -> Option<(Arc<Consumer>, Entry)> {
        let reading = || self.partitions.iter().filter(|(_, part)| part.stage == PartitionStage::Reading);
        if reading().any(|(_, part)| part.has_more && part.buffered.is_empty()) {
            return None;
        }
        let first = |(number, part): (&usize, &OwnedPartition)| Some((part.buffered.front()?.0, *number));
        let (_, number) = reading().filter_map(first).min()?;
        let part = self.partitions.get_mut(&number)?;
        let (_, entry) = part.buffered.pop_front()?;
        self.partition_by_entry.insert(MessageId::new(entry.id.as_str()), number);
        Some((Arc::clone(&part.consumer), entry))
    }

    /// Where to wait for entries.
    pub(super) fn list_wait_positions(&self) -> Vec<(String, String)> {
        let reading = self.partitions.values().filter(|part| part.stage == PartitionStage::Reading);
        reading.map(|part| (part.consumer.bus.stream.clone(), part.last_id.clone())).collect()
    }

    /// There is an entry in a stream.
    pub(super) fn record_last_id(&mut self, stream: &str, id: String) {
        if let Some(part) = self.partitions.values_mut().find(|part| part.consumer.bus.stream == stream) {
            part.last_id = id;
        }
    }

    pub(super) fn partition_of(&self, id: &MessageId) -> Option<usize> {
        self.partition_by_entry.get(id).copied()
    }

    /// Lets go of partitions as soon as may be, those first of which least is in hand.
    pub(super) fn release_some(&mut self, count: usize) {
        let mut in_hand: BTreeMap<usize, usize> = BTreeMap::new();
        for number in self.partition_by_entry.values() {
            *in_hand.entry(*number).or_default() += 1;
        }
        let staying = self
            .partitions
            .iter()
            .filter(|(_, part)| !matches!(part.stage, PartitionStage::Releasing | PartitionStage::Lost));
        let mut staying: Vec<usize> = staying.map(|(number, _)| *number).collect();
        let leaving = count.saturating_sub(self.partitions.len() - staying.len());
        staying.sort_by_key(|number| in_hand.get(number).copied().unwrap_or_default());
        for number in staying.into_iter().take(leaving) {
            if let Some(part) = self.partitions.get_mut(&number) {
                part.stage = PartitionStage::Releasing;
                part.buffered.clear();
            }
        }
    }

    pub(super) fn list_releasing(&self) -> Vec<usize> {
        let leaving = self.partitions.iter().filter(|(_, part)| part.stage == PartitionStage::Releasing);
        leaving.map(|(number, _)| *number).collect()
    }

    /// Forgets a partition; returns its entries.
    pub(super) fn remove(&mut self, number: usize) -> Vec<MessageId> {
        self.partitions.remove(&number);
        let ids =
            self.partition_by_entry.iter().filter(|(_, place)| **place == number).map(|(id, _)| id.clone()).collect();
        self.partition_by_entry.retain(|_, place| *place != number);
        ids
    }

    /// Forgets entries that are not in hand any more, now and then.
    pub(super) fn forget_finished(&mut self, in_hand: usize, is_in_hand: impl Fn(&MessageId) -> bool) {
        const FORGET_SLACK: usize = 1_000;
        if self.partition_by_entry.len() > 2 * in_hand + FORGET_SLACK {
            self.partition_by_entry.retain(|id, _| is_in_hand(id));
        }
    }
}
