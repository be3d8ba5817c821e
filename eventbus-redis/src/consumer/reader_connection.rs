//! The reader's connection, on which a read may block.
//!
//! Invariant: the reader awaits every blocking read to its end, as the server assigns the entries that it finds to this
//! consumer alone.
//!
//! Real time, not the given clock: the replies of Redis.

use std::{pin::pin, sync::Arc, time::Duration};

use eventbus::{Name, delivery::StopSignal};
use redis::{Cmd, RedisError, RedisResult, Value, aio::MultiplexedConnection};

use super::outage_log::OutageLog;
use crate::{command, error::CommandError, inner::BusInner, reply::is_connection_lost};

/// Longest wait of one read. A stop takes this long if the server does not let the bus end the read; noticing a dead
/// connection takes as long.
pub(super) const READ_BLOCK_MAX: Duration = Duration::from_secs(1);
/// Time that a reply may take beyond that.
const READ_REPLY_MARGIN: Duration = Duration::from_millis(500);
/// Interval between two reads on a connection where reads must not block.
pub(super) const SINGLE_CONNECTION_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Delay before a command that ends a read is sent again.
const UNBLOCK_RETRY_DELAY: Duration = Duration::from_millis(20);

/// Connects a reader, again after each loss.
pub(super) struct Connector {
    bus: Arc<BusInner>,
    outage_log: OutageLog,
    /// Set if the reader lost a connection of its own.
    has_lost_connection: bool,
    /// Number of the shared connection, if the reader uses that one.
    connection_number: Option<u64>,
}

/// A connection, and the client id by which the bus ends its blocking read.
pub(super) struct ReaderConnection {
    bus: Arc<BusInner>,
    connection: MultiplexedConnection,
    client_id: Option<i64>,
}

impl Connector {
    pub(super) fn new(bus: &Arc<BusInner>, group: &Name) -> Self {
        let (bus, outage_log) = (Arc::clone(bus), OutageLog::new("reading", group.clone()));
        Self { bus, outage_log, has_lost_connection: false, connection_number: None }
    }

    /// Opens a connection on which a reply with entries of one stream is one value, which only
    /// [`NewEntries`](command::NewEntries) parses; or uses the shared connection, if configured.
    pub(super) async fn connect(&mut self) -> RedisResult<ReaderConnection> {
        let (config, link) = (self.bus.config(), self.bus.connection());
        if config.single_connection_client {
            let (connection, number) = link.get_with_short_timeout().await.map_err(std::io::Error::other)?;
            self.connection_number = Some(number);
            return Ok(ReaderConnection { bus: Arc::clone(&self.bus), connection, client_id: None });
        }
        let timeout = READ_BLOCK_MAX + config.socket_timeout.min(READ_REPLY_MARGIN);
        let mut connection = link.open_for_entries(timeout).await?;
        let id = command::client_id().query_async(&mut connection).await;
        let lost = std::mem::take(&mut self.has_lost_connection);
        self.bus.counters().reconnections(u64::from(lost));
        // without its id, a stop takes up to `READ_BLOCK_MAX`
        Ok(ReaderConnection { bus: Arc::clone(&self.bus), connection, client_id: id.ok() })
    }

    /// Records that the server has answered a read, which ends an outage.
    pub(super) fn record_success(&mut self) {
        self.outage_log.record_success();
    }

    /// Drops a lost connection, and waits until the next attempt is due.
    pub(super) async fn wait_after_error(&mut self, error: &RedisError, stop: &StopSignal) {
        if let Some(number) = self.connection_number.take() {
            self.bus.connection().drop_if_lost(number, error);
        } else {
            self.has_lost_connection |= is_connection_lost(error);
        }
        let delay = self.outage_log.record_failure(error);
        stop.run_until_stopped(tokio::time::sleep(delay)).await;
    }
}

impl ReaderConnection {
    pub(super) const fn connection(&mut self) -> &mut MultiplexedConnection {
        &mut self.connection
    }

    /// Awaits a read; when `end` completes, asks the server to end the read, which loses no entry.
    pub(super) async fn read_or_unblock(&mut self, read: &Cmd, end: impl Future<Output = ()>) -> RedisResult<Value> {
        let Self { connection, client_id, bus } = self;
        let mut reading = pin!(read.query_async(connection));
        // biased: a reply that has arrived holds entries assigned to this consumer
        tokio::select! {
            biased;
            reply = &mut reading => return reply,
            () = end => {}
        }
        let ending = async {
            loop {
                // biased for the same reason; repeated, because a command that arrives before the read has no effect
                tokio::select! {
                    biased;
                    reply = &mut reading => return reply,
                    () = unblock_read(bus, *client_id) => {}
                }
            }
        };
        // gives up on a server that does not answer; entries it may have assigned are found at the next start
        let ended = tokio::time::timeout(READ_BLOCK_MAX + READ_REPLY_MARGIN, ending).await;
        ended.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
    }
}

/// Asks the server to end a blocking read.
async fn unblock_read(bus: &BusInner, client_id: Option<i64>) {
    if let Some(client) = client_id {
        let wake = command::unblock(client);
        if let Err(error) = bus.connection().query_idempotent::<Value>(&wake).await {
            tracing::debug!(%error, "the server cannot end a blocking read; it ends by itself");
        }
    }
    tokio::time::sleep(UNBLOCK_RETRY_DELAY).await;
}

/// Converts an error into the kind that the reader returns.
pub(super) fn to_redis_error(error: CommandError) -> RedisError {
    match error {
        CommandError::Sent(error) => error,
        CommandError::NotSent(text) => std::io::Error::other(text).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::{
        RedisEventBusConfig,
        command::{GroupRead, NewEntries},
        join,
    };

    fn bus(prefix: &str) -> Arc<BusInner> {
        let (redis_url, stream_prefix) = (eventbus_test::redis_url().into(), eventbus_test::unique_name(prefix));
        let config = RedisEventBusConfig { redis_url, stream_prefix, ..RedisEventBusConfig::default() };
        Arc::new(BusInner::new(config).unwrap())
    }

    /// Fails if the client makes a value of each name and each text.
    #[tokio::test]
    async fn the_reader_gets_entries_as_one_value() {
        let bus = bus("packed");
        let group = bus.default_group();
        let mut reader = Connector::new(&bus, group).connect().await.unwrap();
        let connection = reader.connection();
        let mut create = redis::cmd("XGROUP");
        create.arg("CREATE").arg(bus.stream()).arg(group.as_str()).arg("0").arg("MKSTREAM");
        create.exec_async(connection).await.unwrap();
        for value in ["one", "two"] {
            let mut add = redis::cmd("XADD");
            add.arg(bus.stream()).arg("*").arg("name").arg(value).exec_async(connection).await.unwrap();
        }
        let read = GroupRead { stream: bus.stream(), group, consumer: "reader", count: 10 }.new_entries(None);
        match NewEntries::parse(reader.read_or_unblock(&read, pending()).await.unwrap()).unwrap() {
            NewEntries::Packed(entries) => {
                let values: Vec<_> = entries.iter().map(|(_, fields)| fields.unwrap()[0].1.to_vec()).collect();
                assert_eq!(values, [b"one", b"two"]);
            }
            NewEntries::Parsed(entries) => panic!("{entries:?}"),
        }
        let none = NewEntries::parse(reader.read_or_unblock(&read, pending()).await.unwrap()).unwrap();
        assert!(none.is_empty());
    }

    /// Fails if the connection outlives its reader until the server ends the read: the server would assign entries to
    /// the consumer that no reader gets.
    #[tokio::test]
    async fn a_reader_that_is_dropped_during_a_read_has_no_connection_any_more() {
        let bus = bus("dropped");
        join::join(&bus).await.unwrap();
        let mut reader = Connector::new(&bus, bus.default_group()).connect().await.unwrap();
        let client = reader.client_id.unwrap();
        let reading = tokio::spawn(async move {
            let mut read = redis::cmd("BLPOP");
            read.arg("eventbus-no-such-list").arg(600);
            reader.read_or_unblock(&read, pending()).await.map(drop)
        });
        let shows = async |what: &str| {
            let mut list = redis::cmd("CLIENT");
            list.arg("LIST").arg("ID").arg(client);
            bus.connection().query_idempotent::<String>(&list).await.unwrap().contains(what)
        };
        let until = async |what: &str, is_shown: bool| {
            let waiting = async {
                while shows(what).await != is_shown {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap();
        };
        until("cmd=blpop", true).await;
        reading.abort();
        until("cmd=blpop", false).await;
    }
}
