use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use eventbus::Result;
use redis::{AsyncConnectionConfig, Client, Cmd, aio::MultiplexedConnection, cmd, pipe};
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::{
    order::{AGGREGATE_TYPE, EVENT_TYPE, ItemAdded},
    workload::{Consumer, Handler, Publisher},
};

const TIMEOUT: Duration = Duration::from_secs(5);
const BLOCK_MS: u64 = 1_000;
const COUNT: usize = 100;

const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]");

/// All callers publish over one connection, and a second one consumes, as in our bus. Entries are as ours; `COMPACT` ones
/// have one field, with what a handler needs at least.
#[derive(Clone)]
pub struct Bus<const COMPACT: bool = false> {
    client: Client,
    connection: MultiplexedConnection,
    stream: String,
    groups: Vec<String>,
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
    item: &'a ItemAdded,
}

#[derive(Serialize)]
struct Metadata {}

/// The only field of a compact entry.
#[derive(Serialize, Deserialize)]
struct Compact<I> {
    event_id: Uuid,
    order: Uuid,
    item: I,
}

/// Entries with their ids and fields, by stream.
type Read = Vec<(String, Vec<(String, Vec<(String, String)>)>)>;

impl<const COMPACT: bool> Bus<COMPACT> {
    async fn connect(url: &str, prefix: &str) -> Result<Self> {
        let client = Client::open(url)?;
        let connection = connect(&client).await?;
        let (stream, groups) = (format!("{prefix}:stream"), Vec::new());
        Ok(Self { client, connection, stream, groups, is_stopped: Arc::default() })
    }

    /// Returns the command that adds an event to the stream.
    fn add(&self, order: Uuid, item: &ItemAdded) -> Result<Cmd> {
        let event_id = Uuid::now_v7();
        let mut add = cmd("XADD");
        add.arg(&self.stream).arg("*");
        if COMPACT {
            add.arg("event").arg(serde_json::to_vec(&Compact { event_id, order, item })?);
            return Ok(add);
        }
        let at = OffsetDateTime::now_utc().format(TIME)?;
        let payload = serde_json::to_vec(&Payload {
            event_id,
            event_type: EVENT_TYPE,
            event_version: 1,
            occurred_at: &format!("{at}Z"),
            aggregate_id: order,
            aggregate_type: AGGREGATE_TYPE,
            aggregate_version: 1,
            tenant_id: None,
            actor_id: None,
            correlation_id: event_id,
            causation_id: None,
            metadata: Metadata {},
            item,
        })?;
        add.arg("event_id").arg(event_id.to_string());
        add.arg("event_type").arg(EVENT_TYPE);
        add.arg("aggregate_id").arg(order.to_string());
        add.arg("aggregate_type").arg(AGGREGATE_TYPE);
        add.arg("tenant_id").arg("");
        add.arg("occurred_at").arg(format!("{at}+00:00"));
        add.arg("payload").arg(payload);
        Ok(add)
    }

    async fn read(
        &self,
        connection: &mut MultiplexedConnection,
        group: &str,
    ) -> Result<Vec<(String, Vec<(String, String)>)>> {
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(group).arg("by-hand").arg("COUNT").arg(COUNT).arg("BLOCK").arg(BLOCK_MS);
        read.arg("STREAMS").arg(&self.stream).arg(">");
        let streams: Option<Read> = read.query_async(connection).await?;
        Ok(streams.into_iter().flatten().flat_map(|(_, entries)| entries).collect())
    }

    /// Decodes an event once for all handlers.
    async fn consume_group(&self, group: &str, handler: Handler, handlers: usize) -> Result<()> {
        let mut connection = connect(&self.client).await?;
        while !self.is_stopped.load(Ordering::Relaxed) {
            let entries = self.read(&mut connection, group).await?;
            if entries.is_empty() {
                continue;
            }
            let mut acknowledge = cmd("XACK");
            acknowledge.arg(&self.stream).arg(group);
            for (id, fields) in &entries {
                if let Some(item) = decode::<COMPACT>(fields)? {
                    (1..handlers).for_each(|_| handler(item.clone()));
                    handler(item);
                }
                acknowledge.arg(id);
            }
            acknowledge.exec_async(&mut connection).await?;
        }
        Ok(())
    }
}

/// Decodes the event of an entry.
fn decode<const COMPACT: bool>(fields: &[(String, String)]) -> Result<Option<ItemAdded>> {
    let field = |name| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str());
    if COMPACT {
        return Ok(Some(serde_json::from_str::<Compact<_>>(field("event").unwrap_or_default())?.item));
    }
    if field("event_type") != Some(EVENT_TYPE) {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(field("payload").unwrap_or_default())?))
}

async fn connect(client: &Client) -> Result<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(TIMEOUT));
    Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
}

impl<const COMPACT: bool> Publisher for Bus<COMPACT> {
    async fn open(url: &str, prefix: &str) -> Result<Self> {
        Self::connect(url, prefix).await
    }

    async fn publish(&self, order: Uuid, item: &ItemAdded) -> Result<()> {
        let _id: String = self.add(order, item)?.query_async(&mut self.connection.clone()).await?;
        Ok(())
    }

    async fn publish_all(&self, items: &[(Uuid, ItemAdded)]) -> Result<()> {
        let mut adds = pipe();
        for (order, item) in items {
            adds.add_command(self.add(*order, item)?);
        }
        let _ids: Vec<String> = adds.query_async(&mut self.connection.clone()).await?;
        Ok(())
    }
}

impl<const COMPACT: bool> Consumer for Bus<COMPACT> {
    async fn open(url: &str, prefix: &str, groups: &[String]) -> Result<Self> {
        let bus = Self { groups: groups.to_vec(), ..Self::connect(url, prefix).await? };
        for group in groups {
            let mut create = cmd("XGROUP");
            create.arg("CREATE").arg(&bus.stream).arg(group).arg("0").arg("MKSTREAM");
            create.exec_async(&mut bus.connection.clone()).await?;
        }
        Ok(bus)
    }

    async fn consume(&self, handler: Handler, handlers: usize) -> Result<()> {
        let mut consumers = JoinSet::new();
        for group in self.groups.clone() {
            let (bus, handler) = (self.clone(), Arc::clone(&handler));
            consumers.spawn(async move { bus.consume_group(&group, handler, handlers).await });
        }
        while let Some(consumed) = consumers.join_next().await {
            consumed??;
        }
        Ok(())
    }

    async fn stop(&self) -> Result<()> {
        self.is_stopped.store(true, Ordering::Relaxed);
        Ok(())
    }
}
