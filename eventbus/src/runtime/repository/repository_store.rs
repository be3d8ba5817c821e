//! The store of a repository. In a handler its saves wait for the end of the handler, and its reads show them.

use std::{future::ready, sync::Arc};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::{
    domain::{
        record::{NewEvent, RecordedEvent},
        stream::{ExpectedVersion, StreamId, Version},
    },
    port::{
        Append, AppendError, Direction, EventStore, ReadError, RecordStream, Snapshots,
        handler_saves::HandlerSaves,
        multi_stream_append::{Handled, HandledCommand, MultiStreamAppend, MultiStreamOutcome},
        visited_event::{VisitEvent, visit_records},
    },
    support::{check_events, check_ids, check_indexes},
};

#[derive(Clone)]
pub(super) struct RepositoryStore {
    store: Arc<dyn EventStore>,
    /// The saves of the handler, if the repository belongs to a handler.
    saves: Option<Arc<HandlerSaves>>,
}

impl RepositoryStore {
    pub(super) const fn new(store: Arc<dyn EventStore>) -> Self {
        Self { store, saves: None }
    }

    /// Returns the same store for the repository of a handler.
    pub(super) fn in_handler(&self, saves: Arc<HandlerSaves>) -> Self {
        Self { saves: Some(saves), ..self.clone() }
    }

    /// Returns the same store outside of the handler: it shows what is stored.
    pub(super) fn outside_of_handler(&self) -> Self {
        Self { saves: None, ..self.clone() }
    }

    pub(super) const fn is_in_handler(&self) -> bool {
        self.saves.is_some()
    }

    pub(super) const fn as_port(&self) -> &Arc<dyn EventStore> {
        &self.store
    }

    /// Returns the number of moments so far at which an older copy may have replaced the store.
    pub(super) fn possible_restores(&self) -> u64 {
        self.store.appended().possible_restores()
    }

    pub(super) async fn append(
        &self,
        stream: &StreamId,
        version: Version,
        events: Vec<NewEvent>,
    ) -> Result<Vec<RecordedEvent>, AppendError> {
        check_indexes(&*self.store, stream, &events)?;
        match &self.saves {
            Some(saves) => {
                check_ids(stream, &events)?;
                check_events(stream, &events)?;
                saves.add(stream, version, events)
            }
            None => self.store.append(stream, ExpectedVersion::Exact(version), events).await,
        }
    }

    /// In a handler, returns a conflict if a stream that is to be created has events. Otherwise only the append after the
    /// handler's end would find them, where the handler cannot react. If the read fails, that append decides.
    pub(super) async fn check_is_new(&self, stream: &StreamId) -> Result<(), AppendError> {
        // `HandlerSaves::add` finds a conflict with the handler's own saves
        if !self.is_in_handler() || self.has_saved(stream) {
            return Ok(());
        }
        match self.store.stream_version(stream).await {
            Ok(actual) if actual > Version::NONE => {
                Err(AppendError::Conflict { stream: stream.clone(), expected: ExpectedVersion::NoStream, actual })
            }
            _ => Ok(()),
        }
    }

    /// Appends, and notes the command in the same commit; returns `None` if a command with its key took effect before.
    pub(super) async fn append_handling(
        &self,
        stream: &StreamId,
        version: Version,
        events: Vec<NewEvent>,
        command: &HandledCommand,
    ) -> Result<Option<Vec<RecordedEvent>>, AppendError> {
        check_indexes(&*self.store, stream, &events)?;
        let Some(port) = self.store.multi_stream_appends() else {
            let source = "the store notes no commands".into();
            return Err(AppendError::Refused { stream: stream.clone(), source });
        };
        let append = Append { stream: stream.clone(), expected: ExpectedVersion::Exact(version), events };
        let handled = Some(Handled::Command(command.clone()));
        match port.append_streams(MultiStreamAppend { appends: vec![append], handled, condition: None }).await? {
            MultiStreamOutcome::Appended(records) => Ok(Some(records.into_iter().flatten().collect())),
            MultiStreamOutcome::AlreadyHandled => Ok(None),
        }
    }

    pub(super) fn read_stream(&self, stream: &StreamId, from: Version) -> RecordStream<'_> {
        self.with_own(stream, from, self.store.read_stream(stream, from, Direction::Forward))
    }

    /// Adds what the handler has saved to the stored events of a stream from version `from` on.
    pub(super) fn with_own<'s>(&self, stream: &StreamId, from: Version, stored: RecordStream<'s>) -> RecordStream<'s> {
        let Some(own) = self.saves.as_ref().and_then(|saves| saves.of_stream(stream)) else {
            return stored;
        };
        let before = own.before;
        let stored = stored.try_take_while(move |record| ready(Ok(record.version() <= before)));
        let own = own.records.into_iter().filter(move |record| record.version() >= from);
        stored.chain(stream::iter(own.map(Ok))).boxed()
    }

    /// Visits the events of a stream, from the first one on.
    pub(super) async fn visit_stream(&self, stream: &StreamId, visit: &mut VisitEvent<'_>) -> Result<(), ReadError> {
        if self.has_saved(stream) {
            return visit_records(self.read_stream(stream, Version::FIRST), visit).await;
        }
        self.store.visit_stream(stream, Version::FIRST, visit).await
    }

    pub(super) async fn stream_version(&self, stream: &StreamId) -> Result<Version, ReadError> {
        match self.saves.as_ref().and_then(|saves| saves.of_stream(stream)) {
            Some(own) => Ok(own.version()),
            None => self.store.stream_version(stream).await,
        }
    }

    pub(super) fn snapshots(&self) -> Option<&dyn Snapshots> {
        self.store.snapshots()
    }

    /// Returns the version that the stream had before the handler saved to it; `None` if it has not.
    pub(super) fn version_before_saves(&self, stream: &StreamId) -> Option<Version> {
        self.saves.as_ref()?.version_before(stream)
    }

    /// Returns `true` if the handler has saved to the stream.
    fn has_saved(&self, stream: &StreamId) -> bool {
        self.version_before_saves(stream).is_some()
    }

    /// Does `task` now; in a handler once its saves are stored.
    pub(super) fn after_commit(&self, task: impl FnOnce() + Send + 'static) {
        match &self.saves {
            Some(saves) => saves.after_commit(task),
            None => task(),
        }
    }
}
