//! Owned partitions: their stages, their buffered entries, and the order between them.
//!
//! Invariant: the oldest entry leaves first, and only while no partition may still have an older one to read.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use eventbus::port::MessageId;

use crate::{consumer::parts::ConsumerParts, entry_id::EntryId, inner::BusInner, reply::Entry};

/// Partitions that a consumer owns, shared by its reader and its coordinator.
#[derive(Default)]
pub(super) struct OwnedPartitions {
    partitions: BTreeMap<usize, OwnedPartition>,
    /// The partition of each in-flight entry.
    partition_by_entry: HashMap<MessageId, usize>,
}

/// A partition that the consumer owns.
struct OwnedPartition {
    consumer: Arc<ConsumerParts>,
    stage: PartitionStage,
    /// Set if the consumer took the partition from an owner that sent no heartbeat.
    owner_ended: bool,
    /// Generation of the reads: starting over begins a new one, and the server refuses late reads of earlier ones.
    read_generation: u64,
    /// Entries that were read and are not in flight yet.
    buffered: VecDeque<(EntryId, Entry)>,
    /// Set if there may be more entries after the buffered ones.
    has_more: bool,
    /// Id after which to wait for entries.
    last_id: String,
}

/// Stage of an owned partition.
///
/// | stage | event | next stage |
/// |---|---|---|
/// | not owned | a rebalance takes the lease under a new epoch | `CatchingUp` from the start |
/// | `CatchingUp` | a page of pending entries is about to be in flight | `CatchingUp` from the next id |
/// | `CatchingUp` | there are no more pending entries | `Reading` |
/// | `CatchingUp`, `Reading` | a connection error, a recreated group, a backlog that comes first, or changed members | `CatchingUp` from the start, in a new generation |
/// | `CatchingUp`, `Reading` | a rebalance finds more partitions than its share, or the consumer stops | `Releasing` |
/// | `Releasing` | none of its entries is being handled, and its dispositions are on the server | not owned |
/// | any | the server refuses its epoch | `Lost` |
/// | `Lost`, or any other under a changed epoch | the coordinator removes its entries and dispositions | not owned |
#[derive(Debug, PartialEq, Eq)]
enum PartitionStage {
    /// The reader receives pending entries, from this id on.
    CatchingUp(String),
    /// The reader buffers new entries.
    Reading,
    /// The coordinator releases the partition once none of its entries is being handled.
    Releasing,
    /// The server has given the partition to a new owner.
    Lost,
}

/// A partition with pending entries that are not all in flight.
pub(super) struct CatchUp {
    pub(super) consumer: Arc<ConsumerParts>,
    pub(super) from: String,
    /// The generation in which it was listed.
    generation: u64,
    pub(super) owner_ended: bool,
}

impl CatchUp {
    /// Returns the generation to register with the server as the partition's reader, before the first page.
    pub(super) fn new_generation(&self) -> Option<u64> {
        (self.from == "-").then_some(self.generation)
    }
}

/// A partition that may be read.
pub(super) struct ReadablePartition {
    pub(super) consumer: Arc<ConsumerParts>,
    pub(super) read_generation: u64,
}

impl OwnedPartition {
    /// Returns `true` if the consumer keeps the partition.
    fn is_staying(&self) -> bool {
        !matches!(self.stage, PartitionStage::Releasing | PartitionStage::Lost)
    }

    fn restart_reading(&mut self) {
        self.stage = PartitionStage::CatchingUp("-".into());
        self.read_generation += 1;
        self.buffered.clear();
        self.has_more = false;
    }
}

impl OwnedPartitions {
    pub(super) fn add(&mut self, number: usize, consumer: ConsumerParts, owner_ended: bool, last: String) {
        let part = OwnedPartition {
            consumer: Arc::new(consumer),
            stage: PartitionStage::CatchingUp("-".into()),
            owner_ended,
            read_generation: 1,
            buffered: VecDeque::new(),
            has_more: false,
            last_id: last,
        };
        self.partitions.insert(number, part);
    }

    pub(super) fn consumers(&self) -> Vec<(usize, Arc<ConsumerParts>)> {
        self.partitions.iter().map(|(number, part)| (*number, Arc::clone(&part.consumer))).collect()
    }

    pub(super) fn streams(&self) -> Vec<Arc<BusInner>> {
        self.partitions.values().map(|part| Arc::clone(part.consumer.inner.bus())).collect()
    }

    /// Returns the epoch under which the consumer owns a partition, or an empty string.
    pub(super) fn epoch(&self, number: usize) -> &str {
        let fence = self.partitions.get(&number).and_then(|part| part.consumer.inner.fencing_token());
        fence.map_or("", |fence| &fence.epoch)
    }

    fn find_partition(&mut self, consumer: &Arc<ConsumerParts>) -> Option<&mut OwnedPartition> {
        self.partitions.values_mut().find(|part| Arc::ptr_eq(&part.consumer, consumer))
    }

    /// Marks a partition that has a new owner; the coordinator will remove it.
    pub(super) fn mark_lost(&mut self, consumer: &Arc<ConsumerParts>) {
        if let Some(part) = self.find_partition(consumer) {
            part.stage = PartitionStage::Lost;
        }
    }

    pub(super) fn list_lost(&self) -> Vec<usize> {
        self.list_in_stage(&PartitionStage::Lost)
    }

    fn list_in_stage(&self, stage: &PartitionStage) -> Vec<usize> {
        self.partitions.iter().filter(|(_, part)| part.stage == *stage).map(|(number, _)| *number).collect()
    }

    /// Starts over with the pending entries of a partition.
    pub(super) fn restart_partition(&mut self, consumer: &Arc<ConsumerParts>) {
        if let Some(part) = self.find_partition(consumer).filter(|part| part.is_staying()) {
            part.restart_reading();
        }
    }

    pub(super) fn restart_all(&mut self) {
        self.partitions.values_mut().filter(|part| part.is_staying()).for_each(OwnedPartition::restart_reading);
    }

    /// Lists partitions with pending entries that are not all in flight.
    pub(super) fn list_catching_up(&self) -> Vec<CatchUp> {
        let behind = |part: &OwnedPartition| match &part.stage {
            PartitionStage::CatchingUp(from) => Some(CatchUp {
                consumer: Arc::clone(&part.consumer),
                from: from.clone(),
                generation: part.read_generation,
                owner_ended: part.owner_ended,
            }),
            _ => None,
        };
        self.partitions.values().filter_map(behind).collect()
    }

    /// Records that the pending entries up to `to`, or all of them, are about to be in flight. Returns `false` if the
    /// stage of the partition has changed, or it began again, since `behind` was listed.
    pub(super) fn record_catch_up(
        &mut self,
        behind: &CatchUp,
        to: Option<String>,
        ids: impl Iterator<Item = MessageId>,
    ) -> bool {
        let expected = PartitionStage::CatchingUp(behind.from.clone());
        let Some((number, part)) =
            self.partitions.iter_mut().find(|(_, part)| Arc::ptr_eq(&part.consumer, &behind.consumer))
        else {
            return false;
        };
        // one that began again has yet to register its new generation
        if part.stage != expected || part.read_generation != behind.generation {
            return false;
        }
        part.owner_ended &= to.is_some();
        part.stage = to.map_or(PartitionStage::Reading, PartitionStage::CatchingUp);
        self.partition_by_entry.extend(ids.map(|id| (id, *number)));
        true
    }

    /// Lists partitions without buffered entries, which may be read. Marks the others as having more: they are not read
    /// now, so the entries after their buffered ones may be older than the entries of this read.
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

    /// Returns the numbers of buffered entries and of their bytes.
    pub(super) fn count_buffered(&self) -> (usize, usize) {
        let buffered = || self.partitions.values().flat_map(|part| &part.buffered);
        (buffered().count(), buffered().map(|(_, entry)| entry.bytes()).sum())
    }

    /// Buffers entries that were read; `has_more` if as many came as were requested.
    pub(super) fn buffer_entries(&mut self, of: &ReadablePartition, entries: Vec<Entry>, has_more: bool) {
        let Some(part) = self.find_partition(&of.consumer).filter(|part| part.read_generation == of.read_generation)
        else {
            return; // they stay pending for the partition's next reader
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

    /// Returns `true` if entries were read that are not in flight yet.
    pub(super) fn has_buffered(&self) -> bool {
        self.partitions.values().any(|part| !part.buffered.is_empty())
    }

    /// Removes the oldest buffered entry; `None` while a partition without buffered entries may have an older one.
    pub(super) fn pop_oldest(&mut self) -> Option<(Arc<ConsumerParts>, Entry)> {
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

    /// Lists the streams to wait for, each with the id after which an entry counts as new.
    pub(super) fn list_wait_positions(&self) -> Vec<(String, String)> {
        let reading = self.partitions.values().filter(|part| part.stage == PartitionStage::Reading);
        reading.map(|part| (part.consumer.inner.bus().stream().to_owned(), part.last_id.clone())).collect()
    }

    /// Records the id of an entry that the server reported.
    pub(super) fn record_last_id(&mut self, stream: &str, id: String) {
        if let Some(part) = self.partitions.values_mut().find(|part| part.consumer.inner.bus().stream() == stream) {
            part.last_id = id;
        }
    }

    pub(super) fn partition_of(&self, id: &MessageId) -> Option<usize> {
        self.partition_by_entry.get(id).copied()
    }

    /// Starts releasing partitions, those with the fewest in-flight entries first.
    pub(super) fn release_some(&mut self, count: usize) {
        let mut in_flight: BTreeMap<usize, usize> = BTreeMap::new();
        for number in self.partition_by_entry.values() {
            *in_flight.entry(*number).or_default() += 1;
        }
        let staying = self.partitions.iter().filter(|(_, part)| part.is_staying());
        let mut staying: Vec<usize> = staying.map(|(number, _)| *number).collect();
        let leaving = count.saturating_sub(self.partitions.len() - staying.len());
        staying.sort_by_key(|number| in_flight.get(number).copied().unwrap_or_default());
        for number in staying.into_iter().take(leaving) {
            if let Some(part) = self.partitions.get_mut(&number) {
                part.stage = PartitionStage::Releasing;
                part.buffered.clear();
            }
        }
    }

    pub(super) fn list_releasing(&self) -> Vec<usize> {
        self.list_in_stage(&PartitionStage::Releasing)
    }

    /// Removes a partition; returns its entries.
    pub(super) fn remove(&mut self, number: usize) -> Vec<MessageId> {
        self.partitions.remove(&number);
        let ids =
            self.partition_by_entry.iter().filter(|(_, place)| **place == number).map(|(id, _)| id.clone()).collect();
        self.partition_by_entry.retain(|_, place| *place != number);
        ids
    }

    /// Forgets entries that are no longer in flight, once they are the larger part.
    pub(super) fn forget_finished(&mut self, in_flight: usize, is_in_flight: impl Fn(&MessageId) -> bool) {
        const FORGET_SLACK: usize = 1_000;
        if self.partition_by_entry.len() > 2 * in_flight + FORGET_SLACK {
            self.partition_by_entry.retain(|id, _| is_in_flight(id));
        }
    }
}
