//! The reader: fetches entries of a stream.
//!
//! Invariant: after each connect, the entries pending on this consumer come before any new one. Until the reader has
//! caught up, no other task adds entries: entries from a second source would break their order.
//!
//! Real time, not the given clock: the replies of Redis.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use eventbus::{delivery::StopSignal, support::PAGE_BYTES};
use redis::RedisResult;
use tokio::sync::Notify;

use super::{
    inner::RANGE_START,
    parts::ConsumerParts,
    reader_connection::{Connector, READ_BLOCK_MAX, ReaderConnection, SINGLE_CONNECTION_POLL_INTERVAL, to_redis_error},
};
use crate::{
    command::{self, GroupRead, NewEntries},
    error::CommandError,
    group,
};

/// Tells the consumer's other tasks that all entries that were pending on it at its start are in flight.
#[derive(Default)]
pub(super) struct CaughtUp {
    is_done: AtomicBool,
    signal: Notify,
}

impl CaughtUp {
    pub(super) fn is_done(&self) -> bool {
        self.is_done.load(Ordering::Acquire)
    }

    /// Waits until the reader has caught up since the last wait.
    pub(super) async fn wait(&self) {
        self.signal.notified().await;
    }

    fn begin(&self) {
        self.is_done.store(false, Ordering::Release);
    }

    fn end(&self) {
        self.is_done.store(true, Ordering::Release);
        self.signal.notify_one();
    }
}

/// The reader of the stream.
pub(super) struct StreamReader<'a> {
    parts: &'a ConsumerParts,
    caught_up: &'a CaughtUp,
    stop: &'a StopSignal,
    connector: Connector,
    /// Set if the previous consumer of this name ended without leaving: then one of its pending entries may have ended
    /// it. `None` until the reader has asked the server.
    predecessor_crashed: Option<bool>,
}

impl<'a> StreamReader<'a> {
    pub(super) fn new(parts: &'a ConsumerParts, caught_up: &'a CaughtUp, stop: &'a StopSignal) -> Self {
        let connector = Connector::new(parts.inner.bus(), parts.inner.group());
        Self { parts, caught_up, stop, connector, predecessor_crashed: None }
    }

    /// Fetches entries while there is room for them, until `stop`.
    pub(super) async fn run(&mut self) {
        while !self.stop.is_stopped() {
            if let Err(error) = self.run_session().await {
                self.connector.wait_after_error(&error, self.stop).await;
            }
        }
    }

    /// Reads over one connection until `stop`, a restart, or an error.
    ///
    /// Invariant: the group exists before the first heartbeat, and the reader asks for the predecessor before this
    /// heartbeat overwrites its record. The consumer has caught up only after all entries pending on it are in flight,
    /// and reads new entries after that.
    async fn run_session(&mut self) -> RedisResult<()> {
        let (caught_up, stop) = (self.caught_up, self.stop);
        let ConsumerParts { inner, receiver, membership, .. } = self.parts;
        // a stop must not wait for a server that does not answer
        let Some(connected) = stop.run_until_stopped(self.connector.connect()).await else { return Ok(()) };
        let mut connected = connected?;
        let create = group::create_joined_group_script(inner.bus(), inner.group());
        if create.invoke_async(connected.connection()).await? {
            inner.log_created();
        }
        if self.predecessor_crashed.is_none() {
            self.predecessor_crashed = Some(!membership.has_predecessor_left(connected.connection()).await?);
        }
        membership.announce(connected.connection()).await?;
        caught_up.begin();
        self.reclaim_own_pending().await.map_err(to_redis_error)?;
        self.predecessor_crashed = Some(false);
        caught_up.end();
        loop {
            // a stop may end this wait: no read is under way
            let Some(room) = stop.run_until_stopped(inner.in_flight().room()).await else { return Ok(()) };
            let mut requested = self.read_len(room);
            let mut entries = self.read_new(&mut connected, requested).await?;
            self.connector.record_success();
            // if there is more to read, the next read is under way while these entries are received
            while entries.len() >= requested && !stop.is_stopped() {
                let room = inner.in_flight().room_beside(entries.len());
                if room == 0 {
                    break;
                }
                requested = self.read_len(room);
                let receive = async {
                    tokio::task::yield_now().await; // sends the read first
                    receiver.receive_new(&entries);
                };
                let (next, ()) = tokio::join!(self.read_new(&mut connected, requested), receive);
                entries = next?;
            }
            receiver.receive_new(&entries);
        }
    }

    /// Receives all entries that are pending on this consumer and not in flight.
    async fn reclaim_own_pending(&self) -> Result<(), CommandError> {
        let ConsumerParts { inner, receiver, .. } = self.parts;
        let has_ended = self.predecessor_crashed.unwrap_or(true);
        let mut from = RANGE_START.to_owned();
        loop {
            let Some(room) = self.stop.run_until_stopped(inner.in_flight().room()).await else { return Ok(()) };
            let room = room.min(inner.bus().config().batch_size).min(command::SCRIPT_BATCH_MAX);
            // entries that the server assigned meanwhile stay pending on this consumer
            let page = self.stop.run_until_stopped(receiver.reclaim_own_page(&from, room, PAGE_BYTES)).await;
            let Some((next, reclaimed)) = page.transpose()? else { return Ok(()) };
            receiver.receive_reclaimed(reclaimed.with_owner_ended(std::iter::repeat(has_ended)));
            match next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    /// Returns how many new entries one read asks for: on a slow line, a reply with more than a page would come too
    /// late, although the server has assigned its entries.
    fn read_len(&self, room: usize) -> usize {
        let inner = &self.parts.inner;
        room.min(inner.bus().config().batch_size).min(inner.in_flight().fitting_into(PAGE_BYTES))
    }

    async fn read_new(&self, connected: &mut ReaderConnection, count: usize) -> RedisResult<NewEntries> {
        let inner = &self.parts.inner;
        let config = inner.bus().config();
        let reader = GroupRead { stream: inner.bus().stream(), group: inner.group(), consumer: inner.name(), count };
        let block = Duration::from_millis(config.block_ms);
        if config.single_connection_client {
            let reply = reader.new_entries(None).query_async(connected.connection()).await?;
            let entries = NewEntries::parse(reply)?;
            if entries.is_empty() {
                self.stop.run_until_stopped(tokio::time::sleep(SINGLE_CONNECTION_POLL_INTERVAL.min(block))).await;
            }
            return Ok(entries);
        }
        let read = reader.new_entries(Some(block.min(READ_BLOCK_MAX)));
        NewEntries::parse(connected.read_or_unblock(&read, self.stop.stopped()).await?)
    }
}
