//! What can be asked of, and done to, the projections of an app.

use super::App;
use crate::{
    domain::stream::StreamId,
    port::ReadError,
    runtime::{
        definition::{Projection, ProjectionKind},
        projection::{
            AnyProjection, ProjectionError, ProjectionHandle, ProjectionStatus, Rebuild, RebuildError, Rebuilt,
        },
    },
};

impl App {
    /// How each projection of the app is doing, sorted by name; of one with tables also who rebuilds it, in whichever
    /// process. Other rebuilds are known to their callers only.
    ///
    /// # Errors
    /// [`ReadError`] if the store cannot be asked.
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
    /// - State in memory: a new instance is folded beside the old one, which is read until it is replaced. Let go of the
    ///   projection's guards before: the new state waits for them, at most for the builder's `wait_timeout`.
    /// - Rows in the store's transaction: copies of the projection's `tables(..)` are filled while the live ones serve and
    ///   go on; when they have caught up, the rows are replaced in one transaction. A rebuild that ended early, in whatever
    ///   way, left the live rows as they were; calling this again goes on where it was. Methods that changed since then
    ///   need a new `version = ..` in the attribute, which begins at zero.
    /// - Rows somewhere else: every event is handled again, through the instance that the app has, also if nobody waits
    ///   for it any more. Only the process that feeds the projection can do that.
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
    /// [`RebuildError`]; what was read before is read still.
    pub fn rebuild<P: Projection>(&self) -> Rebuild<'_, Rebuilt> {
        Rebuild::new(move |report| {
            Box::pin(async move {
                let (handle, tasks) = (self.find_handle::<P>()?, &self.0.tasks);
                handle.rebuild_in_app(&tasks.runner_context, tasks.stop(), report, self.0.wait_timeout).await
            })
        })
    }

    /// Writes the rows of one aggregate anew, for projections whose attribute has `tables(..)` and `key = ".."`.
    ///
    /// In one transaction its rows are deleted from every table, and its events are handled again up to where the
    /// projection is; nobody sees it without rows. The projection stands still meanwhile. Events that an operator had
    /// skipped are left out and counted, also those that cannot be read.
    ///
    /// The rows are found by the id alone: where the tables hold aggregates of several types, no two of them may have the
    /// same id, or the rows of the other one are deleted and not written again.
    ///
    /// # Errors
    /// [`RebuildError`]; its rows then are what they were.
    pub async fn rebuild_aggregate<P: Projection>(&self, stream: &StreamId) -> Result<Rebuilt, RebuildError> {
        let tasks = &self.0.tasks;
        self.find_handle::<P>()?.rebuild_stream(stream, &tasks.runner_context, tasks.stop()).await
    }

    /// Lets a projection that stopped at an event try it again, when what was wrong with it is mended. False: it had not
    /// stopped.
    ///
    /// # Errors
    /// [`ProjectionError::NotRunning`] if the app has no such projection; [`ProjectionError::InMemory`] for state in
    /// memory, which is to be rebuilt instead.
    pub fn resume_projection<P: Projection>(&self) -> Result<bool, ProjectionError> {
        let handle = self.projection::<P>()?;
        let definition = P::definition();
        if definition.kind == ProjectionKind::InMemory {
            return Err(ProjectionError::InMemory { name: definition.name });
        }
        Ok(handle.resume())
    }

    /// Has a projection go on that stopped with [`ProjectionError::MissedEvents`], as its rows are right: nothing in them comes
    /// from the events that were passed by, or somebody made up for them by hand. For operators; `reason` is logged. Returns
    /// `false` if nothing is noted as passed by.
    ///
    /// The store keeps it: no process stops for these events any more, and none rebuilds the rows for them.
    ///
    /// # Errors
    /// [`RebuildError::NotRunning`] if the app has no such projection, [`RebuildError::Store`] if the store cannot be asked.
    pub async fn accept_missed_events<P: Projection>(&self, reason: &str) -> Result<bool, RebuildError> {
        let tasks = &self.0.tasks;
        let is_news = self.find_handle::<P>()?.accept_missed_events(&tasks.runner_context, tasks.stop()).await?;
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
