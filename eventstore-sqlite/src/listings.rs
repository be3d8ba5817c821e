//! Listings of streams, checkpoints and leases, by key.

use async_trait::async_trait;
use eventbus::{
    BoxError, Name, StreamId, Version,
    port::{
        Lease, ReadError,
        listings::{ListCursor, Listing, Listings, StoredCheckpoint, StoredLease, StoredStream, StreamFilter},
    },
    support::{NameScan, StreamKey, StreamScan},
};
use rusqlite::Row;
use uuid::Uuid;

use crate::{
    query::{QueryError, query_rows},
    row::{from_micros, to_position},
    store::SqliteEventStore,
};

#[async_trait]
impl Listings for SqliteEventStore {
    async fn list_streams(
        &self,
        filter: &StreamFilter,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<Listing<StoredStream>, ReadError> {
        let scan = StreamScan::new(filter, after, limit)?;
        let (StreamKey(id, aggregate_type, tenant), rows) = (scan.after().clone(), to_limit(scan.rows()));
        let read = self.readers().read(move |connection| {
            let parameters = (id, aggregate_type, tenant.into_bytes(), rows);
            query_rows(connection, include_str!("sql/list_streams.sql"), parameters, read_stream)
        });
        scan.to_page(read.await?)
    }

    async fn list_checkpoints(
        &self,
        prefix: &str,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<Listing<StoredCheckpoint>, ReadError> {
        let scan = NameScan::new(prefix, after, limit);
        let rows = list_names(self, &scan, include_str!("sql/list_checkpoints.sql"), read_checkpoint).await?;
        Ok(scan.to_page(rows, |checkpoint| &checkpoint.name))
    }

    async fn list_leases(
        &self,
        prefix: &str,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<Listing<StoredLease>, ReadError> {
        let scan = NameScan::new(prefix, after, limit);
        let rows = list_names(self, &scan, include_str!("sql/list_leases.sql"), read_lease).await?;
        Ok(scan.to_page(rows, |stored| &stored.lease.role))
    }
}

async fn list_names<T: Send + 'static>(
    store: &SqliteEventStore,
    scan: &NameScan<'_>,
    sql: &'static str,
    decode: fn(&Row<'_>) -> Result<T, QueryError>,
) -> Result<Vec<T>, ReadError> {
    let parameters = (scan.prefix().to_owned(), scan.after().to_owned(), to_limit(scan.rows()));
    store.readers().read(move |connection| query_rows(connection, sql, parameters, decode)).await
}

fn to_limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

fn corrupt(place: String, source: impl Into<BoxError>) -> ReadError {
    ReadError::corrupt(place, source)
}

fn read_stream(row: &Row<'_>) -> Result<StoredStream, QueryError> {
    let (aggregate_type, id): (String, String) = (row.get(0)?, row.get(1)?);
    let place = || format!("the row of stream `{aggregate_type}/{id}`");
    let stream = StreamId::parse(&aggregate_type, &id).map_err(|error| corrupt(place(), error))?;
    let tenant = Some(Uuid::from_bytes(row.get(2)?)).filter(|tenant| !tenant.is_nil());
    let version = u64::try_from(row.get::<_, i64>(3)?).map_err(|error| corrupt(place(), error))?;
    let recorded_at = from_micros(row.get(4)?).map_err(|error| corrupt(place(), error))?;
    let (stream, version) = (stream.with_tenant_id(tenant), Version::new(version));
    Ok(StoredStream { stream, version, recorded_at: Some(recorded_at) })
}

fn read_checkpoint(row: &Row<'_>) -> Result<StoredCheckpoint, QueryError> {
    let name: String = row.get(0)?;
    let place = || format!("checkpoint `{name}`");
    Ok(StoredCheckpoint {
        position: to_position(row.get(1)?, place)?,
        updated_at: Some(from_micros(row.get(2)?).map_err(|error| corrupt(place(), error))?),
        name: Name::new("checkpoint", name.as_str()).map_err(|error| corrupt(place(), error))?,
    })
}

fn read_lease(row: &Row<'_>) -> Result<StoredLease, QueryError> {
    let (role, owner): (String, String) = (row.get(0)?, row.get(1)?);
    let place = || format!("the lease of `{role}`");
    let lease = Lease {
        role: Name::new("role", role.as_str()).map_err(|error| corrupt(place(), error))?,
        owner: Name::new("owner", owner).map_err(|error| corrupt(place(), error))?,
        epoch: row.get::<_, i64>(2)?.cast_unsigned(),
    };
    // a lease for ever ends later than any time in the range of `time`
    Ok(StoredLease { lease, is_held: row.get(4)?, expires_at: from_micros(row.get(3)?).ok() })
}
