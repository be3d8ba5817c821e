//! What becomes of a delivery.
//!
//! Keep: only what is settled here is acknowledged. What failed stays pending; the number of its tries is kept in
//! memory.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use eventbus::{Name, port::Outcome};

use crate::bus::Shared;

/// What is to be done with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is done with.
    Acknowledge,
    /// It stays pending.
    Keep,
}

impl Shared {
    /// Counts the outcome of a delivery, and says what is to be done with its entry.
    pub(crate) fn settle(&self, group: &Name, id: &str, outcome: Outcome) -> Verdict {
        match outcome {
            Outcome::Handled { .. } => {
                self.counters.events_processed_success(1);
                Verdict::Acknowledge
            }
            Outcome::Skipped => {
                self.counters.events_skipped(1);
                Verdict::Acknowledge
            }
            Outcome::Failed { failures, .. } => {
                self.counters.handler_errors(failures.len() as u64);
                self.fail(group, id)
            }
            Outcome::Unattended => Verdict::Keep,
            // an outcome that is not known here is not known to be a success
            _ => self.fail(group, id),
        }
    }

    /// Keeps an entry that cannot be handled.
    pub(crate) fn fail(&self, group: &Name, id: &str) -> Verdict {
        self.counters.events_processed_failed(1);
        self.failures.add(group, id);
        Verdict::Keep
    }
}

/// The entries that failed in this process and were not acknowledged since, by group, with the number of tries.
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<HashMap<Name, HashMap<String, u32>>>);

impl Failures {
    fn add(&self, group: &Name, id: &str) {
        let mut failures = self.lock();
        let of_group = failures.entry(group.clone()).or_default();
        *of_group.entry(id.to_owned()).or_default() += 1;
    }

    /// How often an entry was tried in vain.
    pub(crate) fn tries(&self, group: &Name, id: &str) -> u32 {
        let failures = self.lock();
        let tries = failures.get(group).and_then(|of_group| of_group.get(id));
        tries.copied().unwrap_or_default()
    }

    /// How many entries of a group failed.
    pub(crate) fn count(&self, group: &Name) -> u64 {
        self.lock().get(group).map_or(0, |of_group| of_group.len() as u64)
    }

    /// Forgets entries that were acknowledged.
    pub(crate) fn remove(&self, group: &Name, ids: &[String]) {
        if let Some(of_group) = self.lock().get_mut(group) {
            for id in ids {
                of_group.remove(id);
            }
        }
    }

    /// Forgets a group that the server has lost, and with it what was pending.
    pub(crate) fn clear(&self, group: &Name) {
        self.lock().remove(group);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, HashMap<String, u32>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
