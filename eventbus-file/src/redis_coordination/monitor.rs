//! The connection to Redis: connecting, probing, reconnecting, and receiving messages.
//!
//! Real time, not the given clock: timeouts of a connection to Redis.

use std::{sync::Arc, time::Duration};

use eventbus::support::{Backoff, BackoffTimer};
use futures_util::StreamExt as _;
use redis::{Msg, aio::PubSub};
use serde_json::Map;
use tokio_util::sync::CancellationToken;

use super::{coordinator::RedisCoordinator, message::Message, resync::resync, state::compare_with_files};
use crate::{
    coordination::{Coordinator as _, message_kind},
    inner::QueueInner,
};

/// Interval at which an idle connection is probed.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// Delay before the first attempt to reconnect.
const RECONNECT_DELAY_FIRST: Duration = Duration::from_millis(20);

/// Connects, then watches the connection in the background. Returns after the first attempt.
pub(crate) async fn start(redis: Arc<RedisCoordinator>, queue: Arc<QueueInner>, ended: CancellationToken) {
    let connected = redis.connect().await;
    if connected.is_some() && redis.config().resync {
        redis
            .broadcast(message_kind::RESYNC, vec![Map::from_iter([("resync_id".to_owned(), queue.worker_id().into())])])
            .await;
    }
    tokio::spawn(async move {
        ended.run_until_cancelled(keep_connected(&redis, &queue, connected)).await;
    });
}

/// Receives messages, and reconnects after each loss; never returns.
async fn keep_connected(redis: &RedisCoordinator, queue: &Arc<QueueInner>, mut connected: Option<PubSub>) {
    let mut backoff = BackoffTimer::new(Backoff::new(RECONNECT_DELAY_FIRST, redis.config().reconnect_interval));
    loop {
        if let Some(messages) = connected.take() {
            backoff.reset();
            receive_messages(redis, queue, messages).await;
            redis.handle_lost_subscription();
        }
        tokio::time::sleep(backoff.next_delay()).await;
        connected = redis.connect().await;
        if connected.is_some() {
            queue.metrics().redis_reconnections.add(1);
            let lasted = redis.end_outage();
            tracing::info!(queue = queue.name().as_str(), ?lasted, "Redis is back");
            // Redis may have lost its data, and the other workers may have missed messages
            resync(redis, queue).await;
            queue.change_signal().send_replace(());
        }
    }
}

/// Handles the messages of the other workers until the connection is lost.
async fn receive_messages(redis: &RedisCoordinator, queue: &Arc<QueueInner>, mut messages: PubSub) {
    let mut messages = messages.on_message();
    let lost = redis.lost();
    loop {
        // a lost connection for commands ends the loop too: the worker makes both anew and resyncs
        tokio::select! {
            message = messages.next() => match message {
                Some(message) => handle_message(redis, queue, &message).await,
                None => return,
            },
            () = lost.cancelled() => return,
            () = tokio::time::sleep(PING_INTERVAL) => {
                redis.query::<()>("probing", &redis::cmd("PING")).await;
            }
        }
    }
}

/// Handles a message of a worker. A message of any kind wakes the waiting tasks, as there may be new files to read.
async fn handle_message(redis: &RedisCoordinator, queue: &Arc<QueueInner>, message: &Msg) {
    let Ok(message) = serde_json::from_slice::<Message>(message.get_payload_bytes()) else {
        tracing::warn!(channel = message.get_channel_name(), "foreign message passed over");
        return;
    };
    if message.data.get("worker_id").and_then(|id| id.as_str()) == Some(queue.worker_id()) {
        return;
    }
    queue.metrics().broadcasts_received.add(1);
    queue.change_signal().send_replace(());
    match message.kind.as_str() {
        message_kind::RESYNC => resync(redis, queue).await,
        message_kind::STATE => match serde_json::from_value(message.data.into()) {
            Ok(page) => compare_with_files(queue, page).await,
            Err(error) => tracing::warn!(%error, "undecodable page of a state passed over"),
        },
        _ => {}
    }
}
