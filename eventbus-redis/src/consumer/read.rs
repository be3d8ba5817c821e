//! The reader: fetches entries of a stream.
//!
//! Invariant: the reader awaits every blocking read to its end, as the server assigns the entries that it finds to this
//! consumer alone. After each connect, the entries pending on this consumer come before any new one.
//!
//! Real time, not the given clock: the replies of Redis.

use std::{pin::pin, sync::atomic::Ordering, time::Duration};

use eventbus::{
    delivery::{DueEntry, StopSignal},
    port::MessageId,
};
use redis::{Cmd, RedisError, RedisResult, ScriptInvocation, Value, aio::MultiplexedConnection};

use super::{Consumer, outage_log::OutageLog, receive::ReclaimedEntries};
use crate::{
    command::{self, GroupRead},
    error::CommandError,
    group,
    reply::{self, is_connection_lost},
    script,
};

/// Longest wait of one read. A stop takes this long if the server does not allow the bus to end the read, and so does
/// noticing a dead connection.
pub(super) const READ_BLOCK_MAX: Duration = Duration::from_secs(1);
/// Time that a reply may take beyond that.
const READ_REPLY_MARGIN: Duration = Duration::from_millis(500);
/// Interval between two reads on a connection where reads must not block.
pub(super) const SINGLE_CONNECTION_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Start of a range before the first entry.
pub(super) const RANGE_START: &str = "-";
/// Delay before a due entry is read again that a recreated group has yet to read: its reader may get it first.
const UNREAD_ENTRY_DELAY: Duration = Duration::from_secs(1);
/// Time without a reply after which a read counts as waiting for new events.
const READ_IDLE_AFTER: Duration = Duration::from_millis(20);
/// Delay before a command that ends a read is sent again.
const UNBLOCK_RETRY_DELAY: Duration = Duration::from_millis(20);

/// State of a reader across connections.
pub(super) struct ReaderState<'a> {
    pub(super) stop: &'a StopSignal,
    pub(super) outage_log: OutageLog,
    /// Set if the reader lost a connection of its own.
    has_lost_connection: bool,
    /// Number of the shared connection, if the reader uses that one.
    connection_number: Option<u64>,
    /// Set once the reader knows how the previous consumer of this name ended.
    knows_predecessor: bool,
}

/// Converts an error into the kind that the reader returns.
pub(super) fn to_redis_error(error: CommandError) -> RedisError {
    match error {
        CommandError::Sent(error) => error,
        CommandError::NotSent(text) => std::io::Error::other(text).into(),
    }
}

/// A connection, and the client id by which the bus ends its blocking read.
pub(super) struct ReaderConnection {
    pub(super) connection: MultiplexedConnection,
    client_id: Option<i64>,
}

impl Consumer {
    /// Fetches entries while there is room for them, until `stop`.
    pub(super) async fn run_reader(&self, stop: &StopSignal) {
        let mut state = self.new_reader_state(stop);
        while !stop.is_stopped() {
            let ended = self.run_session(&mut state).await;
            self.in_flight.set_has_more(false);
            if let Err(error) = ended {
                self.wait_after_error(&mut state, &error).await;
            }
        }
    }

    pub(super) fn new_reader_state<'a>(&self, stop: &'a StopSignal) -> ReaderState<'a> {
        let outage_log = OutageLog::new("reading", self.group.clone());
        ReaderState { stop, outage_log, has_lost_connection: false, connection_number: None, knows_predecessor: false }
    }

    /// Drops a lost connection, and waits until the next attempt is due.
    pub(super) async fn wait_after_error(&self, state: &mut ReaderState<'_>, error: &RedisError) {
        if let Some(number) = state.connection_number.take() {
            self.bus.connection().drop_if_lost(number, error);
        } else {
            state.has_lost_connection |= is_connection_lost(error);
        }
        let delay = state.outage_log.record_failure(error);
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = state.stop.stopped() => {}
        }
    }

    /// Reads over one connection until `stop`, a restart, or an error.
    async fn run_session(&self, state: &mut ReaderState<'_>) -> RedisResult<()> {
        let stop = state.stop;
        // a stop must not wait for a server that does not answer
        let mut connected = tokio::select! {
            connected = self.connect(state) => connected?,
            () = stop.stopped() => return Ok(()),
        };
        let is_new = self.create_group_script().invoke_async(&mut connected.connection).await?;
        self.log_group_created(is_new);
        // in every session: a different member may have created the group again
        self.has_passed_backlog.store(false, Ordering::Release);
        self.check_predecessor(state, &mut connected.connection).await?;
        // before the first read: other members hand off to it entries that only it handles
        let _: Value = self.heartbeat_script(RANGE_START).invoke_async(&mut connected.connection).await?;
        self.is_announced.store(true, Ordering::Release);
        self.has_caught_up.store(false, Ordering::Release);
        self.block_streams_in_backlog().await.map_err(to_redis_error)?;
        self.reclaim_own_pending(&mut connected.connection, stop).await?;
        self.has_caught_up.store(true, Ordering::Release);
        self.predecessor_crashed.store(false, Ordering::Release);
        self.caught_up_signal.notify_one();
        loop {
            // a stop may end this wait: no read is under way
            let room = tokio::select! {
                room = self.in_flight.room() => room,
                () = stop.stopped() => return Ok(()),
            };
            let mut requested = room.min(self.bus.config().batch_size);
            let mut entries = self.read_new(&mut connected, requested, stop).await?;
            state.outage_log.record_success();
            if !entries.is_empty() && self.must_wait_for_backlog().await.map_err(to_redis_error)? {
                // the entries are pending and read again after the backlog; until then only the reader adds entries
                self.has_caught_up.store(false, Ordering::Release);
                self.wait_for_backlog(stop).await.map_err(to_redis_error)?;
                return Ok(());
            }
            // if there was more to read, the next read is under way while this one is received
            while entries.len() >= requested && !stop.is_stopped() {
                let room = self.in_flight.room_beside(entries.len());
                if room == 0 {
                    break;
                }
                self.in_flight.set_has_more(true);
                requested = room.min(self.bus.config().batch_size);
                let receive = async {
                    tokio::task::yield_now().await; // sends the read first
                    self.receive_new(entries);
                };
                let (next, ()) = tokio::join!(self.read_new(&mut connected, requested, stop), receive);
                entries = next?;
            }
            self.in_flight.set_has_more(entries.len() >= requested);
            self.receive_new(entries);
        }
    }

    pub(super) async fn connect(&self, state: &mut ReaderState<'_>) -> RedisResult<ReaderConnection> {
        let config = self.bus.config();
        let link = self.bus.connection();
        if config.single_connection_client {
            let (connection, number) = link.get_with_short_timeout().await.map_err(std::io::Error::other)?;
            state.connection_number = Some(number);
            return Ok(ReaderConnection { connection, client_id: None });
        }
        let timeout = READ_BLOCK_MAX + config.socket_timeout.min(READ_REPLY_MARGIN);
        let mut connection = link.open_dedicated(timeout).await?;
        let id = command::client_id().query_async(&mut connection).await;
        let lost = std::mem::take(&mut state.has_lost_connection);
        self.bus.counters().reconnections(u64::from(lost));
        Ok(ReaderConnection {
            connection,
            client_id: id.ok(), // without it, a stop takes up to `READ_BLOCK_MAX`
        })
    }

    /// Checks, before the first heartbeat, whether the previous consumer of this name left when it ended. One that the
    /// group no longer knows counts as crashed.
    async fn check_predecessor(
        &self,
        reading: &mut ReaderState<'_>,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<()> {
        if reading.knows_predecessor {
            return Ok(());
        }
        let former: Option<String> =
            redis::cmd("HGET").arg(&self.keys.members).arg(&self.name).query_async(connection).await?;
        let former = former.and_then(|former| serde_json::from_str::<serde_json::Value>(&former).ok());
        let has_left =
            former.is_some_and(|former| former["left"] == true || former["instance"] == *self.bus.instance());
        self.predecessor_crashed.store(!has_left, Ordering::Release);
        reading.knows_predecessor = true;
        Ok(())
    }

    /// Prepares the script that creates the group if it is missing, and replies whether it did.
    pub(super) fn create_group_script(&self) -> ScriptInvocation<'static> {
        group::create_joined_group_script(&self.bus, &self.group)
    }

    pub(super) fn log_group_created(&self, is_new: bool) {
        if is_new {
            tracing::info!(group = %self.group, stream = self.bus.stream(), "group created");
        }
    }

    /// Reads one page of entries from `from` on that are pending on this consumer and not in flight; returns the next
    /// start.
    pub(super) async fn reclaim_own_page(
        &self,
        from: &str,
        count: usize,
    ) -> Result<(Option<String>, ReclaimedEntries), CommandError> {
        let list = command::pending_of_consumer(self.bus.stream(), &self.group, &self.name, from, count);
        let ids = command::parse_pending_ids(self.bus.connection().query(&list).await?)?;
        let Some(last) = ids.last() else {
            return Ok((None, ReclaimedEntries::default()));
        };
        let next = format!("({last}");
        let Some(reclaim) = self.reclaim_own_script(&self.filter_not_in_flight(ids)) else {
            return Ok((Some(next), ReclaimedEntries::default()));
        };
        let (entries, attempts, deleted) = self.run_idempotent(reclaim).await?;
        Ok((Some(next), ReclaimedEntries::parse(entries, attempts, deleted)?))
    }

    /// Receives all entries that are pending on this consumer and not in flight.
    async fn reclaim_own_pending(&self, connection: &mut MultiplexedConnection, stop: &StopSignal) -> RedisResult<()> {
        let mut from = "-".to_owned();
        loop {
            let room = tokio::select! {
                room = self.in_flight.room() => room.min(self.bus.config().batch_size).min(command::SCRIPT_BATCH_MAX),
                () = stop.stopped() => return Ok(()),
            };
            let list = command::pending_of_consumer(self.bus.stream(), &self.group, &self.name, &from, room);
            let ids = command::parse_pending_ids(list.query_async(connection).await?)?;
            let Some(last) = ids.last() else {
                return Ok(());
            };
            from = format!("({last}");
            let missing = self.filter_not_in_flight(ids);
            if let Some(reclaim) = self.reclaim_own_script(&missing) {
                let (entries, attempts, deleted) = reclaim.invoke_async(connection).await?;
                let has_ended = self.predecessor_crashed.load(Ordering::Acquire);
                let reclaimed = ReclaimedEntries::parse(entries, attempts, deleted)?;
                self.receive_reclaimed(reclaimed.with_owner_ended(std::iter::repeat(has_ended)));
            }
        }
    }

    async fn read_new(
        &self,
        connected: &mut ReaderConnection,
        count: usize,
        stop: &StopSignal,
    ) -> RedisResult<Vec<reply::Entry>> {
        let config = self.bus.config();
        let reader = GroupRead { stream: self.bus.stream(), group: &self.group, consumer: &self.name, count };
        let block = Duration::from_millis(config.block_ms);
        if config.single_connection_client {
            let reply = reader.new_entries(None).query_async(&mut connected.connection).await?;
            let entries = command::parse_group_entries(reply)?;
            if entries.is_empty() {
                tokio::select! {
                    () = tokio::time::sleep(SINGLE_CONNECTION_POLL_INTERVAL.min(block)) => {}
                    () = stop.stopped() => {}
                }
            }
            return Ok(entries);
        }
        let read = reader.new_entries(Some(block.min(READ_BLOCK_MAX)));
        let mut reading = pin!(self.read_or_unblock(connected, &read, stop.stopped()));
        // biased: a reply that has arrived shows that there are entries, however late this task runs
        let reply = tokio::select! {
            biased;
            reply = &mut reading => reply,
            () = tokio::time::sleep(READ_IDLE_AFTER) => {
                self.in_flight.set_has_more(false);
                reading.await
            }
        };
        command::parse_group_entries(reply?)
    }

    /// Awaits a read; when `end` completes, asks the server to end the read, which loses no entry.
    pub(super) async fn read_or_unblock(
        &self,
        connected: &mut ReaderConnection,
        read: &Cmd,
        end: impl Future<Output = ()>,
    ) -> RedisResult<Value> {
        let client = connected.client_id;
        let mut reading = pin!(read.query_async(&mut connected.connection));
        // biased: a reply that has arrived holds entries assigned to this consumer
        tokio::select! {
            biased;
            reply = &mut reading => return reply,
            () = end => {}
        }
        let ending = async {
            loop {
                // biased for the same reason; repeated, as a command that arrives before the read ends none
                tokio::select! {
                    biased;
                    reply = &mut reading => return reply,
                    () = self.unblock_read(client) => {}
                }
            }
        };
        // gives up on a server that does not answer; entries it may have assigned are found at the next start
        let ended = tokio::time::timeout(READ_BLOCK_MAX + READ_REPLY_MARGIN, ending).await;
        ended.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
    }

    async fn unblock_read(&self, client: Option<i64>) {
        if let Some(client) = client {
            let wake = command::unblock(client);
            if let Err(error) = self.bus.connection().query::<Value>(&wake).await {
                tracing::debug!(%error, "the server cannot end a blocking read; it ends by itself");
            }
        }
        tokio::time::sleep(UNBLOCK_RETRY_DELAY).await;
    }

    /// Returns the ids of entries that are neither in flight nor kept pending.
    pub(super) fn filter_not_in_flight(&self, ids: Vec<String>) -> Vec<String> {
        let left = self.kept_pending();
        let is_missing = |id: &String| {
            let id = eventbus::port::MessageId::new(id.as_str());
            !self.in_flight.contains(&id) && !left.contains(&id)
        };
        ids.into_iter().filter(is_missing).collect()
    }

    /// Reads due entries again.
    pub(super) async fn read_due(&self, due: Vec<DueEntry>) -> Result<(), CommandError> {
        for (number, chunk) in due.chunks(command::SCRIPT_BATCH_MAX).enumerate() {
            if let Err(error) = self.read_due_batch(chunk).await {
                self.in_flight.return_due(due[number * command::SCRIPT_BATCH_MAX..].iter().map(|due| &due.id));
                return Err(error);
            }
        }
        Ok(())
    }

    async fn read_due_batch(&self, due: &[DueEntry]) -> Result<(), CommandError> {
        let mut reread = self.script(&script::consumer::READ_DUE);
        reread.key(&self.keys.retry).key(&self.keys.relay).arg(self.group.as_str()).arg(&self.name);
        for due in due {
            reread.arg(due.id.as_str()).arg(u8::from(due.has_waited));
        }
        let (entries, attempts, deleted, lost, unread): (_, _, _, Vec<String>, Vec<String>) =
            self.run_idempotent(reread).await?;
        let ids = |ids: Vec<String>| ids.into_iter().map(MessageId::new).collect::<Vec<_>>();
        self.resume(ReclaimedEntries::parse(entries, attempts, deleted)?);
        self.release_lost(&ids(lost));
        match self.in_flight.is_crowded() {
            // while crowded the reader reads no entries, so postponing these until it has would never end
            true => self.in_flight.release(&ids(unread)),
            false => self.in_flight.postpone(&ids(unread), UNREAD_ENTRY_DELAY),
        }
        Ok(())
    }

    /// Prepares reading entries again that are pending on this consumer; `None` if there are none.
    pub(super) fn reclaim_own_script(&self, ids: &[String]) -> Option<ScriptInvocation<'static>> {
        if ids.is_empty() {
            return None;
        }
        let mut reclaim = self.script(&script::consumer::RECLAIM_OWN);
        reclaim.key(&self.keys.retry).key(&self.keys.relay);
        reclaim.arg(self.group.as_str()).arg(&self.name).arg(ids);
        Some(reclaim)
    }
}
