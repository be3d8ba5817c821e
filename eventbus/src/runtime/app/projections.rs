//! The status of an app's projections, and the operator's commands to them.

use super::App;
use crate::{
    domain::stream::StreamId,
    port::ReadError,
    runtime::{
        definition::{Projection, ProjectionKind},
        projection::{
            AnyProjection, ProjectionError, ProjectionHandle, ProjectionStatus, Rebuild, RebuildError, Rebuilt,
            accept_missed_events, rebuild_aggregate, rebuild_in_app,
        },
    },
};

impl App {
    /// Returns the status of each projection of the app, sorted by name. For a projection with tables it shows a
    /// rebuild in any process; only their callers know of other rebuilds.
    ///
    /// # Errors
    /// [`ReadError`] if the store cannot be read.
    pub async fn projections(&self) -> Result<Vec<ProjectionStatus>, ReadError> {
        let store = &*self.0.store;
        let head = store.head().await?;
        let mut statuses = Vec::with_capacity(self.0.projections.len());
        for projection in &self.0.projections {
            statuses.push(projection.load_status(store, head).await?);
        }
        Ok(statuses)
    }

    /// Rebuilds a projection from zero while the app runs, see [`RebuildProgress`](crate::RebuildProgress) for a bar.
    ///
    /// - State in memory: the rebuild folds a new instance beside the old one, which serves reads until it is replaced.
    ///   Drop the projection's guards before: the new state waits for them, at most for the builder's `wait_timeout`.
    /// - Rows in the store's transaction: the rebuild fills copies of the projection's `tables(..)` while the live ones
    ///   serve and go on; when the copies have caught up, it replaces the rows in one transaction. A rebuild that ends
    ///   early leaves the live rows as they were; calling this again goes on where it was. Methods that changed since
    ///   then need a new `version = ..` in the attribute, which begins at zero.
    /// - Rows elsewhere: the app's own instance handles every event again, also after the caller has dropped the
    ///   future. Only the process that feeds the projection can do that.
    ///
    /// # Examples
    /// ```no_run
    /// # use eventbus::{App, prelude::*};
    /// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// # #[event(aggregate_type = "Account")]
    /// # struct Opened {}
    /// # #[derive(Default)] struct Accounts;
    /// # #[projection(name = "accounts")] impl Accounts { fn opened(&mut self, _event: &Opened) {} }
    /// # async fn example(app: &App) -> eventbus::Result<()> {
    /// app.rebuild::<Accounts>().on_progress(|now| println!("{now}")).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RebuildError`]; reads still see the former state.
    pub fn rebuild<P: Projection>(&self) -> Rebuild<'_, Rebuilt> {
        Rebuild::new(move |report| {
            Box::pin(async move {
                let (handle, tasks) = (self.find_handle::<P>()?, &self.0.tasks);
                rebuild_in_app(handle.inner(), &tasks.runner_context, tasks.stop(), report, self.0.wait_timeout).await
            })
        })
    }

    /// Writes the rows of one aggregate anew, for projections whose attribute has `tables(..)` and `key = ".."`.
    ///
    /// One transaction deletes its rows from every table and handles its events again up to the projection's position,
    /// so no reader sees it without rows. The projection pauses meanwhile. Events that an operator had skipped are left
    /// out and counted, also those that cannot be read.
    ///
    /// The rebuild finds the rows by the id alone: where the tables hold aggregates of several types, no two of them
    /// may have the same id, or it deletes the rows of the other aggregate and does not write them again.
    ///
    /// # Errors
    /// [`RebuildError`]; the rows then stay as they were.
    pub async fn rebuild_aggregate<P: Projection>(&self, stream: &StreamId) -> Result<Rebuilt, RebuildError> {
        let tasks = &self.0.tasks;
        rebuild_aggregate(self.find_handle::<P>()?.inner(), &tasks.runner_context, tasks.stop(), stream).await
    }

    /// Has a projection that stopped at an event retry it, once its cause is repaired. Returns `false` if it had not
    /// stopped.
    ///
    /// # Errors
    /// [`ProjectionError::NotRunning`] if the app has no such projection; [`ProjectionError::InMemory`] for state in
    /// memory: rebuild it instead.
    pub fn resume_projection<P: Projection>(&self) -> Result<bool, ProjectionError> {
        let handle = self.projection::<P>()?;
        let definition = P::definition();
        if definition.kind == ProjectionKind::InMemory {
            return Err(ProjectionError::InMemory { name: definition.name });
        }
        Ok(handle.inner().progress().resume())
    }

    /// Has a projection go on that stopped with [`ProjectionError::MissedEvents`], because its rows are right: no row
    /// depends on the missed events, or an operator has corrected the rows by hand. For operators; the log gets
    /// `reason`. Returns `false` if the store has no note of missed events.
    ///
    /// The store keeps the decision: no process stops for these events any more, and none rebuilds the rows for them.
    ///
    /// # Errors
    /// [`RebuildError::NotRunning`] if the app has no such projection, [`RebuildError::Store`] if the store cannot be
    /// reached.
    pub async fn accept_missed_events<P: Projection>(&self, reason: &str) -> Result<bool, RebuildError> {
        let tasks = &self.0.tasks;
        let is_news =
            accept_missed_events(self.find_handle::<P>()?.inner(), &tasks.runner_context, tasks.stop()).await?;
        if is_news {
            tracing::warn!(
                projection = P::definition().name,
                reason,
                "the rows are accepted without the events that an older release passed by"
            );
        }
        Ok(is_news)
    }

    fn find_handle<P: Projection>(&self) -> Result<&ProjectionHandle<P>, RebuildError> {
        let projection: Result<&AnyProjection, _> = self.find_projection::<P>();
        let handle =
            projection.and_then(|projection| projection.downcast::<P>().ok_or_else(|| self.not_running::<P>()));
        handle.map_err(RebuildError::from)
    }
}
