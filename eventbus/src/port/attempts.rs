//! The attempts at an entry so far, and the retry decision that follows from them; shared by all buses.
//!
//! Invariant: each handler has a retry budget of its own, and a handler that has succeeded does not run again.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    backoff::{Backoff, LONGEST},
    delivery::{HandlerError, HandlerErrorKind},
    retry::RetryPolicy,
};
use crate::domain::{clock::SharedClock, error::BoxError, json::from_json, name::Name};

/// The attempts of a group's handlers at an entry, as buses persist them. Empty until a handler has failed, or the
/// process has ended while handlers ran.
///
/// Times are milliseconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
#[must_use]
pub struct DeliveryAttempts {
    /// The number of runs in which a handler failed.
    pub attempts: u32,
    /// How many times in a row the process ended while the entry was in flight.
    #[serde(skip_serializing_if = "is_zero")]
    pub process_ends: u32,
    /// How many times in a row the process ended while this event alone was handled; incremented before such a run, and
    /// reset after it.
    #[serde(skip_serializing_if = "is_zero")]
    pub ended_alone: u32,
    /// The number of failed deliveries to consumers that persist no attempts, such as those written in Python, which
    /// limit retries by number. They count for each handler against [`RetryPolicy::max_retries`] if that is set; they
    /// never shorten [`RetryPolicy::retry_for`], which begins with the first recorded failure.
    #[serde(skip_serializing_if = "is_zero")]
    pub elsewhere: u32,
    /// The handlers that have succeeded, sorted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub done: Vec<String>,
    /// The handlers that have failed and not succeeded since, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub failed: BTreeMap<String, HandlerFailure>,
    /// The time of the first failure of a handler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_failed_at: Option<u64>,
    /// The time of the last failure of a handler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failed_at: Option<u64>,
    /// The time of the next attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_at: Option<u64>,
    /// The end of the time that counts for [`RetryPolicy::retry_for`]: a quarter of it after the planned attempt. What
    /// passes from then to the next failure is left out: mostly no process ran meanwhile, or the clock was set forward.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts_until: Option<u64>,
    /// Set if all attempts are used up, and the bus writes no dead letters.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_exhausted: bool,
}

/// A handler that failed, and its error.
#[derive(Debug)]
#[non_exhaustive]
pub struct Failure {
    /// The name of the handler.
    pub handler: Name,
    /// The number of its retries; the bus decides if `None`.
    pub retries: Option<u32>,
    /// Why it failed.
    pub error: HandlerError,
}

/// The failure of one handler.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HandlerFailure {
    /// The number of failed attempts.
    pub attempts: u32,
    /// The error of the last attempt.
    pub error: String,
    /// Since when the handler fails, by the clock of the consumer that ran it then. While its database has a fault, or
    /// nothing runs it, this time moves forward, so that neither uses up [`RetryPolicy::retry_for`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Set if the handler is not retried.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gave_up: bool,
    /// The number of consecutive faults of the database, which use up no attempt.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub server_faults: u32,
}

impl HandlerFailure {
    /// Returns `true` if no retry is left, by the handler's own limit or else by the policy's, or if the time for
    /// retries is over.
    fn has_used_up(&mut self, retries: Option<u32>, policy: &RetryPolicy, now: u64) -> bool {
        let since = *self.since.get_or_insert(now);
        let most = retries.or(policy.max_retries);
        most.is_some_and(|most| self.attempts > most) || now.saturating_sub(since) >= millis(policy.retry_for)
    }

    /// Leaves `time` (ms) out of the time for retries.
    fn do_not_count(&mut self, time: u64, now: u64) {
        self.since = self.since.map(|since| since.saturating_add(time).min(now));
    }
}

/// The time since the previous failure, in ms.
#[derive(Clone, Copy)]
struct Elapsed {
    /// All of it.
    passed: u64,
    /// The part after [`DeliveryAttempts::counts_until`].
    idle: u64,
}

/// Returns the most time after a planned attempt that counts as time for retries (ms). So an event that waits while no
/// process runs still has several attempts.
fn longest_pause(policy: &RetryPolicy) -> u64 {
    millis(policy.retry_for) / 4
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The retry delays after a fault of the database, which may last for hours.
const SERVER_FAULT_BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(300));

/// After this many deaths of processes while it ran, an event of a store's handler runs alone.
const PROCESS_ENDS_BEFORE_ALONE: u32 = 3;

/// The number of consecutive process ends, while this event alone was handled, after which it becomes a dead letter.
const MAX_PROCESS_ENDS_ALONE: u32 = 5;

/// The delays of a suspect: they limit how often an event can end its process.
const SUSPECT_BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// The limit for the text of an error, in bytes.
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
    /// Creates the attempts of an entry that cannot be decoded: no handler ever gets it.
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

    /// Creates the attempts of a replayed entry: the handlers in `done` have handled it, the rest run again.
    pub fn replayed(done: Vec<String>) -> Self {
        Self { done, ..Self::default() }
    }

    /// Returns the attempts as JSON, in which stores and buses persist them.
    #[must_use]
    pub fn to_json(&self) -> String {
        // serializing strings, numbers and lists of them cannot fail
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Parses the JSON of [`to_json`](Self::to_json).
    ///
    /// # Errors
    /// If the text is not such JSON.
    pub fn from_json(json: &str) -> Result<Self, BoxError> {
        Ok(from_json(json)?)
    }

    /// Returns `true` if no result of a handler is recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.done.is_empty() && self.failed.is_empty()
    }

    /// Returns `true` if this handler must not run again: it has succeeded or given up.
    #[must_use]
    pub fn is_finished_for(&self, handler: &str) -> bool {
        !self.is_empty()
            && (self.done.iter().any(|done| done == handler)
                || self.failed.get(handler).is_some_and(|failed| failed.gave_up))
    }

    /// Returns `true` if a handler has given up: the entry becomes a dead letter in the end.
    pub(crate) fn has_given_up(&self) -> bool {
        self.failed.values().any(|failed| failed.gave_up)
    }

    /// Returns the handlers that failed, sorted and separated by commas; empty if the entry never reached a handler.
    #[must_use]
    pub fn handlers(&self) -> String {
        let names: Vec<&str> = self.failed.keys().map(String::as_str).filter(|name| !name.is_empty()).collect();
        names.join(",")
    }

    /// Returns the errors of the handlers; if there are several, each begins with the name of its handler.
    #[must_use]
    pub fn errors(&self) -> String {
        let describe = |(name, failed): (&String, &HandlerFailure)| match self.failed.len() {
            1 => failed.error.clone(),
            _ => format!("{name}: {}", failed.error),
        };
        let errors: Vec<String> = self.failed.iter().map(describe).collect();
        errors.join("; ")
    }

    /// Returns the number of failed attempts of the handler that has the most.
    #[must_use]
    pub fn most_attempts(&self) -> u32 {
        self.failed.values().map(|failed| failed.attempts).max().unwrap_or_default()
    }

    /// Records a run in which no handler failed. Returns `true` if none has given up before: the entry is finished.
    pub(crate) fn succeed(&mut self, succeeded: &[Name]) -> bool {
        if !self.has_given_up() {
            return true;
        }
        self.succeeded(succeeded);
        false
    }

    fn succeeded(&mut self, succeeded: &[Name]) {
        for name in succeeded {
            self.failed.remove(name.as_str());
            self.done.push(name.to_string());
        }
        self.done.sort();
    }

    /// Records a run in which handlers failed. Returns the delay before the next attempt; `None` if no attempt is left.
    pub(crate) fn fail(
        &mut self,
        failures: &[Failure],
        succeeded: &[Name],
        policy: &RetryPolicy,
        clock: &SharedClock,
    ) -> Option<Duration> {
        let now = clock.unix_millis();
        self.attempts = self.attempts.saturating_add(1);
        self.reset_process_ends();
        self.first_failed_at = self.first_failed_at.or(Some(now));
        let previous = self.last_failed_at.replace(now);
        // earlier releases did not record it
        let planned = self.next_at.or(previous);
        let counts_until =
            self.counts_until.or_else(|| planned.map(|planned| planned.saturating_add(longest_pause(policy))));
        let idle = now.saturating_sub(counts_until.unwrap_or(now));
        // the end of a process in between counts as the previous failure
        let passed = now.saturating_sub(previous.unwrap_or(now)).max(idle);
        self.succeeded(succeeded);
        let elapsed = Elapsed { passed, idle };
        let delay = failures.iter().filter_map(|failure| self.fail_one(failure, policy, now, elapsed)).max();
        self.next_at = delay.map(|delay| now.saturating_add(millis(delay)));
        self.counts_until = self.next_at.map(|next| next.saturating_add(longest_pause(policy)));
        delay
    }

    /// Records the failure of one handler. Returns its delay; `None` if it gives up.
    fn fail_one(&mut self, failure: &Failure, policy: &RetryPolicy, now: u64, elapsed: Elapsed) -> Option<Duration> {
        let before = self.elsewhere;
        let fresh = || HandlerFailure { attempts: before, ..HandlerFailure::default() };
        let failed = self.failed.entry(failure.handler.to_string()).or_insert_with(fresh);
        failed.error = truncate_error(failure.error.to_string());
        if failure.error.kind() == HandlerErrorKind::ServerFault {
            failed.server_faults = failed.server_faults.saturating_add(1);
            failed.do_not_count(elapsed.passed, now);
            return Some(SERVER_FAULT_BACKOFF.jittered(failed.server_faults));
        }
        failed.server_faults = 0;
        if failure.error.kind() == HandlerErrorKind::NotBegun {
            failed.do_not_count(elapsed.passed, now);
        } else {
            failed.do_not_count(elapsed.idle, now);
            failed.attempts = failed.attempts.saturating_add(1);
            failed.gave_up = failure.error.is_permanent() || failed.has_used_up(failure.retries, policy, now);
        }
        match failure.error.kind() {
            _ if failed.gave_up => None,
            HandlerErrorKind::RetryAfter(delay) => Some(delay.min(LONGEST)),
            _ => Some(policy.jittered(failed.attempts)),
        }
    }

    /// Returns `true` if the entry was in flight when its process ended, and no run has ended since.
    pub(crate) const fn is_suspect(&self) -> bool {
        self.process_ends > 0
    }

    /// Returns `true` if the entry waited when its attempts were last persisted: it was not in flight when its process
    /// ended.
    pub(crate) fn is_waiting(&self, clock: &SharedClock) -> bool {
        // `begin` removes the time of a suspect before it runs; a retry whose time has passed may have run
        self.next_at.is_some_and(|next| self.is_suspect() || next > clock.unix_millis())
    }

    /// Records that the process ended while the entry was in flight. Returns `false` if that happened too often while
    /// this event alone was handled.
    pub(crate) fn note_process_end(&mut self, clock: &SharedClock) -> bool {
        if self.ended_alone >= MAX_PROCESS_ENDS_ALONE {
            return false;
        }
        self.process_ends = self.process_ends.saturating_add(1);
        self.wait_until(clock.unix_millis(), self.suspect_delay());
        true
    }

    /// Records that a process died while the event ran. Returns `false` if that has happened too often while the event ran
    /// alone: it is given up.
    pub(crate) fn note_death(&mut self, now: u64) -> bool {
        if self.ended_alone >= MAX_PROCESS_ENDS_ALONE {
            self.give_up_at(now);
            return false;
        }
        self.process_ends = self.process_ends.saturating_add(1);
        if self.runs_alone() {
            self.wait_until(now, SUSPECT_BACKOFF.delay(self.process_ends - PROCESS_ENDS_BEFORE_ALONE + 1));
        }
        true
    }

    /// Returns `true` if so many processes died while the event ran that it runs alone.
    pub(crate) const fn runs_alone(&self) -> bool {
        self.process_ends >= PROCESS_ENDS_BEFORE_ALONE
    }

    /// Returns for how long the event waits at most for others to end, before it runs beside them.
    pub(crate) fn wait_to_run_alone(&self) -> Duration {
        SUSPECT_BACKOFF.delay(self.process_ends.saturating_sub(PROCESS_ENDS_BEFORE_ALONE) + 1)
    }

    /// Records that the program does not know the version of the event: it waits, which uses up no attempt.
    pub(crate) fn wait_for_newer_program(&mut self, error: &HandlerError, clock: &SharedClock) {
        let now = clock.unix_millis();
        self.reset_process_ends();
        self.first_failed_at = self.first_failed_at.or(Some(now));
        self.last_failed_at = Some(now);
        let error = truncate_error(error.to_string());
        self.failed.insert(String::new(), HandlerFailure { error, ..HandlerFailure::default() });
    }

    /// Returns when the next attempt is due, in milliseconds of the Unix clock.
    pub(crate) const fn due_at(&self) -> Option<u64> {
        self.next_at
    }

    /// Returns the delay before a suspect runs. The suspect then waits as long again, at most, for other deliveries to
    /// end.
    pub(crate) fn suspect_delay(&self) -> Duration {
        SUSPECT_BACKOFF.delay(self.process_ends)
    }

    /// Takes back one count of `ended_alone`: the process was only slow, so the event has not ended it.
    pub(crate) const fn note_slow_consumer(&mut self) {
        self.ended_alone = self.ended_alone.saturating_sub(1);
    }

    /// Records that a suspect begins, alone or beside other deliveries.
    pub(crate) const fn begin(&mut self, is_alone: bool) {
        self.ended_alone += is_alone as u32;
        self.next_at = None;
    }

    /// Reverts [`begin`](Self::begin) of a suspect that did not run, or whose run a shutdown aborted.
    pub(crate) fn undo_begin(&mut self, is_alone: bool, clock: &SharedClock) {
        self.ended_alone = self.ended_alone.saturating_sub(u32::from(is_alone));
        self.wait_until(clock.unix_millis(), Duration::ZERO);
    }

    /// Clears the process ends: a run has ended, and the process lives.
    pub(crate) const fn reset_process_ends(&mut self) {
        (self.process_ends, self.ended_alone) = (0, 0);
    }

    fn wait_until(&mut self, now: u64, delay: Duration) {
        self.last_failed_at = Some(now);
        self.next_at = Some(now.saturating_add(millis(delay)));
    }

    /// Gives up an entry whose process ends whenever its handlers run.
    pub(crate) fn give_up_after_process_ends(&mut self, clock: &SharedClock) {
        self.give_up_at(clock.unix_millis());
    }

    fn give_up_at(&mut self, now: u64) {
        let (now, times) = (Some(now), self.ended_alone);
        let error = format!("the process ended {times} times while this event alone was handled");
        self.failed.insert(
            String::new(),
            HandlerFailure { attempts: times, error, gave_up: true, ..HandlerFailure::default() },
        );
        self.first_failed_at = self.first_failed_at.or(now);
        self.last_failed_at = now;
    }

    /// Returns the time until the next attempt, at most the time between the last failure and that attempt: the clock
    /// of the consumer that recorded them may differ.
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
