//! The operator's commands to skip an event in a projection or in the relay.

use std::sync::Arc;

use super::App;
use crate::{
    domain::stream::Position,
    port::relay_to,
    runtime::{
        definition::{Projection, ProjectionKind},
        projection::{AnyProjection, projection_role},
        skip::{SkipEditor, SkipError, SkippedEvent, load_skipped_events},
    },
};

impl App {
    /// Has a projection skip one event for good, which it cannot decode or handle, and go on behind it: for operators.
    /// Returns `false` if it skips the event already; the former reason stays then.
    ///
    /// The store keeps the order with the reason: every process that feeds the projection skips the event, and so do
    /// rebuilds, which [count](crate::Rebuilt::skipped) it. A projection that stopped there goes on within seconds, in
    /// any process; state in memory is folded anew in this process at once, and within minutes in other processes where
    /// it stopped. An event that the projection has handled already stays handled until a rebuild. Handlers and other
    /// projections get the event as before.
    ///
    /// A row that cannot even be read stops a projection with
    /// [`ProjectionError::Damaged`](crate::ProjectionError::Damaged): its text says where the row is.
    ///
    /// # Errors
    /// [`SkipError`]; the projection does not skip the event then, unless it is [`SkipError::Rebuild`].
    ///
    /// # Examples
    /// ```no_run
    /// # use eventbus::{App, ProjectionError, prelude::*};
    /// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// # #[event(aggregate_type = "Account")]
    /// # struct Opened {}
    /// # #[derive(Default)] struct Accounts;
    /// # #[projection(name = "accounts")] impl Accounts { fn opened(&mut self, _event: &Opened) {} }
    /// # async fn example(app: &App) -> eventbus::Result<()> {
    /// for status in app.projections().await? {
    ///     if let Some(ProjectionError::Stopped { position, error, .. }) = status.stopped {
    ///         println!("stopped at {position}: {error}");
    ///         app.skip_event::<Accounts>(position, "imported without an owner, see the incident of May 5").await?;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn skip_event<P: Projection>(&self, position: Position, reason: &str) -> Result<bool, SkipError> {
        let projection = self.projection::<P>()?.inner();
        let is_new = self.skip_editor().skip(&projection_role(P::definition().name), position, reason).await?;
        projection.clear_cached_skips();
        let progress = projection.progress();
        if progress.may_resume_after(position) {
            match P::definition().kind {
                // a method that failed may have changed a part of the state
                ProjectionKind::InMemory if !progress.is_stopped_before_damage() => drop(self.rebuild::<P>().await?),
                _ => drop(progress.resume()),
            }
        }
        Ok(is_new)
    }

    /// Has a projection take an event again that it [skipped](Self::skip_event): rebuild the projection then, if it is
    /// past the event. Returns `false` if it does not skip the event.
    ///
    /// # Errors
    /// [`SkipError`]; the skip stays then.
    pub async fn unskip_event<P: Projection>(&self, position: Position) -> Result<bool, SkipError> {
        let projection = self.projection::<P>()?.inner();
        let was_skipped = self.skip_editor().unskip(&projection_role(P::definition().name), position).await?;
        projection.clear_cached_skips();
        Ok(was_skipped)
    }

    /// Has the relay skip one event for good, which it cannot read or the bus refuses: for operators. Handlers do not
    /// get the event. Returns `false` if the relay skips it already.
    ///
    /// The relay goes on behind it within a minute, in whichever process it runs, and to a bus in the process within
    /// seconds; its [status](crate::RelayStatus::skipped) counts it. A group of a bus in the process that waits for the
    /// event, as the store cannot read it any more, releases it within seconds.
    ///
    /// # Errors
    /// [`SkipError`]; the relay does not skip the event then.
    pub async fn skip_published_event(&self, position: Position, reason: &str) -> Result<bool, SkipError> {
        self.skip_editor().skip(&relay_to(self.0.bus.destination()), position, reason).await
    }

    /// Has the relay publish an event that it skipped, if it is not past it; [`republish`](Self::republish) sets the
    /// relay back. Returns `false` if the relay does not skip the event.
    ///
    /// # Errors
    /// [`SkipError`]; the skip stays then.
    pub async fn unskip_published_event(&self, position: Position) -> Result<bool, SkipError> {
        self.skip_editor().unskip(&relay_to(self.0.bus.destination()), position).await
    }

    /// Returns the events that projections of this app and the relay to its bus skip, with process, time and reason of
    /// each order.
    ///
    /// # Errors
    /// [`SkipError`] if the store cannot be read.
    pub async fn skipped_events(&self) -> Result<Vec<SkippedEvent>, SkipError> {
        let names =
            self.0.projections.iter().map(AnyProjection::definition).map(|definition| projection_role(definition.name));
        let readers = names.chain([relay_to(self.0.bus.destination())]);
        let mut events = Vec::new();
        for reader in readers {
            events.extend(load_skipped_events(&*self.0.store, &reader).await?);
        }
        Ok(events)
    }

    fn skip_editor(&self) -> SkipEditor {
        let context = &self.0.tasks.runner_context;
        SkipEditor { store: Arc::clone(&self.0.store), owner: context.owner.clone(), clock: context.clock.clone() }
    }
}
