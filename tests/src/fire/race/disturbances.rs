//! Disturbances: terminated backends, and unrelated transactions that stay open.

use std::time::Duration;

use super::Race;
use crate::fire::{HarnessError, database::execute_sql};

const KILL_INTERVAL: Duration = Duration::from_millis(40);

/// Terminates a writer in the middle of a statement or transaction, or a reader.
const KILL_SQL: &str = "
    SELECT count(pg_terminate_backend(pid))
    FROM (
        SELECT pid FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = $1 AND ($1 = 'reader' OR state <> 'idle')
        ORDER BY random() LIMIT 1) victim";

/// Terminates a backend now and then until the race is over; returns the number of backends.
pub(super) async fn kill_backends(race: Race) -> Result<u64, HarnessError> {
    let mut connection = race.database().connection("killer").await?;
    let mut random = race.random(900);
    let mut kills = 0;
    while !race.is_over() {
        let victim = ["slow", "slow", "writer", "writer", "writer", "reader"][random.usize(..6)];
        let killed: i64 = sqlx::query_scalar(KILL_SQL).bind(victim).fetch_one(&mut connection).await?;
        kills += u64::try_from(killed)?;
        tokio::time::sleep(KILL_INTERVAL).await;
    }
    Ok(kills)
}

/// Keeps writing transactions open that are unrelated to events.
pub(super) async fn hold_foreign_transactions(race: Race) -> Result<(), HarnessError> {
    let mut connection = race.database().connection("foreign").await?;
    let mut random = race.random(901);
    while !race.is_over() {
        execute_sql(&mut connection, "BEGIN; INSERT INTO foreign_rows VALUES (1)").await?;
        tokio::time::sleep(Duration::from_millis(random.u64(100..1_500))).await;
        execute_sql(&mut connection, "COMMIT").await?;
    }
    Ok(())
}
