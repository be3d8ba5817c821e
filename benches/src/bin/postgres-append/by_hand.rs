//! The reference, as a careful author would write it: one INSERT, which the unique key refuses if the stream has a
//! newer version.

use eventbus::{NewEvent, Result, StreamId, Version};
use eventstore_postgres::PgEventStore;
use sqlx::{Executor as _, PgPool, Row as _, postgres::PgPoolOptions};

use crate::Side;

/// Far more than cores, as usual; a higher number is not faster.
const CONNECTIONS: u32 = 32;

const INSERT: &str = "INSERT INTO by_hand.events (
        position, version, occurred_at, event_id, correlation_id, schema_version, aggregate_id, aggregate_type,
        event_type, data, causation_id, tenant_id, actor_id, metadata)
    VALUES (nextval('by_hand.events_position_seq'), $1, $2, $3, $4, $5, $6, $7, $8, $9::text::json, $10, $11, $12,
        $13::text::json)
    RETURNING position";

pub struct ByHand(PgPool);

impl ByHand {
    pub async fn open(url: &str) -> Result<Self> {
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).test_before_acquire(false).connect(url).await?;
        let tables = PgEventStore::migrations_sql("by_hand")?;
        pool.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(tables))).await?;
        Ok(Self(pool))
    }

    /// Returns the process id of the backend that serves one of the connections.
    pub async fn backend(&self) -> Result<i32> {
        Ok(sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&self.0).await?)
    }
}

impl Side for ByHand {
    async fn append(&self, stream: &StreamId, version: Version, event: NewEvent) -> Result<()> {
        let context = event.context();
        let row = sqlx::query(INSERT)
            .bind(version.next().as_i64())
            .bind(event.occurred_at())
            .bind(event.event_id().as_uuid())
            .bind(event.correlation_id())
            .bind(i32::try_from(event.schema_version())?)
            .bind(stream.aggregate_id().as_str())
            .bind(stream.aggregate_type().as_str())
            .bind(event.event_type().as_str())
            .bind(event.payload())
            .bind(context.causation_id)
            .bind(context.tenant_id)
            .bind(context.actor_id.as_deref())
            .bind(None::<&str>)
            .fetch_one(&self.0)
            .await?;
        assert!(row.try_get::<i64, _>(0)? > 0);
        Ok(())
    }
}
