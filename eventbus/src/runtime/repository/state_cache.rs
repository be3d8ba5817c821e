//! The states of aggregates that a repository keeps between its loads.
//!
//! Invariant: a kept state is the fold of the stored events, decoded as a load decodes them. It is never folded from
//! events as they were recorded, which may decode to other values.
//!
//! Invariant: a state that was kept before a [possible restore](crate::port::AppendSignal::possible_restores) of the store
//! is not used after it: the store may have lost its last events, and have others of the same versions by now.

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
    /// The event of the version: if another event has the version, the stream is not the same any more.
    pub(super) event_id: EventId,
    /// The number of possible restores of the store before the state was read.
    pub(super) restores: u64,
}

impl<A> StateCache<A> {
    /// Creates a cache for up to `capacity` states.
    pub(super) fn new(capacity: NonZeroUsize) -> Self
    where
        A: Clone,
    {
        // `LruCache::new` would take the memory for all of them at once
        let mut states = LruCache::unbounded();
        states.resize(capacity);
        Self { states: Mutex::new(states), clone: A::clone }
    }

    /// Returns the state of an aggregate, if it was kept when the store had counted `restores` possible restores.
    pub(super) fn get(&self, stream: &StreamId, restores: u64) -> Option<CachedState<A>> {
        let mut states = self.states.lock();
        let kept = states.get(stream).filter(|kept| kept.restores == restores)?;
        Some(CachedState { state: Arc::clone(&kept.state), ..*kept })
    }

    /// Keeps a state, unless the state of a later version is there.
    pub(super) fn put(&self, stream: StreamId, state: CachedState<A>) {
        let mut states = self.states.lock();
        let age = |state: &CachedState<A>| (state.restores, state.version);
        let is_newer = states.peek(&stream).is_none_or(|kept| age(kept) < age(&state));
        let dropped = if is_newer { states.push(stream, state) } else { Some((stream, state)) };
        // a state is dropped without the lock: it may be large
        drop(states);
        drop(dropped);
    }

    /// Takes the state of an aggregate out, if it has this version and was kept when the store had counted `restores`
    /// possible restores.
    pub(super) fn take_at(&self, stream: &StreamId, version: Version, restores: u64) -> Option<CachedState<A>> {
        let mut states = self.states.lock();
        states.peek(stream).filter(|kept| kept.version == version && kept.restores == restores)?;
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
