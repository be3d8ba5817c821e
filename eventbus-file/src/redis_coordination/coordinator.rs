//! Coordination through Redis: a counter, claims that expire, messages.
//!
//! Invariant: the files decide, not Redis, which may have lost its data. After a connection failed, the worker sends no
//! command before it has a new connection, so that a server that is away costs one timeout.
//!
//! Real time, not the given clock: timeouts of a connection to Redis.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use eventbus::support::Outage;
use eventbus_redis_core::reply::{is_connection_lost, is_refusal};
use parking_lot::RwLock;
use redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, Pipeline, RedisError, RedisResult, ScriptInvocation,
    aio::{MultiplexedConnection, PubSub},
};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::{
    config::{RedisCoordination, RedisKeys},
    message::{Message, claim_value, millis, set_if_missing, timestamp},
    script,
};
use crate::{
    coordination::{CoordinationStatus, Coordinator, IdReservation},
    error::Result,
    event::now,
    metrics::Metrics,
};

/// Maximum number of messages in one pipeline.
const BROADCAST_BATCH_MAX: usize = 500;

/// The coordinator of a queue through its Redis.
#[derive(Debug)]
pub(crate) struct RedisCoordinator {
    config: RedisCoordination,
    client: Client,
    keys: RedisKeys,
    worker_id: String,
    /// Each call reads it; a lost and a new connection write it.
    state: RwLock<ConnectionState>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct ConnectionState {
    connection: Option<MultiplexedConnection>,
    /// Cancelled when this connection is lost; the next connection has a new token.
    lost: CancellationToken,
    /// The error that ended the last connection, or the last attempt to connect.
    error: Option<RedisError>,
    /// The time without a connection; the coordinator logs its start and its end.
    outage: Outage,
    /// The commands that the server refuses, by their purpose: it may accept the rest. The coordinator logs the first
    /// refusal of each, and when the server accepts it again.
    refused: BTreeMap<&'static str, Outage>,
}

impl RedisCoordinator {
    /// Makes a coordinator that is not connected yet.
    pub(crate) fn new(
        config: RedisCoordination,
        queue: &str,
        worker_id: String,
        metrics: Arc<Metrics>,
    ) -> Result<Self> {
        Ok(Self {
            client: config.client(queue)?,
            keys: RedisKeys::new(&config.redis_prefix, queue),
            config,
            worker_id,
            state: RwLock::default(),
            metrics,
        })
    }

    pub(super) fn config(&self) -> &RedisCoordination {
        &self.config
    }

    pub(super) fn keys(&self) -> &RedisKeys {
        &self.keys
    }

    /// Returns the token that is cancelled when this connection is lost.
    pub(super) fn lost(&self) -> CancellationToken {
        self.state.read().lost.clone()
    }

    /// Ends the outage, and returns how long it lasted.
    pub(super) fn end_outage(&self) -> Duration {
        self.state.write().outage.ends().unwrap_or_default()
    }

    /// Sends a command if there is a connection. `None`: the files decide alone.
    pub(super) async fn query<T: FromRedisValue>(&self, what: &'static str, command: &Cmd) -> Option<T> {
        self.send(what, async |connection| command.query_async(connection).await).await
    }

    /// Sends commands as [`query`](Self::query) does, in one round trip.
    pub(super) async fn query_all(&self, what: &'static str, commands: &Pipeline) -> Option<()> {
        self.send(what, async |connection| commands.query_async(connection).await).await
    }

    /// Runs a script as [`query`](Self::query) does.
    pub(super) async fn run(&self, what: &'static str, script: &ScriptInvocation<'_>) -> Option<u64> {
        self.send(what, async |connection| script.invoke_async(connection).await).await
    }

    async fn send<T>(
        &self,
        what: &'static str,
        ask: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> Option<T> {
        let (mut connection, lost) = {
            let slot = self.state.read();
            (slot.connection.clone()?, slot.lost.clone())
        };
        let reply = ask(&mut connection).await;
        match &reply {
            Ok(_) => self.end_refusal(what),
            Err(error) => self.handle_failure(what, error, &lost),
        }
        reply.ok()
    }

    /// Logs that the server accepts a command that it refused.
    fn end_refusal(&self, what: &'static str) {
        // a command that was not refused needs no exclusive lock
        if !self.state.read().refused.contains_key(what) {
            return;
        }
        let refused = self.state.write().refused.remove(what);
        if let Some(lasted) = refused.and_then(|mut refused| refused.ends()) {
            tracing::info!(queue = self.keys.queue(), what, ?lasted, "Redis accepts the command again");
        }
    }

    fn handle_failure(&self, what: &'static str, error: &RedisError, lost: &CancellationToken) {
        self.metrics.redis_failures.add(1);
        let queue = self.keys.queue();
        if !is_connection_lost(error) {
            if self.state.write().refused.entry(what).or_default().begins() {
                tracing::warn!(queue, what, %error, "Redis refuses a command, the files decide alone");
            }
        } else if self.disconnect(lost, error.clone()) {
            tracing::warn!(queue, what, %error, "Redis does not answer, the files decide alone");
        }
    }

    /// Drops the connection that has this token, so that no command is sent before there is a new one. Returns `true` if an
    /// outage begins.
    fn disconnect(&self, lost: &CancellationToken, error: RedisError) -> bool {
        let mut slot = self.state.write();
        // a late error of an earlier connection does not end a newer one
        if lost.is_cancelled() || slot.connection.take().is_none() {
            return false;
        }
        slot.error = Some(error);
        slot.lost.cancel();
        slot.outage.begins()
    }

    /// Drops the connection for commands after the connection for messages was lost.
    pub(super) fn handle_lost_subscription(&self) {
        let error = "the connection for messages was lost";
        let lost = self.lost();
        if self.disconnect(&lost, io::Error::other(error).into()) {
            tracing::warn!(queue = self.keys.queue(), error, "no connection to Redis, the files decide alone");
        }
    }

    /// Opens one connection for commands and one for messages.
    pub(super) async fn connect(&self) -> Option<PubSub> {
        let connecting = tokio::time::timeout(self.config.response_timeout * 2, self.try_connect()).await;
        let too_long = |_| Err(io::Error::new(ErrorKind::TimedOut, "connecting took too long").into());
        let error = match connecting.unwrap_or_else(too_long) {
            Ok((connection, messages)) => {
                let mut slot = self.state.write();
                (slot.connection, slot.lost) = (Some(connection), CancellationToken::new());
                return Some(messages);
            }
            Err(error) => error,
        };
        let (is_first, was_refused) = {
            let mut slot = self.state.write();
            let last = slot.error.replace(error.clone());
            (slot.outage.begins(), last.is_some_and(|last| is_refusal(&last)))
        };
        let queue = self.keys.queue();
        match is_refusal(&error) {
            true if is_first || !was_refused => {
                tracing::error!(
                    queue,
                    %error,
                    "Redis refuses this worker, the files decide alone: correct its user, password or rights"
                )
            }
            false if is_first => tracing::warn!(queue, %error, "no connection to Redis, the files decide alone"),
            _ => {}
        }
        None
    }

    async fn try_connect(&self) -> RedisResult<(MultiplexedConnection, PubSub)> {
        let timeout = Some(self.config.response_timeout);
        let config = AsyncConnectionConfig::new().set_connection_timeout(timeout).set_response_timeout(timeout);
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        redis::cmd("PING").query_async::<()>(&mut connection).await?;
        self.check_writable(&mut connection).await?;
        let mut messages = self.client.get_async_pubsub().await?;
        messages.subscribe(self.keys.events()).await?;
        Ok((connection, messages))
    }

    /// Returns the error of a server that answers but takes no writes, such as a replica: then the outage lasts, and
    /// the worker connects again until it reaches the primary. The deleted key is that of a claim with an empty name,
    /// which does not exist.
    async fn check_writable(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        match redis::cmd("DEL").arg(self.keys.claim("")).query_async::<()>(connection).await {
            Err(error) if is_connection_lost(&error) => Err(error),
            // the user may lack the right to this command
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn message(&self, kind: &str, mut data: Map<String, Value>) -> String {
        data.insert("worker_id".into(), self.worker_id.clone().into());
        let message = Message { kind: kind.into(), data, timestamp: timestamp(now()) };
        // a map of texts and numbers can always be written as JSON
        serde_json::to_string(&message).unwrap_or_default()
    }
}

#[async_trait]
impl Coordinator for RedisCoordinator {
    async fn reserve_ids(&self, count: u64, floor: Option<u64>) -> IdReservation {
        let floor = floor.map_or(-1, |floor| i64::try_from(floor).unwrap_or(i64::MAX));
        let key = self.keys.next_event_id();
        match self.run("reserving ids", script::RESERVE_IDS.key(key).arg(count).arg(floor)).await {
            Some(0) => IdReservation::CounterMissing,
            Some(first) => IdReservation::Reserved(first..first.saturating_add(count)),
            None => IdReservation::Away,
        }
    }

    async fn lower_counter(&self, from: u64, to: u64) {
        let key = self.keys.next_event_id();
        self.run("lowering the counter", script::LOWER_COUNTER.key(key).arg(from).arg(to)).await;
    }

    async fn claim(&self, claim_id: &str, data: &Value, ttl: Duration) -> Option<bool> {
        let value = claim_value(&self.worker_id, now(), data);
        let set = set_if_missing(&self.keys.claim(claim_id), &value, ttl);
        let reply: Option<Option<String>> = self.query("claiming", &set).await;
        reply.map(|taken| taken.is_some())
    }

    async fn renew(&self, claim_id: &str, data: &Value, ttl: Duration) {
        let value = claim_value(&self.worker_id, now(), data);
        let mut renew = script::RENEW_CLAIM.key(self.keys.claim(claim_id));
        self.run("renewing a claim", renew.arg(&self.worker_id).arg(value).arg(millis(ttl))).await;
    }

    async fn release(&self, claim_id: &str) {
        let key = self.keys.claim(claim_id);
        self.run("releasing a claim", script::RELEASE_CLAIM.key(key).arg(&self.worker_id)).await;
    }

    async fn broadcast(&self, kind: &'static str, data: Vec<Map<String, Value>>) {
        let messages: Vec<_> = data.into_iter().map(|data| self.message(kind, data)).collect();
        for some in messages.chunks(BROADCAST_BATCH_MAX) {
            let mut publish = redis::pipe();
            for message in some {
                publish.publish(self.keys.events(), message).ignore();
            }
            if self.query_all("publishing messages", &publish).await.is_none() {
                return;
            }
            self.metrics.broadcasts_sent.add(some.len() as u64);
        }
    }

    fn status(&self) -> CoordinationStatus {
        let slot = self.state.read();
        let error = slot.error.as_ref().map(ToString::to_string).unwrap_or_default();
        match &slot.connection {
            Some(_) => CoordinationStatus::Connected,
            None if slot.error.as_ref().is_some_and(is_refusal) => CoordinationStatus::Refused { error },
            None => CoordinationStatus::Away { error },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_late_error_of_an_earlier_connection_does_not_end_the_newer_one() {
        let redis = eventbus_test::redis();
        let config = RedisCoordination {
            redis_url: redis.url().into(),
            redis_prefix: redis.prefix().into(),
            response_timeout: Duration::from_secs(60),
            ..RedisCoordination::default()
        };
        let coordinator = RedisCoordinator::new(config, "queue", "worker-1".into(), Arc::default()).unwrap();
        let error = || RedisError::from(io::Error::from(ErrorKind::TimedOut));

        let _first = coordinator.connect().await.unwrap();
        let earlier = coordinator.lost();
        assert!(coordinator.disconnect(&earlier, error()));
        let _second = coordinator.connect().await.unwrap();
        assert!(!coordinator.disconnect(&earlier, error()));
        assert_eq!(coordinator.status(), CoordinationStatus::Connected);
    }
}
