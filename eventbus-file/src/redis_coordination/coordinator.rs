//! Coordination through Redis: a counter, claims that expire, messages.
//!
//! Invariant: the files decide, not Redis, which may have lost its data. After a connection failed, the worker sends no
//! command before it has a new connection, so that a server that is away costs one timeout.
//!
//! Real time, not the given clock: timeouts of a connection to Redis.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use eventbus::support::Outage;
use parking_lot::RwLock;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, RedisError, RedisResult,
    aio::{MultiplexedConnection, PubSub},
};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    config::{RedisCoordination, RedisKeys},
    message::{Message, millis, timestamp},
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
    state: RwLock<ConnectionState>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct ConnectionState {
    connection: Option<Connection>,
    /// Cancelled when this connection is lost; the next connection has a new token.
    lost: CancellationToken,
    /// The last error.
    error: String,
    /// Set if the server answered with that error and refuses this worker.
    is_refused: bool,
    /// The time without a connection; the coordinator logs its begin and its end.
    outage: Outage,
}

#[derive(Clone)]
struct Connection(MultiplexedConnection);

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
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

    pub(super) fn worker_id(&self) -> &str {
        &self.worker_id
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
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
    pub(super) async fn query<T: FromRedisValue>(
        &self,
        what: &'static str,
        ask: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> Option<T> {
        let Connection(mut connection) = self.state.read().connection.clone()?;
        match ask(&mut connection).await {
            Ok(answer) => Some(answer),
            Err(error) => {
                self.handle_failure(what, &error);
                None
            }
        }
    }

    fn handle_failure(&self, what: &'static str, error: &RedisError) {
        self.metrics.redis_failures.add(1);
        let queue = self.keys.queue();
        let leaves = error.is_connection_dropped()
            || error.is_io_error()
            || error.is_timeout()
            || error.code() == Some("READONLY");
        if is_refusal(error) || !leaves {
            tracing::warn!(queue, what, %error, "Redis refuses a command, the files decide alone");
        }
        if leaves && self.disconnect(error.to_string()) {
            tracing::warn!(queue, what, %error, "Redis does not answer, the files decide alone");
        }
    }

    /// Drops the connection, so that no command is sent before there is a new one. Returns `true` if an outage begins.
    fn disconnect(&self, error: String) -> bool {
        let mut slot = self.state.write();
        if slot.connection.take().is_none() {
            return false;
        }
        (slot.error, slot.is_refused) = (error, false);
        slot.lost.cancel();
        slot.outage.begins()
    }

    /// Drops the connection for commands after the one for messages was lost.
    pub(super) fn handle_lost_subscription(&self) {
        let error = "the connection for messages was lost";
        if self.disconnect(error.into()) {
            tracing::warn!(queue = self.keys.queue(), error, "no connection to Redis, the files decide alone");
        }
    }

    /// Opens one connection for commands and one for messages.
    pub(super) async fn connect(&self) -> Option<PubSub> {
        let connecting = tokio::time::timeout(self.config.response_timeout * 2, self.try_connect()).await;
        let (error, is_refused) = match connecting {
            Ok(Ok((connection, messages))) => {
                let mut slot = self.state.write();
                slot.connection = Some(connection);
                slot.lost = CancellationToken::new();
                return Some(messages);
            }
            Ok(Err(error)) => (error.to_string(), is_refusal(&error)),
            Err(_) => ("connecting took too long".into(), false),
        };
        let first = {
            let mut slot = self.state.write();
            slot.error.clone_from(&error);
            let was_refused = std::mem::replace(&mut slot.is_refused, is_refused);
            slot.outage.begins() || is_refused && !was_refused
        };
        let queue = self.keys.queue();
        match first {
            true if is_refused => {
                tracing::error!(
                    queue,
                    error,
                    "Redis refuses this worker, the files decide alone: correct its user, password or rights"
                )
            }
            true => tracing::warn!(queue, error, "no connection to Redis, the files decide alone"),
            false => {}
        }
        None
    }

    async fn try_connect(&self) -> RedisResult<(Connection, PubSub)> {
        let timeout = Some(self.config.response_timeout);
        let config = AsyncConnectionConfig::new().set_connection_timeout(timeout).set_response_timeout(timeout);
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        redis::cmd("PING").query_async::<()>(&mut connection).await?;
        let mut messages = self.client.get_async_pubsub().await?;
        messages.subscribe(self.keys.events()).await?;
        Ok((Connection(connection), messages))
    }

    fn claim_value(&self, data: &Value) -> String {
        json!({"worker_id": self.worker_id, "created_at": timestamp(now()), "data": data}).to_string()
    }

    fn message(&self, kind: &str, mut data: Map<String, Value>) -> String {
        data.insert("worker_id".into(), self.worker_id.clone().into());
        let message = Message { kind: kind.into(), data, timestamp: timestamp(now()) };
        // a map of texts and numbers can always be written as JSON
        serde_json::to_string(&message).unwrap_or_default()
    }
}

/// Returns `true` if the server answered and refuses this worker: a wrong password, or a missing right.
fn is_refusal(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed || matches!(error.code(), Some("NOAUTH" | "NOPERM" | "WRONGPASS"))
}

#[async_trait]
impl Coordinator for RedisCoordinator {
    async fn reserve_ids(&self, count: u64, floor: Option<u64>) -> IdReservation {
        let floor = floor.map_or(-1, |floor| i64::try_from(floor).unwrap_or(i64::MAX));
        let drawn = self.query("reserving ids", async |redis| {
            let mut draw = script::RESERVE_IDS.prepare_invoke();
            draw.key(self.keys.next_event_id()).arg(count).arg(floor).invoke_async::<u64>(redis).await
        });
        match drawn.await {
            Some(0) => IdReservation::CounterMissing,
            Some(first) => IdReservation::Reserved(first..first.saturating_add(count)),
            None => IdReservation::Away,
        }
    }

    async fn lower_counter(&self, from: u64, to: u64) {
        self.query("lowering the counter", async |redis| {
            script::LOWER_COUNTER.key(self.keys.next_event_id()).arg(from).arg(to).invoke_async::<()>(redis).await
        })
        .await;
    }

    async fn claim(&self, claim_id: &str, data: &Value, ttl: Duration) -> Option<bool> {
        let (key, value) = (self.keys.claim(claim_id), self.claim_value(data));
        let reply: Option<Option<String>> = self
            .query("claiming", async |redis| {
                let mut set = redis::cmd("SET");
                set.arg(key).arg(value).arg("NX").arg("PX").arg(millis(ttl)).query_async(redis).await
            })
            .await;
        reply.map(|taken| taken.is_some())
    }

    async fn renew(&self, claim_id: &str, data: &Value, ttl: Duration) {
        let (key, value) = (self.keys.claim(claim_id), self.claim_value(data));
        self.query("renewing a claim", async |redis| {
            let mut renew = script::RENEW_CLAIM.prepare_invoke();
            renew.key(key).arg(&self.worker_id).arg(value).arg(millis(ttl)).invoke_async::<()>(redis).await
        })
        .await;
    }

    async fn release(&self, claim_id: &str) {
        let key = self.keys.claim(claim_id);
        self.query("releasing a claim", async |redis| {
            script::RELEASE_CLAIM.key(key).arg(&self.worker_id).invoke_async::<()>(redis).await
        })
        .await;
    }

    async fn broadcast(&self, kind: &'static str, data: Vec<Map<String, Value>>) {
        let messages: Vec<_> = data.into_iter().map(|data| self.message(kind, data)).collect();
        for some in messages.chunks(BROADCAST_BATCH_MAX) {
            let mut publish = redis::pipe();
            for message in some {
                publish.publish(self.keys.events(), message).ignore();
            }
            let sent = self.query("publishing messages", async |redis| publish.query_async::<()>(redis).await).await;
            if sent.is_none() {
                return;
            }
            self.metrics.broadcasts_sent.add(some.len() as u64);
        }
    }

    fn status(&self) -> CoordinationStatus {
        let slot = self.state.read();
        match &slot.connection {
            Some(_) => CoordinationStatus::Connected,
            None if slot.is_refused => CoordinationStatus::Refused { error: slot.error.clone() },
            None => CoordinationStatus::Away { error: slot.error.clone() },
        }
    }
}
