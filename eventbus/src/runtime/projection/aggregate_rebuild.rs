//! Rebuilding the rows of one aggregate, in one transaction.

use futures_util::TryStreamExt;
use tokio_util::sync::CancellationToken;

use super::{
    RebuildError,
    context::{RunnerContext, projection_role},
    event_handling::{BATCH_EVENTS_MAX, count_of_next_call, feed_delivery},
    fed_projection::FedProjection,
    rebuild_progress::Rebuilt,
    shadow_rebuild::transactions_for_rows,
    store_check::check_no_event_is_missing,
};
use crate::{
    domain::{
        record::RecordedEvent,
        stream::{Position, StreamId, Version},
    },
    port::{Direction, FeedFilter, ReadError, Transaction, Transactions},
    runtime::{definition::ProjectionKind, held_lease::HeldLease},
    support::PAGE_BYTES,
};

/// Writes the rows of one aggregate anew, as they are at the live checkpoint.
pub(crate) async fn rebuild_aggregate(
    inner: &dyn FedProjection,
    context: &RunnerContext,
    stop: &CancellationToken,
    stream: &StreamId,
) -> Result<Rebuilt, RebuildError> {
    let definition = inner.definition();
    let name = definition.name;
    if definition.kind != ProjectionKind::Transactional {
        return Err(RebuildError::NoKey { name });
    }
    let transactions = transactions_for_rows(&definition, context)?;
    let key = definition.key.ok_or(RebuildError::NoKey { name })?;
    check_no_event_is_missing(name, &*context.store, Some(stream)).await?;
    // fences the process that writes the live rows: they stand still
    let lease_request = context.command_lease_request(projection_role(name), "rebuild");
    let live_lease = lease_request.seize(stop).await.map_err(|error| RebuildError::store(name, error))?;
    let events_max = if definition.has_batch_methods() { BATCH_EVENTS_MAX } else { 1 };
    let mut rebuild = AggregateRebuild { inner, context, stream, events_max, has_failed_batch: false };
    let rebuilt = rebuild.replace_rows(&*transactions, key, &live_lease).await;
    live_lease.release().await;
    rebuilt
}

/// Rebuild of the rows of one aggregate, while the live rows stand still.
struct AggregateRebuild<'a> {
    inner: &'a dyn FedProjection,
    context: &'a RunnerContext,
    stream: &'a StreamId,
    /// Most events of a call.
    events_max: usize,
    /// Set once a call with several events has failed.
    has_failed_batch: bool,
}

impl AggregateRebuild<'_> {
    async fn replace_rows(
        &mut self,
        transactions: &dyn Transactions,
        key: &str,
        live_lease: &HeldLease,
    ) -> Result<Rebuilt, RebuildError> {
        let rebuilt = self.try_replace_rows(transactions, key, live_lease).await;
        if self.has_failed_batch {
            self.events_max = 1; // finds the event that failed
            return self.try_replace_rows(transactions, key, live_lease).await;
        }
        rebuilt
    }

    /// Replaces the rows in one transaction.
    async fn try_replace_rows(
        &mut self,
        transactions: &dyn Transactions,
        key: &str,
        live_lease: &HeldLease,
    ) -> Result<Rebuilt, RebuildError> {
        let began = self.context.clock.instant();
        let position = self
            .context
            .load_checkpoint(&live_lease.lease().role)
            .await
            .map_err(|error| self.inner.store_error(error))?;
        let mut transaction = transactions.begin().await.map_err(|error| self.inner.store_error(error))?;
        for table in self.inner.definition().tables {
            let deleted = transaction.delete_rows(table, key, self.stream.aggregate_id().as_str()).await;
            deleted.map_err(|error| self.inner.store_error(error))?;
        }
        let (events, skipped) = self.replay(position, &mut *transaction).await?;
        // moves no checkpoint: fails if the lease was lost, or a different process moved the checkpoint
        let advanced = transaction.advance(live_lease.lease(), position, position).await;
        if !advanced.map_err(|error| self.inner.store_error(error))? {
            return Err(RebuildError::Lost { name: self.inner.name() });
        }
        transaction.commit().await.map_err(|error| self.inner.store_error(error))?;
        Ok(Rebuilt { events, skipped, position, took: self.context.clock.elapsed(began) })
    }

    /// Handles the events of the stream that the live rows include. Returns the numbers of handled and skipped events.
    async fn replay(
        &mut self,
        through: Position,
        transaction: &mut dyn Transaction,
    ) -> Result<(u64, u64), RebuildError> {
        let definition = self.inner.definition();
        let filter = FeedFilter::from(definition.events);
        let skips = self
            .inner
            .skips(&*self.context.store, &self.context.clock)
            .await
            .map_err(|error| self.inner.store_error(error))?;
        let mut records = self.context.store.read_stream(self.stream, Version::FIRST, Direction::Forward);
        let (mut events, mut skipped) = (0, 0);
        let (mut version, mut last) = (Version::FIRST, Position::START);
        let (mut page, mut bytes) = (Vec::new(), 0);
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
                    records = self.context.store.read_stream(self.stream, version, Direction::Forward);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let position = record.position().unwrap_or_default();
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
            events += 1;
            bytes += record.payload().len();
            page.push(record);
            if page.len() >= self.events_max || bytes >= PAGE_BYTES {
                self.write_rows(&page, transaction).await?;
                (page, bytes) = (Vec::new(), 0);
            }
        }
        self.write_rows(&page, transaction).await?;
        Ok((events, skipped))
    }

    async fn write_rows(
        &mut self,
        events: &[RecordedEvent],
        transaction: &mut dyn Transaction,
    ) -> Result<(), RebuildError> {
        let definition = self.inner.definition();
        let mut rest = events;
        while let Some(first) = rest.first() {
            let (call, later) = rest.split_at(count_of_next_call(&definition, rest));
            let deliver = |record: &RecordedEvent| feed_delivery(&definition, record.clone(), &self.context.state);
            let deliveries: Vec<_> = call.iter().map(deliver).collect();
            if let Err(error) = self.inner.write_rows(&deliveries, transaction).await {
                self.has_failed_batch = call.len() > 1;
                return Err(RebuildError::failed(definition.name, first.position(), &error));
            }
            rest = later;
        }
        Ok(())
    }
}
