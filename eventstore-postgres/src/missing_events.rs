//! The search for events that were removed.

use eventbus::{
    StreamId, Version,
    port::{MissingEvent, ReadError},
    support::CountedVersions,
};
use sqlx::{Row as _, postgres::PgRow};

use crate::{columns::bind_stream, store_inner::StoreInner};

/// The most streams and the most versions that one statement counts: about 20 ms each.
const WINDOW_STREAMS: i64 = 4_096;
const WINDOW_VERSIONS: i64 = 100_000;

/// Finds an event of any stream, or of one stream, that is missing.
pub(crate) async fn find_missing_event(
    store: &StoreInner,
    stream: Option<&StreamId>,
) -> Result<Option<MissingEvent>, ReadError> {
    match stream {
        None => search(store, 1, i64::MAX).await,
        Some(stream) => match find_stream_no(store, stream).await? {
            Some(number) => search(store, number, number).await,
            None => Ok(None),
        },
    }
}

async fn find_stream_no(store: &StoreInner, stream: &StreamId) -> Result<Option<i64>, ReadError> {
    let query = bind_stream(store.statements().query(include_str!("sql/stream_no.sql")), stream);
    let rows = store.connections().fetch_all(query).await?;
    rows.first().map(|row| row.try_get(0)).transpose().map_err(unreadable_answer)
}

/// Searches the streams with the numbers from `first` to `last`, window by window.
async fn search(store: &StoreInner, first: i64, last: i64) -> Result<Option<MissingEvent>, ReadError> {
    let mut from = (first, 1);
    loop {
        let window = count_window(store, from, last).await?;
        for incomplete in window.iter().filter(|counted| counted.is_incomplete()) {
            if let Some(missing) = find_in(store, incomplete).await? {
                return Ok(Some(missing));
            }
        }
        match window.last().map(CountedVersions::next) {
            Some(next) => from = next,
            None => return Ok(None),
        }
    }
}

async fn count_window(store: &StoreInner, from: (i64, i64), last: i64) -> Result<Vec<CountedVersions>, ReadError> {
    let query = store.statements().query(include_str!("sql/count_versions.sql")).bind(from.0).bind(from.1);
    let rows = store.connections().fetch_all(query.bind(last).bind(WINDOW_STREAMS).bind(WINDOW_VERSIONS)).await?;
    rows.iter().map(decode).collect::<Result<_, _>>().map_err(unreadable_answer)
}

fn decode(row: &PgRow) -> Result<CountedVersions, sqlx::Error> {
    Ok(CountedVersions {
        stream_no: row.try_get(0)?,
        first: row.try_get(1)?,
        last: row.try_get(2)?,
        version: row.try_get(3)?,
        found: row.try_get(4)?,
    })
}

/// Finds the version without an event; `None` if each has one by now.
async fn find_in(store: &StoreInner, counted: &CountedVersions) -> Result<Option<MissingEvent>, ReadError> {
    let query = store.statements().query(include_str!("sql/missing_version.sql")).bind(counted.stream_no);
    let rows = store.connections().fetch_all(query.bind(counted.first).bind(counted.last)).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let version: i64 = row.try_get(0).map_err(unreadable_answer)?;
    let streams = store.load_streams([counted.stream_no].into()).await?;
    let corrupt = |source| ReadError::corrupt(format!("an event that is missing, version {version}"), source);
    let stream = streams.get(counted.stream_no).map_err(corrupt)?.clone();
    Ok(Some(MissingEvent { stream, version: Version::new(version.unsigned_abs()) }))
}

fn unreadable_answer(error: sqlx::Error) -> ReadError {
    ReadError::Unavailable(error.into())
}
