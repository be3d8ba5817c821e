//! The context of handlers: what their parameters are taken from.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    metrics::Meters,
    repository::{RepositorySource, SnapshotTasks},
};
use crate::{
    domain::clock::SharedClock,
    port::{EventStore, Transactions, app_number::AppNumber, state::StateMap},
};

/// The states, and the store of the transactions, from which handlers take their parameters: made of `&state`, or of
/// `(&state, &store)`.
#[derive(Clone, derive_more::Debug)]
#[debug("HandlerContext {{ state: {state:?}, .. }}")]
pub struct HandlerContext {
    pub(crate) state: StateMap,
    /// The store's transactions, for handlers that take its connection.
    pub(crate) transactions: Option<Arc<dyn Transactions>>,
    /// Cancelled when the app stops.
    pub(crate) stop: CancellationToken,
    pub(crate) clock: SharedClock,
    /// The time in which a transaction must begin; `None` for as long as the app runs.
    pub(crate) begin_within: Option<Duration>,
    /// The number of deliveries that were skipped, as they took effect before.
    pub(crate) skipped: Arc<AtomicU64>,
    /// The app that runs the handlers, if there is one.
    pub(crate) app: Option<AppNumber>,
}

impl From<&StateMap> for HandlerContext {
    /// Creates the context of handlers that take no transaction.
    fn from(state: &StateMap) -> Self {
        Self {
            state: state.clone(),
            transactions: None,
            stop: CancellationToken::new(),
            clock: SharedClock::SYSTEM,
            begin_within: None,
            skipped: Arc::default(),
            app: None,
        }
    }
}

impl<S: EventStore + Clone> From<(&StateMap, &S)> for HandlerContext {
    /// Creates the context of handlers that may take the connection of the store, or repositories on it.
    fn from((state, store): (&StateMap, &S)) -> Self {
        let repositories = RepositorySource {
            store: Arc::new(store.clone()),
            has_relay: false,
            clock: SharedClock::SYSTEM,
            snapshot_tasks: SnapshotTasks::default(),
            first_command: Arc::default(),
            tag_queues: Arc::default(),
            meters: Meters::default(),
        };
        Self { transactions: store.transactions(), ..Self::from(&state.clone().with(repositories)) }
    }
}
