//! The processes of the part, with their handlers: one in eight shards, one in a single shard, and one in a transaction of
//! the store.

use std::{path::PathBuf, time::Duration};

use eventbus::{App, Attempt, DomainEvent, HandlerError, RecordedEvent, State, app::AppBuilder, handler};
use eventstore_postgres::PgConnection;
use eventstore_sqlite::SqliteTransaction;
use serde::{Deserialize, Serialize};

use crate::fire::{
    HarnessError,
    kills::process_role::init_log,
    place::Place,
    role::Role,
    runs::{RunLog, open_while_down, run_app},
};

/// The name of each handler, the number of events that a process runs at once, and whether it takes a transaction.
pub(super) const HANDLERS: [(&str, usize, bool); 3] = [("work", 4, false), ("single", 1, false), ("book", 2, true)];

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Deposited {}

/// Returns `true` for a few events, whose first attempt fails.
fn fails(event: &RecordedEvent, attempt: Attempt) -> bool {
    attempt.0 == 1 && event.version().get().is_multiple_of(20)
}

async fn no_effect() -> Result<(), HarnessError> {
    Ok(())
}

#[handler(manual, shards = 8, concurrency = 4)]
async fn work(
    _: &Deposited,
    event: &RecordedEvent,
    attempt: Attempt,
    State(runs): State<RunLog>,
) -> Result<(), HandlerError> {
    runs.record("work", event, fails(event, attempt), no_effect()).await
}

#[handler(manual, concurrency = 1)]
async fn single(
    _: &Deposited,
    event: &RecordedEvent,
    attempt: Attempt,
    State(runs): State<RunLog>,
) -> Result<(), HandlerError> {
    runs.record("single", event, fails(event, attempt), no_effect()).await
}

/// The row of an event: its id grows with each row.
const BOOK: &str = "INSERT INTO booked (event) VALUES ($1)";

fn position(event: &RecordedEvent) -> i64 {
    event.position().map_or(0, |position| position.get().cast_signed())
}

mod postgres {
    use super::{Attempt, BOOK, Deposited, HandlerError, PgConnection, RecordedEvent, RunLog, State, fails, position};
    use eventbus::handler;

    #[handler(manual, shards = 4, concurrency = 2)]
    pub(super) async fn book(
        _: &Deposited,
        event: &RecordedEvent,
        attempt: Attempt,
        State(runs): State<RunLog>,
        connection: &mut PgConnection,
    ) -> Result<(), HandlerError> {
        let effect = async { sqlx::query(BOOK).bind(position(event)).execute(connection).await.map(drop) };
        runs.record("book", event, fails(event, attempt), effect).await
    }
}

mod sqlite {
    use super::{
        Attempt, BOOK, Deposited, HandlerError, RecordedEvent, RunLog, SqliteTransaction, State, fails, position,
    };
    use eventbus::handler;

    #[handler(manual, shards = 4, concurrency = 2)]
    pub(super) async fn book(
        _: &Deposited,
        event: &RecordedEvent,
        attempt: Attempt,
        State(runs): State<RunLog>,
        tx: &mut SqliteTransaction,
    ) -> Result<(), HandlerError> {
        let effect = async { tx.execute(BOOK, (position(event),)).map(drop) };
        runs.record("book", event, fails(event, attempt), effect).await
    }
}

/// A process with all handlers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::fire) struct Process {
    pub(super) number: u32,
    pub(super) place: Place,
    /// The file of runs.
    pub(super) runs: PathBuf,
    pub(super) lease: Duration,
    /// Set if it appends events too.
    pub(super) writes: bool,
    pub(super) seed: u64,
}

impl Process {
    fn handlers(&self, builder: AppBuilder) -> AppBuilder {
        let builder = builder.handler::<work>().handler::<single>();
        match self.place {
            Place::Sqlite(_) => builder.handler::<sqlite::book>(),
            Place::Postgres(_) | Place::Redis(_) => builder.handler::<postgres::book>(),
        }
    }
}

impl Role for Process {
    const VARIABLE: &'static str = "FIRE_PROCESSES";

    async fn play(self) -> Result<(), HarnessError> {
        init_log(&format!("process-{}", self.number))?;
        let runs = RunLog::open(self.number, &self.runs)?;
        let start = async {
            loop {
                let store = open_while_down(&self.place).await?;
                let builder = App::builder().store(store).state(runs.clone()).lease(self.lease);
                match self.handlers(builder).start().await {
                    Ok(app) => return Ok(app),
                    // the server may have crashed
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        run_app(start, self.writes, self.seed, &["Deposited"]).await
    }
}
