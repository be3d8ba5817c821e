//! The statement that textbooks show for an append with a condition, on a table of its own: it overbooks, since it sees
//! nothing of the statements that run beside it.

use std::collections::BTreeSet;

use fastrand::Rng;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};

use super::{
    COURSES_OF_STUDENT, SEATS, WRITERS,
    audit::{Findings, Rules},
    writers::choose,
};
use crate::fire::{HarnessError, database::Database};

const TABLE: &str = "CREATE TABLE public.textbook (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, event_type text NOT NULL, course bigint NOT NULL,
    student bigint NOT NULL, tags text[] NOT NULL);
CREATE INDEX ON public.textbook USING gin (tags)";

const READ: &str =
    "SELECT position, event_type, course, student FROM public.textbook WHERE tags && $1::text[] ORDER BY position";

const APPEND: &str = "INSERT INTO public.textbook (event_type, course, student, tags)
SELECT $1, $2, $3, $4::text[]
WHERE NOT EXISTS (SELECT FROM public.textbook WHERE tags && $4::text[] AND position > $5)";

/// Number of sessions, which share the decisions.
const SESSIONS: u64 = WRITERS / 4;

/// Makes decisions by the textbook's statement, and audits them.
pub(super) async fn run(decisions: u64, courses: u64, seed: u64) -> Result<Findings, HarnessError> {
    let database = Database::create().await?;
    database.connection("textbook").await?.execute(sqlx::raw_sql(AssertSqlSafe(TABLE))).await?;
    let mut random = Rng::with_seed(seed);
    let writers = (0..SESSIONS).map(|_| random.fork()).map(async |mut random| {
        let mut connection = database.connection("textbook").await?;
        for number in 0..decisions.div_ceil(SESSIONS) {
            let (course, student) = choose(&mut random, courses, number);
            decide(&mut connection, course as i64, student as i64, random.bool()).await?;
        }
        Ok::<_, HarnessError>(connection.close().await?)
    });
    futures_util::future::try_join_all(writers).await?;
    let (mut findings, mut rules) = (Findings::default(), Rules::default());
    let mut connection = database.connection("textbook").await?;
    for row in connection.fetch_all("SELECT event_type, course, student FROM public.textbook ORDER BY position").await?
    {
        let (course, student) = (row.get::<i64, _>("course") as u64, row.get::<i64, _>("student") as u64);
        let broken = match row.get::<&str, _>("event_type") {
            "Enrolled" => rules.enrol(course, student),
            _ => rules.leave(course, student),
        };
        findings.events += 1;
        findings.violations.extend(broken);
    }
    connection.close().await?;
    database.remove().await?;
    Ok(findings)
}

async fn decide(connection: &mut PgConnection, course: i64, student: i64, leaves: bool) -> Result<(), HarnessError> {
    let tags = [format!("course:{course}"), format!("student:{student}")];
    let (mut made, mut seen) = (BTreeSet::new(), 0_i64);
    for row in sqlx::query(READ).bind(&tags[..]).fetch_all(&mut *connection).await? {
        seen = row.get("position");
        let of = (row.get::<i64, _>("course"), row.get::<i64, _>("student"));
        match row.get::<&str, _>("event_type") {
            "Enrolled" => drop(made.insert(of)),
            _ => drop(made.remove(&of)),
        }
    }
    let of_course = made.iter().filter(|(of, _)| *of == course).count();
    let of_student = made.iter().filter(|(_, of)| *of == student).count();
    let event_type = match made.contains(&(course, student)) {
        true if leaves => "Left",
        false if of_course < SEATS && of_student < COURSES_OF_STUDENT => "Enrolled",
        _ => return Ok(()),
    };
    let append = sqlx::query(APPEND).bind(event_type).bind(course).bind(student).bind(&tags[..]).bind(seen);
    // in a transaction, as beside other statements of its caller: a lone statement is rarely met on a busy machine
    let mut transaction = connection.begin().await?;
    append.execute(&mut *transaction).await?; // no row: its caller would decide again
    Ok(transaction.commit().await?)
}
