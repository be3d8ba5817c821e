//! Rebuilding rows that are written in the store's transaction: fills copies of the tables beside the live ones, then
//! replaces the live rows by the rows of the copies.
//!
//! Invariant: one transaction replaces the live rows and moves the live checkpoint to the position of the copies, under
//! a lease that was seized before the copies caught up. So the live rows serve until then, the new ones miss no event,
//! and a rebuild that ends early leaves the old ones as they were. The same transaction ends the copies: otherwise the
//! next rebuild would take them for those of an interrupted one, and begin with their rows.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    RebuildError,
    context::{RunnerContext, projection_role},
    copies_basis::CopiesBasis,
    error::ProjectionError,
    event_handling::FeedStop,
    fed_projection::FedProjection,
    feeder::Feeder,
    note::record_rebuild,
    rebuild_owner::rebuild_role,
    rebuild_progress::{ProgressCallback, ProgressMeter, Rebuilt},
    store_check::check_no_event_is_missing,
};
use crate::{
    domain::{error::BoxError, name::Name, shown::rfc3339, stream::Position},
    port::{EventStore, Shadow, Transactions, backoff::Backoff},
    runtime::{
        definition::ProjectionDefinition,
        feed_head::LoadedPosition,
        held_lease::{HeldLease, LeaseRequest},
    },
    support::{Outage, count_around},
};

/// Number of rounds in which the copies catch up with the live rows, before these have to stand still for the last one.
const CATCH_UP_ROUNDS_MAX: u32 = 8;

/// A round with at most so many events is short enough for the live rows to stand still.
const SHORT_ROUND_EVENTS_MAX: u64 = 256;

/// The number of retries of a store that cannot be reached, and their delays.
const STORE_RETRIES_MAX: u32 = 5;
const STORE_BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

const STALLED: &str = "rebuild cannot go on";

/// Rebuilds a projection through copies of its tables.
///
/// | State | Event | Next state |
/// |---|---|---|
/// | waiting | acquires the rebuild lease | filling: from the copies' position, if a rebuild of this version with the same event types and skips was interrupted; from zero after a method failed in a different process |
/// | waiting | a lease's duration has passed, or cancelled | failed: `Elsewhere` |
/// | filling | the store misses an event | failed: `MissingEvent`, before the copies are made |
/// | filling | the store ends before the head of the round, which a former server had | filling: the round ends there |
/// | filling | a round handled more than 256 events | filling, for at most eight rounds |
/// | filling | a round handled at most 256 events, or it was the eighth | switching: seizes the live lease |
/// | filling, switching | the store fails | retries up to 5 times in a row, then failed: `Store` |
/// | filling, switching | a method fails | failed: `Failed` |
/// | filling, switching | the rebuild lease is lost, or cancelled | failed: `Lost`, `ShutDown` |
/// | switching | the copies have caught up, one transaction replaces rows and checkpoint | done: drops the copies |
/// | switching | the store ends before the live checkpoint, which a former server had | switching: loads the checkpoint again after a pause, up to 5 times in a row |
/// | switching | the outcome of that transaction is unknown | done if the copies are at the start again, else switching |
/// | switching | the live lease is lost, or a different process filled the copies | failed: `Lost` |
///
/// A failed rebuild leaves the live rows unchanged, and the copies for the next one.
pub(super) struct ShadowRebuild<'a> {
    inner: &'a dyn FedProjection,
    context: &'a RunnerContext,
    transactions: Arc<dyn Transactions>,
    stop: &'a CancellationToken,
    shadow: Shadow,
}

impl<'a> ShadowRebuild<'a> {
    pub(super) fn new(
        inner: &'a dyn FedProjection,
        context: &'a RunnerContext,
        stop: &'a CancellationToken,
    ) -> Result<Self, RebuildError> {
        let definition = inner.definition();
        let transactions = transactions_for_rows(&definition, context)?;
        let tables = definition.tables.iter().map(|&table| table.to_owned()).collect();
        let shadow = Shadow { name: rebuild_role(definition.name), tables };
        Ok(Self { inner, context, transactions, stop, shadow })
    }

    pub(super) async fn run(self, report: ProgressCallback<'_>) -> Result<Rebuilt, RebuildError> {
        let held_lease = self.acquire_lease().await?;
        self.save_start_note().await;
        let rebuilt = self.fill_and_switch(&held_lease, report).await;
        held_lease.release().await;
        rebuilt
    }

    /// Notes the start of the rebuild, for the status in other processes.
    async fn save_start_note(&self) {
        let since = rfc3339(self.context.clock.now());
        if let Some(notes) = self.context.store.notes()
            && let Err(error) = notes.save_note(&self.shadow.name, &since).await
        {
            tracing::debug!(projection = self.inner.name(), %error, "the start of the rebuild was not noted");
        }
    }

    /// Acquires the lease of rebuilding this projection; waits as long as a lease lasts, since its owner may be dead.
    async fn acquire_lease(&self) -> Result<HeldLease, RebuildError> {
        let (role, lease_ttl) = (&self.shadow.name, self.context.lease_ttl);
        let timeout = lease_ttl.saturating_add(lease_ttl / 10);
        let acquired = self.lease_request(role.clone()).acquire_within(timeout, self.stop).await;
        if let Some(held_lease) = acquired.map_err(|error| self.inner.store_error(error))? {
            return Ok(held_lease);
        }
        let lease = self.context.store.lease_of(role).await.ok().flatten();
        Err(RebuildError::Elsewhere { name: self.inner.name(), owner: lease.map(|lease| lease.owner) })
    }

    fn lease_request(&self, role: Name) -> LeaseRequest {
        self.context.command_lease_request(role, "rebuild")
    }

    async fn fill_and_switch(
        &self,
        held_lease: &HeldLease,
        report: ProgressCallback<'_>,
    ) -> Result<Rebuilt, RebuildError> {
        let preparing = async {
            check_no_event_is_missing(self.inner.name(), &*self.context.store, None).await?;
            self.prepare_copies(report).await
        };
        // the search for a missing event, and the count of the events to handle, take long in a large store
        let prepared = held_lease.ended().run_until_cancelled(preparing).await;
        let mut progress_meter = prepared.unwrap_or_else(|| Err(self.interrupted_error(Position::START)))?;
        let mut outage = Outage::new(self.context.clock.clone());
        for _ in 0..CATCH_UP_ROUNDS_MAX {
            let before = progress_meter.progress().events;
            let possible_restores = self.possible_restores();
            let position =
                self.call_with_retries(held_lease.ended(), &mut outage, || self.context.store.head()).await?;
            let target = LoadedPosition { position, possible_restores };
            self.fill_copies(held_lease, target, &mut progress_meter, &mut outage).await?;
            if progress_meter.progress().events - before <= SHORT_ROUND_EVENTS_MAX {
                break;
            }
        }
        let lease_request = self.lease_request(projection_role(self.inner.name()));
        let live_lease =
            self.call_with_retries(held_lease.ended(), &mut outage, || lease_request.seize(self.stop)).await?;
        let switched = self.switch_rows(held_lease, &live_lease, &mut progress_meter, &mut outage).await;
        if switched.is_ok()
            && let Err(error) = record_rebuild(&self.inner.definition(), self.context, &live_lease).await
        {
            tracing::warn!(projection = self.inner.name(), %error, "the event types of the rebuild were not noted");
        }
        live_lease.release().await;
        let position = switched?;
        if let Some(lasted) = outage.ends() {
            tracing::info!(projection = self.inner.name(), ?lasted, "rows were replaced");
        }
        self.inner.progress().resume_past(position);
        self.drop_copies("rows are replaced, but their copies are left to the next rebuild").await;
        progress_meter.end_at(position);
        progress_meter.advance(0, position);
        Ok(self.inner.summary(progress_meter.progress()))
    }

    /// Makes the copies, or finds those of an interrupted rebuild.
    async fn prepare_copies<'r>(&self, report: ProgressCallback<'r>) -> Result<ProgressMeter<'r>, RebuildError> {
        let definition = self.inner.definition();
        let store = &*self.context.store;
        let skips = self.inner.reload_skips(store).await.map_err(|error| self.inner.store_error(error))?;
        let make =
            async || self.transactions.make_shadow(&self.shadow).await.map_err(|error| self.inner.store_error(error));
        let mut position = make().await?;
        let mut basis = CopiesBasis::new(&definition, &skips);
        let noted = CopiesBasis::load(store, &self.shadow).await.map_err(|error| self.inner.store_error(error))?;
        let continued = noted.filter(|noted| noted.is_same_up_to(position, &basis, &self.context.owner));
        if let Some(noted) = &continued {
            basis = basis.with_failure_of(noted, position);
        } else if position > Position::START {
            tracing::warn!(
                projection = definition.name, %position,
                "rebuild begins anew: an interrupted one had another version, knew other event types, skipped other events, \
                 or failed in a method that may be mended"
            );
            self.transactions.drop_shadow(&self.shadow).await.map_err(|error| self.inner.store_error(error))?;
            position = make().await?;
        }
        basis.save(store, &self.shadow).await.map_err(|error| self.inner.store_error(error))?;
        let mut progress_meter = ProgressMeter::begin(&definition, store, report, self.inner.progress()).await?;
        if position > Position::START {
            tracing::warn!(
                projection = definition.name, %position, version = definition.version,
                "rebuild continues an interrupted one; methods that changed since then need a new `version`"
            );
            let done = count_around(store, position, &definition.events.into(), &skips).await?;
            progress_meter.resume_at(done, position);
        } else {
            progress_meter.advance(0, position);
        }
        Ok(progress_meter)
    }

    /// Fills the copies with all events up to `target`, or up to the end of a store that ends before it, over outages of the
    /// store; returns their position.
    async fn fill_copies(
        &self,
        held_lease: &HeldLease,
        target: LoadedPosition,
        meter: &mut ProgressMeter<'_>,
        outage: &mut Outage,
    ) -> Result<Position, RebuildError> {
        let name = self.inner.name();
        let mut failures = 0;
        loop {
            let before = meter.progress().position;
            let filled = self.try_fill_copies(held_lease, target, meter).await;
            let has_moved = meter.progress().position > before;
            if (has_moved || filled.is_ok())
                && let Some(lasted) = outage.ends()
            {
                tracing::info!(projection = name, ?lasted, "rebuild goes on");
            }
            let error = match filled {
                Ok(position) => return Ok(position),
                Err(FeedStop::Interrupted) => return Err(self.interrupted_error(meter.progress().position)),
                // only state in memory goes back
                Err(FeedStop::LeaseLost | FeedStop::WentBack(_)) => return Err(self.lost_error()),
                Err(FeedStop::MissingTable(error)) => return Err(error.into()),
                Err(FeedStop::EventFailed(record, error)) => {
                    let at = record.position().unwrap_or_default();
                    let failed = (at, &self.context.owner);
                    if let Err(error) = CopiesBasis::note_failure(&*self.context.store, &self.shadow, failed).await {
                        tracing::warn!(projection = name, %error, "the failure was not noted, so the copies are dropped");
                        self.drop_copies("the next rebuild may go on with copies of a method that failed").await;
                    }
                    return Err(RebuildError::failed(name, record.position(), &error));
                }
                Err(FeedStop::Store(error)) => error,
            };
            if has_moved {
                failures = 0;
            }
            // if cancelled, the next attempt ends at once
            self.pause_after(error, &mut failures, outage, held_lease.ended(), STALLED).await?;
        }
    }

    /// Pauses before the next attempt; fails if the store has failed too many times in a row.
    async fn pause_after(
        &self,
        error: BoxError,
        failures: &mut u32,
        outage: &mut Outage,
        over: &CancellationToken,
        what: &'static str,
    ) -> Result<(), RebuildError> {
        *failures += 1;
        if *failures > STORE_RETRIES_MAX {
            return Err(self.inner.store_error(error));
        }
        if outage.begins() {
            tracing::warn!(projection = self.inner.name(), %error, "{what}, trying again");
        }
        over.run_until_cancelled(self.context.clock.sleep(STORE_BACKOFF.jittered(*failures))).await;
        Ok(())
    }

    /// Returns the position of the copies.
    async fn try_fill_copies(
        &self,
        held_lease: &HeldLease,
        mut target: LoadedPosition,
        meter: &mut ProgressMeter<'_>,
    ) -> Result<Position, FeedStop> {
        let (store, saved) = (&*self.context.store, self.transactions.make_shadow(&self.shadow).await?);
        // also if the copies are complete: the report of the rebuild counts the skips
        self.inner.skips(store, &self.context.clock).await?;
        if saved >= target.position {
            return Ok(saved);
        }
        let copies = (&self.transactions, &self.shadow);
        let mut feeder = Feeder::of_copies(self.inner, self.context, held_lease, copies, saved);
        loop {
            target.lower_after_restore(store).await?;
            if feeder.position() >= target.position {
                break;
            }
            feeder.feed_up_to(target.position, &mut |events, position| meter.advance(events, position)).await?;
        }
        feeder.save_checkpoint(true).await?;
        Ok(feeder.position())
    }

    fn possible_restores(&self) -> u64 {
        self.context.store.appended().possible_restores()
    }

    /// Calls the store, over its outages, until it answers or the work is `over`. Leaves the end of the outage to the
    /// work that follows: one connection that works is no proof for the rest.
    async fn call_with_retries<T, E: Into<BoxError>, A: Future<Output = Result<T, E>>>(
        &self,
        over: &CancellationToken,
        outage: &mut Outage,
        call: impl Fn() -> A,
    ) -> Result<T, RebuildError> {
        let mut failures = 0;
        loop {
            let error = match call().await {
                Ok(answer) => return Ok(answer),
                Err(error) => error.into(),
            };
            if over.is_cancelled() {
                return Err(self.inner.store_error(error));
            }
            self.pause_after(error, &mut failures, outage, over, STALLED).await?;
        }
    }

    /// Catches up with the live rows, then replaces them.
    async fn switch_rows(
        &self,
        held_lease: &HeldLease,
        live_lease: &HeldLease,
        meter: &mut ProgressMeter<'_>,
        outage: &mut Outage,
    ) -> Result<Position, RebuildError> {
        let (mut failures, mut tried) = (0, None);
        loop {
            let possible_restores = self.possible_restores();
            let load = || self.context.load_checkpoint(&live_lease.lease().role);
            let checkpoint = self.call_with_retries(live_lease.ended(), outage, load).await?;
            // a process that took over the rebuild writes to the same copies
            let renew = || held_lease.renew();
            if !self.call_with_retries(live_lease.ended(), outage, renew).await? {
                return Err(self.lost_error());
            }
            // after a commit with an unknown outcome, new copies mean that it succeeded, as a switch ends the old ones; unless
            // the tables were altered in that moment, which also makes new ones
            if let Some(position) = tried.take() {
                let find = || self.transactions.make_shadow(&self.shadow);
                if self.call_with_retries(live_lease.ended(), outage, find).await? < position {
                    return Ok(position);
                }
            }
            let mut fill_outage = Outage::new(self.context.clock.clone());
            let target = LoadedPosition { position: checkpoint, possible_restores };
            let position = self.fill_copies(held_lease, target, meter, &mut fill_outage).await?;
            if position < checkpoint {
                let error = "the store ends before the checkpoint".into();
                self.pause_after(error, &mut failures, outage, live_lease.ended(), STALLED).await?;
                continue;
            }
            match self.try_switch_rows(live_lease, checkpoint, position, &mut tried).await {
                Ok(true) => return Ok(position),
                Ok(false) => return Err(self.lost_error()),
                Err(error) => {
                    let what = "rows could not be replaced";
                    self.pause_after(error, &mut failures, outage, live_lease.ended(), what).await?;
                }
            }
        }
    }

    /// Replaces the rows; sets `tried` if an error leaves open whether it did.
    async fn try_switch_rows(
        &self,
        live_lease: &HeldLease,
        from: Position,
        to: Position,
        tried: &mut Option<Position>,
    ) -> Result<bool, BoxError> {
        let mut transaction = self.transactions.begin().await?;
        // copies at a different position: a process that took over while this one was paused has filled them
        let filled = transaction.replace_rows(&self.shadow).await?;
        if filled != to || !transaction.advance(live_lease.lease(), from, to).await? {
            return Ok(false);
        }
        *tried = Some(to);
        transaction.commit().await?;
        Ok(true)
    }

    /// Drops the copies; logs what follows if they stay.
    async fn drop_copies(&self, if_they_stay: &'static str) {
        let mut failures = 0;
        while let Err(error) = self.transactions.drop_shadow(&self.shadow).await {
            failures += 1;
            if failures > STORE_RETRIES_MAX {
                tracing::warn!(shadow = %self.shadow.name, %error, "{if_they_stay}");
                return;
            }
            self.stop.run_until_cancelled(self.context.clock.sleep(STORE_BACKOFF.jittered(failures))).await;
        }
    }

    /// Returns the error of a rebuild at `position` whose lease has ended.
    fn interrupted_error(&self, position: Position) -> RebuildError {
        match self.stop.is_cancelled() {
            true => RebuildError::NotRunning(ProjectionError::ShutDown { name: self.inner.name(), position }),
            false => self.lost_error(),
        }
    }

    fn lost_error(&self) -> RebuildError {
        RebuildError::Lost { name: self.inner.name() }
    }
}

/// Returns the transactions in which a projection writes rows; fails if a rebuild cannot replace them.
pub(super) fn transactions_for_rows(
    definition: &ProjectionDefinition,
    context: &RunnerContext,
) -> Result<Arc<dyn Transactions>, RebuildError> {
    let name = definition.name;
    if definition.tables.is_empty() {
        return Err(RebuildError::NoTables { name });
    }
    context.store.transactions().ok_or_else(|| RebuildError::store(name, "the store has no transactions"))
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use parking_lot::Mutex;

    use super::*;
    use crate::{
        App,
        domain::{
            record::NewEvent,
            stream::{ExpectedVersion, StreamId},
        },
        port::{AppendEvents as _, CheckpointError, Checkpoints, ReadFeed as _},
        runtime::{
            feed_poller::tests::FailedOver,
            projection::feeder::tests::{Written, written},
        },
        testkit::{TableStore, delegate},
    };

    #[tokio::test(start_paused = true)]
    async fn a_rebuild_over_a_failover_misses_no_event_of_the_promoted_server() {
        let tables = TableStore::new();
        let store = FailedOver::over(tables.clone()).await;
        let builder = || App::builder().store(store.clone()).without_relay().projection(Written);
        let mut shown = String::new();
        let rebuilt = builder().rebuild("written", |progress| shown = progress.to_string()).await.unwrap();
        assert_eq!((rebuilt.events, rebuilt.position.get()), (1, 1));
        assert!(shown.contains("100 %"), "{shown}");
        let app = builder().start().await.unwrap();
        drop(app.projected::<Written>(store.append().await).await.unwrap());
        assert_eq!(written(&tables).await, ["1", "2"]);
    }

    #[tokio::test]
    async fn rows_are_rebuilt_under_leases_that_never_expire() {
        let builder = App::builder().store(TableStore::new()).without_relay().lease(Duration::MAX);
        assert_eq!(builder.projection(Written).rebuild("written", drop).await.unwrap().events, 0);
    }

    /// A store whose server is replaced after it has returned the checkpoint of a projection; the next one lacks that.
    #[derive(Clone)]
    struct FormerCheckpoint {
        store: TableStore,
        former: Arc<Mutex<Option<Position>>>,
    }

    delegate!(FormerCheckpoint, self => self.store; AppendEvents, ReadStream, ReadFeed, Leases, EventStore);

    #[async_trait]
    impl Checkpoints for FormerCheckpoint {
        async fn load_checkpoint(&self, name: &Name) -> Result<Option<Position>, CheckpointError> {
            let former = self.former.lock().take();
            if former.is_some() {
                self.store.appended().note_possible_restore();
                return Ok(former);
            }
            self.store.load_checkpoint(name).await
        }

        async fn save_checkpoint(&self, name: &Name, position: Position) -> Result<(), CheckpointError> {
            self.store.save_checkpoint(name, position).await
        }

        async fn delete_checkpoint(&self, name: &Name) -> Result<(), CheckpointError> {
            self.store.delete_checkpoint(name).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rows_are_replaced_at_the_checkpoint_of_the_promoted_server() {
        let (store, former) = (TableStore::new(), Arc::new(Mutex::new(Some(Position::new(5)))));
        let event = NewEvent::new(Name::from_static("Noted"), 1, "{}");
        store.append(&StreamId::parse("Order", "1").unwrap(), ExpectedVersion::Any, vec![event]).await.unwrap();
        let promoted = FormerCheckpoint { store: store.clone(), former: Arc::clone(&former) };
        let rebuilt = App::builder().store(promoted).without_relay().projection(Written).rebuild("written", drop).await;
        assert_eq!(rebuilt.unwrap().position.get(), 1);
        assert_eq!(*former.lock(), None, "it was returned");
        assert_eq!(written(&store).await, ["1"]);
    }
}
