//! The reader: fetches entries of a stream.
//!
//! Invariant: after each connect, the entries pending on this consumer come before any new one. Until the reader has
//! caught up, no other task adds entries: entries from a second source would break their order.
//!
//! Invariant: the reader awaits every blocking read to its end, as the server assigns the entries that it finds to this
//! consumer alone.
//!
//! Real time, not the given clock: the replies of Redis.

use std::{
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use eventbus::{delivery::StopSignal, support::PAGE_BYTES};
use redis::Value;
use tokio::{sync::Notify, time::sleep};

use super::{inner::RANGE_START, outage_log::OutageLog, parts::ConsumerParts};
use crate::{
    blocking_read::{GroupReader, READ_BLOCK_MAX},
    command::{self, GroupRead},
    error::CommandError,
    group,
    inner::BusInner,
    reply::{Entry, is_connection_lost},
};

/// Time that a reply may take beyond the time for which its read blocks.
const READ_REPLY_MARGIN: Duration = Duration::from_millis(500);
/// Interval between two reads on a connection where reads must not block.
const SINGLE_CONNECTION_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Delay before a command that ends a read is sent again.
const UNBLOCK_RETRY_DELAY: Duration = Duration::from_millis(20);

/// What the reader and the consumer's other tasks tell each other about the entries that are pending on the consumer.
#[derive(Default)]
pub(super) struct CaughtUp {
    is_done: AtomicBool,
    signal: Notify,
    /// Set if the reader must look for pending entries that are not in flight.
    is_in_doubt: AtomicBool,
}

impl CaughtUp {
    /// Returns `true` if all entries that were pending at the start are in flight.
    pub(super) fn is_done(&self) -> bool {
        self.is_done.load(Ordering::Acquire)
    }

    /// Waits until the reader has caught up since the last wait.
    pub(super) async fn wait(&self) {
        self.signal.notified().await;
    }

    /// Makes the reader look again for pending entries that are not in flight, before its next read.
    pub(super) fn doubt(&self) {
        self.is_in_doubt.store(true, Ordering::Release);
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
    reader: GroupReader,
    outage_log: OutageLog,
    /// Set if the reader lost a connection of its own.
    has_lost_connection: bool,
    /// Number of the shared connection, if the reader uses that one.
    connection_number: Option<u64>,
    /// Set if the previous consumer of this name ended without leaving: then one of its pending entries may have ended
    /// it. `None` until the reader has asked the server.
    predecessor_crashed: Option<bool>,
}

impl<'a> StreamReader<'a> {
    pub(super) fn new(parts: &'a ConsumerParts, caught_up: &'a CaughtUp, stop: &'a StopSignal) -> Self {
        let outage_log = OutageLog::new("reading", parts.inner.group().clone());
        let (reader, has_lost_connection, connection_number, predecessor_crashed) = Default::default();
        Self { parts, caught_up, stop, reader, outage_log, has_lost_connection, connection_number, predecessor_crashed }
    }

    /// Fetches entries while there is room for them, until `stop`.
    pub(super) async fn run(&mut self) {
        while !self.stop.is_stopped() {
            if let Err(error) = self.run_session().await {
                self.drop_connection(&error);
                let delay = self.outage_log.record_failure(&error);
                self.stop.run_until_stopped(sleep(delay)).await;
            }
        }
    }

    /// Makes the next session connect again: a connection may be lost, or the server a replica now.
    fn drop_connection(&mut self, error: &CommandError) {
        self.reader = GroupReader::default();
        let CommandError::Sent(error) = error else { return };
        match self.connection_number.take() {
            Some(number) => {
                self.parts.inner.bus().connection().drop_if_lost(number, error);
            }
            None => self.has_lost_connection |= is_connection_lost(error),
        }
    }

    /// Reads over one connection until `stop` or an error.
    async fn run_session(&mut self) -> Result<(), CommandError> {
        let (caught_up, stop) = (self.caught_up, self.stop);
        let ConsumerParts { inner, receiver, .. } = self.parts;
        // a stop must not wait for a server that does not answer
        let Some(joined) = stop.run_until_stopped(self.join()).await else { return Ok(()) };
        joined?;
        caught_up.begin();
        self.reclaim_own_pending().await?;
        self.predecessor_crashed = Some(false);
        caught_up.end();
        loop {
            if caught_up.is_in_doubt.swap(false, Ordering::AcqRel) {
                self.reclaim_own_pending().await?;
            }
            // a stop may end this wait: no read is under way
            let Some(room) = stop.run_until_stopped(inner.in_flight().room()).await else { return Ok(()) };
            let mut requested = self.read_len(room);
            let mut entries = self.read_new(requested).await?;
            self.outage_log.record_success();
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
                let (next, ()) = tokio::join!(self.read_new(requested), receive);
                entries = next?;
            }
            receiver.receive_new(&entries);
        }
    }

    /// Connects, creates the group if it is missing, and announces the consumer.
    ///
    /// Invariant: the group exists before the first heartbeat, and the reader asks for the predecessor before this
    /// heartbeat overwrites its record.
    async fn join(&mut self) -> Result<(), CommandError> {
        let ConsumerParts { inner, membership, .. } = self.parts;
        let bus = inner.bus();
        let mut connection = match bus.config().single_connection_client {
            true => {
                let (connection, number) = bus.connection().get_with_short_timeout().await?;
                self.connection_number = Some(number);
                connection
            }
            false => {
                let connected = self.reader.connect(bus.connection(), reply_timeout(bus)).await?;
                let is_again = std::mem::take(&mut self.has_lost_connection);
                bus.counters().reconnections(u64::from(is_again));
                connected.connection
            }
        };
        if group::create_joined_group_script(bus, inner.group()).invoke_async(&mut connection).await? {
            inner.log_created();
        }
        if self.predecessor_crashed.is_none() {
            self.predecessor_crashed = Some(!membership.has_predecessor_left(&mut connection).await?);
        }
        membership.announce(&mut connection).await?;
        Ok(())
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
            let page = self.stop.run_until_stopped(receiver.reclaim_own_page(&from, room, has_ended)).await;
            let Some((next, reclaimed)) = page.transpose()? else { return Ok(()) };
            receiver.receive_reclaimed(reclaimed);
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

    /// Reads new entries; when the consumer must stop, asks the server to end the read, which loses no entry.
    async fn read_new(&mut self, count: usize) -> Result<Vec<Entry>, CommandError> {
        let Self { parts, stop, reader, connection_number, .. } = self;
        let (inner, bus) = (&parts.inner, parts.inner.bus());
        let (config, link) = (bus.config(), bus.connection());
        let request = GroupRead { stream: bus.stream(), group: inner.group(), consumer: inner.name(), count };
        let block = Duration::from_millis(config.block_ms).min(READ_BLOCK_MAX);
        if config.single_connection_client {
            // never sent twice: the server assigns the entries of the first reply too
            let (mut connection, number) = link.get_with_short_timeout().await?;
            *connection_number = Some(number);
            let entries = command::parse_group_entries(request.new_entries(None).query_async(&mut connection).await?)?;
            if entries.is_empty() {
                stop.run_until_stopped(sleep(SINGLE_CONNECTION_POLL_INTERVAL.min(block))).await;
            }
            return Ok(entries);
        }
        let client_id = reader.connect(link, reply_timeout(bus)).await?.client_id;
        let mut reading = pin!(reader.read_new(link, reply_timeout(bus), request, Some(block)));
        // biased: a reply that has arrived holds entries assigned to this consumer
        tokio::select! {
            biased;
            reply = &mut reading => return Ok(reply?),
            () = stop.stopped() => {}
        }
        let ending = async {
            loop {
                // biased for the same reason; repeated, because a command that arrives before the read has no effect
                tokio::select! {
                    biased;
                    reply = &mut reading => return reply,
                    () = unblock_read(bus, client_id) => {}
                }
            }
        };
        // gives up on a server that does not answer; entries it may have assigned are found at the next start
        let ended = tokio::time::timeout(READ_BLOCK_MAX + READ_REPLY_MARGIN, ending).await;
        Ok(ended.unwrap_or_else(|_| Ok(Vec::new()))?)
    }
}

/// Returns the time limit of the reply to a read that blocks.
fn reply_timeout(bus: &BusInner) -> Duration {
    READ_BLOCK_MAX + bus.config().socket_timeout.min(READ_REPLY_MARGIN)
}

/// Asks the server to end a blocking read.
async fn unblock_read(bus: &BusInner, client_id: Option<i64>) {
    if let Some(client) = client_id {
        let wake = command::unblock(client);
        if let Err(error) = bus.connection().query_idempotent::<Value>(&wake).await {
            tracing::debug!(%error, "the server cannot end a blocking read; it ends by itself");
        }
    }
    sleep(UNBLOCK_RETRY_DELAY).await;
}
