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
use sqlx::{Row as _, postgres::PgRow};
use uuid::Uuid;

use crate::{
    record::{decode_position, decode_time},
    store::PgEventStore,
};

#[async_trait]
impl Listings for PgEventStore {
    async fn list_streams(
        &self,
        filter: &StreamFilter,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<Listing<StoredStream>, ReadError> {
        let scan = StreamScan::new(filter, after, limit)?;
        let StreamKey(id, aggregate_type, tenant) = scan.after();
        let query = self.inner().statements().query(include_str!("sql/list_streams.sql"));
        let query = query.bind(id.clone()).bind(aggregate_type.clone()).bind(*tenant).bind(to_limit(scan.rows()));
        let rows = self.inner().connections().fetch_all(query).await?;
        scan.to_page(decode_all(&rows, ("the row of stream", 1), decode_stream)?)
    }

    async fn list_checkpoints(
        &self,
        prefix: &str,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<Listing<StoredCheckpoint>, ReadError> {
        let scan = NameScan::new(prefix, after, limit);
        let rows = list_names(self, &scan, include_str!("sql/list_checkpoints.sql")).await?;
        let checkpoints = decode_all(&rows, ("checkpoint", 0), decode_checkpoint)?;
        Ok(scan.to_page(checkpoints, |checkpoint| &checkpoint.name))
    }

    async fn list_leases(
        &self,
        prefix: &str,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<Listing<StoredLease>, ReadError> {
        let scan = NameScan::new(prefix, after, limit);
        let rows = list_names(self, &scan, include_str!("sql/list_leases.sql")).await?;
        Ok(scan.to_page(decode_all(&rows, ("the lease of", 0), decode_lease)?, |stored| &stored.lease.role))
    }
}

async fn list_names(store: &PgEventStore, scan: &NameScan<'_>, sql: &'static str) -> Result<Vec<PgRow>, ReadError> {
    let query = store.inner().statements().query(sql);
    let query = query.bind(scan.prefix().to_owned()).bind(scan.after().to_owned()).bind(to_limit(scan.rows()));
    Ok(store.inner().connections().fetch_all(query).await?)
}

fn to_limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

/// Decodes rows. An error names the row, by the text in column `key`.
fn decode_all<T>(
    rows: &[PgRow],
    (place, key): (&'static str, usize),
    decode: impl Fn(&PgRow) -> Result<T, BoxError>,
) -> Result<Vec<T>, ReadError> {
    let corrupt = |row: &PgRow, source: BoxError| {
        let key: &str = row.try_get(key).unwrap_or_default();
        ReadError::corrupt(format!("{place} `{key}`"), source)
    };
    rows.iter().map(|row| decode(row).map_err(|source| corrupt(row, source))).collect()
}

fn decode_stream(row: &PgRow) -> Result<StoredStream, BoxError> {
    let tenant = Some(row.try_get::<Uuid, _>(2)?).filter(|tenant| !tenant.is_nil());
    let stream = StreamId::parse(row.try_get(0)?, row.try_get(1)?)?.with_tenant_id(tenant);
    let version = Version::new(u64::try_from(row.try_get::<i64, _>(3)?)?);
    let recorded_at = Some(decode_time(row.try_get_unchecked(4)?)?);
    Ok(StoredStream { stream, version, recorded_at })
}

fn decode_checkpoint(row: &PgRow) -> Result<StoredCheckpoint, BoxError> {
    Ok(StoredCheckpoint {
        name: Name::new("checkpoint", row.try_get::<&str, _>(0)?)?,
        position: decode_position(row, 1)?,
        updated_at: Some(decode_time(row.try_get_unchecked(2)?)?),
    })
}

fn decode_lease(row: &PgRow) -> Result<StoredLease, BoxError> {
    let lease = Lease {
        role: Name::new("role", row.try_get::<&str, _>(0)?)?,
        owner: Name::new("owner", row.try_get::<&str, _>(1)?)?,
        epoch: u64::try_from(row.try_get::<i64, _>(2)?)?,
    };
    // a lease for ever ends later than any time in the range of `time`
    let expires_at = decode_time(row.try_get_unchecked(3)?).ok();
    Ok(StoredLease { lease, expires_at, is_held: row.try_get(4)? })
}
