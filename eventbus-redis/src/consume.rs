//! The consumer of one group.
//!
//! Keep: entries are acknowledged after their handlers, and a read that waits for entries is awaited to its end. After
//! each (re)connection the entries that this consumer has read and not finished come first, and are looked for once
//! more a little later: a read of the lost connection may have been served after that first look.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use eventbus::{
    Name,
    port::{Delivery, Limits, MessageId, RetryPolicy, StopSignal, Tries, dispatch},
};
use redis::{Cmd, RedisError, RedisResult, Value, aio::MultiplexedConnection};
use tracing::Instrument;

use crate::{
    bus::Shared,
    command::{self, Entry, Reader},
    connection::is_lost,
    settle::Verdict,
    trace, wire,
};

/// How long a read waits for entries at a time: what a stop takes where the server does not let us wake the read, and
/// what a lost connection can take entries for.
const SLICE: Duration = Duration::from_secs(1);
/// How often is looked for entries on a connection where reads must not wait.
const POLL: Duration = Duration::from_millis(20);
/// How long to leave a waking command to do its work before it is sent again.
const WAKE_AGAIN: Duration = Duration::from_millis(20);

const RECONNECT: RetryPolicy =
    RetryPolicy { max_retries: u32::MAX, first_delay: Duration::from_millis(50), max_delay: Duration::from_secs(2) };

/// Hands the group its events, one after the other, until it is stopped; connects anew as often as it must.
pub(crate) async fn consume(shared: Arc<Shared>, group: Name, stop: StopSignal) {
    let mut consumer = Consumer {
        shared,
        group,
        stop,
        handled: Vec::new(),
        kept: HashSet::new(),
        failures: 0,
        lost_connection: false,
        link_number: None,
    };
    while !consumer.stop.is_stopped() {
        let Err(error) = consumer.session().await else {
            break;
        };
        if let Some(number) = consumer.link_number.take() {
            consumer.shared.link.note(number, &error).await;
        } else {
            consumer.lost_connection |= is_lost(&error);
        }
        consumer.failures = consumer.failures.saturating_add(1);
        let delay = RECONNECT.jittered(consumer.failures);
        tracing::warn!(group = %consumer.group, %error, ?delay, "consuming interrupted, trying again");
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = consumer.stop.stopped() => {}
        }
    }
}

struct Consumer {
    shared: Arc<Shared>,
    group: Name,
    stop: StopSignal,
    /// Entries handled and not acknowledged yet.
    handled: Vec<String>,
    /// Entries that failed since the start: they stay pending and are not handled again before the next start.
    kept: HashSet<String>,
    /// How many sessions in a row ended without reading anything.
    failures: u32,
    /// Whether a connection of its own was lost.
    lost_connection: bool,
    /// Which of the shared connections it uses, if it has none of its own.
    link_number: Option<u64>,
}

/// A connection, and what wakes it.
struct Connected {
    connection: MultiplexedConnection,
    client: Option<i64>,
}

impl Consumer {
    /// Consumes over one connection until it is stopped, or the connection is lost.
    async fn session(&mut self) -> RedisResult<()> {
        let stop = self.stop.clone();
        let mut connected = tokio::select! {
            connected = self.connect() => connected?,
            () = stop.stopped() => return Ok(()),
        };
        self.ensure_group(&mut connected).await?;
        self.acknowledge(&mut connected).await?;
        self.finish_pending(&mut connected).await?;
        let mut look_again = Some(Instant::now() + SLICE * 2);
        while !self.stop.is_stopped() {
            if look_again.is_some_and(|at| Instant::now() >= at) {
                look_again = None;
                self.finish_pending(&mut connected).await?;
            }
            // also where the group is gone: the next session makes it anew
            let entries = self.read_new(&mut connected).await?;
            self.failures = 0;
            self.handle(&mut connected, entries).await?;
        }
        Ok(())
    }

    async fn connect(&mut self) -> RedisResult<Connected> {
        let config = &self.shared.config;
        let link = &self.shared.link;
        if config.single_connection_client {
            let (connection, number) = link.connection().await.map_err(std::io::Error::other)?;
            self.link_number = Some(number);
            return Ok(Connected { connection, client: None });
        }
        let mut connection = link.dedicated(config.socket_timeout.saturating_add(SLICE)).await?;
        let id = command::client_id().query_async(&mut connection).await;
        let lost = std::mem::take(&mut self.lost_connection);
        self.shared.counters.reconnections(u64::from(lost));
        Ok(Connected {
            connection,
            client: id.ok(), // some servers do not tell: then a stop takes as long as a slice
        })
    }

    /// Creates the group if it is not there; what was pending in one that got lost is pending no more.
    async fn ensure_group(&mut self, connected: &mut Connected) -> RedisResult<()> {
        let create = command::create_group(&self.shared.stream, &self.group);
        match create.query_async::<Value>(&mut connected.connection).await {
            Err(error) if command::group_exists(&error) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => {
                tracing::info!(group = %self.group, stream = self.shared.stream, "group created");
                self.shared.failures.clear(&self.group);
                self.kept.clear();
                self.handled.clear();
                Ok(())
            }
        }
    }

    /// Handles what this consumer has read before and not finished.
    async fn finish_pending(&mut self, connected: &mut Connected) -> RedisResult<()> {
        let mut after = "0-0".to_owned();
        while !self.stop.is_stopped() {
            let read = self.reader().own_pending(&after);
            let reply = read.query_async(&mut connected.connection).await?;
            let entries = command::entries(reply)?;
            let Some(last) = entries.last() else {
                break;
            };
            after.clone_from(&last.id);
            let unfinished = entries.into_iter().filter(|entry| !self.kept.contains(&entry.id));
            let unfinished = unfinished.collect();
            self.handle(connected, unfinished).await?;
        }
        Ok(())
    }

    async fn read_new(&self, connected: &mut Connected) -> RedisResult<Vec<Entry>> {
        let config = &self.shared.config;
        if config.single_connection_client {
            let read = self.reader().new_entries(None);
            let reply = read.query_async(&mut connected.connection).await?;
            let entries = command::entries(reply)?;
            if entries.is_empty() {
                tokio::select! {
                    () = tokio::time::sleep(POLL.min(Duration::from_millis(config.block_ms))) => {}
                    () = self.stop.stopped() => {}
                }
            }
            return Ok(entries);
        }
        let block = Duration::from_millis(config.block_ms).min(SLICE);
        let read = self.reader().new_entries(Some(block));
        command::entries(self.read_to_the_end(connected, &read).await?)
    }

    /// Waits for a read; when the consumer is to stop, the server is asked to end the read, which loses no entry.
    async fn read_to_the_end(&self, connected: &mut Connected, read: &Cmd) -> RedisResult<Value> {
        let client = connected.client;
        let mut reading = std::pin::pin!(read.query_async(&mut connected.connection));
        tokio::select! {
            biased;
            reply = &mut reading => return reply,
            () = self.stop.stopped() => {}
        }
        let ending = async {
            loop {
                tokio::select! {
                    biased;
                    reply = &mut reading => return reply,
                    () = self.wake(client) => {}
                }
            }
        };
        // a server that does not answer at all is left; what it may have handed out is read again at the next start
        let ended = tokio::time::timeout(SLICE * 2, ending).await;
        ended.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
    }

    async fn wake(&self, client: Option<i64>) {
        if let Some(client) = client {
            let wake = command::unblock(client);
            if let Err(error) = self.shared.link.query::<Value>(&wake).await {
                tracing::debug!(%error, "a waiting read cannot be woken, it ends by itself");
            }
        }
        tokio::time::sleep(WAKE_AGAIN).await;
    }

    /// Handles entries one after the other; acknowledges at the end, also when it is stopped before, and now and then
    /// where that takes long.
    async fn handle(&mut self, connected: &mut Connected, entries: Vec<Entry>) -> RedisResult<()> {
        let mut due = tokio::time::Instant::now() + SLICE;
        for entry in entries {
            if self.stop.is_stopped() && !self.leaves_for_good() {
                break;
            }
            let id = entry.id.clone();
            let (shared, group) = (Arc::clone(&self.shared), self.group.clone());
            let mut handling = std::pin::pin!(handle_one(&shared, &group, entry));
            let at_once = tokio::select! {
                biased;
                verdict = &mut handling => Some(verdict),
                // those before it must not be handled again because this one takes long or never ends
                () = tokio::time::sleep_until(due), if !self.handled.is_empty() => None,
            };
            let (verdict, acknowledged) = match at_once {
                Some(verdict) => (verdict, Ok(())),
                None => {
                    due = tokio::time::Instant::now() + SLICE;
                    tokio::join!(handling, self.acknowledge(connected))
                }
            };
            match verdict {
                Verdict::Acknowledge => self.handled.push(id),
                Verdict::Keep => {
                    self.kept.insert(id);
                }
            }
            acknowledged?;
        }
        self.acknowledge(connected).await
    }

    /// Whether what it has read and leaves behind would be nobody's: the bus closes, and its name does not come back.
    fn leaves_for_good(&self) -> bool {
        self.shared.is_passing && self.shared.consuming.is_closed()
    }

    async fn acknowledge(&mut self, connected: &mut Connected) -> Result<(), RedisError> {
        if self.handled.is_empty() {
            return Ok(());
        }
        let acknowledge = command::acknowledge(&self.shared.stream, &self.group, &self.handled);
        acknowledge.query_async::<Value>(&mut connected.connection).await?;
        self.shared.failures.remove(&self.group, &self.handled);
        self.handled.clear();
        Ok(())
    }

    fn reader(&self) -> Reader<'_> {
        Reader {
            stream: &self.shared.stream,
            group: &self.group,
            consumer: &self.shared.consumer,
            count: self.shared.config.batch_size,
        }
    }
}

async fn handle_one(shared: &Shared, group: &Name, entry: Entry) -> Verdict {
    shared.counters.events_consumed(1);
    let id = entry.id;
    let Some(fields) = entry.fields else {
        tracing::error!(%group, id, "entry was deleted before it was handled; it is lost");
        shared.counters.events_processed_failed(1);
        return Verdict::Acknowledge;
    };
    let record = match wire::decode(&fields) {
        Ok(record) => record,
        Err(error) => {
            tracing::error!(%group, id, %error, "entry is no event; it stays pending");
            return shared.fail(group, &id);
        }
    };
    let attempt = shared.failures.tries(group, &id).saturating_add(1);
    let delivery =
        Delivery::new(record, group.clone()).with_attempt(attempt).with_message_id(MessageId::new(id.as_str()));
    let subscribers = shared.subscribers.of_group(group);
    let span = trace::process(shared, &delivery);
    let outcome = dispatch(&subscribers, &delivery, &Tries::default(), &Limits::default()).instrument(span).await;
    shared.settle(group, &id, outcome)
}
