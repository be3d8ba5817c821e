//! The appended events, and an appender that resolves unknown outcomes by repeats.

use std::ops::RangeInclusive;

use eventbus::{
    Name, NewEvent, RecordedEvent, StreamId, Uuid,
    port::{Append, AppendError, AppendEvents},
};
use fastrand::Rng;

use super::{
    HarnessError,
    history::{AppendRecord, StoredAt},
};

/// Number of repeats of an append without an answer, after which its outcome stays unknown.
const ATTEMPTS_MAX: usize = 200;

/// Returns the id of a stream of the load.
///
/// # Errors
/// Never: every number makes a valid id.
pub fn stream(number: impl std::fmt::Display) -> Result<StreamId, HarnessError> {
    Ok(StreamId::parse("Account", &number.to_string())?)
}

/// Returns random events; each adds an amount to the read model.
pub fn events(random: &mut Rng, number: RangeInclusive<usize>) -> Vec<NewEvent> {
    (0..random.usize(number)).map(|_| event(random.i64(-500..500))).collect()
}

/// Returns an event that adds `amount` to the read model.
pub fn event(amount: i64) -> NewEvent {
    NewEvent::new(Name::from_static("Deposited"), 1, format!(r#"{{"amount":{amount}}}"#))
}

/// Returns the amount of an event.
///
/// # Errors
/// If the event is not of this load.
pub fn amount(record: &RecordedEvent) -> Result<i64, HarnessError> {
    let payload: serde_json::Value = serde_json::from_str(record.payload())?;
    payload["amount"].as_i64().ok_or_else(|| format!("no amount in {}", record.payload()).into())
}

/// Returns the ids of events.
#[must_use]
pub fn ids(events: &[NewEvent]) -> Vec<Uuid> {
    events.iter().map(|event| event.event_id().as_uuid()).collect()
}

/// Returns the places of recorded events.
#[must_use]
pub fn stored_at_of(records: &[RecordedEvent]) -> Vec<StoredAt> {
    records.iter().map(StoredAt::from).collect()
}

/// The records of one appender, and its counts.
#[derive(Debug, Default)]
pub struct AppendLog {
    /// The records.
    pub records: Vec<AppendRecord>,
    /// Appends refused because the stream was at a different version.
    pub conflicts: u64,
    /// Appends whose outcome was unknown at first.
    pub unknown: u64,
    /// Appends that did not reach the store.
    pub unavailable: u64,
    /// Events that were acknowledged.
    pub stored: u64,
}

impl AppendLog {
    /// Appends, repeats while the outcome is unknown, and records the answers.
    ///
    /// # Errors
    /// [`AppendError::Refused`] and [`AppendError::EventIdTaken`], which no fault excuses.
    pub async fn append(&mut self, store: &impl AppendEvents, append: &Append) -> Result<(), HarnessError> {
        for _ in 0..ATTEMPTS_MAX {
            self.record_sent(&append.events);
            let answer = store.append(&append.stream, append.expected, append.events.clone()).await;
            if self.record_answer(&append.events, answer)? {
                break;
            }
        }
        Ok(())
    }

    /// Makes several appends in one call; repeats those with an unknown outcome one by one.
    ///
    /// # Errors
    /// Like [`append`](Self::append).
    pub async fn append_many(&mut self, store: &impl AppendEvents, appends: Vec<Append>) -> Result<(), HarnessError> {
        appends.iter().for_each(|append| self.record_sent(&append.events));
        let answers = store.append_many(appends.clone()).await;
        for (append, answer) in appends.iter().zip(answers) {
            if !self.record_answer(&append.events, answer)? {
                self.append(store, append).await?;
            }
        }
        Ok(())
    }

    /// Records that an append is about to be sent.
    pub fn record_sent(&mut self, events: &[NewEvent]) {
        self.records.push(AppendRecord::Sent(ids(events)));
    }

    /// Records an answer; returns `false` if it leaves the outcome unknown.
    ///
    /// # Errors
    /// Like [`append`](Self::append).
    pub fn record_answer(
        &mut self,
        events: &[NewEvent],
        answer: Result<Vec<RecordedEvent>, AppendError>,
    ) -> Result<bool, HarnessError> {
        match answer {
            Ok(records) => {
                self.stored += records.len() as u64;
                self.records.push(AppendRecord::Stored(stored_at_of(&records)));
            }
            Err(AppendError::OutcomeUnknown(_)) => {
                self.unknown += 1;
                return Ok(false);
            }
            Err(AppendError::Conflict { .. }) => {
                self.conflicts += 1;
                self.records.push(AppendRecord::Refused(ids(events)));
            }
            Err(AppendError::Unavailable(_)) => {
                self.unavailable += 1;
                self.records.push(AppendRecord::Refused(ids(events)));
            }
            Err(other) => return Err(other.into()),
        }
        Ok(true)
    }

    /// Adds the records of a second appender.
    pub fn merge(&mut self, other: Self) {
        self.records.extend(other.records);
        self.conflicts += other.conflicts;
        self.unknown += other.unknown;
        self.unavailable += other.unavailable;
        self.stored += other.stored;
    }
}
