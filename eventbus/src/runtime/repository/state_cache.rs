//! The states of aggregates that a repository keeps between its loads.
//!
//! Invariant: a kept state is the fold of the stored events, decoded as a load decodes them; never that of events as
//! they were recorded, which may decode to other values.

use std::{num::NonZeroUsize, sync::Arc};

use lru::LruCache;
use parking_lot::Mutex;

use crate::domain::{
    metadata::EventId,
    stream::{StreamId, Version},
};

/// The states of a bounded number of aggregates, those that were used last.
pub(super) struct StateCache<A> {
    /// The lock keeps the order of use and the states together; no state is copied or dropped within it.
    states: Mutex<LruCache<StreamId, CachedState<A>>>,
    clone: fn(&A) -> A,
}

/// The state of an aggregate at a version.
pub(super) struct CachedState<A> {
    pub(super) state: Arc<A>,
    pub(super) version: Version,
    /// The event of the version: a stream in which another event has it is not the same any more.
    pub(super) event_id: EventId,
}

impl<A> StateCache<A> {
    /// Creates a cache for up to `capacity` states.
    pub(super) fn new(capacity: NonZeroUsize) -> Self
    where
        A: Clone,
    {
        Self { states: Mutex::new(LruCache::new(capacity)), clone: A::clone }
    }

    /// Returns the state of an aggregate.
    pub(super) fn get(&self, stream: &StreamId) -> Option<CachedState<A>> {
        let mut states = self.states.lock();
        let CachedState { state, version, event_id } = states.get(stream)?;
        Some(CachedState { state: Arc::clone(state), version: *version, event_id: *event_id })
    }

    /// Keeps a state, unless that of a later version is there.
    pub(super) fn put(&self, stream: StreamId, state: CachedState<A>) {
        let mut states = self.states.lock();
        let is_newer = states.peek(&stream).is_none_or(|kept| kept.version < state.version);
        let dropped = if is_newer { states.push(stream, state) } else { Some((stream, state)) };
        // a state is dropped without the lock: it may be large
        drop(states);
        drop(dropped);
    }

    /// Takes the state of an aggregate out, if it is that of a version.
    pub(super) fn take_at(&self, stream: &StreamId, version: Version) -> Option<CachedState<A>> {
        let mut states = self.states.lock();
        states.peek(stream).filter(|kept| kept.version == version)?;
        states.pop(stream)
    }

    /// Forgets the state of an aggregate.
    pub(super) fn remove(&self, stream: &StreamId) {
        let removed = self.states.lock().pop(stream);
        drop(removed);
    }

    /// Returns a copy of a state.
    pub(super) fn copy(&self, state: &A) -> A {
        (self.clone)(state)
    }
}
