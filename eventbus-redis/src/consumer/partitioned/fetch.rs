//! Fetching entries from the partitions that the consumer owns.
//!
//! Invariant: after any error, pending entries come before new ones, and the server refuses a read that was sent
//! earlier and arrives late. Entries that are available together become in-flight entries in the order of their
//! publication.
//!
//! Real time, not the given clock: the replies of Redis.

use std::time::Duration;

use eventbus::{
    delivery::{InFlightEntry, StopSignal},
    support::PAGE_BYTES,
};
use redis::{RedisResult, Value};

use super::{
    consumer::PartitionedConsumer,
    owned_partitions::{CatchUp, ReadablePartition},
};
use crate::{
    command,
    consumer::{
        reader_connection::{
            Connector, READ_BLOCK_MAX, ReaderConnection, SINGLE_CONNECTION_POLL_INTERVAL, to_redis_error,
        },
        receiver::ReclaimedEntries,
    },
    entry_id::EntryId,
    error::CommandError,
    reply::{Entry, parse_value},
    script,
};

/// The reader of the partitions that the consumer owns.
pub(super) struct PartitionReader<'a> {
    consumer: &'a PartitionedConsumer,
    stop: &'a StopSignal,
    connector: Connector,
}

impl<'a> PartitionReader<'a> {
    pub(super) fn new(consumer: &'a PartitionedConsumer, stop: &'a StopSignal) -> Self {
        let connector = Connector::new(consumer.bus(), consumer.inner.group());
        Self { consumer, stop, connector }
    }

    /// Fetches entries while there is room for them, until `stop`.
    pub(super) async fn run(&mut self) {
        while !self.stop.is_stopped() {
            let ended = self.run_session().await;
            self.consumer.inner.in_flight().set_has_more(false);
            let Err(error) = ended else {
                break;
            };
            self.consumer.owned().restart_all();
            self.connector.wait_after_error(&error, self.stop).await;
        }
    }

    /// Reads until `stop` or an error.
    async fn run_session(&mut self) -> RedisResult<()> {
        let (consumer, stop) = (self.consumer, self.stop);
        let in_flight = consumer.inner.in_flight();
        // a stop must not wait for a server that does not answer
        let Some(connected) = stop.run_until_stopped(self.connector.connect()).await else { return Ok(()) };
        let mut connected = connected?;
        // in every partition, owned or not, so that the group gets every event published from now on
        for part in consumer.bus().partitions() {
            consumer.gate.create_group(part).await.map_err(to_redis_error)?;
        }
        consumer.gate.block_streams().await.map_err(to_redis_error)?;
        loop {
            // a stop may end this wait: no read is under way
            let Some(room) = stop.run_until_stopped(in_flight.room()).await else { return Ok(()) };
            if self.catch_up(room).await.map_err(to_redis_error)? {
                continue;
            }
            self.read_partitions(room).await.map_err(to_redis_error)?;
            self.connector.record_success();
            if self.consumer.owned().has_buffered() && consumer.gate.must_wait().await.map_err(to_redis_error)? {
                self.consumer.owned().restart_all(); // reads these entries again after the backlog
                consumer.gate.wait(stop).await.map_err(to_redis_error)?;
                continue;
            }
            let received_count = self.receive_buffered(room);
            in_flight.set_has_more(received_count > 0);
            if received_count == 0 && self.consumer.owned().list_catching_up().is_empty() {
                self.wait_for_entries(&mut connected).await?;
            }
            if stop.is_stopped() {
                return Ok(());
            }
        }
    }

    /// Adds pending entries to the in-flight ones, as far as there is room; the partitions share it. Returns `false` if
    /// no partition has more of them.
    async fn catch_up(&self, mut room: usize) -> Result<bool, CommandError> {
        let behind = self.consumer.owned().list_catching_up();
        if behind.is_empty() {
            return Ok(false);
        }
        let (mut found, mut bytes, partitions) = (Vec::new(), PAGE_BYTES, behind.len());
        for (number, behind) in behind.into_iter().enumerate() {
            if room == 0 || bytes == 0 {
                break; // the next call goes on
            }
            let sharing = partitions - number;
            match self.load_pending(&behind, room.div_ceil(sharing), bytes / sharing).await {
                Ok((to, reclaimed)) => {
                    room = room.saturating_sub(reclaimed.entries.len());
                    bytes = bytes.saturating_sub(reclaimed.bytes());
                    let owner_ended = behind.owner_ended;
                    found.push((behind, to, reclaimed.with_owner_ended(std::iter::repeat(owner_ended))));
                }
                Err(error) => self.consumer.handle_refusal(&behind.consumer, error).await?,
            }
        }
        // locked until the entries are in flight: a partition lost in between would leave entries without an owner
        let mut owned = self.consumer.owned();
        let mut received: Vec<InFlightEntry> = Vec::new();
        for (behind, to, reclaimed) in found {
            if !owned.record_catch_up(&behind, to, reclaimed.ids()) {
                continue;
            }
            let entries = behind.consumer.receiver.prepare_reclaimed(reclaimed);
            if behind.owner_ended {
                behind.consumer.receiver.log_recovered(entries.len());
            }
            received.extend(entries);
        }
        received.sort_by_cached_key(|entry| entry.id.as_str().parse::<EntryId>().unwrap_or(EntryId::ZERO));
        self.consumer.inner.in_flight().add(received);
        Ok(true)
    }

    /// Loads at most `room` entries that are pending in a partition and not in flight, up to the one that reaches
    /// `max_bytes`; returns the start of the next page.
    async fn load_pending(
        &self,
        catch_up: &CatchUp,
        room: usize,
        max_bytes: usize,
    ) -> Result<(Option<String>, ReclaimedEntries), CommandError> {
        let part = &catch_up.consumer;
        if let (Some(reader), Some(fence)) = (catch_up.new_generation(), part.inner.fencing_token()) {
            let mut begin = script::partition::REGISTER_PARTITION_READER.select(true).key(&fence.lease_key);
            begin.arg(reader);
            part.inner.run_idempotent::<u64>(begin).await?;
        }
        let count = room.min(self.consumer.bus().config().batch_size).min(command::SCRIPT_BATCH_MAX);
        part.receiver.reclaim_own_page(&catch_up.from, count, max_bytes).await
    }

    /// Reads the partitions without buffered entries: at most `room` entries of each, and in total what the buffered
    /// entries leave of the limits. If many partitions shared `room`, each would get so few that a read adds hardly
    /// any: no entry is received after the last one of a partition that may have more.
    async fn read_partitions(&self, room: usize) -> Result<(), CommandError> {
        let (readable, (count, bytes)) = {
            let mut owned = self.consumer.owned();
            (owned.list_readable(), owned.count_buffered())
        };
        if readable.is_empty() {
            return Ok(());
        }
        let mut read = script::partition::READ_PARTITIONS.prepare_invoke();
        let (inner, config) = (&self.consumer.inner, self.consumer.bus().config());
        let bytes = PAGE_BYTES.saturating_sub(bytes);
        read.arg(inner.group().as_str());
        read.arg(room.min(config.batch_size).min(inner.in_flight().fitting_into(bytes)));
        read.arg(config.in_flight_limit().saturating_sub(count)).arg(bytes);
        for ReadablePartition { consumer, read_generation: reader } in &readable {
            if let Some(fence) = consumer.inner.fencing_token() {
                read.key(consumer.inner.bus().stream()).key(&fence.lease_key).arg(&fence.epoch).arg(*reader);
            }
        }
        // not repeated: new entries would overtake the entries of a lost first reply
        let replies: Vec<Value> = self.consumer.bus().connection().run_with_short_timeout(&read).await?;
        for (of, reply) in readable.into_iter().zip(replies) {
            match reply {
                entries @ Value::Array(_) => {
                    let (entries, has_more): (Vec<Entry>, bool) = parse_value(entries)?;
                    self.consumer.owned().buffer_entries(&of, entries, has_more);
                }
                refusal => match parse_value::<String>(refusal)?.as_str() {
                    "FENCED" => self.consumer.lose_partition(&of.consumer),
                    _ => self.consumer.recreate_group(&of.consumer).await?,
                },
            }
        }
        Ok(())
    }

    /// Adds buffered entries to the in-flight ones, as far as there is room; returns their number.
    fn receive_buffered(&self, room: usize) -> usize {
        // locked until the entries are in flight, as in `catch_up`
        let mut owned = self.consumer.owned();
        let mut entries = Vec::new();
        while entries.len() < room
            && let Some(next) = owned.pop_oldest()
        {
            entries.push(next);
        }
        if entries.is_empty() {
            return 0;
        }
        let count = entries.len();
        let received = entries.into_iter().filter_map(|(part, entry)| part.receiver.prepare_entry(&entry, None));
        self.consumer.inner.in_flight().add(received);
        count
    }

    /// Waits until there may be entries to read.
    async fn wait_for_entries(&self, connected: &mut ReaderConnection) -> RedisResult<()> {
        let changed = async {
            // the wait covers the present partitions only
            self.stop.run_until_stopped(self.consumer.partitions_changed.notified()).await;
        };
        let config = self.consumer.bus().config();
        let block = Duration::from_millis(config.block_ms);
        let ends = self.consumer.owned().list_wait_positions();
        if ends.is_empty() {
            changed.await;
            return Ok(());
        }
        if config.single_connection_client {
            drop(tokio::time::timeout(SINGLE_CONNECTION_POLL_INTERVAL.min(block), changed).await);
            return Ok(());
        }
        let positions = ends.iter().map(|(stream, last)| (&**stream, &**last));
        let wait = command::wait_for_any(positions, block.min(READ_BLOCK_MAX));
        let seen = connected.read_or_unblock(&wait, changed).await?;
        for (stream, id) in command::parse_last_ids(seen)? {
            self.consumer.owned().record_last_id(&stream, id);
        }
        Ok(())
    }
}
