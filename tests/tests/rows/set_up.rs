//! Projections that create their tables at the start of an app.

use std::{error::Error as _, time::Duration};

use eventbus::{App, BoxError, StartError, app::StartMistake, port::EventBus as _, prelude::*, projection::Projection};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use futures_util::future::{join_all, try_join_all};

use crate::{
    kinds::Kind,
    orders::{Pace, Paid, Run, pay},
};

/// Three tables, so that starts that are not kept apart meet.
const SET_UP: &str = "CREATE TABLE IF NOT EXISTS paid_orders (order_id text PRIMARY KEY, events bigint, cents bigint);
    CREATE TABLE IF NOT EXISTS paid_by_card (order_id text PRIMARY KEY, cents bigint);
    CREATE TABLE IF NOT EXISTS paid_in_cash (order_id text PRIMARY KEY, cents bigint);";
const PAID_PARTS: &str = "SELECT CAST(coalesce(sum(events), 0) AS text) FROM paid_orders";

macro_rules! set_up_on {
    ($module:ident, $connection:ty) => {
        pub(crate) mod $module {
            use super::*;

            #[derive(Clone, Default)]
            pub(crate) struct PaidOrders;

            #[projection(name = "paid-orders", tables("paid_orders"), key = "order_id", set_up = SET_UP, manual)]
            impl PaidOrders {
                async fn paid(
                    &self,
                    event: &Paid,
                    meta: &Metadata,
                    connection: &mut $connection,
                ) -> Result<(), BoxError> {
                    const ADD: &str = "INSERT INTO paid_orders AS o VALUES ($1, $2, $3) ON CONFLICT (order_id) \
                         DO UPDATE SET events = o.events + 1, cents = o.cents + excluded.cents";
                    connection.run(ADD, meta.aggregate_id().as_str(), [1, event.cents]).await
                }
            }

            #[derive(Clone, Default)]
            pub(crate) struct Misspelled;

            #[projection(
                name = "misspelled",
                set_up = "CREATE TABLE half_done (id text); CREATE TABEL order_rows (id text)",
                manual
            )]
            impl Misspelled {
                async fn paid(&self, _event: &Paid, _connection: &mut $connection) {}
            }
        }
    };
}

set_up_on!(sqlite, eventstore_sqlite::SqliteTransaction);
set_up_on!(postgres, eventstore_postgres::PgConnection);

async fn start<K: Kind>(kind: &K, projection: impl Projection + Clone) -> Result<App, StartError> {
    let builder = App::builder().store(kind.store()).projection_with(move || projection.clone());
    builder.lease(Duration::from_millis(400)).without_relay().start().await
}

pub(crate) async fn an_app_creates_its_tables_and_keeps_their_rows_at_the_next_start<K: Kind>() {
    let place = K::place();
    let kind = K::open(&place).await;
    let store = kind.store();
    for total in ["3", "6"] {
        let last = pay(&*store, 1, 3).await;
        let app = start(&kind, K::PaidOrders::default()).await.unwrap();
        app.projected::<K::PaidOrders>(last).await.map(drop).unwrap();
        assert_eq!(kind.ask(PAID_PARTS).await, total);
        app.rebuild::<K::PaidOrders>().await.unwrap();
        assert_eq!(kind.ask(PAID_PARTS).await, total, "the rebuild copied the table");
        app.shutdown(Duration::from_secs(10)).await.unwrap();
    }
}

pub(crate) async fn apps_that_start_at_once_create_the_tables_once<K: Kind>() {
    let place = K::place();
    let mut kinds = Vec::new();
    for _ in 0..8 {
        kinds.push(K::open(&place).await);
    }
    let last = pay(&*kinds[0].store(), 1, 3).await;
    let starts = kinds.iter().map(|kind| start(kind, K::PaidOrders::default()));
    let apps = try_join_all(starts).await.unwrap();
    apps[7].projected::<K::PaidOrders>(last).await.map(drop).unwrap();
    assert_eq!(kinds[7].ask(PAID_PARTS).await, "3");
    join_all(apps.iter().map(|app| app.shutdown(Duration::from_secs(10)))).await;
}

pub(crate) async fn a_failed_set_up_names_the_projection_and_changes_nothing<K: Kind>() {
    let place = K::place();
    let kind = K::open(&place).await;
    let redis = eventbus_test::redis();
    let config = RedisEventBusConfig {
        redis_url: redis.url().into(),
        stream_prefix: redis.prefix().into(),
        ..RedisEventBusConfig::default()
    };
    let bus = RedisEventBus::connect(config).await.unwrap();
    let builder = App::builder().store(kind.store()).bus(bus.clone()).state(Pace::FAST);
    let builder = K::with_effects(builder).projection(K::Misspelled::default());
    let error = builder.start().await.unwrap_err();
    let [mistake @ StartMistake::SetUp { name: "misspelled", .. }] = error.mistakes() else { panic!("{error}") };
    assert!(mistake.source().is_some());
    let text = error.to_string();
    assert!(text.contains("projection `misspelled`") && text.contains("TABEL"), "{text}");
    let groups = bus.stream_info().await.consumer_groups;
    assert!(groups.is_empty(), "an app that does not start leaves no group behind: {groups:?}");
    // fails if the first statement was kept
    kind.tell("CREATE TABLE half_done (id text)").await;
}

pub(crate) async fn a_set_up_that_ends_its_transaction_is_refused<K: Kind>() {
    let place = K::place();
    let kind = K::open(&place).await;
    let store = kind.store();
    let set_up = async |statements: &str| store.transactions().unwrap().set_up_tables(statements).await;
    for end in ["COMMIT", "ROLLBACK", "COMMIT; BEGIN", "ROLLBACK; BEGIN", "COMMIT; CREATE TABLE later (id text)"] {
        let error = set_up(&format!("CREATE TABLE IF NOT EXISTS early (id text); {end};")).await.unwrap_err();
        assert!(error.to_string().to_lowercase().contains("commit and rollback to the store"), "{end}: {error}");
        // the connection is as it was
        set_up("CREATE TABLE IF NOT EXISTS sound (id text)").await.unwrap();
        pay(&*store, 1, 1).await;
    }
    kind.tell("INSERT INTO sound VALUES ('1')").await;
}
