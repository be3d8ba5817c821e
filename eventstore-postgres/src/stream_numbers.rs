//! The streams behind the numbers that events name them by.
//!
//! A page of the feed has numbers only: looking up each row's stream in the server's page costs half as much again as
//! the page.
//!
//! Invariant: the number of a stream never changes, so a remembered stream is right for ever.

use std::collections::{BTreeSet, HashMap};

use eventbus::{BoxError, StreamId, port::ReadError};
use parking_lot::Mutex;
use sqlx::{Row as _, postgres::PgRow};
use uuid::Uuid;

use crate::store_inner::StoreInner;

/// The most streams that a store remembers: about 3 MB.
const REMEMBERED_MAX: usize = 16_384;

/// Streams by number that a store remembers.
#[derive(Debug, Default)]
pub(crate) struct StreamNumbers(Mutex<HashMap<i64, StreamId>>);

impl StreamNumbers {
    /// Returns those of the streams that are remembered.
    fn known(&self, numbers: &BTreeSet<i64>) -> HashMap<i64, StreamId> {
        let remembered = self.0.lock();
        numbers.iter().filter_map(|number| Some((*number, remembered.get(number)?.clone()))).collect()
    }

    fn remember(&self, streams: &HashMap<i64, StreamId>) {
        let mut remembered = self.0.lock();
        if remembered.len() + streams.len() > REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.extend(streams.iter().map(|(number, stream)| (*number, stream.clone())));
    }
}

/// The streams of a page.
#[derive(Debug, Default)]
pub(crate) struct PageStreams {
    sound: HashMap<i64, StreamId>,
    /// The faults of rows that name no stream.
    corrupt: HashMap<i64, String>,
}

impl PageStreams {
    /// Loads the streams with these numbers, unless they are remembered.
    pub(crate) async fn load(store: &StoreInner, numbers: BTreeSet<i64>) -> Result<Self, ReadError> {
        let mut streams = Self { sound: store.stream_numbers().known(&numbers), corrupt: HashMap::new() };
        let unknown: Vec<i64> = numbers.into_iter().filter(|number| !streams.sound.contains_key(number)).collect();
        if unknown.is_empty() {
            return Ok(streams);
        }
        let query = store.statements().query(include_str!("sql/streams.sql")).bind(unknown);
        let mut loaded = HashMap::new();
        for row in store.connections().fetch_all(query).await? {
            let number = row.try_get(0).map_err(|error| ReadError::Unavailable(error.into()))?;
            match decode(&row) {
                Ok(stream) => drop(loaded.insert(number, stream)),
                Err(fault) => drop(streams.corrupt.insert(number, fault.to_string())),
            }
        }
        store.stream_numbers().remember(&loaded);
        streams.sound.extend(loaded);
        Ok(streams)
    }

    /// Returns the stream with a number.
    ///
    /// # Errors
    /// The fault of its row.
    pub(crate) fn get(&self, number: i64) -> Result<&StreamId, BoxError> {
        self.sound.get(&number).ok_or_else(|| {
            let fault = self.corrupt.get(&number).map_or("the table of streams has no such row", String::as_str);
            format!("its stream has number {number}: {fault}").into()
        })
    }
}

fn decode(row: &PgRow) -> Result<StreamId, BoxError> {
    let stream = StreamId::parse(row.try_get(1)?, row.try_get(2)?)?;
    Ok(stream.with_tenant_id(Some(row.try_get::<Uuid, _>(3)?)))
}
