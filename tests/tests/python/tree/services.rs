//! The two services of this side: one places orders, one prepares the shipment of each payment that Python takes.

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use eventbus::{EventContext, EventId, Never, Uuid, event::Attributes, prelude::*};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventbus_test::internal::{Actor, redis_connection};
use eventstore_postgres::{PgEventStore, PgEventStoreConfig};
use redis::aio::MultiplexedConnection;
use workspace_tests::fire::failpoints::{CrashPoint, FailPointStore, FailPoints};

use crate::config;

/// Number of orders.
pub(super) const ORDERS: u64 = 60;
/// The groups of the services, and the schemas of the stores.
pub(super) const SALES: &str = "sales";
pub(super) const SHIPPING: &str = "shipping";
/// What a process prints when it runs the run that never ends.
pub(super) const HOLDS: &str = "the run never ends";

const CONCURRENCY: usize = 4;
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
/// The end of a lease of the relay, for which a process waits after the death of the one before.
const SHORT_LEASE: Duration = Duration::from_millis(200);
const SERVICE: &str = "PYTHON_TREE_SERVICE";

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
pub(crate) struct OrderPlaced {
    pub(crate) number: u64,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(OrderPlaced))]
pub(crate) struct Order;

impl Apply for Order {
    fn apply(&mut self, _event: &OrderEvent) {}
}

/// The event of the Python service.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Payment")]
pub(crate) struct PaymentTaken {
    pub(crate) number: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Shipment)]
pub(crate) struct ShipmentPrepared {
    pub(crate) number: u64,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(ShipmentPrepared))]
pub(crate) struct Shipment;

impl Apply for Shipment {
    fn apply(&mut self, _event: &ShipmentEvent) {}
}

/// Returns the context in which an order is placed.
pub(super) fn root_context(number: u64) -> EventContext {
    EventContext::default()
        .with_correlation(Uuid::from_u128(u128::from(number) + 1))
        .with_tenant(Uuid::from_u128(u128::from(number / 2 % 2) + 1))
        .with_actor(format!("clerk-{number}"))
        .with_attributes(Attributes::parse(r#"{"channel":"web"}"#).unwrap())
        .with_trace(&format!("00-{:032x}-{:016x}-01", number + 1, number + 1), Some(&format!("shop={number}")))
}

/// The list of Redis in which the handlers of a group record their runs.
pub(super) fn runs_key(stream_prefix: &str, group: &str) -> String {
    format!("{stream_prefix}:runs:{group}")
}

/// Where the runs of a handler are recorded, and which of them never end.
#[derive(Clone)]
struct Runs {
    redis: MultiplexedConnection,
    key: String,
    hold_after: Option<usize>,
    begun: Arc<AtomicUsize>,
}

impl Runs {
    #[allow(clippy::print_stdout, reason = "the test waits for the line")]
    async fn record(&self, handled: EventId, saved: EventId) -> Result<(), redis::RedisError> {
        let ids = serde_json::json!([handled.as_uuid(), saved.as_uuid()]).to_string();
        redis::cmd("RPUSH").arg(&self.key).arg(ids).exec_async(&mut self.redis.clone()).await?;
        if self.hold_after.is_some_and(|after| self.begun.fetch_add(1, Ordering::SeqCst) >= after) {
            println!("{HOLDS}");
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

#[handler(stream = "payments", manual)]
async fn prepare_shipment(
    event: &PaymentTaken,
    meta: &Metadata,
    shipments: Repository<Shipment>,
    State(runs): State<Runs>,
) -> eventbus::Result<()> {
    let prepared = |_: &Shipment| Ok::<_, Never>(ShipmentPrepared { number: event.number });
    let saved = shipments.upsert(meta.aggregate_id(), prepared).await?;
    runs.record(meta.event_id(), saved.events[0].metadata().event_id()).await?;
    Ok(())
}

/// A process of a service.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Service {
    /// [`SALES`] or [`SHIPPING`].
    pub(super) name: String,
    pub(super) database_url: String,
    pub(super) redis_url: String,
    pub(super) stream_prefix: String,
    pub(super) death: Death,
}

/// How the process of the second service dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Death {
    Never,
    /// At once after it has committed so many runs, and before it acknowledges the last one.
    AfterCommits(u64),
    /// By the test, once it has printed [`HOLDS`]: after so many runs, the next ones are recorded and never end.
    AfterRuns(usize),
}

impl Service {
    pub(super) fn start(&self) -> Actor {
        Actor::play("tree::services::a_service", &[(SERVICE, &serde_json::to_string(self).unwrap())])
    }

    async fn run(self) {
        if self.name == SALES {
            Actor::end_with_parent();
            self.place_orders().await;
        } else {
            self.prepare_shipments().await;
        }
    }

    async fn store(&self) -> PgEventStore {
        let (database_url, schema) = (self.database_url.clone(), self.name.clone());
        PgEventStore::connect_with(PgEventStoreConfig { database_url, schema, ..Default::default() }).await.unwrap()
    }

    async fn bus(&self) -> RedisEventBus {
        let config = RedisEventBusConfig {
            redis_url: self.redis_url.clone(),
            stream_prefix: self.stream_prefix.clone(),
            consumer_group: self.name.clone(),
            consumer_name: Some(self.name.clone()),
            concurrency: CONCURRENCY,
            readable_by_python: true,
            ..config()
        };
        RedisEventBus::connect(config).await.unwrap()
    }

    async fn place_orders(self) {
        let builder = App::builder().store(self.store().await).bus(self.bus().await).share_stream();
        let app = builder.start().await.unwrap();
        for number in 0..ORDERS {
            let context = root_context(number);
            let orders = app.repository::<Order>().for_tenant(context.tenant_id).with_context(context);
            orders.upsert(&AggregateId::new(), |_| Ok::<_, Never>(OrderPlaced { number })).await.unwrap();
        }
        app.settled().await.unwrap();
        app.shutdown(SHUTDOWN_TIMEOUT).await.unwrap();
    }

    /// Prepares shipments until the test lets it end.
    async fn prepare_shipments(self) {
        let (crash, hold_after) = match self.death {
            Death::Never => (None, None),
            Death::AfterCommits(nth) => (Some(CrashPoint { point: "multi_stream".into(), after: true, nth }), None),
            Death::AfterRuns(runs) => (None, Some(runs)),
        };
        let redis = redis_connection(&self.redis_url).await;
        let key = runs_key(&self.stream_prefix, &self.name);
        let runs = Runs { redis, key, hold_after, begun: Arc::default() };
        let bus = self.bus().await;
        let app = App::builder()
            .store(FailPointStore::new(self.store().await, FailPoints::new(crash)))
            .bus(bus.clone())
            .consume("payments", bus)
            .share_stream()
            .lease(SHORT_LEASE)
            .state(runs)
            .handler::<prepare_shipment>()
            .start()
            .await
            .unwrap();
        tokio::task::spawn_blocking(Actor::hear).await.unwrap();
        app.settled().await.unwrap();
        app.shutdown(SHUTDOWN_TIMEOUT).await.unwrap();
    }
}

/// The role of a process of a service; returns at once in an ordinary run.
#[tokio::test]
async fn a_service() {
    let Ok(service) = env::var(SERVICE) else { return };
    serde_json::from_str::<Service>(&service).unwrap().run().await;
}
