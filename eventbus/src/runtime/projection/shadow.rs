//! Rebuilding rows that are written in the store's transaction: copies of the tables are filled beside the live ones,
//! then take their place.
//!
//! Keep: the live rows are replaced, and the live checkpoint moves to where the copies are, in one transaction, under a
//! lease that was seized before the copies caught up. So the live rows serve until then, nothing is missing from the new
//! ones, and whatever ends the rebuild early leaves the old ones as they were. The same transaction ends the copies: they
//! would pass for those of an interrupted rebuild, and the next one would begin with their rows.

use std::{sync::Arc, time::Duration};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio_util::sync::CancellationToken;

use super::{
    RebuildError,
    error::ProjectionError,
    fed,
    projected::{Projected, State},
    rebuild::{Rebuilt, Report},
    rebuild_progress::Meter,
    runner::{RunWith, role_of},
    status::RebuildOwner,
    writer::{Writer, Written},
};
use crate::{
    domain::{error::BoxError, name::Name, stream::Position},
    port::{EventStore, FeedFilter, Outage, ReadError, RetryPolicy, Shadow, Transactions, activity::text},
    runtime::{
        definition::{Projection, ProjectionDefinition},
        tenure::{Candidate, GivenUp, Tenure},
    },
};

/// The copies catch up with the live rows in at most so many rounds before these have to stand still for the last one.
const ROUNDS: u32 = 8;

/// A round with at most so many events is short enough for that.
const SHORT_ROUND: u64 = 256;

/// The copies that rebuilds of so many versions before may have left behind are removed.
const FORMER_VERSIONS: u32 = 8;

/// How often the role is asked for while somebody else has it.
const LOOK: Duration = Duration::from_millis(200);

/// How often, and after which delays, a store that cannot be reached is tried again.
const RETRIES: RetryPolicy = RetryPolicy {
    retry_for: Duration::MAX,
    max_retries: Some(5),
    first_delay: Duration::from_millis(100),
    max_delay: Duration::from_secs(5),
};

/// Rebuilds a projection through copies of its tables.
pub(super) struct ShadowRebuild<'a, P> {
    pub(super) projected: &'a Projected<P>,
    projection: &'a P,
    pub(super) with: &'a RunWith,
    pub(super) transactions: Arc<dyn Transactions>,
    stop: &'a CancellationToken,
    shadow: Shadow,
}

impl<'a, P: Projection> ShadowRebuild<'a, P> {
    pub(super) fn new(
        projected: &'a Projected<P>,
        with: &'a RunWith,
        stop: &'a CancellationToken,
    ) -> Result<Self, RebuildError> {
        let definition = P::definition();
        let name = definition.name;
        if definition.tables.is_empty() {
            return Err(RebuildError::NoTables { name });
        }
        let (State::Free(projection), Some(transactions)) = (projected.state(), with.store.transactions()) else {
            return Err(RebuildError::store(name, "the store has no transactions"));
        };
        let shadow = shadow_of(&definition, definition.version);
        Ok(Self { projected, projection, with, transactions, stop, shadow })
    }

    pub(super) async fn run(self, report: Report<'_>) -> Result<Rebuilt, RebuildError> {
        // one role for all versions: they would replace each other's rows
        let first = shadow_of(&P::definition(), 1).name;
        if first == self.shadow.name {
            return self.run_as(&first, None, report).await;
        }
        let any = self.take_turn(&first).await?;
        let rebuilt = self.run_as(&self.shadow.name, Some(&any), report).await;
        any.give_back().await;
        rebuilt
    }

    async fn run_as(&self, role: &Name, any: Option<&Tenure>, report: Report<'_>) -> Result<Rebuilt, RebuildError> {
        let tenure = self.take_turn(role).await?;
        self.note_begin().await;
        let rebuilt = self.fill_and_switch(&tenure, any, report).await;
        tenure.give_back().await;
        rebuilt
    }

    /// Notes since when it is rebuilt, for those who ask in other processes.
    async fn note_begin(&self) {
        let since = text(self.with.clock.now());
        if let Some(notes) = self.with.store.notes()
            && let Err(error) = notes.save_note(&shadow_of(&P::definition(), 1).name, &since).await
        {
            tracing::debug!(projection = P::definition().name, %error, "since when it is rebuilt is not noted");
        }
    }

    /// Takes a role of rebuilding this projection; waits as long as a lease lasts, since who had it may be dead.
    async fn take_turn(&self, role: &Name) -> Result<Tenure, RebuildError> {
        let candidate = self.candidate(role.clone());
        let patience = self.with.lease_ttl + self.with.lease_ttl / 10;
        let clock = &self.with.clock;
        let began = clock.instant();
        loop {
            if let Some(tenure) = candidate.take(self.stop).await.map_err(|error| self.failed(error))? {
                return Ok(tenure);
            }
            if self.stop.is_cancelled() || clock.elapsed(began) > patience {
                let lease = self.with.store.lease_of(role).await.ok().flatten();
                let owner = lease.map(|lease| lease.owner);
                return Err(RebuildError::Elsewhere { name: P::definition().name, owner });
            }
            let look_again = clock.sleep(LOOK.min(patience / 20));
            self.stop.run_until_cancelled(look_again).await;
        }
    }

    fn candidate(&self, role: Name) -> Candidate {
        // another owner than the one that feeds the projection, which must not get the role meanwhile
        let owner = self.with.owner.joined("/", &format!("rebuild-{:08x}", fastrand::u32(..)));
        Candidate {
            store: Arc::clone(&self.with.store),
            role,
            owner,
            ttl: self.with.lease_ttl,
            clock: self.with.clock.clone(),
            given_up: GivenUp::new(&self.with.clock),
        }
    }

    async fn fill_and_switch(
        &self,
        tenure: &Tenure,
        any: Option<&Tenure>,
        report: Report<'_>,
    ) -> Result<Rebuilt, RebuildError> {
        let mut meter = self.begin(report).await?;
        let mut outage = Outage::new(self.with.clock.clone());
        for _ in 0..ROUNDS {
            let before = meter.now.events;
            let head = self.ask(tenure.over(), &mut outage, || self.with.store.head()).await?;
            self.fill(tenure, head, &mut meter, &mut outage).await?;
            if meter.now.events - before <= SHORT_ROUND {
                break;
            }
        }
        let candidate = self.live_candidate();
        let live = self.ask(tenure.over(), &mut outage, || candidate.seize(self.stop)).await?;
        let switched = self.switch(tenure, any, &live, &mut meter, outage).await;
        if switched.is_ok()
            && let Err(error) = fed::rebuilt::<P>(self.with, &live).await
        {
            tracing::warn!(projection = P::definition().name, %error, "that it was rebuilt is not noted");
        }
        live.give_back().await;
        let position = switched?;
        self.projected.free_before(position);
        self.drop_copies().await;
        meter.tell(0, position);
        Ok(self.projected.rebuilt(&meter.now))
    }

    /// Makes the copies, or finds those of an interrupted rebuild, and counts what is to be done.
    async fn begin<'r>(&self, report: Report<'r>) -> Result<Meter<'r>, RebuildError> {
        self.projected.forget_skips();
        let definition = P::definition();
        for version in definition.version.saturating_sub(FORMER_VERSIONS).max(1)..definition.version {
            let former = shadow_of(&definition, version);
            self.transactions.drop_shadow(&former).await.map_err(|error| self.failed(error))?;
        }
        let position = self.transactions.make_shadow(&self.shadow).await.map_err(|error| self.failed(error))?;
        let store = &self.with.store;
        let (target, filter) = (store.head().await?, FeedFilter::from(definition.events));
        let events = store.count_events(Position::START, target, &filter).await?;
        let mut meter = Meter::new(definition.name, target, events, report, self.with.clock.clone());
        if position > Position::START {
            tracing::warn!(
                projection = definition.name, %position, version = definition.version,
                "goes on with an interrupted rebuild; methods that changed since then need a new `version`"
            );
            let done = store.count_events(Position::START, position, &filter).await?;
            meter.resume(done, position);
        } else {
            meter.tell(0, position);
        }
        Ok(meter)
    }

    /// Fills the copies with everything up to `target`, over outages of the store, and returns how far they got.
    async fn fill(
        &self,
        tenure: &Tenure,
        target: Position,
        meter: &mut Meter<'_>,
        outage: &mut Outage,
    ) -> Result<Position, RebuildError> {
        let mut failures = 0;
        loop {
            let before = meter.now.position;
            let tried = self.try_to_fill(tenure, target, meter).await;
            let goes_on = meter.now.position > before || matches!(tried, Ok((_, Written::All)));
            if goes_on && let Some(lasted) = outage.ends() {
                tracing::info!(projection = P::definition().name, ?lasted, "rebuild goes on");
            }
            let error = match tried {
                Ok((position, Written::All)) => return Ok(position),
                Ok((position, Written::Ended)) => {
                    return Err(if self.stop.is_cancelled() { self.shut_down(position) } else { self.lost() });
                }
                Ok((_, Written::Lost)) => return Err(self.lost()),
                Ok((_, Written::Misnamed(error))) => return Err(error.into()),
                Ok((_, Written::Stopped(record, error))) => {
                    let position = record.position().unwrap_or(Position::START);
                    let name = P::definition().name;
                    return Err(RebuildError::Failed { name, position, error: error.to_string() });
                }
                Err(error) => error,
            };
            failures = if meter.now.position > before { 1 } else { failures + 1 };
            if !RETRIES.allows(failures) {
                return Err(self.failed(error));
            }
            if outage.begins() {
                tracing::warn!(projection = P::definition().name, %error, "rebuild cannot go on, trying again");
            }
            let pause = self.with.clock.sleep(RETRIES.jittered(failures));
            // what was cancelled ends with the next try
            tenure.over().run_until_cancelled(pause).await;
        }
    }

    async fn try_to_fill(
        &self,
        tenure: &Tenure,
        target: Position,
        meter: &mut Meter<'_>,
    ) -> Result<(Position, Written), BoxError> {
        let saved = self.transactions.make_shadow(&self.shadow).await?;
        let transactions = &*self.transactions;
        let activity = self.projected.activity();
        let mut writer =
            Writer::new(self.projection, transactions, Some(&self.shadow), tenure, self.with, activity, saved)
                .around(self.projected.skips(&*self.with.store).await?);
        if saved >= target {
            return Ok((saved, Written::All));
        }
        let mut report = |events, position| meter.tell(events, position);
        let written = writer.write_up_to(target, &*self.with.store, &mut report).await?;
        let kept = writer.save(true).await?;
        Ok((writer.position(), if kept { written } else { Written::Lost }))
    }

    /// Asks the store, over its outages, while the work is not `over`. The outage ends with the work that follows: one
    /// connection that works says nothing of the others.
    async fn ask<T, E: Into<BoxError>, A: Future<Output = Result<T, E>>>(
        &self,
        over: &CancellationToken,
        outage: &mut Outage,
        ask: impl Fn() -> A,
    ) -> Result<T, RebuildError> {
        let mut failures = 0;
        loop {
            let error = match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) => error.into(),
            };
            failures += 1;
            if over.is_cancelled() || !RETRIES.allows(failures) {
                return Err(self.failed(error));
            }
            if outage.begins() {
                tracing::warn!(projection = P::definition().name, %error, "rebuild cannot go on, trying again");
            }
            over.run_until_cancelled(self.with.clock.sleep(RETRIES.jittered(failures))).await;
        }
    }

    fn live_candidate(&self) -> Candidate {
        self.candidate(role_of(P::definition().name))
    }

    /// Makes the live rows stand still: whoever wrote them cannot any more.
    pub(super) async fn seize(&self) -> Result<Tenure, RebuildError> {
        self.live_candidate().seize(self.stop).await.map_err(|error| self.failed(error))
    }

    /// Catches up with the live rows, then replaces them.
    async fn switch(
        &self,
        tenure: &Tenure,
        any: Option<&Tenure>,
        live: &Tenure,
        meter: &mut Meter<'_>,
        mut outage: Outage,
    ) -> Result<Position, RebuildError> {
        let mut failures = 0;
        let mut tried = None;
        loop {
            let load = || self.with.store.load_checkpoint(&live.lease().role);
            let checkpoint = self.ask(live.over(), &mut outage, load).await?.unwrap_or(Position::START);
            // whoever took over rebuilding writes to the copies
            for tenure in [Some(tenure), any].into_iter().flatten() {
                let renew = || self.with.store.renew_lease(tenure.lease(), self.with.lease_ttl);
                if !self.ask(live.over(), &mut outage, renew).await? {
                    return Err(self.lost());
                }
            }
            // a switch whose outcome is unknown was made, if the copies have served: those are made anew
            if let Some(position) = tried
                && self.ask(live.over(), &mut outage, || self.transactions.make_shadow(&self.shadow)).await? < position
            {
                if let Some(lasted) = outage.ends() {
                    tracing::info!(projection = P::definition().name, ?lasted, "rows were replaced");
                }
                return Ok(position);
            }
            let position = self.fill(tenure, checkpoint, meter, &mut Outage::new(self.with.clock.clone())).await?;
            tried = Some(position);
            match self.try_to_switch(live, checkpoint, position).await {
                Ok(true) => {
                    if let Some(lasted) = outage.ends() {
                        tracing::info!(projection = P::definition().name, ?lasted, "rows were replaced");
                    }
                    return Ok(position);
                }
                Ok(false) => return Err(self.lost()),
                Err(error) if RETRIES.allows(failures + 1) => {
                    failures += 1;
                    if outage.begins() {
                        tracing::warn!(projection = P::definition().name, %error, "rows could not be replaced, trying again");
                    }
                    live.over().run_until_cancelled(self.with.clock.sleep(RETRIES.jittered(failures))).await;
                }
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    async fn try_to_switch(&self, live: &Tenure, from: Position, to: Position) -> Result<bool, BoxError> {
        let mut transaction = self.transactions.begin().await?;
        // copies that are further were filled by somebody else, who took over while this process was paused
        let filled = transaction.replace_rows(&self.shadow).await?;
        if filled != to || !transaction.advance(live.lease(), from, to).await? {
            return Ok(false);
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// Copies that stay take room, and no more: the next rebuild makes new ones.
    async fn drop_copies(&self) {
        let mut failures = 0;
        while let Err(error) = self.transactions.drop_shadow(&self.shadow).await {
            failures += 1;
            if !RETRIES.allows(failures) {
                tracing::warn!(shadow = %self.shadow.name, %error, "rows are replaced, but their copies left to the next rebuild");
                return;
            }
            self.stop.run_until_cancelled(self.with.clock.sleep(RETRIES.jittered(failures))).await;
        }
    }

    /// The checkpoint of the live rows, which stand still.
    pub(super) async fn live_checkpoint(&self, live: &Tenure) -> Result<Position, RebuildError> {
        let loaded = self.with.store.load_checkpoint(&live.lease().role).await.map_err(|error| self.failed(error))?;
        Ok(loaded.unwrap_or(Position::START))
    }

    pub(super) fn failed(&self, error: impl Into<BoxError>) -> RebuildError {
        RebuildError::store(P::definition().name, error)
    }

    pub(super) fn lost(&self) -> RebuildError {
        RebuildError::Lost { name: P::definition().name }
    }

    fn shut_down(&self, position: Position) -> RebuildError {
        RebuildError::NotRunning(ProjectionError::ShutDown { name: P::definition().name, position })
    }
}

/// Who rebuilds a projection through copies of its tables, in whichever process; `None` if no process does.
pub(super) async fn rebuild_of(store: &dyn EventStore, name: &'static str) -> Result<Option<RebuildOwner>, ReadError> {
    let role = role_of_rebuild(name);
    let unavailable = |error: BoxError| ReadError::Unavailable(error);
    let Some(lease) = store.lease_of(&role).await.map_err(|error| unavailable(error.into()))? else {
        return Ok(None);
    };
    let since = match store.notes() {
        Some(notes) => notes.load_note(&role).await.map_err(|error| unavailable(error.into()))?,
        None => None,
    };
    let since = since.and_then(|since| OffsetDateTime::parse(&since, &Rfc3339).ok());
    Ok(Some(RebuildOwner { owner: lease.owner, since }))
}

fn role_of_rebuild(name: &'static str) -> Name {
    Name::prefixed("rebuild:", &Name::from_static(name))
}

fn shadow_of(definition: &ProjectionDefinition, version: u32) -> Shadow {
    let role = role_of_rebuild(definition.name);
    Shadow {
        name: if version == 1 { role } else { role.joined(":v", &version.to_string()) },
        tables: definition.tables.iter().map(|&table| table.to_owned()).collect(),
    }
}
