//! The streams behind the numbers that events name them by.
//!
//! A page of the feed has numbers only: looking up the stream of each row in the same statement would make a page half
//! as expensive again.
//!
//! Invariant: the number of a stream never changes, so a remembered stream is right until an older copy may have
//! replaced the database: that copy gives the numbers of lost streams to new ones.

use std::collections::{BTreeSet, HashMap};

use eventbus::{BoxError, StreamId};
use parking_lot::Mutex;
use sqlx::{Row as _, ValueRef as _, postgres::PgRow};
use uuid::Uuid;

/// The most streams that a store remembers: about 3 MB.
const REMEMBERED_MAX: usize = 16_384;

/// Streams by number that a store remembers.
#[derive(Debug, Default)]
pub(crate) struct StreamNumbers(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    streams: HashMap<i64, StreamId>,
    /// The number of possible restores when the store began to remember these streams.
    possible_restores: u64,
}

impl StreamNumbers {
    /// Returns those of the streams that are remembered since the last
    /// [possible restore](eventbus::port::AppendSignal::possible_restores), and the numbers of the others.
    pub(crate) fn find(&self, numbers: BTreeSet<i64>, possible_restores: u64) -> (PageStreams, Vec<i64>) {
        let mut remembered = self.0.lock();
        if remembered.possible_restores != possible_restores {
            *remembered = Remembered { streams: HashMap::new(), possible_restores };
        }
        let (mut streams, mut unknown) = (PageStreams::default(), Vec::new());
        for number in numbers {
            match remembered.streams.get(&number) {
                Some(stream) => drop(streams.sound.insert(number, stream.clone())),
                None => unknown.push(number),
            }
        }
        (streams, unknown)
    }

    /// Adds the streams of the rows of `streams.sql` to those of a page, and remembers them unless there was a possible
    /// restore meanwhile.
    pub(crate) fn add(
        &self,
        rows: &[PgRow],
        streams: &mut PageStreams,
        possible_restores: u64,
    ) -> Result<(), sqlx::Error> {
        let loaded = PageStreams::decode(rows, |row| row.try_get(0), 1)?;
        let mut remembered = self.0.lock();
        if remembered.possible_restores == possible_restores {
            if remembered.streams.len() + rows.len() > REMEMBERED_MAX {
                remembered.streams.clear();
            }
            remembered.streams.extend(loaded.sound.clone());
        }
        drop(remembered);
        streams.sound.extend(loaded.sound);
        streams.corrupt.extend(loaded.corrupt);
        Ok(())
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
    /// Decodes the streams of rows that have them in the columns from `first`, each with its number.
    pub(crate) fn decode(
        rows: &[PgRow],
        number: impl Fn(&PgRow) -> Result<i64, sqlx::Error>,
        first: usize,
    ) -> Result<Self, sqlx::Error> {
        let mut streams = Self::default();
        for row in rows {
            let number = number(row)?;
            if row.try_get_raw(first)?.is_null() {
                continue; // no such stream
            }
            match decode_stream(row, first) {
                Ok(stream) => drop(streams.sound.insert(number, stream)),
                Err(fault) => drop(streams.corrupt.insert(number, fault.to_string())),
            }
        }
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

/// Decodes the aggregate type, the id and the tenant in the columns from `first`.
pub(crate) fn decode_stream(row: &PgRow, first: usize) -> Result<StreamId, BoxError> {
    let stream = StreamId::parse(row.try_get(first)?, row.try_get(first + 1)?)?;
    Ok(stream.with_tenant_id(Some(row.try_get::<Uuid, _>(first + 2)?)))
}
