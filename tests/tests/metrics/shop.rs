//! A shop on PostgreSQL and Redis whose saves, handlers and projection do all that metrics count.

use std::{ops::Range, time::Duration};

use eventbus::{AggregateId, Never, prelude::*};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventstore_postgres::{PgConnection, PgEventStore};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
struct Paid {
    cents: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(events(Paid), snapshot(every = 4))]
struct Order {
    cents: u64,
}

impl Apply for Order {
    fn apply(&mut self, OrderEvent::Paid(paid): &OrderEvent) {
        self.cents += paid.cents;
    }
}

/// Fails for every second payment at its first attempt, and for every tenth for good.
#[handler(group = "mail", stream = "orders")]
async fn mail(paid: &Paid, attempt: Attempt) -> Result<(), HandlerError> {
    match paid.cents % 10 {
        0 => Err(HandlerError::permanent("there is no such address")),
        2 | 4 | 6 | 8 if attempt.0 == 1 => Err("no such mailbox".into()),
        _ => Ok(()),
    }
}

/// Reaches its time limit, and panics, for one of ten payments each.
#[handler(group = "audit", stream = "orders", retries = 0, timeout_ms = 200)]
async fn audit(paid: &Paid) {
    match paid.cents % 10 {
        7 => tokio::time::sleep(Duration::from_hours(1)).await,
        9 => panic!("on purpose"),
        _ => {}
    }
}

/// The sum of each order.
#[derive(Debug)]
pub(crate) struct Sales;

#[projection(
    name = "sales",
    tables("sales"),
    key = "id",
    set_up = "CREATE TABLE IF NOT EXISTS sales (id text PRIMARY KEY, cents bigint NOT NULL)"
)]
impl Sales {
    async fn paid(&self, paid: &Paid, id: &AggregateId, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        const ADD: &str =
            "INSERT INTO sales VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET cents = sales.cents + excluded.cents";
        sqlx::query(ADD).bind(id.as_str()).bind(paid.cents.cast_signed()).execute(connection).await.map(drop)
    }
}

/// Starts the shop.
pub(crate) async fn start(database: &eventbus_test::Postgres, config: RedisEventBusConfig) -> App {
    let bus = RedisEventBus::connect(config).await.unwrap();
    let builder = App::builder().store(PgEventStore::connect(database.url()).await.unwrap()).bus(bus.clone());
    let builder = builder.consume("orders", bus);
    builder.handler::<mail>().handler::<audit>().projection(Sales).start().await.unwrap()
}

/// Pays orders, each several times; every third one meets a writer that was first.
pub(crate) async fn save_orders(app: &App, orders: Range<u64>) {
    let repository = app.repository::<Order>();
    for number in orders {
        let id: AggregateId = format!("o-{number}").parse().unwrap();
        let pay = |_: &Order| Ok::<_, Never>([1, 1, number].map(|cents| Paid { cents }));
        repository.upsert(&id, pay).await.unwrap();
        let mut late = repository.load(&id).await.unwrap();
        if number % 3 == 0 {
            repository.update(&id, pay).await.unwrap();
            late.record(Paid { cents: 1 });
            assert!(repository.save(&mut late).await.unwrap_err().is_conflict());
        }
    }
}
