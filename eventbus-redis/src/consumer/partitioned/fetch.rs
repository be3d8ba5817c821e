//! Fetching entries from the partitions that the consumer owns.
//!
//! Invariant: after any error, pending entries come before new ones, and the server refuses a read that was sent
//! earlier and arrives late. Entries that are available together become in-flight entries in the order of their
//! publication.
//!
//! Real time, not the given clock: the replies of Redis.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use eventbus::delivery::{InFlightEntry, StopSignal};
use redis::{RedisError, RedisResult, Value, from_redis_value};

use super::{
    PartitionedConsumer,
    owned_partitions::{CatchUp, ReadablePartition},
};
use crate::{
    command,
    consumer::{
        Consumer,
        read::{READ_BLOCK_MAX, ReaderConnection, ReaderState, SINGLE_CONNECTION_POLL_INTERVAL, to_redis_error},
        receive::ReclaimedEntries,
    },
    entry_id::EntryId,
    error::CommandError,
    group, reply, script,
};

impl PartitionedConsumer {
    /// Fetches entries while there is room for them, until `stop`.
    pub(super) async fn fetch(&self, stop: &StopSignal) {
        let mut state = self.group_consumer.new_reader_state(stop);
        while !stop.is_stopped() {
            let ended = self.run_session(&mut state).await;
            self.group_consumer.in_flight.set_has_more(false);
            let Err(error) = ended else {
                break;
            };
            self.owned().restart_all();
            self.group_consumer.wait_after_error(&mut state, &error).await;
        }
    }

    /// Reads until `stop` or an error.
    async fn run_session(&self, state: &mut ReaderState<'_>) -> RedisResult<()> {
        let stop = state.stop;
        // a stop must not wait for a server that does not answer
        let mut connected = tokio::select! {
            connected = self.group_consumer.connect(state) => connected?,
            () = stop.stopped() => return Ok(()),
        };
        self.create_groups().await.map_err(to_redis_error)?;
        self.group_consumer.block_streams_in_backlog().await.map_err(to_redis_error)?;
        loop {
            // a stop may end this wait: no read is under way
            let room = tokio::select! {
                room = self.group_consumer.in_flight.room() => room,
                () = stop.stopped() => return Ok(()),
            };
            if self.catch_up(room).await.map_err(to_redis_error)? {
                continue;
            }
            self.read_partitions(room).await.map_err(to_redis_error)?;
            state.outage_log.record_success();
            if self.owned().has_buffered()
                && self.group_consumer.must_wait_for_backlog().await.map_err(to_redis_error)?
            {
                self.owned().restart_all(); // reads these entries again after the backlog
                self.group_consumer.wait_for_backlog(stop).await.map_err(to_redis_error)?;
                continue;
            }
            let received_count = self.receive_buffered(room);
            self.group_consumer.in_flight.set_has_more(received_count > 0);
            if received_count == 0 && self.owned().list_catching_up().is_empty() {
                self.wait_for_entries(&mut connected, stop).await?;
            }
            if stop.is_stopped() {
                return Ok(());
            }
        }
    }

    /// Creates the group in every partition, owned or not, so that it gets every event published from now on.
    async fn create_groups(&self) -> Result<(), CommandError> {
        for part in self.bus().partitions() {
            let is_new: bool = self
                .bus()
                .connection()
                .run_idempotent(&group::create_joined_group_script(part, &self.group_consumer.group))
                .await?;
            self.group_consumer.log_group_created(is_new);
        }
        // in every session: a different member may have created the group again
        self.group_consumer.has_passed_backlog.store(false, Ordering::Release);
        Ok(())
    }

    /// Adds pending entries to the in-flight ones. Returns `false` if no partition has more of them.
    async fn catch_up(&self, room: usize) -> Result<bool, CommandError> {
        let behind = self.owned().list_catching_up();
        if behind.is_empty() {
            return Ok(false);
        }
        let mut found = Vec::new();
        for behind in behind {
            match self.load_pending(&behind, room).await {
                Ok((to, reclaimed)) => {
                    let has_ended = behind.owner_crashed;
                    found.push((behind, to, reclaimed.with_owner_ended(std::iter::repeat(has_ended))));
                }
                Err(error) => self.handle_refusal(&behind.consumer, error).await?,
            }
        }
        let mut owned = self.owned();
        let mut received: Vec<InFlightEntry> = Vec::new();
        for (behind, to, reclaimed) in found {
            if !owned.record_catch_up(&behind, to, reclaimed.ids()) {
                continue;
            }
            let entries = behind.consumer.prepare_reclaimed(reclaimed);
            if behind.owner_crashed {
                behind.consumer.log_recovered(entries.len());
            }
            received.extend(entries);
        }
        received.sort_by_cached_key(|entry| entry.id.as_str().parse::<EntryId>().unwrap_or(EntryId::ZERO));
        self.group_consumer.in_flight.add(received);
        Ok(true)
    }

    /// Loads entries that are pending in a partition and not in flight; returns the start of the next page.
    async fn load_pending(
        &self,
        catch_up: &CatchUp,
        room: usize,
    ) -> Result<(Option<String>, ReclaimedEntries), CommandError> {
        let part = &catch_up.consumer;
        if let (Some(reader), Some(fence)) = (catch_up.new_generation, &part.fencing_token) {
            let mut begin = script::partition::REGISTER_PARTITION_READER.select(true).key(&fence.lease_key);
            begin.arg(reader);
            part.run_idempotent::<u64>(begin).await?;
        }
        let count = room.min(self.bus().config().batch_size).min(command::SCRIPT_BATCH_MAX);
        part.reclaim_own_page(&catch_up.from, count).await
    }

    /// Reads the partitions without buffered entries.
    async fn read_partitions(&self, room: usize) -> Result<(), CommandError> {
        let readable = self.owned().list_readable();
        if readable.is_empty() {
            return Ok(());
        }
        let count = room.min(self.bus().config().batch_size);
        let mut read = script::partition::READ_PARTITIONS.prepare_invoke();
        read.arg(self.group_consumer.group.as_str()).arg(count);
        for ReadablePartition { consumer, read_generation: reader } in &readable {
            if let Some(fence) = &consumer.fencing_token {
                read.key(consumer.bus.stream()).key(&fence.lease_key).arg(&fence.epoch).arg(*reader);
            }
        }
        // not repeated: new entries would overtake those of a lost first reply
        let replies: Vec<Value> = self.bus().connection().run_with_short_timeout(&read).await?;
        for (of, reply) in readable.into_iter().zip(replies) {
            match reply {
                Value::Array(entries) => {
                    let entries: Vec<_> = entries.into_iter().map(reply::parse_entry).collect::<RedisResult<_>>()?;
                    let has_more = entries.len() >= count;
                    self.owned().buffer_entries(&of, entries, has_more);
                }
                refusal => {
                    let refusal: String = from_redis_value(refusal).map_err(RedisError::from)?;
                    self.handle_read_refusal(&of.consumer, &refusal).await?;
                }
            }
        }
        Ok(())
    }

    async fn handle_read_refusal(&self, part: &Arc<Consumer>, refusal: &str) -> Result<(), CommandError> {
        if refusal == "FENCED" {
            self.owned().mark_lost(part);
            self.partition_lost.notify_one();
        } else {
            part.recreate_group().await?;
            self.group_consumer.has_passed_backlog.store(false, Ordering::Release);
            self.owned().restart_partition(part);
        }
        Ok(())
    }

    /// Adds buffered entries to the in-flight ones, as far as there is room; returns their number.
    fn receive_buffered(&self, room: usize) -> usize {
        let mut owned = self.owned();
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
        let received = entries.into_iter().filter_map(|(part, entry)| part.prepare_entry(entry, None));
        self.group_consumer.in_flight.add(received);
        count
    }

    /// Waits until there may be entries to read.
    async fn wait_for_entries(&self, connected: &mut ReaderConnection, stop: &StopSignal) -> RedisResult<()> {
        let changed = async {
            // the wait covers the present partitions only
            tokio::select! {
                () = self.partitions_changed.notified() => {}
                () = stop.stopped() => {}
            }
        };
        let config = self.bus().config();
        let block = Duration::from_millis(config.block_ms);
        let ends = self.owned().list_wait_positions();
        if ends.is_empty() {
            changed.await;
            return Ok(());
        }
        if config.single_connection_client {
            drop(tokio::time::timeout(SINGLE_CONNECTION_POLL_INTERVAL.min(block), changed).await);
            return Ok(());
        }
        let wait = command::wait_for_any(&ends, block.min(READ_BLOCK_MAX));
        let seen = self.group_consumer.read_or_unblock(connected, &wait, changed).await?;
        for (stream, id) in command::parse_last_ids(seen)? {
            self.owned().record_last_id(&stream, id);
        }
        Ok(())
    }
}
