//! The source of the pages: a store, a bus, and the app to which these belong.

use std::{fmt, sync::Arc};

use eventbus::{App, Name, clock::SharedClock, port::BoxFuture, store::EventStore};

use super::parts::number;
use crate::{
    connection::OpenBus,
    doctor::Report,
    error::CommandError,
    query::{
        GroupRow, HandlerRow, LagRow, ProjectionRow, RelayRow, list_feed_lags, list_groups, list_handlers, list_lags,
        list_projections, list_relays, progress_of,
    },
};

/// The most dead letters that a page reads.
pub(super) const DEAD_LETTERS_READ_MAX: u64 = 200;

/// Examines the servers as the doctor does, and returns its reports.
pub(crate) type Examine = Box<dyn Fn() -> BoxFuture<'static, Result<Vec<Report>, CommandError>> + Send + Sync>;

/// The source of the pages.
pub(crate) struct DashboardSource {
    store: Option<Arc<dyn EventStore>>,
    bus: OpenBus,
    clock: SharedClock,
    app: Option<App>,
    examine: Option<Examine>,
}

/// The number of dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeadCount {
    pub(super) number: u64,
    /// Set if there are more.
    pub(super) is_cut: bool,
}

/// The rows that store and bus know, or the store alone.
#[derive(Debug, Clone)]
pub(super) struct KnownRows<T> {
    pub(super) rows: Vec<T>,
    /// The error of the bus, if it did not answer.
    pub(super) bus_problem: Option<String>,
}

impl fmt::Display for DeadCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = if self.is_cut { " or more" } else { "" };
        write!(f, "{}{more}", number(self.number))
    }
}

impl DashboardSource {
    pub(crate) fn new(store: Option<Arc<dyn EventStore>>, bus: OpenBus) -> Self {
        Self { store, bus, clock: SharedClock::SYSTEM, app: None, examine: None }
    }

    /// Adds the app whose store and bus these are.
    pub(super) fn of_app(self, app: App) -> Self {
        Self { app: Some(app), ..self }
    }

    /// Adds the doctor of these servers.
    pub(crate) fn with_doctor(self, examine: Examine) -> Self {
        Self { examine: Some(examine), ..self }
    }

    pub(super) const fn app(&self) -> Option<&App> {
        self.app.as_ref()
    }

    pub(super) const fn examine(&self) -> Option<&Examine> {
        self.examine.as_ref()
    }

    pub(super) const fn clock(&self) -> &SharedClock {
        &self.clock
    }

    pub(super) const fn bus(&self) -> &OpenBus {
        &self.bus
    }

    pub(super) fn optional_store(&self) -> Option<&dyn EventStore> {
        self.store.as_deref()
    }

    pub(super) fn store(&self) -> Result<&dyn EventStore, CommandError> {
        let missing = || CommandError::Usage("the dashboard has no store: start it with `--store URL`".into());
        self.optional_store().ok_or_else(missing)
    }

    /// Reads the lags of the readers. While the bus does not answer, reads those that the store knows.
    ///
    /// # Errors
    /// [`CommandError`] if the store cannot be reached.
    pub(super) async fn lags(&self) -> Result<KnownRows<LagRow>, CommandError> {
        let all = list_lags(self.optional_store(), &self.bus, &self.clock).await;
        self.unless_bus_fails(all, async || match self.optional_store() {
            Some(store) => list_feed_lags(store, None, &self.clock).await,
            None => Ok(Vec::new()),
        })
        .await
    }

    pub(super) async fn projections(&self) -> Result<Vec<ProjectionRow>, CommandError> {
        list_projections(self.store()?, &self.clock).await
    }

    /// Lists the relays; while the bus does not answer, with the positions that the leaders saved.
    ///
    /// # Errors
    /// [`CommandError`] if there is no store, or it cannot be reached.
    pub(super) async fn relays(&self) -> Result<KnownRows<RelayRow>, CommandError> {
        let bus = Some(self.bus.as_bus()).filter(|_| !self.bus.is_in_process());
        let all = list_relays(self.store()?, bus, &self.clock).await;
        self.unless_bus_fails(all, async || self.stored_relays().await).await
    }

    /// Lists the relays with the positions that the leaders saved, without asking the bus.
    ///
    /// # Errors
    /// [`CommandError`] if there is no store, or it cannot be reached.
    pub(super) async fn stored_relays(&self) -> Result<Vec<RelayRow>, CommandError> {
        list_relays(self.store()?, None, &self.clock).await
    }

    /// Returns all rows, or, if the bus has failed, those that `of_store` reads without it.
    async fn unless_bus_fails<T>(
        &self,
        all: Result<Vec<T>, CommandError>,
        of_store: impl AsyncFnOnce() -> Result<Vec<T>, CommandError>,
    ) -> Result<KnownRows<T>, CommandError> {
        match all {
            Ok(rows) => Ok(KnownRows { rows, bus_problem: None }),
            Err(error) if self.bus.is_in_process() => Err(error),
            // if the store has failed, it fails here, too
            Err(error) => Ok(KnownRows { rows: of_store().await?, bus_problem: Some(error.to_line()) }),
        }
    }

    /// Lists the handlers of the store; none without a store.
    ///
    /// # Errors
    /// [`CommandError`] if the store cannot be reached.
    pub(super) async fn handlers(&self) -> Result<Vec<HandlerRow>, CommandError> {
        match self.optional_store() {
            Some(store) => list_handlers(store, &self.clock).await,
            None => Ok(Vec::new()),
        }
    }

    /// Pauses a group of handlers, or resumes it.
    ///
    /// # Errors
    /// [`CommandError`] if there is no store with handlers, or it cannot be reached.
    pub(super) async fn set_paused(&self, group: &Name, is_paused: bool) -> Result<(), CommandError> {
        Ok(progress_of(self.store()?)?.set_paused(group, is_paused).await?)
    }

    /// Lists the groups of the bus.
    ///
    /// # Errors
    /// [`CommandError`] if the bus cannot be reached.
    pub(super) async fn groups(&self) -> Result<Vec<GroupRow>, CommandError> {
        list_groups(&self.bus).await
    }

    /// Counts the dead letters; those of the store's handlers, which are rows, up to a few hundred.
    ///
    /// # Errors
    /// [`CommandError`] if the store or the bus cannot be reached.
    pub(super) async fn count_dead(&self) -> Result<DeadCount, CommandError> {
        let of_bus = match self.bus {
            OpenBus::Store(_) => 0,
            _ => self.bus.stream_info().await?.dlq_messages,
        };
        let of_store = match self.optional_store().and_then(|store| store.handler_progress()) {
            Some(progress) => progress.count_dead_rows(DEAD_LETTERS_READ_MAX + 1).await?,
            None => 0,
        };
        let is_cut = of_store > DEAD_LETTERS_READ_MAX;
        Ok(DeadCount { number: of_bus + of_store.min(DEAD_LETTERS_READ_MAX), is_cut })
    }
}
