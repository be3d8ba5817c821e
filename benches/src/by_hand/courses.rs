use eventbus::Result;
use futures_util::TryStreamExt as _;
use sqlx::{PgConnection, PgPool, query, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use super::postgres::{decode_json, pool};
use crate::{
    course::{AGGREGATE_TYPE, EVENT_TYPE, Enrolled, Enrolments},
    workload::Courses,
};

/// A subject is a course or a student: a decision about it locks its row.
const TABLES: &str = "
    CREATE TABLE subjects (id uuid PRIMARY KEY);
    CREATE TABLE events (
        position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        event_id uuid NOT NULL UNIQUE,
        aggregate_type text NOT NULL,
        aggregate_id text NOT NULL,
        version bigint NOT NULL,
        event_type text NOT NULL,
        schema_version integer NOT NULL,
        occurred_at timestamptz NOT NULL,
        correlation_id uuid NOT NULL,
        course uuid NOT NULL,
        student uuid NOT NULL,
        data json NOT NULL,
        UNIQUE (aggregate_type, aggregate_id, version));
    CREATE INDEX ON events (course);
    CREATE INDEX ON events (student)";

const LOCK: &str = "SELECT id FROM subjects WHERE id = ANY ($1) ORDER BY id FOR UPDATE";

const INSERT_SUBJECTS: &str = "
    INSERT INTO subjects SELECT id FROM unnest($1::uuid[]) AS subject (id) ORDER BY id ON CONFLICT DO NOTHING";

const READ: &str = "SELECT data FROM events WHERE course = $1 OR student = $2 ORDER BY position";

const INSERT: &str = "
    INSERT INTO events
        (event_id, aggregate_type, aggregate_id, version, event_type, schema_version, occurred_at, correlation_id,
         course, student, data)
    VALUES ($1, $2, $3, 1, $4, 1, $5, $6, $7, $8, $9::text::json)";

/// Courses and students as rows that a decision locks, and enrolments as rows of one table.
#[derive(Clone)]
pub struct PgCourses {
    pool: PgPool,
}

impl PgCourses {
    pub async fn open(url: &str) -> Result<Self> {
        Ok(Self { pool: pool(url, TABLES).await? })
    }
}

impl Courses for PgCourses {
    async fn enrol(&self, course: Uuid, student: Uuid) -> Result<()> {
        let subjects = [course, student];
        let mut tx = self.pool.begin().await?;
        if lock(&mut tx, &subjects).await? < subjects.len() {
            // with a row that it has locked, it could wait for another that waits for that row
            tx.rollback().await?;
            tx = self.pool.begin().await?;
            query(INSERT_SUBJECTS).bind(&subjects[..]).execute(&mut *tx).await?;
            lock(&mut tx, &subjects).await?;
        }
        let mut enrolments = Enrolments::default();
        let mut rows = query(READ).bind(course).bind(student).fetch(&mut *tx);
        while let Some(row) = rows.try_next().await? {
            enrolments.add(&decode_json(&row, 0)?);
        }
        drop(rows);
        let event = enrolments.enrol(course, student)?;
        let insert = query(INSERT).bind(Uuid::now_v7()).bind(AGGREGATE_TYPE).bind(Uuid::now_v7().to_string());
        let insert = insert.bind(EVENT_TYPE).bind(OffsetDateTime::now_utc()).bind(Uuid::now_v7());
        insert.bind(course).bind(student).bind(serde_json::to_string(&event)?).execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }

    async fn enrolments(&self) -> Result<Vec<Enrolled>> {
        let data: Vec<String> = query_scalar("SELECT data::text FROM events").fetch_all(&self.pool).await?;
        data.iter().map(|data| Ok(serde_json::from_str(data)?)).collect()
    }
}

/// Locks the rows of these subjects in the order of their ids, and returns how many there are.
async fn lock(conn: &mut PgConnection, subjects: &[Uuid]) -> Result<usize> {
    Ok(query(LOCK).bind(subjects).fetch_all(conn).await?.len())
}
