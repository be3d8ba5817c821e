//! What has come of an entry so far, and what is to become of it; shared by all buses.
//!
//! Keep: each handler has a budget of its own, and one that has succeeded does not run again.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Failure, HandlerErrorKind, RetryPolicy, retry::LONGEST};
use crate::domain::{clock::SharedClock, error::BoxError, json::from_json, name::Name};

/// What the handlers of a group have made of an entry so far. It is empty until one of them has failed, or the process
/// has died while they ran.
///
/// Times are milliseconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct DeliveryAttempts {
    /// How often the entry was handled and a handler failed.
    pub attempts: u32,
    /// How often in a row its process ended while it was in flight.
    #[serde(skip_serializing_if = "is_zero")]
    pub process_ends: u32,
    /// How often in a row its process ended while it was the only event that was handled; noted before it is, and taken
    /// back after.
    #[serde(skip_serializing_if = "is_zero")]
    pub ended_alone: u32,
    /// How often the entry was delivered in vain to consumers that keep no tries, as those written in Python, which
    /// limit retries by number. These count for each handler against [`RetryPolicy::max_retries`] where that is set; they
    /// never shorten [`RetryPolicy::retry_for`], which begins with the first failure that was noted.
    #[serde(skip_serializing_if = "is_zero")]
    pub elsewhere: u32,
    /// The handlers that have succeeded, sorted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub done: Vec<String>,
    /// The handlers that have not, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub failed: BTreeMap<String, HandlerFailure>,
    /// When a handler failed first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_failed_at: Option<u64>,
    /// When a handler failed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failed_at: Option<u64>,
    /// When to try again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_at: Option<u64>,
    /// Whether all attempts are used up, and no dead letter was to be written.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_exhausted: bool,
}

/// A handler that has failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HandlerFailure {
    /// How often.
    pub attempts: u32,
    /// Why, the last time.
    pub error: String,
    /// Since when it fails, by the clock of the consumer that handled it then. Time in which its database had a fault is
    /// left out: `since` moves on by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Whether it is not tried again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gave_up: bool,
    /// How often in a row it met a fault of the database, which uses up no attempt.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub server_faults: u32,
}

impl HandlerFailure {
    /// Whether there are no more retries, of those that the handler itself says or the policy, or no more time.
    fn has_used_up(&mut self, retries: Option<u32>, policy: &RetryPolicy, now: u64) -> bool {
        let since = *self.since.get_or_insert(now);
        let most = retries.or(policy.max_retries);
        most.is_some_and(|most| self.attempts > most) || now.saturating_sub(since) >= millis(policy.retry_for)
    }
}

/// What is to be done with an entry after its handlers ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RetryDecision {
    /// Nothing is left to do.
    Acknowledge,
    /// Try again after this time.
    RetryAfter(Duration),
    /// All attempts are used up.
    DeadLetter,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// When an event is tried again that met a fault of the database: it may last for hours.
const SERVER_FAULT_BACKOFF: RetryPolicy = RetryPolicy {
    retry_for: Duration::MAX,
    max_retries: None,
    first_delay: Duration::from_millis(100),
    max_delay: Duration::from_secs(300),
};

/// After how many ends of its process in a row, while nothing else ran, an event is taken for their cause.
const MAX_PROCESS_ENDS_ALONE: u32 = 5;

/// How long a suspect waits: what ends a process at once ends it so often only.
const SUSPECT_BACKOFF: RetryPolicy = RetryPolicy {
    retry_for: Duration::MAX,
    max_retries: None,
    first_delay: Duration::from_secs(1),
    max_delay: Duration::from_secs(60),
};

/// How much of an error's text is kept, in bytes.
const MAX_ERROR_BYTES: usize = 4_000;

fn truncate_error(mut text: String) -> String {
    if text.len() > MAX_ERROR_BYTES {
        text.truncate(text.floor_char_boundary(MAX_ERROR_BYTES));
        text.push('…');
    }
    text
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl DeliveryAttempts {
    /// An entry that did not get as far as a handler: it can never be handled.
    #[must_use]
    pub fn undecodable(error: String, clock: &SharedClock) -> Self {
        let now = Some(clock.unix_millis());
        let failed = HandlerFailure { error: truncate_error(error), gave_up: true, ..HandlerFailure::default() };
        Self {
            failed: BTreeMap::from([(String::new(), failed)]),
            first_failed_at: now,
            last_failed_at: now,
            ..Self::default()
        }
    }

    /// An entry that some handlers have handled before, and that is tried anew by the others.
    #[must_use]
    pub fn replayed(done: Vec<String>) -> Self {
        Self { done, ..Self::default() }
    }

    /// The tries as JSON, in which stores and buses keep them.
    #[must_use]
    pub fn to_json(&self) -> String {
        // texts, numbers and lists of them: nothing of it can fail
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads what [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    /// Where the text is not that.
    pub fn from_json(json: &str) -> Result<Self, BoxError> {
        Ok(from_json(json)?)
    }

    /// Whether no handler ran so far, as far as is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.done.is_empty() && self.failed.is_empty()
    }

    /// Whether a handler is not to run any more.
    #[must_use]
    pub fn is_finished_for(&self, handler: &str) -> bool {
        !self.is_empty()
            && (self.done.iter().any(|done| done == handler)
                || self.failed.get(handler).is_some_and(|failed| failed.gave_up))
    }

    /// Whether a handler is not tried again: then it is a dead letter at last.
    pub(crate) fn has_given_up(&self) -> bool {
        self.failed.values().any(|failed| failed.gave_up)
    }

    /// The handlers that failed, sorted and separated by commas; empty if it did not get as far as a handler.
    #[must_use]
    pub fn handlers(&self) -> String {
        let names: Vec<&str> = self.failed.keys().map(String::as_str).filter(|name| !name.is_empty()).collect();
        names.join(",")
    }

    /// Why the handlers failed; each error is named by its handler where there are several.
    #[must_use]
    pub fn errors(&self) -> String {
        let words = |(name, failed): (&String, &HandlerFailure)| match self.failed.len() {
            1 => failed.error.clone(),
            _ => format!("{name}: {}", failed.error),
        };
        let errors: Vec<String> = self.failed.iter().map(words).collect();
        errors.join("; ")
    }

    /// How often the entry was tried in vain, for the handler that was tried most.
    #[must_use]
    pub fn most_attempts(&self) -> u32 {
        self.failed.values().map(|failed| failed.attempts).max().unwrap_or_default()
    }

    /// Its handlers ran, and those left have succeeded.
    pub(crate) fn succeed(&mut self, succeeded: &[Name]) -> RetryDecision {
        if !self.has_given_up() {
            return RetryDecision::Acknowledge;
        }
        self.succeeded(succeeded);
        RetryDecision::DeadLetter
    }

    fn succeeded(&mut self, succeeded: &[Name]) {
        for name in succeeded {
            self.failed.remove(name.as_str());
            self.done.push(name.to_string());
        }
        self.done.sort();
    }

    /// Its handlers ran, and some failed.
    pub(crate) fn fail(
        &mut self,
        failures: &[Failure],
        succeeded: &[Name],
        policy: &RetryPolicy,
        clock: &SharedClock,
    ) -> RetryDecision {
        let now = clock.unix_millis();
        self.attempts = self.attempts.saturating_add(1);
        self.reset_process_ends();
        self.first_failed_at = self.first_failed_at.or(Some(now));
        let passed = now.saturating_sub(self.last_failed_at.replace(now).unwrap_or(now));
        self.succeeded(succeeded);
        let delays = failures.iter().filter_map(|failure| self.fail_one(failure, policy, now, passed));
        let next = match delays.max() {
            Some(delay) => RetryDecision::RetryAfter(delay),
            None => RetryDecision::DeadLetter,
        };
        self.next_at = match next {
            RetryDecision::RetryAfter(delay) => Some(now.saturating_add(millis(delay))),
            _ => None,
        };
        next
    }

    /// When the handler is to run again; `None` if it gives up. `passed` is the time since the failure before.
    fn fail_one(&mut self, failure: &Failure, policy: &RetryPolicy, now: u64, passed: u64) -> Option<Duration> {
        let before = self.elsewhere;
        let fresh = || HandlerFailure { attempts: before, ..HandlerFailure::default() };
        let failed = self.failed.entry(failure.handler.to_string()).or_insert_with(fresh);
        failed.error = truncate_error(failure.error.to_string());
        if failure.error.kind() == HandlerErrorKind::ServerFault {
            failed.server_faults = failed.server_faults.saturating_add(1);
            failed.since = failed.since.map(|since| since.saturating_add(passed).min(now));
            return Some(SERVER_FAULT_BACKOFF.jittered(failed.server_faults));
        }
        failed.server_faults = 0;
        if failure.error.kind() == HandlerErrorKind::NotBegun {
            failed.since = failed.since.map(|since| since.saturating_add(passed).min(now));
        } else {
            failed.attempts = failed.attempts.saturating_add(1);
            failed.gave_up = failure.error.is_permanent() || failed.has_used_up(failure.retries, policy, now);
        }
        match failure.error.kind() {
            _ if failed.gave_up => None,
            HandlerErrorKind::RetryAfter(delay) => Some(delay.min(LONGEST)),
            _ => Some(policy.jittered(failed.attempts)),
        }
    }

    /// Whether it was in flight when its process ended, and has not been handled since.
    pub(crate) const fn is_suspect(&self) -> bool {
        self.process_ends > 0
    }

    /// Whether it waits, as was noted last: then it was not in flight when its process ended.
    pub(crate) fn is_waiting(&self, clock: &SharedClock) -> bool {
        // what begins alone is noted without a time; a retry that was due may have begun
        self.next_at.is_some_and(|next| self.is_suspect() || next > clock.unix_millis())
    }

    /// Its process ended while it was in flight. Returns `false` if that happened too often while nothing else ran.
    pub(crate) fn note_process_end(&mut self, clock: &SharedClock) -> bool {
        if self.ended_alone >= MAX_PROCESS_ENDS_ALONE {
            return false;
        }
        self.process_ends = self.process_ends.saturating_add(1);
        self.wait_until(clock.unix_millis(), self.suspect_delay());
        true
    }

    /// How long a suspect waits before it runs, and then for the others to end.
    pub(crate) fn suspect_delay(&self) -> Duration {
        SUSPECT_BACKOFF.delay(self.process_ends)
    }

    /// Its process lives and was slow: what ran alone there has not ended it.
    pub(crate) const fn note_slow_consumer(&mut self) {
        self.ended_alone = self.ended_alone.saturating_sub(1);
    }

    /// A suspect begins, alone or beside others.
    pub(crate) const fn begin(&mut self, is_alone: bool) {
        self.ended_alone += is_alone as u32;
        self.next_at = None;
    }

    /// A suspect of which that was noted has not begun.
    pub(crate) fn undo_begin(&mut self, is_alone: bool, clock: &SharedClock) {
        self.ended_alone = self.ended_alone.saturating_sub(u32::from(is_alone));
        self.wait_until(clock.unix_millis(), Duration::ZERO);
    }

    /// The process has not ended of it.
    pub(crate) const fn reset_process_ends(&mut self) {
        (self.process_ends, self.ended_alone) = (0, 0);
    }

    fn wait_until(&mut self, now: u64, delay: Duration) {
        self.last_failed_at = Some(now);
        self.next_at = Some(now.saturating_add(millis(delay)));
    }

    /// The process ends whenever the handlers run.
    pub(crate) fn give_up_after_process_ends(&mut self, clock: &SharedClock) {
        let (now, times) = (Some(clock.unix_millis()), self.ended_alone);
        let error = format!("the process ended {times} times while this event alone was handled");
        self.failed.insert(
            String::new(),
            HandlerFailure { attempts: times, error, gave_up: true, ..HandlerFailure::default() },
        );
        self.first_failed_at = self.first_failed_at.or(now);
        self.last_failed_at = now;
    }

    /// How long is left until the next try, at most the time between the last failure and it: the clock of whoever
    /// wrote it may differ.
    pub(crate) fn wait(&self, clock: &SharedClock) -> Duration {
        let Some(next) = self.next_at else {
            return Duration::ZERO;
        };
        let longest = next.saturating_sub(self.last_failed_at.unwrap_or(next));
        Duration::from_millis(next.saturating_sub(clock.unix_millis()).min(longest))
    }
}

#[cfg(test)]
mod tests;
