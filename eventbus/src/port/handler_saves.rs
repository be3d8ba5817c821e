//! The saves of a handler during a delivery: they are stored together when the handler has ended, none before.
//!
//! Invariant: of a stream that it has saved to, the handler reads the stored events up to the version before its first
//! save, then its own events. If other writers store events meanwhile, the handler's end is a conflict.

use std::{collections::BTreeMap, fmt, mem};

use parking_lot::Mutex;

use super::{Append, AppendError};
use crate::domain::{
    record::{NewEvent, RecordedEvent},
    stream::{ExpectedVersion, StreamId, Version},
};

/// The saves of one run of a handler.
#[derive(Default)]
pub(crate) struct HandlerSaves(Mutex<Saves>);

#[derive(Default)]
struct Saves {
    by_stream: BTreeMap<StreamId, StreamSaves>,
    after_commit: Vec<AfterCommit>,
    has_ended: bool,
}

/// The saves of a handler to one stream.
#[derive(Debug, Clone)]
pub(crate) struct StreamSaves {
    /// The version of the stream before these saves.
    pub(crate) before: Version,
    events: Vec<NewEvent>,
    /// The events as they are recorded, without positions.
    pub(crate) records: Vec<RecordedEvent>,
}

/// A task to run once the saves are stored.
pub(crate) type AfterCommit = Box<dyn FnOnce() + Send>;

/// The handler has ended, and its saves are stored or dropped.
#[derive(Debug, thiserror::Error)]
#[error("the handler has ended: a task that it leaves behind saves with a repository of the app, `app.repository()`")]
struct HandlerHasEnded;

impl StreamSaves {
    /// Returns the version of the stream with these events.
    pub(crate) fn version(&self) -> Version {
        self.before.plus(self.events.len())
    }
}

impl HandlerSaves {
    /// Keeps events for a stream at this version; they have passed the checks of all stores.
    pub(crate) fn add(
        &self,
        stream: &StreamId,
        version: Version,
        events: Vec<NewEvent>,
    ) -> Result<Vec<RecordedEvent>, AppendError> {
        let mut saves = self.0.lock();
        if saves.has_ended {
            return Err(AppendError::Refused { stream: stream.clone(), source: HandlerHasEnded.into() });
        }
        let of_stream = saves.by_stream.entry(stream.clone()).or_insert_with(|| StreamSaves {
            before: version,
            events: Vec::new(),
            records: Vec::new(),
        });
        let actual = of_stream.version();
        if actual != version {
            let expected = ExpectedVersion::Exact(version);
            return Err(AppendError::Conflict { stream: stream.clone(), expected, actual });
        }
        let versions = (1..).map(|number| version.plus(number));
        let records = events.iter().zip(versions).map(|(event, version)| {
            // without a position: the store gives it at the end
            event.clone().recorded_as(stream.clone(), version, None)
        });
        let records: Vec<_> = records.collect();
        of_stream.records.extend_from_slice(&records);
        of_stream.events.extend(events);
        Ok(records)
    }

    /// Returns what the handler has saved to a stream.
    pub(crate) fn of_stream(&self, stream: &StreamId) -> Option<StreamSaves> {
        self.0.lock().by_stream.get(stream).cloned()
    }

    /// Returns the version that a stream had before the handler saved to it; `None` if it has not.
    pub(crate) fn version_before(&self, stream: &StreamId) -> Option<Version> {
        self.0.lock().by_stream.get(stream).map(|saves| saves.before)
    }

    /// Runs `task` once the saves are stored; never if they are not.
    pub(crate) fn after_commit(&self, task: impl FnOnce() + Send + 'static) {
        self.0.lock().after_commit.push(Box::new(task));
    }

    /// Refuses further saves. Returns the saves so far, by stream, and the tasks to run once they are stored.
    pub(crate) fn end(&self) -> (Vec<Append>, Vec<AfterCommit>) {
        let mut saves = self.0.lock();
        saves.has_ended = true;
        let appends =
            mem::take(&mut saves.by_stream).into_iter().map(|(stream, StreamSaves { before, events, .. })| Append {
                stream,
                expected: ExpectedVersion::Exact(before),
                events,
            });
        (appends.collect(), mem::take(&mut saves.after_commit))
    }
}

impl fmt::Debug for HandlerSaves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.lock().by_stream.keys()).finish()
    }
}
