//! Rebuilding the rows of one aggregate, in one transaction.

use futures_util::TryStreamExt;
use tokio_util::sync::CancellationToken;

use super::{
    RebuildError,
    context::RunnerContext,
    event_handling::{feed_delivery, run_watched},
    handle::{ProjectionHandle, ProjectionState},
    rebuild_progress::Rebuilt,
    shadow_rebuild::ShadowRebuild,
};
use crate::{
    domain::stream::{Position, StreamId, Version},
    port::{Direction, FeedFilter, ReadError, Transaction},
    runtime::{
        definition::{Projection, ProjectionKind},
        held_lease::HeldLease,
    },
};

impl<P: Projection> ProjectionHandle<P> {
    /// Writes the rows of one aggregate anew, as they are at the live checkpoint.
    pub(crate) async fn rebuild_stream(
        &self,
        stream: &StreamId,
        context: &RunnerContext,
        stop: &CancellationToken,
    ) -> Result<Rebuilt, RebuildError> {
        let definition = P::definition();
        let name = definition.name;
        if definition.kind != ProjectionKind::Transactional {
            return Err(RebuildError::NoKey { name });
        }
        let rebuild = ShadowRebuild::new(self, context, stop)?;
        let key = definition.key.ok_or(RebuildError::NoKey { name })?;
        let live_lease = rebuild.seize_live_lease().await?;
        let rebuilt = rebuild.rebuild_rows(stream, key, &live_lease).await;
        live_lease.release().await;
        rebuilt
    }
}

impl<P: Projection> ShadowRebuild<'_, P> {
    async fn rebuild_rows(
        &self,
        stream: &StreamId,
        key: &str,
        live_lease: &HeldLease,
    ) -> Result<Rebuilt, RebuildError> {
        let began = self.context.clock.instant();
        let position = self.load_live_checkpoint(live_lease).await?;
        let mut transaction = self.transactions.begin().await.map_err(|error| self.store_error(error))?;
        for table in P::definition().tables {
            let deleted = transaction.delete_rows(table, key, stream.aggregate_id().as_str()).await;
            deleted.map_err(|error| self.store_error(error))?;
        }
        let (events, skipped) = self.replay_stream(stream, position, &mut *transaction).await?;
        // moves no checkpoint: fails if the lease was lost, or a different process moved the checkpoint
        let advanced = transaction.advance(live_lease.lease(), position, position).await;
        if !advanced.map_err(|error| self.store_error(error))? {
            return Err(self.lost_error());
        }
        transaction.commit().await.map_err(|error| self.store_error(error))?;
        Ok(Rebuilt { events, skipped, position, took: self.context.clock.elapsed(began) })
    }

    /// Handles the events of the stream that the live rows include. Returns the numbers of handled and skipped events.
    async fn replay_stream(
        &self,
        stream: &StreamId,
        through: Position,
        transaction: &mut dyn Transaction,
    ) -> Result<(u64, u64), RebuildError> {
        let definition = P::definition();
        let ProjectionState::Unlocked(projection) = self.handle.state() else {
            return Ok((0, 0));
        };
        let filter = FeedFilter::from(definition.events);
        let skips = self.handle.skips(&*self.context.store).await.map_err(|error| self.store_error(error))?;
        let mut records = self.context.store.read_stream(stream, Version::FIRST, Direction::Forward);
        let (mut events, mut skipped) = (0, 0);
        let (mut version, mut last) = (Version::FIRST, Position::START);
        loop {
            let record = match records.try_next().await {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(ReadError::Corrupt { position: Some(position), .. }) if position > through => break,
                Err(ReadError::Corrupt { position: Some(position), .. })
                    if position > last && skips.contains(&position) =>
                {
                    skipped += 1;
                    (version, last) = (version.next(), position);
                    records = self.context.store.read_stream(stream, version, Direction::Forward);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let position = record.position().unwrap_or(Position::START);
            if position > through {
                break;
            }
            (version, last) = (record.version().next(), position);
            if !filter.matches(&record) {
                continue;
            }
            if skips.contains(&position) {
                skipped += 1;
                continue;
            }
            let delivery = feed_delivery(&definition, record, &self.context.state);
            let projected = projection.project(&delivery, Some(transaction.as_any_mut()));
            let projected =
                run_watched(&definition, self.handle.activity(), &delivery, projected, &self.context.clock).await;
            projected.map_err(|error| RebuildError::Failed {
                name: definition.name,
                position,
                error: error.to_string(),
            })?;
            events += 1;
        }
        Ok((events, skipped))
    }
}
