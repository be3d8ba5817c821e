//! The search for events that other clients removed.
//!
//! The feed has a pointer to each event, so it shows which streams exist and which versions they have reached. The
//! server returns the number of entries of each stream, and the last id that it assigned there. The search reads events
//! only of streams that lack some.

use std::collections::{BTreeMap, HashMap};

use eventbus::{
    BoxError, Position, StreamId, Version,
    port::{MissingEvent, ReadError},
};
use eventbus_redis_core::{entry_id::EntryId, error::CommandError, reply};
use redis::{RedisResult, Value};

use crate::{
    commands,
    entry::number_of,
    error::{corrupt_key, read_error},
    feed::{FEED_SCAN_PAGE, head, pointers},
    inner::StoreInner,
    read::{parse_entries, query_all, query_page},
};

/// Finds a missing event of any stream, or of one stream. For one stream it reads the last id from the stream's key:
/// only a search of all streams, which reads the feed, notices that a whole key is gone.
pub(crate) async fn find_missing_event(
    inner: &StoreInner,
    stream: Option<&StreamId>,
) -> Result<Option<MissingEvent>, ReadError> {
    if let Some(stream) = stream {
        return search(inner, &BTreeMap::from([(stream.clone(), 0)])).await;
    }
    let (mut from, through) = (Position::START, head(inner).await?);
    while from < through {
        let page = pointers(inner, from, through, FEED_SCAN_PAGE).await?;
        let Some(last) = page.last() else {
            break;
        };
        from = Position::new(last.position);
        let mut reached = BTreeMap::new();
        for pointer in page {
            let version = reached.entry(pointer.stream).or_default();
            *version = pointer.version.max(*version);
        }
        if let Some(missing) = search(inner, &reached).await? {
            return Ok(Some(missing));
        }
    }
    Ok(None)
}

/// Searches streams, each of which has reached at least a version.
async fn search(inner: &StoreInner, reached: &BTreeMap<StreamId, u64>) -> Result<Option<MissingEvent>, ReadError> {
    let keys: Vec<_> = reached.keys().map(|stream| inner.keys().stream(stream)).collect();
    let replies = query_all(inner, keys.iter().map(|key| commands::stream_info(key))).await?;
    for (((stream, version), key), reply) in reached.iter().zip(&keys).zip(replies) {
        let entries = EntryCount::read(key, reply)?;
        let version = entries.last.max(*version);
        if entries.length < version
            && let Some(version) = find_in(inner, key, version).await?
        {
            return Ok(Some(MissingEvent { stream: stream.clone(), version: Version::new(version) }));
        }
    }
    Ok(None)
}

/// Finds the lowest version up to `through` for which a stream has no entry.
async fn find_in(inner: &StoreInner, key: &str, through: u64) -> Result<Option<u64>, ReadError> {
    let mut wanted = 1;
    loop {
        let (entries, has_more) = query_page(inner, key, "XRANGE", wanted, through).await?;
        for entry in parse_entries(key, Ok(entries))? {
            if number_of(&entry.id).map_err(|source| corrupt_key(key, source))? != wanted {
                return Ok(Some(wanted));
            }
            wanted += 1;
        }
        if !has_more {
            return Ok((wanted <= through).then_some(wanted));
        }
    }
}

/// The number of entries of a stream, and the number in the last id that the server assigned there.
struct EntryCount {
    length: u64,
    last: u64,
}

impl EntryCount {
    fn read(key: &str, reply: RedisResult<Value>) -> Result<Self, ReadError> {
        match reply {
            Ok(reply) => Self::decode(reply).map_err(|source| corrupt_key(key, source)),
            Err(error) if error.detail().is_some_and(|detail| detail.contains("no such key")) => {
                Ok(Self { length: 0, last: 0 })
            }
            Err(error) => Err(read_error(key, CommandError::Sent(error))),
        }
    }

    fn decode(reply: Value) -> Result<Self, BoxError> {
        let mut fields: HashMap<String, Value> = reply::parse_value(reply)?;
        let mut take = |name: &str| fields.remove(name).ok_or_else(|| format!("the server does not tell its `{name}`"));
        let length = reply::parse_value(take("length")?)?;
        let last: String = reply::parse_value(take("last-generated-id")?)?;
        let last: EntryId = last.parse().map_err(|_| format!("its last id is `{last}`"))?;
        Ok(Self { length, last: last.ms })
    }
}
