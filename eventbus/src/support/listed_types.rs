//! The event types that a process knows to be listed in its store.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::RwLock;

use crate::domain::{name::Name, record::NewEvent};

/// The event types that this process knows to be listed in its store, so that no append lists them again.
///
/// # Examples
/// ```
/// use eventbus::{Name, NewEvent, support::ListedEventTypes};
///
/// let listed = ListedEventTypes::default();
/// let deposited = NewEvent::new(Name::from_static("Deposited"), 2, "{}");
/// assert!(!listed.has(&deposited));
/// listed.add(deposited.event_type(), 2); // once the append is committed
/// assert!(listed.has(&deposited));
/// assert!(!listed.has(&NewEvent::new(Name::from_static("Deposited"), 3, "{}")));
/// ```
#[derive(Debug, Default)]
pub struct ListedEventTypes {
    /// Locked: concurrent appends read it, and each commit may add to it.
    types: RwLock<HashMap<Name, u32>>,
    /// The number of possible restores at the last [`forget_after`](Self::forget_after).
    possible_restores: AtomicU64,
}

impl ListedEventTypes {
    /// Returns `true` if the type of `event` is listed with its schema version, or a higher one.
    #[must_use]
    pub fn has(&self, event: &NewEvent) -> bool {
        self.has_all([event])
    }

    /// Returns `true` if [`has`](Self::has) returns `true` for each of `events`.
    #[must_use]
    pub fn has_all<'e>(&self, events: impl IntoIterator<Item = &'e NewEvent>) -> bool {
        let listed = self.types.read();
        events
            .into_iter()
            .all(|event| listed.get(event.event_type()).is_some_and(|&version| version >= event.schema_version()))
    }

    /// Adds a listed type; call it only after the commit of the transaction that listed it.
    pub fn add(&self, event_type: &Name, schema_version: u32) {
        let mut listed = self.types.write();
        let known = listed.entry(event_type.clone()).or_default();
        *known = schema_version.max(*known);
    }

    /// Adds the types of events whose append is committed.
    pub fn add_all<'e>(&self, events: impl IntoIterator<Item = &'e NewEvent>) {
        for event in events {
            if !self.has(event) {
                self.add(event.event_type(), event.schema_version());
            }
        }
    }

    /// Forgets all types if the number of [possible restores](crate::port::AppendSignal::possible_restores) has changed
    /// since the last call: an older copy may not list them.
    pub fn forget_after(&self, possible_restores: u64) {
        if self.possible_restores.load(Ordering::Acquire) != possible_restores {
            self.types.write().clear();
            self.possible_restores.store(possible_restores, Ordering::Release);
        }
    }
}
