//! Rebuilding the rows of one aggregate, in one transaction.

use futures_util::TryStreamExt;
use tokio_util::sync::CancellationToken;

use super::{
    RebuildError,
    feeding::{feed_delivery, watched},
    projected::{Projected, State},
    rebuild::Rebuilt,
    runner::RunWith,
    shadow::ShadowRebuild,
};
use crate::{
    domain::stream::{Position, StreamId, Version},
    port::{Direction, FeedFilter, ReadError, Transaction},
    runtime::{
        definition::{Projection, ProjectionKind},
        tenure::Tenure,
    },
};

impl<P: Projection> Projected<P> {
    /// Writes the rows of one aggregate anew, as they are at the live checkpoint.
    pub(crate) async fn rebuild_stream(
        &self,
        stream: &StreamId,
        with: &RunWith,
        stop: &CancellationToken,
    ) -> Result<Rebuilt, RebuildError> {
        let definition = P::definition();
        let name = definition.name;
        if definition.kind != ProjectionKind::Transactional {
            return Err(RebuildError::NoKey { name });
        }
        let rebuild = ShadowRebuild::new(self, with, stop)?;
        let key = definition.key.ok_or(RebuildError::NoKey { name })?;
        let live = rebuild.seize().await?;
        let rebuilt = rebuild.rows_of(stream, key, &live).await;
        live.give_back().await;
        rebuilt
    }
}

impl<P: Projection> ShadowRebuild<'_, P> {
    async fn rows_of(&self, stream: &StreamId, key: &str, live: &Tenure) -> Result<Rebuilt, RebuildError> {
        let began = self.with.clock.instant();
        let position = self.live_checkpoint(live).await?;
        let mut transaction = self.transactions.begin().await.map_err(|error| self.failed(error))?;
        for table in P::definition().tables {
            let deleted = transaction.delete_rows(table, key, stream.aggregate_id().as_str()).await;
            deleted.map_err(|error| self.failed(error))?;
        }
        let (events, skipped) = self.replay(stream, position, &mut *transaction).await?;
        let advanced = transaction.advance(live.lease(), position, position).await;
        if !advanced.map_err(|error| self.failed(error))? {
            return Err(self.lost());
        }
        transaction.commit().await.map_err(|error| self.failed(error))?;
        Ok(Rebuilt { events, skipped, position, took: self.with.clock.elapsed(began) })
    }

    /// Handles the events of the stream that the live rows include. Returns how many it handled, and how many it skipped.
    async fn replay(
        &self,
        stream: &StreamId,
        through: Position,
        transaction: &mut dyn Transaction,
    ) -> Result<(u64, u64), RebuildError> {
        let definition = P::definition();
        let State::Free(projection) = self.projected.state() else {
            return Ok((0, 0));
        };
        let filter = FeedFilter::from(definition.events);
        let skips = self.projected.skips(&*self.with.store).await.map_err(|error| self.failed(error))?;
        let mut records = self.with.store.read_stream(stream, Version::FIRST, Direction::Forward);
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
                    records = self.with.store.read_stream(stream, version, Direction::Forward);
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
            let delivery = feed_delivery(&definition, record, &self.with.state);
            let projected = projection.project(&delivery, Some(transaction.as_any_mut()));
            let projected =
                watched(&definition, self.projected.activity(), &delivery, projected, &self.with.clock).await;
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
