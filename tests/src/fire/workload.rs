//! What is appended under fire, and how one who appends finds out what came of it.

use std::ops::RangeInclusive;

use eventbus::{
    Name, NewEvent, RecordedEvent, StreamId, Uuid,
    port::{Append, AppendError, AppendEvents},
};
use fastrand::Rng;

use super::{
    Trouble,
    history::{Place, Told},
};

/// How often an append without an answer is repeated before it is left as it is.
const TRIES: usize = 200;

/// A stream of the load.
///
/// # Errors
/// Never: every number makes a valid id.
pub fn stream(number: impl std::fmt::Display) -> Result<StreamId, Trouble> {
    Ok(StreamId::parse("Account", &number.to_string())?)
}

/// Some events; each adds some amount to the read model.
pub fn events(random: &mut Rng, number: RangeInclusive<usize>) -> Vec<NewEvent> {
    (0..random.usize(number)).map(|_| event(random.i64(-500..500))).collect()
}

/// An event that adds `amount` to the read model.
#[must_use]
pub fn event(amount: i64) -> NewEvent {
    NewEvent::new(Name::from_static("Deposited"), 1, format!(r#"{{"amount":{amount}}}"#))
}

/// The amount of an event.
///
/// # Errors
/// If it is not one of ours.
pub fn amount(record: &RecordedEvent) -> Result<i64, Trouble> {
    let payload: serde_json::Value = serde_json::from_str(record.payload())?;
    payload["amount"].as_i64().ok_or_else(|| format!("no amount in {}", record.payload()).into())
}

/// The ids of events.
#[must_use]
pub fn ids(events: &[NewEvent]) -> Vec<Uuid> {
    events.iter().map(|event| event.event_id().as_uuid()).collect()
}

/// Where recorded events are.
#[must_use]
pub fn places(records: &[RecordedEvent]) -> Vec<Place> {
    records.iter().map(Place::from).collect()
}

/// What somebody who appends noted, and how often what.
#[derive(Debug, Default)]
pub struct Notes {
    /// The notes.
    pub told: Vec<Told>,
    /// Appends that were refused as the stream was elsewhere.
    pub conflicts: u64,
    /// Appends whose outcome was unknown at first.
    pub unknown: u64,
    /// Appends that did not reach the store.
    pub unavailable: u64,
    /// Events that were acknowledged.
    pub stored: u64,
}

impl Notes {
    /// Appends, again while the outcome is unknown, and notes what came of it.
    ///
    /// # Errors
    /// [`AppendError::Refused`] and [`AppendError::EventIdTaken`], which no fault excuses.
    pub async fn append(&mut self, store: &impl AppendEvents, append: &Append) -> Result<(), Trouble> {
        for _ in 0..TRIES {
            self.sent(&append.events);
            let answer = store.append(&append.stream, append.expected, append.events.clone()).await;
            if self.is_known(&append.events, answer)? {
                break;
            }
        }
        Ok(())
    }

    /// Appends many at once; those whose outcome is unknown again, one by one.
    ///
    /// # Errors
    /// Like [`append`](Self::append).
    pub async fn append_many(&mut self, store: &impl AppendEvents, appends: Vec<Append>) -> Result<(), Trouble> {
        appends.iter().for_each(|append| self.sent(&append.events));
        let answers = store.append_many(appends.clone()).await;
        for (append, answer) in appends.iter().zip(answers) {
            if !self.is_known(&append.events, answer)? {
                self.append(store, append).await?;
            }
        }
        Ok(())
    }

    /// Notes that an append is about to be sent.
    pub fn sent(&mut self, events: &[NewEvent]) {
        self.told.push(Told::Sent(ids(events)));
    }

    /// Notes an answer; false if it says nothing.
    ///
    /// # Errors
    /// Like [`append`](Self::append).
    pub fn is_known(
        &mut self,
        events: &[NewEvent],
        answer: Result<Vec<RecordedEvent>, AppendError>,
    ) -> Result<bool, Trouble> {
        match answer {
            Ok(records) => {
                self.stored += records.len() as u64;
                self.told.push(Told::Stored(places(&records)));
            }
            Err(AppendError::OutcomeUnknown(_)) => {
                self.unknown += 1;
                return Ok(false);
            }
            Err(AppendError::Conflict { .. }) => {
                self.conflicts += 1;
                self.told.push(Told::Refused(ids(events)));
            }
            Err(AppendError::Unavailable(_)) => {
                self.unavailable += 1;
                self.told.push(Told::Refused(ids(events)));
            }
            Err(other) => return Err(other.into()),
        }
        Ok(true)
    }

    /// Takes in what another one noted.
    pub fn merge(&mut self, other: Self) {
        self.told.extend(other.told);
        self.conflicts += other.conflicts;
        self.unknown += other.unknown;
        self.unavailable += other.unavailable;
        self.stored += other.stored;
    }
}
