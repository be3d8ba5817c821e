//! Entries in flight, as a consumer receives and disposes of them.

use std::time::Duration;

use super::super::Outcome;
use crate::{
    domain::{clock::SharedClock, record::RecordedEvent},
    port::{
        MessageId,
        attempts::{DeliveryAttempts, Failure},
        delivery::HandlerErrorKind,
        retry::RetryPolicy,
    },
};

/// The default limit for the events that a consumer holds, in bytes: 16 MiB.
pub const DEFAULT_IN_FLIGHT_BYTES: usize = 16 * 1024 * 1024;

/// The default limit for the entries of a consumer that wait for a retry, or are blocked behind one that does.
pub const DEFAULT_MAX_WAITING: usize = 100_000;

/// An entry as a consumer received it.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[must_use]
pub struct InFlightEntry {
    /// The id of the entry on the bus.
    pub id: MessageId,
    /// The event.
    pub record: RecordedEvent,
    /// The earlier attempts, as persisted.
    pub attempts: DeliveryAttempts,
    /// Set if the entry was pending at a process that has ended: the entry may be the cause.
    pub is_redelivered: bool,
}

impl InFlightEntry {
    /// Begins an entry that may have ended its process, and returns the disposition that the caller must persist before
    /// it runs the handlers: [`Begin`](Disposition::Begin), or [`DeadLetter`](Disposition::DeadLetter) after too many
    /// process ends. Returns `None` for any other entry.
    #[must_use]
    pub fn begin(&mut self, clock: &SharedClock) -> Option<Disposition> {
        let has_ended = self.is_redelivered && !self.attempts.is_waiting(clock);
        if !has_ended && !self.attempts.is_suspect() {
            return None;
        }
        if has_ended && !self.attempts.note_process_end(clock) {
            self.attempts.give_up_after_process_ends(clock);
            return Some(Disposition::DeadLetter(self.attempts.clone()));
        }
        self.attempts.begin(true);
        Some(Disposition::Begin(self.attempts.clone()))
    }

    /// Creates an entry without earlier attempts.
    pub fn new(id: MessageId, record: RecordedEvent) -> Self {
        Self { id, record, attempts: DeliveryAttempts::default(), is_redelivered: false }
    }

    /// Sets the earlier attempts, as persisted.
    pub fn with_attempts(self, attempts: DeliveryAttempts) -> Self {
        Self { attempts, ..self }
    }

    /// Marks the entry as redelivered: its process has ended, perhaps because of it.
    pub fn redelivered(self) -> Self {
        Self { is_redelivered: true, ..self }
    }
}

/// An entry with its disposition, for the bus to persist.
#[derive(Debug)]
#[non_exhaustive]
pub struct DisposedEntry {
    /// The id of the entry on the bus.
    pub id: MessageId,
    /// The event; `None` if the entry cannot be decoded, or is retried.
    pub record: Option<RecordedEvent>,
    /// The action that the bus takes.
    pub disposition: Disposition,
}

impl DisposedEntry {
    /// Pairs an entry with its disposition.
    #[must_use]
    pub const fn new(id: MessageId, record: Option<RecordedEvent>, disposition: Disposition) -> Self {
        Self { id, record, disposition }
    }
}

/// The action that the bus takes with an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disposition {
    /// All handlers have succeeded: the bus acknowledges the entry, then calls
    /// [`InFlight::release`](super::InFlight::release).
    Acknowledge {
        /// Set if attempts of the entry may have been persisted before.
        has_attempts: bool,
    },
    /// No handler of this consumer wants the entry: the bus acknowledges it and counts it as skipped, then calls
    /// [`InFlight::release`](super::InFlight::release).
    Skip,
    /// The entry may have ended its process, and is about to run: the bus persists these attempts, which count the run, and
    /// then calls [`InFlight::begin`](super::InFlight::begin).
    Begin(DeliveryAttempts),
    /// The entry is retried later and stays in flight: the bus persists its attempts.
    Retry {
        /// The attempts so far.
        attempts: DeliveryAttempts,
        /// The delay before the retry.
        after: Duration,
        /// Set if a newer release wrote the event, in a shape that a handler here does not know: if the group announced
        /// its schema version, the bus leaves it to that release instead of retrying.
        of_newer_release: bool,
    },
    /// The attempts are used up: the bus moves the entry to the dead letters, then calls
    /// [`InFlight::release`](super::InFlight::release).
    DeadLetter(DeliveryAttempts),
}

impl Disposition {
    /// Records the outcome of a run in the attempts, and returns the action that follows; `None` if the group has no
    /// handlers, so that the entry is still undecided.
    #[must_use]
    pub fn from_outcome(
        outcome: Outcome,
        delivery_attempts: &mut DeliveryAttempts,
        retry: &RetryPolicy,
        clock: &SharedClock,
    ) -> Option<Self> {
        let (retry_after, of_newer_release) = match outcome {
            Outcome::Unattended => return None,
            Outcome::Skipped => return Some(Self::Skip),
            Outcome::Handled { succeeded } => {
                if delivery_attempts.succeed(&succeeded) {
                    let has_attempts = *delivery_attempts != DeliveryAttempts::default();
                    return Some(Self::Acknowledge { has_attempts });
                }
                (None, false)
            }
            Outcome::Failed { failures, succeeded } => {
                let is_newer = |failure: &Failure| failure.error.kind() == HandlerErrorKind::NewerVersion;
                let of_newer_release = failures.iter().any(is_newer);
                (delivery_attempts.fail(&failures, &succeeded, retry, clock), of_newer_release)
            }
        };
        let attempts = delivery_attempts.clone();
        Some(match retry_after {
            Some(after) => Self::Retry { attempts, after, of_newer_release },
            None => Self::DeadLetter(attempts),
        })
    }
}
