//! The writers, and the answers that they received.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use eventbus::{
    EventId, ExpectedVersion, NewEvent, RecordedEvent, StreamId,
    port::{AppendError, AppendEvents as _, ReadStream as _},
};
use eventstore_postgres::PgEventStore;

use crate::common::{events, stream};

/// The answers to one writer.
#[derive(Default)]
pub(crate) struct Notes {
    /// The acknowledged events, with their places.
    pub(crate) stored: Vec<RecordedEvent>,
    /// The refused events.
    pub(crate) refused: Vec<EventId>,
    conflicts: usize,
    unavailable: usize,
    unknown: usize,
    repeats: usize,
}

/// Appends one to three events at a time, mostly to streams that all share, until `time` is over.
pub(crate) async fn write(store: Arc<PgEventStore>, time: Duration) -> Notes {
    let begin = Instant::now();
    let mut notes = Notes::default();
    while begin.elapsed() < time {
        let number = dice();
        let (stream, expected) = match number % 10 {
            0 => (stream(), ExpectedVersion::NoStream),
            1 => (stream(), ExpectedVersion::Any),
            2..=5 => (shared(number), ExpectedVersion::Any),
            // the version may be outdated when the append uses it
            _ => match store.stream_version(&shared(number)).await {
                Ok(version) => (shared(number), ExpectedVersion::Exact(version)),
                Err(_) => continue, // a fault killed its backend
            },
        };
        let given = events(1 + (number % 3) as usize);
        notes.append(&store, &stream, expected, given.clone()).await;
        if number.is_multiple_of(50) {
            notes.repeats += 1;
            notes.append(&store, &stream, expected, given).await;
        }
    }
    notes
}

impl Notes {
    /// Appends until the outcome is known.
    async fn append(
        &mut self,
        store: &PgEventStore,
        stream: &StreamId,
        expected: ExpectedVersion,
        given: Vec<NewEvent>,
    ) {
        loop {
            match store.append(stream, expected, given.clone()).await {
                Ok(stored) => return self.stored.extend(stored),
                Err(AppendError::OutcomeUnknown(_)) => {
                    self.unknown += 1;
                    continue;
                }
                Err(AppendError::Conflict { .. }) => self.conflicts += 1,
                Err(AppendError::Unavailable(_)) => self.unavailable += 1,
                Err(other) => panic!("{other:?}"),
            }
            return self.refused.extend(given.iter().map(NewEvent::event_id));
        }
    }
}

/// One of ten streams.
fn shared(number: u64) -> StreamId {
    static SHARED: OnceLock<[StreamId; 10]> = OnceLock::new();
    SHARED.get_or_init(|| std::array::from_fn(|_| stream()))[(number / 10 % 10) as usize].clone()
}

/// A pseudorandom number.
fn dice() -> u64 {
    static STATE: AtomicU64 = AtomicU64::new(1);
    let mixed = STATE.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32
}

fn sum(notes: &[Notes], of: impl Fn(&Notes) -> usize) -> usize {
    notes.iter().map(of).sum()
}

pub(crate) fn summary(notes: &[Notes]) -> String {
    format!(
        "{} conflicts, {} rolled back, {} unknown, {} repeats",
        sum(notes, |note| note.conflicts),
        sum(notes, |note| note.unavailable),
        sum(notes, |note| note.unknown),
        sum(notes, |note| note.repeats),
    )
}

/// Checks that the faults that make the race hard have happened.
pub(crate) fn check_variety(notes: &[Notes]) {
    assert!(sum(notes, |note| note.conflicts) > 0, "no conflicts");
    assert!(sum(notes, |note| note.unavailable) > 0, "nothing was rolled back");
    assert!(sum(notes, |note| note.repeats) > 0, "no repeats");
}
