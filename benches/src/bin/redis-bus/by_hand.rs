//! The reference: minimal code on redis-rs for this one event, as a careful author would write it.
//!
//! All tasks publish over one connection, and a second one consumes, as in the bus. It has no retries, no reconnecting,
//! no counters and no metadata for handlers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use eventbus::Result;
use redis::{AsyncConnectionConfig, Client, Cmd, aio::MultiplexedConnection, cmd, pipe};
use serde::Serialize;
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};
use uuid::Uuid;

use crate::{
    order::{Order, OrderCreated},
    side::{Handler, Side},
};

const EVENT_TYPE: &str = "OrderCreated";
const AGGREGATE_TYPE: &str = "Order";

const TIMEOUT: Duration = Duration::from_secs(5);
const BLOCK_MS: u64 = 1_000;
const COUNT: usize = 100;

const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]");

#[derive(Clone)]
pub struct ByHand {
    client: Client,
    connection: MultiplexedConnection,
    stream: String,
    group: String,
    is_stopped: Arc<AtomicBool>,
}

/// The field `payload`: the whole event, its own fields last.
#[derive(Serialize)]
struct Payload<'a> {
    event_id: Uuid,
    event_type: &'a str,
    event_version: u32,
    occurred_at: &'a str,
    aggregate_id: Uuid,
    aggregate_type: &'a str,
    aggregate_version: u64,
    tenant_id: Option<Uuid>,
    actor_id: Option<&'a str>,
    correlation_id: Uuid,
    causation_id: Option<Uuid>,
    metadata: Metadata,
    #[serde(flatten)]
    created: &'a OrderCreated,
}

#[derive(Serialize)]
struct Metadata {}

/// Returns the command that adds an event to a stream.
pub fn add(stream: &str, order: &Order, event_id: Uuid, at: OffsetDateTime) -> Result<Cmd> {
    let at = at.format(TIME)?;
    let payload = serde_json::to_vec(&Payload {
        event_id,
        event_type: EVENT_TYPE,
        event_version: 1,
        occurred_at: &format!("{at}Z"),
        aggregate_id: order.id,
        aggregate_type: AGGREGATE_TYPE,
        aggregate_version: 1,
        tenant_id: None,
        actor_id: None,
        correlation_id: event_id,
        causation_id: None,
        metadata: Metadata {},
        created: &order.created,
    })?;
    let mut add = cmd("XADD");
    add.arg(stream).arg("*");
    add.arg("event_id").arg(event_id.to_string());
    add.arg("event_type").arg(EVENT_TYPE);
    add.arg("aggregate_id").arg(order.id.to_string());
    add.arg("aggregate_type").arg(AGGREGATE_TYPE);
    add.arg("tenant_id").arg("");
    add.arg("occurred_at").arg(format!("{at}+00:00"));
    add.arg("payload").arg(payload);
    Ok(add)
}

/// Entries with their ids and fields, by stream.
type Read = Vec<(String, Vec<(String, Vec<(String, String)>)>)>;

impl ByHand {
    fn add_now(&self, order: &Order) -> Result<Cmd> {
        add(&self.stream, order, Uuid::now_v7(), OffsetDateTime::now_utc())
    }

    async fn read(&self, connection: &mut MultiplexedConnection) -> Result<Vec<(String, Vec<(String, String)>)>> {
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(&self.group).arg("by-hand").arg("COUNT").arg(COUNT).arg("BLOCK").arg(BLOCK_MS);
        read.arg("STREAMS").arg(&self.stream).arg(">");
        let streams: Option<Read> = read.query_async(connection).await?;
        Ok(streams.into_iter().flatten().flat_map(|(_, entries)| entries).collect())
    }
}

/// Decodes the event of an entry.
fn decode(fields: &[(String, String)]) -> Result<Option<OrderCreated>> {
    let field = |name| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str());
    if field("event_type") != Some(EVENT_TYPE) {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(field("payload").unwrap_or_default())?))
}

async fn connect(client: &Client) -> Result<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(TIMEOUT));
    Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
}

impl Side for ByHand {
    async fn open(url: &str, prefix: &str, group: &str) -> Result<Self> {
        let client = Client::open(url)?;
        let mut connection = connect(&client).await?;
        let stream = format!("{prefix}:stream");
        let mut create = cmd("XGROUP");
        create.arg("CREATE").arg(&stream).arg(group).arg("0").arg("MKSTREAM");
        create.exec_async(&mut connection).await?;
        Ok(Self { client, connection, stream, group: group.into(), is_stopped: Arc::default() })
    }

    async fn publish(&self, order: &Order) -> Result<()> {
        let _id: String = self.add_now(order)?.query_async(&mut self.connection.clone()).await?;
        Ok(())
    }

    async fn publish_all(&self, orders: &[Order]) -> Result<()> {
        let mut adds = pipe();
        for order in orders {
            adds.add_command(self.add_now(order)?);
        }
        let _ids: Vec<String> = adds.query_async(&mut self.connection.clone()).await?;
        Ok(())
    }

    async fn consume(&self, handler: Handler) -> Result<()> {
        let mut connection = connect(&self.client).await?;
        while !self.is_stopped.load(Ordering::Relaxed) {
            let entries = self.read(&mut connection).await?;
            if entries.is_empty() {
                continue;
            }
            let mut acknowledge = cmd("XACK");
            acknowledge.arg(&self.stream).arg(&self.group);
            for (id, fields) in &entries {
                if let Some(created) = decode(fields)? {
                    handler(created);
                }
                acknowledge.arg(id);
            }
            acknowledge.exec_async(&mut connection).await?;
        }
        Ok(())
    }

    async fn stop(&self) -> Result<()> {
        self.is_stopped.store(true, Ordering::Relaxed);
        Ok(())
    }
}
