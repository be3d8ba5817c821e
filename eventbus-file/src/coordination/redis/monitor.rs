//! The connection to Redis: connecting, probing, reconnecting, and receiving messages.
//!
//! Real time, not the given clock: timeouts of a connection to Redis.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use redis::{AsyncConnectionConfig, Msg, RedisResult, aio::PubSub};
use serde_json::Map;
use tokio_util::sync::CancellationToken;

use super::{Connection, RedisCoordinator, is_refusal};
use crate::{
    coordination::{Coordinator as _, Message, message_kind},
    inner::QueueInner,
};

/// Interval at which an idle connection is probed.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// Delay before the first attempt to reconnect.
const RECONNECT_DELAY_FIRST: Duration = Duration::from_millis(20);

/// Connects, then watches the connection in the background. Returns after the first attempt.
pub(super) async fn start(redis: Arc<RedisCoordinator>, queue: Arc<QueueInner>, ended: CancellationToken) {
    let connected = redis.connect().await;
    if connected.is_some() && redis.config.resync {
        redis
            .broadcast(
                message_kind::RESYNC,
                vec![Map::from_iter([("resync_id".to_owned(), redis.worker_id.clone().into())])],
            )
            .await;
    }
    tokio::spawn(async move {
        ended.run_until_cancelled(keep_connected(&redis, &queue, connected)).await;
    });
}

/// Receives messages, and reconnects after each loss; never returns.
async fn keep_connected(redis: &RedisCoordinator, queue: &Arc<QueueInner>, mut connected: Option<PubSub>) {
    let mut delay = RECONNECT_DELAY_FIRST;
    loop {
        if let Some(messages) = connected.take() {
            delay = RECONNECT_DELAY_FIRST;
            redis.receive_messages(queue, messages).await;
            redis.handle_lost_subscription();
        }
        tokio::time::sleep(delay.min(redis.config.reconnect_interval)).await;
        delay = (delay * 2).min(redis.config.reconnect_interval);
        connected = redis.connect().await;
        if connected.is_some() {
            redis.metrics.redis_reconnections.add(1);
            let lasted = redis.state_mut().outage.ends().unwrap_or_default();
            tracing::info!(queue = redis.keys.queue(), ?lasted, "Redis is back");
            // Redis may have lost its data, and the other workers may have missed messages
            redis.resync(queue).await;
            queue.change_signal.send_replace(());
        }
    }
}

impl RedisCoordinator {
    /// Drops the connection for commands after the one for messages was lost.
    fn handle_lost_subscription(&self) {
        let error = "the connection for messages was lost";
        if self.disconnect(error.into()) {
            tracing::warn!(queue = self.keys.queue(), error, "no connection to Redis, the files decide alone");
        }
    }

    /// Opens one connection for commands and one for messages.
    async fn connect(&self) -> Option<PubSub> {
        let connecting = tokio::time::timeout(self.config.response_timeout * 2, self.try_connect()).await;
        let (error, is_refused) = match connecting {
            Ok(Ok((connection, messages))) => {
                let mut slot = self.state_mut();
                slot.connection = Some(connection);
                slot.lost = CancellationToken::new();
                return Some(messages);
            }
            Ok(Err(error)) => (error.to_string(), is_refusal(&error)),
            Err(_) => ("connecting took too long".into(), false),
        };
        let first = {
            let mut slot = self.state_mut();
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

    /// Handles the messages of the other workers until the connection is lost.
    async fn receive_messages(&self, queue: &Arc<QueueInner>, mut messages: PubSub) {
        let mut messages = messages.on_message();
        let lost = self.state().lost.clone();
        loop {
            // a lost connection for commands ends the loop too: the worker makes both anew and resyncs
            tokio::select! {
                message = messages.next() => match message {
                    Some(message) => self.handle_message(queue, &message).await,
                    None => return,
                },
                () = lost.cancelled() => return,
                () = tokio::time::sleep(PING_INTERVAL) => {
                    self.query("probing", async |redis| redis::cmd("PING").query_async::<()>(redis).await).await;
                }
            }
        }
    }

    /// Handles a message of a worker. A message of any kind wakes the waiting tasks, as there may be new files to read.
    async fn handle_message(&self, queue: &Arc<QueueInner>, message: &Msg) {
        let Ok(message) = serde_json::from_slice::<Message>(message.get_payload_bytes()) else {
            tracing::warn!(channel = message.get_channel_name(), "foreign message passed over");
            return;
        };
        if message.data.get("worker_id").and_then(|id| id.as_str()) == Some(&self.worker_id) {
            return;
        }
        self.metrics.broadcasts_received.add(1);
        queue.change_signal.send_replace(());
        match message.kind.as_str() {
            message_kind::RESYNC => self.resync(queue).await,
            message_kind::STATE => match serde_json::from_value(message.data.into()) {
                Ok(page) => self.compare_with_files(queue, page).await,
                Err(error) => tracing::warn!(%error, "undecodable page of a state passed over"),
            },
            _ => {}
        }
    }
}
