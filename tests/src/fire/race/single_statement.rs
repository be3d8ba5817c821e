//! The schedule under which a bound and a page in one statement lose an event each time.
//!
//! The loss needs a commit between the statement's snapshot and its read of the locks. Here the statement waits at
//! exactly that point for a lock that is held until the commit is done. As two statements, the same two steps lose no
//! event.

use std::time::{Duration, Instant};

use eventbus::Uuid;
use eventstore_postgres::PgEventStore;
use sqlx::{Connection as _, PgConnection};

use super::{Race, faulty_readers::ReaderCursor, writers};
use crate::fire::{HarnessError, database::execute_sql, evidence::Effect, workload::AppendLog};

const ROUNDS: u64 = 20;
const GATE_TIMEOUT: Duration = Duration::from_secs(30);

/// The lock that blocks the statement.
const GATE_LOCK_ID: i64 = 77;

const SAFE_BOUND_SQL: &str = "
    WITH gate AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared(77)::text AS open),
    bound AS MATERIALIZED (
        SELECT least(r.drawn, (
            SELECT min(((l.classid::bigint << 32) | l.objid::bigint) & ((1::bigint << 44) - 1))
            FROM pg_locks l
            WHERE r.drawn IS NOT NULL AND l.locktype = 'advisory' AND l.objsubid = 1
              AND (l.classid::bigint >> 12) = 341769
              AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))) AS upto
        FROM (SELECT (SELECT last_value FROM events_position_seq WHERE gate.open = '') AS drawn FROM gate OFFSET 0) r)";

/// The result of the schedule.
#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) rounds: u64,
    pub(super) notes: AppendLog,
}

/// Runs the schedule; returns the cursor of the single-statement reader, and the appends.
pub(super) async fn run_schedule(race: &Race) -> Result<(ReaderCursor, Schedule), HarnessError> {
    let (mut folded, mut apart) = (ReaderCursor::default(), ReaderCursor::default());
    let (store, mut notes) = (race.database().store("held", 1).await?, AppendLog::default());
    for _ in 0..ROUNDS {
        run_round(race, &store, &mut folded, true, &mut notes).await?;
        // with a cursor of its own, so that this reader does not hide a loss of the first
        run_round(race, &store, &mut apart, false, &mut notes).await?;
    }
    let stored = race.database().load_stored().await?.len();
    if apart.seen.len() != stored {
        return Err(format!("two statements saw {} of {stored} events", apart.seen.len()).into());
    }
    Ok((folded, Schedule { rounds: ROUNDS, notes }))
}

/// Runs one round: a first writer draws a position and stays open, a second one commits, the reader takes its snapshot,
/// the first one commits, the reader reads the locks.
async fn run_round(
    race: &Race,
    store: &PgEventStore,
    cursor: &mut ReaderCursor,
    is_folded: bool,
    notes: &mut AppendLog,
) -> Result<(), HarnessError> {
    let database = race.database();
    let (mut slow, mut quick) = (database.connection("held").await?, database.connection("quick").await?);
    let mut random = race.random(cursor.seen.len() as u64);
    let mut open = writers::ExplicitTransaction::begin(store, &mut slow, writers::to_new_stream(&mut random)?).await?;
    open.append(notes).await?;
    let mut next = writers::ExplicitTransaction::begin(store, &mut quick, writers::to_new_stream(&mut random)?).await?;
    next.append(notes).await?;
    next.commit(notes).await?;

    let mut gate = database.connection("gate").await?;
    sqlx::query("SELECT pg_advisory_lock($1)").bind(GATE_LOCK_ID).execute(&mut gate).await?;
    let reader = database.connection("gated").await?;
    let after = cursor.position;
    let reading = tokio::spawn(async move {
        if is_folded { read_in_one_statement(reader, after).await } else { read_in_two_statements(reader, after).await }
    });
    wait_for_reader(&mut gate).await?;
    open.commit(notes).await?;
    gate.close().await?;
    let (upto, seen) = reading.await??;
    cursor.seen.extend(seen.into_iter().map(|event| Effect { event, epoch: 0 }));
    cursor.position = upto;
    Ok(())
}

async fn wait_for_reader(connection: &mut PgConnection) -> Result<(), HarnessError> {
    let begin = Instant::now();
    let sql = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = 77)";
    while !sqlx::query_scalar::<_, bool>(sql).fetch_one(&mut *connection).await? {
        if begin.elapsed() > GATE_TIMEOUT {
            return Err("the reader does not come to the gate".into());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// Reads with one statement.
async fn read_in_one_statement(mut reader: PgConnection, after: i64) -> Result<(i64, Vec<Uuid>), HarnessError> {
    let sql = format!(
        "{SAFE_BOUND_SQL} SELECT upto, event_id FROM bound LEFT JOIN events ON position > $1 AND position <= upto ORDER BY position"
    );
    let query = sqlx::query_as::<_, (i64, Option<Uuid>)>(sqlx::AssertSqlSafe(sql)).bind(after);
    let rows = query.fetch_all(&mut reader).await?;
    let upto = rows.first().map_or(after, |(upto, _)| *upto);
    Ok((upto, rows.into_iter().filter_map(|(_, event)| event).collect()))
}

/// Reads the same with two statements.
async fn read_in_two_statements(mut reader: PgConnection, after: i64) -> Result<(i64, Vec<Uuid>), HarnessError> {
    execute_sql(&mut reader, "SET default_transaction_isolation TO 'read committed'").await?;
    let sql = format!("{SAFE_BOUND_SQL} SELECT upto FROM bound");
    let upto: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut reader).await?;
    let page = "SELECT event_id FROM events WHERE position > $1 AND position <= $2 ORDER BY position";
    let events = sqlx::query_scalar(page).bind(after).bind(upto).fetch_all(&mut reader).await?;
    Ok((upto, events))
}
