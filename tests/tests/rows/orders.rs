//! Orders that are paid in parts, and the rows written about them; no row may be written twice.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use eventbus::{BoxError, EventSet, ExpectedVersion, Name, NewEvent, Position, StreamId, port::EventStore, prelude::*};
use futures_util::TryStreamExt;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Order")]
pub(crate) struct Paid {
    pub(crate) cents: i64,
}

/// The time that a handling method takes.
#[derive(Clone, Copy)]
pub(crate) struct Pace(pub(crate) Duration);

impl Pace {
    pub(crate) const FAST: Self = Self(Duration::ZERO);

    async fn keep(self) {
        if !self.0.is_zero() {
            tokio::time::sleep(self.0).await;
        }
    }
}

/// Runs a statement with a text and two numbers, on both drivers.
pub(crate) trait Run {
    fn run(
        &mut self,
        sql: &'static str,
        text: &str,
        numbers: [i64; 2],
    ) -> impl Future<Output = Result<(), BoxError>> + Send;
}

impl Run for eventstore_sqlite::SqliteTransaction {
    async fn run(&mut self, sql: &'static str, text: &str, [one, two]: [i64; 2]) -> Result<(), BoxError> {
        self.execute(sql, (text, one, two))?;
        Ok(())
    }
}

impl Run for eventstore_postgres::PgConnection {
    async fn run(&mut self, sql: &'static str, text: &str, [one, two]: [i64; 2]) -> Result<(), BoxError> {
        sqlx::query(sql).bind(text).bind(one).bind(two).execute(self).await?;
        Ok(())
    }
}

pub(crate) const TABLES: [&str; 3] = [
    "CREATE TABLE order_rows (order_id text PRIMARY KEY, events bigint NOT NULL, cents bigint NOT NULL)",
    "CREATE TABLE order_lines (order_id text, version bigint, cents bigint, PRIMARY KEY (order_id, version))",
    "CREATE TABLE effects (event_id text PRIMARY KEY, times bigint NOT NULL, cents bigint NOT NULL)",
];

/// Selects the rows as one text.
pub(crate) const DUMP: &str = "SELECT coalesce(string_agg(order_id || ' ' || events || ' ' || cents || ' ' || \
     (SELECT count(*) || ' ' || sum(l.cents) FROM order_lines l WHERE l.order_id = r.order_id), '; ' ORDER BY order_id), \
     '') FROM order_rows r";

async fn write(connection: &mut impl Run, event: &Paid, meta: &Metadata) -> Result<(), BoxError> {
    const ROW: &str = "INSERT INTO order_rows AS r (order_id, events, cents) VALUES ($1, $2, $3) \
         ON CONFLICT (order_id) DO UPDATE SET events = r.events + 1, cents = r.cents + excluded.cents";
    const LINE: &str = "INSERT INTO order_lines (order_id, version, cents) VALUES ($1, $2, $3)";
    let (id, version) = (meta.aggregate_id().as_str(), meta.version().get().cast_signed());
    connection.run(ROW, id, [1, event.cents]).await?;
    connection.run(LINE, id, [version, event.cents]).await
}

async fn note(connection: &mut impl Run, event: &Paid, meta: &Metadata) -> Result<(), BoxError> {
    const EFFECT: &str = "INSERT INTO effects AS e (event_id, times, cents) VALUES ($1, $2, $3) \
         ON CONFLICT (event_id) DO UPDATE SET times = e.times + 1";
    connection.run(EFFECT, &meta.event_id().to_string(), [1, event.cents]).await
}

macro_rules! written_on {
    ($module:ident, $connection:ty) => {
        pub(crate) mod $module {
            use super::*;

            #[derive(Default)]
            pub(crate) struct Rows;

            #[projection(name = "order-rows", tables("order_rows", "order_lines"), key = "order_id", manual)]
            impl Rows {
                async fn paid(
                    &self,
                    event: &Paid,
                    meta: &Metadata,
                    connection: &mut $connection,
                    State(pace): State<Pace>,
                ) -> Result<(), BoxError> {
                    super::write(connection, event, meta).await?;
                    pace.keep().await;
                    Ok(())
                }
            }

            #[handler(group = "effects", manual)]
            async fn effect(
                event: &Paid,
                meta: &Metadata,
                connection: &mut $connection,
                State(pace): State<Pace>,
            ) -> Result<(), BoxError> {
                super::note(connection, event, meta).await?;
                pace.keep().await;
                Ok(())
            }

            pub(crate) fn with_effects(builder: eventbus::app::AppBuilder) -> eventbus::app::AppBuilder {
                builder.handler::<effect>()
            }
        }
    };
}

written_on!(sqlite, eventstore_sqlite::SqliteTransaction);
written_on!(postgres, eventstore_postgres::PgConnection);

fn stream(order: usize) -> StreamId {
    StreamId::parse("Order", &format!("order-{order}")).unwrap()
}

/// Pays parts of some orders; returns the position of the last payment.
pub(crate) async fn pay(store: &dyn EventStore, orders: usize, parts: usize) -> Position {
    let mut last = Position::START;
    for part in 0..parts {
        let order = fastrand::usize(..orders);
        let mut news = vec![NewEvent::from_event(&Paid { cents: part as i64 }).unwrap()];
        if part % 3 == 0 {
            // an event of a type that the projection does not handle
            news.push(NewEvent::new(Name::from_static("Noted"), 1, "{}"));
        }
        let records = append(store, &stream(order), news).await;
        last = records.last().unwrap().position().unwrap();
    }
    last
}

async fn append(store: &dyn EventStore, stream: &StreamId, news: Vec<NewEvent>) -> Vec<RecordedEvent> {
    let mut retries = 0;
    loop {
        match store.append(stream, ExpectedVersion::Any, news.clone()).await {
            Ok(records) => return records,
            // a process killed in a transaction may lock the file for a moment
            Err(error) if error.is_retryable() && retries < 20 => retries += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Returns the expected rows, in the format of `DUMP`.
pub(crate) async fn expected(store: &Arc<dyn EventStore>) -> String {
    let mut orders = BTreeMap::<String, (i64, i64)>::new();
    let mut feed = store.read_all(Position::START);
    while let Some(record) = feed.try_next().await.unwrap() {
        if record.event_type() == "Paid" {
            let (events, cents) = orders.entry(record.metadata().aggregate_id().to_string()).or_default();
            *events += 1;
            *cents += Paid::decode(&record).unwrap().cents;
        }
    }
    let rows: Vec<_> = orders.into_iter().map(|(id, (n, cents))| format!("{id} {n} {cents} {n} {cents}")).collect();
    rows.join("; ")
}
