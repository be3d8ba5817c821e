//! The environment of handlers: what their parameters are taken from.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::{
    domain::clock::SharedClock,
    port::{EventStore, StateMap, Transactions},
};

/// The states, transactions and clock that handlers run with.
#[derive(Clone)]
pub(crate) struct HandlerEnvironment {
    pub(crate) state: StateMap,
    /// The store's transactions, for handlers that take its connection.
    pub(crate) transactions: Option<Arc<dyn Transactions>>,
    /// Cancelled when the app stops.
    pub(crate) stop: CancellationToken,
    pub(crate) clock: SharedClock,
}

impl HandlerEnvironment {
    pub(crate) fn without_store(state: &StateMap) -> Self {
        Self { state: state.clone(), transactions: None, stop: CancellationToken::new(), clock: SharedClock::SYSTEM }
    }

    pub(crate) fn with_store(state: &StateMap, store: &impl EventStore) -> Self {
        Self { transactions: store.transactions(), ..Self::without_store(state) }
    }
}
