//! Listings of streams, checkpoints and leases. The store keeps the names of checkpoints and leases; it keeps no list
//! of streams, so each page of those scans keys of the server.

use std::num::ParseIntError;

use async_trait::async_trait;
use eventbus::{
    BoxError, Name, StreamId, Version,
    port::{
        Lease, ReadError,
        listings::{ListCursor, Listing, Listings, StoredCheckpoint, StoredLease, StoredStream, StreamFilter},
    },
    support::{LISTING_ROWS_MAX, NameScan},
};
use eventbus_redis_core::reply;
use redis::{Cmd, FromRedisValue, Value};
use time::OffsetDateTime;

use crate::{
    RedisEventStore,
    checkpoint::parse_position,
    commands::{self, scan_pattern},
    entry::parse_micros,
    error::{corrupt_key, read_error},
    inner::StoreInner,
    read::{query, query_all},
    script::STREAM_ENDS,
};

/// Keys that one `SCAN` examines at most.
const SCAN_BATCH_MAX: usize = 250;

/// Returns the cursor of `SCAN` at which a page begins.
fn scan_cursor(after: &ListCursor) -> Result<u64, ReadError> {
    let not_a_cursor =
        |error: ParseIntError| ReadError::corrupt(format!("the cursor `{after}` of a listing of streams"), error);
    after.as_str().parse().map_err(not_a_cursor)
}

/// Scans keys from a cursor on, until `limit` of them name a matching stream, or about [`LISTING_ROWS_MAX`] keys are
/// examined. The first `SCAN` examines `limit` keys, so that the page exceeds its limit only slightly. Each further one
/// examines twice as many, so that a filter with few matches costs few requests.
async fn scan_streams(
    inner: &StoreInner,
    filter: &StreamFilter,
    after: Option<&ListCursor>,
    limit: usize,
) -> Result<Listing<StreamId>, ReadError> {
    let matching = scan_pattern(inner.keys().prefix());
    let mut cursor = after.map_or(Ok(0), scan_cursor)?.to_string();
    let (mut items, mut batch, mut examined) = (Vec::new(), limit.clamp(1, SCAN_BATCH_MAX), 0);
    while examined < LISTING_ROWS_MAX {
        // a key of another client with the name of a stream may be of a different type
        let scan = reply::request("SCAN", (&cursor, "MATCH", &matching, "COUNT", batch, "TYPE", "stream"));
        // a key of another client may not be UTF-8
        let (next, keys): (String, Vec<Vec<u8>>) = query(inner, &scan).await?;
        let found = keys.iter().filter_map(|key| inner.keys().parse_stream(str::from_utf8(key).ok()?));
        items.extend(found.filter(|stream| filter.matches(stream)));
        cursor = next;
        if cursor == "0" || items.len() >= limit {
            break;
        }
        examined += batch;
        batch = SCAN_BATCH_MAX.min(2 * batch);
    }
    Ok(Listing { items, next: (cursor != "0").then(|| ListCursor::new(cursor)) })
}

/// Lists the names of checkpoints and leases that begin with `prefix`.
async fn list_names(
    inner: &StoreInner,
    prefix: &str,
    after: Option<&ListCursor>,
    limit: usize,
) -> Result<Listing<Name>, ReadError> {
    let (key, scan) = (inner.keys().reader_names(), NameScan::new(prefix, after, limit));
    let after = Some(scan.after()).filter(|after| !after.is_empty());
    let names: Vec<String> = query(inner, &commands::names(&key, prefix, after, scan.rows())).await?;
    let names = names.into_iter().map(|name| Name::new("reader", name)).collect::<Result<_, _>>();
    Ok(scan.to_page(names.map_err(|error| corrupt_key(&key, error))?, |name| name))
}

#[async_trait]
impl Listings for RedisEventStore {
    async fn list_streams(
        &self,
        filter: &StreamFilter,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<Listing<StoredStream>, ReadError> {
        let keys = self.inner().keys();
        let Listing { items: found, next } = scan_streams(self.inner(), filter, after, limit).await?;
        if found.is_empty() {
            return Ok(Listing { items: Vec::new(), next });
        }
        let mut script = STREAM_ENDS.prepare_invoke();
        for stream in &found {
            script.key(keys.stream(stream));
        }
        let ends: Vec<String> = self
            .inner()
            .connection()
            .run_idempotent(&script)
            .await
            .map_err(|error| read_error(keys.prefix(), error))?;
        let mut items = Vec::with_capacity(found.len());
        for (stream, end) in found.into_iter().zip(ends.chunks_exact(2)) {
            let version = end[0].parse().map_err(|error| corrupt_key(&keys.stream(&stream), BoxError::from(error)))?;
            items.push(StoredStream { stream, version: Version::new(version), recorded_at: parse_micros(&end[1]) });
        }
        items.retain(|item| item.version > Version::NONE);
        Ok(Listing { items, next })
    }

    async fn list_checkpoints(
        &self,
        prefix: &str,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<Listing<StoredCheckpoint>, ReadError> {
        let keys = self.inner().keys();
        let Listing { items: found, next } = list_names(self.inner(), prefix, after, limit).await?;
        if found.is_empty() {
            return Ok(Listing { items: Vec::new(), next });
        }
        let reads = found.iter().map(|name| reply::get(&keys.checkpoint(name)));
        let mut items = Vec::with_capacity(found.len());
        for (name, value) in found.iter().zip(query_each(self.inner(), reads).await?) {
            let key = keys.checkpoint(name);
            let Some(text) = parse_reply::<Option<String>>(&key, value)? else { continue };
            let position = parse_position(&key, &text).map_err(|error| corrupt_key(&key, error))?;
            items.push(StoredCheckpoint { name: name.clone(), position, updated_at: None });
        }
        Ok(Listing { items, next })
    }

    async fn list_leases(
        &self,
        prefix: &str,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<Listing<StoredLease>, ReadError> {
        let keys = self.inner().keys();
        let Listing { items: found, next } = list_names(self.inner(), prefix, after, limit).await?;
        let fields = ["owner", "epoch", "expires_at", "renewed_at"];
        let reads = found.iter().map(|role| reply::request("HMGET", (keys.lease(role), &fields[..])));
        let mut replies = query_each(self.inner(), std::iter::once(redis::cmd("TIME")).chain(reads)).await?.into_iter();
        let now = parse_reply::<(i128, i128)>("TIME", replies.next().unwrap_or(Value::Nil))?;
        let now = now.0 * 1_000 + now.1 / 1_000;
        let mut items = Vec::with_capacity(found.len());
        for (role, value) in found.into_iter().zip(replies) {
            let key = keys.lease(&role);
            let lease: (Option<String>, Option<u64>, Option<i128>, Option<i128>) = parse_reply(&key, value)?;
            let (Some(owner), Some(epoch), Some(expires_at), renewed_at) = lease else { continue };
            let owner = Name::new("owner", owner).map_err(|error| corrupt_key(&key, error))?;
            let is_held = expires_at > now && renewed_at.unwrap_or(0) <= now;
            let expires_at = OffsetDateTime::from_unix_timestamp_nanos(expires_at.saturating_mul(1_000_000)).ok();
            items.push(StoredLease { lease: Lease { role, owner, epoch }, is_held, expires_at });
        }
        Ok(Listing { items, next })
    }
}

/// Sends commands in one round trip, and returns the replies.
async fn query_each(inner: &StoreInner, commands: impl Iterator<Item = Cmd>) -> Result<Vec<Value>, ReadError> {
    let replies = query_all(inner, commands).await?.into_iter();
    replies.map(|reply| reply.map_err(|error| ReadError::Unavailable(error.into()))).collect()
}

fn parse_reply<T: FromRedisValue>(key: &str, value: Value) -> Result<T, ReadError> {
    reply::parse_value(value).map_err(|error| corrupt_key(key, error))
}
