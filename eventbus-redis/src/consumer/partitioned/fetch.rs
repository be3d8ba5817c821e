//! Fetching entries from the partitions that the consumer owns.
//!
//! Keep: after anything went wrong, what is pending comes before anything new, and a read that was sent before and
//! arrives late is refused. Entries that are there together are taken in hand in the order in which they were published.
//!
//! Real time, not the given clock: the replies of Redis.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use eventbus::port::{StopSignal, Taken};
use redis::{RedisError, RedisResult, Value, from_redis_value};

use super::{
    Partitioned,
    owned::{Behind, Readable},
};
use crate::{
    command,
    connection::CommandError,
    consumer::{
        Consumer,
        intake::Retaken,
        read::{Connected, POLL, Reading, SLICE, sent},
    },
    entry_id::EntryId,
    script,
};

impl Partitioned {
    /// Fetches entries while there is room for them, until it is to stop.
    pub(super) async fn fetch(&self, stop: &StopSignal) {
        let mut reading = self.front.reading(stop);
        while !stop.is_stopped() {
            let ended = self.session(&mut reading).await;
            self.front.hand.more_follows(false);
            let Err(error) = ended else {
                break;
            };
            self.owned().read_all_again();
            self.front.interrupted(&mut reading, &error).await;
        }
    }

    /// Reads until it is to stop, or something goes wrong.
    async fn session(&self, reading: &mut Reading<'_>) -> RedisResult<()> {
        let stop = reading.stop;
        let mut connected = tokio::select! {
            connected = self.front.connect(reading) => connected?,
            () = stop.stopped() => return Ok(()),
        };
        self.make_groups().await.map_err(sent)?;
        self.front.hold_back().await.map_err(sent)?;
        loop {
            let room = tokio::select! {
                room = self.front.hand.room() => room,
                () = stop.stopped() => return Ok(()),
            };
            if self.catch_up(room).await.map_err(sent)? {
                continue;
            }
            self.take(room).await.map_err(sent)?;
            reading.trouble.is_over();
            if self.owned().has_read() && self.front.is_behind_backlog().await.map_err(sent)? {
                self.owned().read_all_again(); // after the backlog
                self.front.wait_for_backlog(stop).await.map_err(sent)?;
                continue;
            }
            let poured = self.pour(room);
            self.front.hand.more_follows(poured > 0);
            if poured == 0 && self.owned().behind().is_empty() {
                self.wait(&mut connected, stop).await?;
            }
            if stop.is_stopped() {
                return Ok(());
            }
        }
    }

    /// Makes the group in every partition, owned or not: whatever is published, the group is to get it.
    async fn make_groups(&self) -> Result<(), CommandError> {
        for part in &self.shared().partitions {
            let is_new: bool = self.shared().link.rerun(&part.create_listed_group(&self.front.group)).await?;
            self.front.tell_created(is_new);
        }
        Ok(())
    }

    /// Takes some of what is pending in hand. False: there is nothing that is not.
    async fn catch_up(&self, room: usize) -> Result<bool, CommandError> {
        let behind = self.owned().behind();
        if behind.is_empty() {
            return Ok(false);
        }
        let mut found = Vec::new();
        for behind in behind {
            match self.pending(&behind, room).await {
                Ok((to, retaken)) => {
                    let has_ended = behind.is_recovered;
                    found.push((behind, to, retaken.of_processes(std::iter::repeat(has_ended))));
                }
                Err(error) => self.refused(&behind.consumer, error).await?,
            }
        }
        let mut owned = self.owned();
        let mut taken: Vec<Taken> = Vec::new();
        for (behind, to, retaken) in found {
            if !owned.caught_up(&behind, to, retaken.ids()) {
                continue;
            }
            let again = behind.consumer.examine_again(retaken);
            if behind.is_recovered {
                behind.consumer.tell_recovered(again.len());
            }
            taken.extend(again);
        }
        taken.sort_by_cached_key(|taken| taken.id.as_str().parse::<EntryId>().unwrap_or(EntryId::ZERO));
        self.front.hand.add(taken);
        Ok(true)
    }

    /// Entries that are pending in a partition and not in hand, and from where to go on.
    async fn pending(&self, behind: &Behind, room: usize) -> Result<(Option<String>, Retaken), CommandError> {
        let part = &behind.consumer;
        if let (Some(reader), Some(fence)) = (behind.new_reader, &part.fence) {
            let mut begin = script::BEGIN_READING.text(true).key(&fence.lease);
            begin.arg(reader);
            part.rerun::<u64>(begin).await?;
        }
        let count = room.min(self.shared().config.batch_size).min(command::TOGETHER);
        part.pending_again(&behind.from, count).await
    }

    /// Reads from the partitions of which nothing is left.
    async fn take(&self, room: usize) -> Result<(), CommandError> {
        let readable = self.owned().readable();
        if readable.is_empty() {
            return Ok(());
        }
        let count = room.min(self.shared().config.batch_size);
        let mut take = script::TAKE.prepare_invoke();
        take.arg(self.front.group.as_str()).arg(count);
        for Readable { consumer, reader } in &readable {
            if let Some(fence) = &consumer.fence {
                take.key(&consumer.shared.stream).key(&fence.lease).arg(&fence.epoch).arg(*reader);
            }
        }
        // only once: what a first reply had that was lost would be overtaken
        let replies: Vec<Value> = self.shared().link.run_soon(&take).await?;
        for (of, reply) in readable.into_iter().zip(replies) {
            match reply {
                Value::Array(entries) => {
                    let entries: Vec<_> = entries.into_iter().map(command::entry).collect::<RedisResult<_>>()?;
                    let has_more = entries.len() >= count;
                    self.owned().read(&of, entries, has_more);
                }
                refusal => {
                    let refusal: String = from_redis_value(refusal).map_err(RedisError::from)?;
                    self.not_taken(&of.consumer, &refusal).await?;
                }
            }
        }
        Ok(())
    }

    async fn not_taken(&self, part: &Arc<Consumer>, refusal: &str) -> Result<(), CommandError> {
        if refusal == "FENCED" {
            self.owned().lost(part);
            self.lost.notify_one();
        } else {
            part.make_group_anew().await?;
            self.front.is_past_backlog.store(false, Ordering::Release);
            self.owned().read_again(part);
        }
        Ok(())
    }

    /// Takes what was read in hand, as far as there is room; says how many entries.
    fn pour(&self, room: usize) -> usize {
        let mut owned = self.owned();
        let mut entries = Vec::new();
        while entries.len() < room
            && let Some(next) = owned.next()
        {
            entries.push(next);
        }
        if entries.is_empty() {
            return 0;
        }
        let count = entries.len();
        let taken = entries.into_iter().filter_map(|(part, entry)| part.examine(entry, None));
        self.front.hand.add(taken);
        count
    }

    /// Waits until there may be something to read.
    async fn wait(&self, connected: &mut Connected, stop: &StopSignal) -> RedisResult<()> {
        let changed = async {
            tokio::select! {
                () = self.changed.notified() => {}
                () = stop.stopped() => {}
            }
        };
        let config = &self.shared().config;
        let block = Duration::from_millis(config.block_ms);
        let ends = self.owned().ends();
        if ends.is_empty() {
            changed.await;
            return Ok(());
        }
        if config.single_connection_client {
            drop(tokio::time::timeout(POLL.min(block), changed).await);
            return Ok(());
        }
        let wait = command::wait_for_any(&ends, block.min(SLICE));
        let seen = self.front.read_to_the_end(connected, &wait, changed).await?;
        for (stream, id) in command::last_ids(seen)? {
            self.owned().seen(&stream, id);
        }
        Ok(())
    }
}
