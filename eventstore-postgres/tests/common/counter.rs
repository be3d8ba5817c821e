//! An aggregate, and a projection of each kind: in memory, with rows in the store, and with effects elsewhere.

use eventbus::{Never, prelude::*};
use eventstore_postgres::PgConnection;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Counter)]
pub(crate) struct Counted {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Counted))]
pub(crate) struct Counter;

impl Apply for Counter {
    fn apply(&mut self, _event: &CounterEvent) {}
}

#[derive(Debug, Default)]
pub(crate) struct InMemory;

#[projection(name = "in-memory")]
impl InMemory {
    fn counted(&mut self, _event: &Counted) {}
}

#[derive(Debug, Default)]
pub(crate) struct InRows;

#[projection(name = "in-rows", tables("rows"))]
impl InRows {
    async fn counted(&self, _event: &Counted, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query("INSERT INTO rows DEFAULT VALUES").execute(connection).await.map(drop)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Elsewhere;

#[projection(name = "elsewhere")]
impl Elsewhere {
    async fn counted(&self, _event: &Counted) -> Result<(), Never> {
        Ok(())
    }
}
