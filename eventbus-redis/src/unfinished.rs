//! Entries that consumers of a group have read and not finished, for operators.

use eventbus::{Name, RecordedEvent, delivery::DeliveryAttempts, port::MessageId};
use redis::{Cmd, RedisResult, Value};

use crate::{
    RedisCommandError,
    command::admin::{self, ConsumerState},
    inner::BusInner,
    keys,
    reply::{Entry, parse_value, request},
    wire,
};

/// A consumer of a group, as the server knows it; also one that has ended.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct GroupConsumer {
    /// Its name.
    pub name: String,
    /// The entries that it has read and not finished.
    pub pending: u64,
    /// The milliseconds since it last asked the server for entries, or renewed the claims on its entries.
    pub idle_ms: u64,
}

/// An entry that a group has read and not finished: a handler runs, or it waits for a retry or behind one.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PendingDelivery {
    /// The entry.
    pub id: MessageId,
    /// The consumer that has it.
    pub consumer: String,
    /// The milliseconds since the consumer read it, or renewed its claim on it.
    pub idle_ms: u64,
    /// The attempts of its handlers; empty until one has failed.
    pub attempts: DeliveryAttempts,
    /// The event; `None` if the entry was removed, or is no event.
    pub record: Option<RecordedEvent>,
}

/// Lists the consumers of a group by name; none if there is no such group.
pub(crate) async fn group_consumers(bus: &BusInner, group: &Name) -> Result<Vec<GroupConsumer>, RedisCommandError> {
    let reply = reply_of(bus, request("XINFO", ("CONSUMERS", bus.stream(), group.as_str()))).await?;
    let states = admin::parse_consumers(reply).map_err(|error| bus.command_error(error.into()))?;
    let mut consumers: Vec<_> = states
        .into_iter()
        .map(|ConsumerState { name, idle, pending }| {
            let idle_ms = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
            GroupConsumer { name, pending, idle_ms }
        })
        .collect();
    consumers.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(consumers)
}

/// Sends a command, and returns its reply, which may be an error about a missing stream or group.
async fn reply_of(bus: &BusInner, command: Cmd) -> Result<RedisResult<Value>, RedisCommandError> {
    bus.ensure_open()?;
    let mut commands = redis::pipe();
    commands.add_command(command);
    commands.ignore_errors();
    let replies: Vec<RedisResult<Value>> =
        bus.connection().query_all_idempotent(&commands).await.map_err(|error| bus.command_error(error))?;
    Ok(replies.into_iter().next().unwrap_or(Ok(Value::Nil)))
}

/// Lists the oldest `limit` pending entries of a group; none if there is no such group.
pub(crate) async fn pending_deliveries(
    bus: &BusInner,
    group: &Name,
    limit: usize,
) -> Result<Vec<PendingDelivery>, RedisCommandError> {
    let reply = reply_of(bus, request("XPENDING", (bus.stream(), group.as_str(), "-", "+", limit))).await?;
    let pending = admin::parse_pending(reply).map_err(|error| bus.command_error(error.into()))?;
    if pending.is_empty() {
        return Ok(Vec::new());
    }
    let retry = keys::retry(bus.stream(), &bus.config().retry_key_prefix, group);
    let query = admin::load_attempts(&retry, pending.iter().map(|(id, ..)| id.as_str()));
    let attempts: Vec<Option<String>> = bus.query_idempotent(&query).await?;
    let mut ranges = redis::pipe();
    for (id, ..) in &pending {
        ranges.cmd("XRANGE").arg(bus.stream()).arg(id).arg(id);
    }
    ranges.ignore_errors();
    let entries: Vec<RedisResult<Value>> =
        bus.connection().query_all_idempotent(&ranges).await.map_err(|error| bus.command_error(error))?;
    let mut deliveries = Vec::with_capacity(pending.len());
    for (((id, consumer, idle_ms), attempts), entry) in pending.into_iter().zip(attempts).zip(entries) {
        let attempts = attempts.and_then(|json| DeliveryAttempts::from_json(&json).ok()).unwrap_or_default();
        let record = entry.ok().and_then(parse_record);
        deliveries.push(PendingDelivery { id: MessageId::new(id), consumer, idle_ms, attempts, record });
    }
    Ok(deliveries)
}

fn parse_record(reply: Value) -> Option<RecordedEvent> {
    let entries: Vec<Entry> = parse_value(reply).ok()?;
    wire::decode(&entries.first()?.field_refs()?).ok()
}
