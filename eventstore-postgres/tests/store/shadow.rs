//! Shadows: copies of tables that are filled while the live ones serve.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use crate::common::{TestDatabase, open, run};
use eventbus::{
    BoxError, Name, Position,
    port::{Checkpoints as _, EventStore as _, FromTransaction as _, Leases as _, Shadow, Transaction, Transactions},
};
use eventstore_postgres::{PgConnection, PgEventStore, PgEventStoreConfig, PgTransactionError};
use sqlx::AssertSqlSafe;
use tracing::Dispatch;

const TABLES: &str = "CREATE SCHEMA app;
    CREATE TABLE app.customers (id bigint PRIMARY KEY, name text NOT NULL);
    CREATE TABLE app.orders (
        id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        number serial NOT NULL UNIQUE,
        customer bigint NOT NULL REFERENCES app.customers (id),
        cents bigint NOT NULL DEFAULT 1 CHECK (cents > 0),
        euros bigint GENERATED ALWAYS AS (cents / 100) STORED);
    CREATE VIEW app.totals AS SELECT sum(cents) AS cents FROM app.orders;
    INSERT INTO app.customers VALUES (1, 'live'); INSERT INTO app.orders (customer, cents) VALUES (1, 100), (1, 200)";

struct Place {
    store: PgEventStore,
    transactions: Arc<dyn Transactions>,
    admin: PgConnection,
    shadow: Shadow,
    database: TestDatabase,
}

impl Place {
    async fn new() -> Self {
        let database = TestDatabase::create("").await;
        let mut admin = database.connection().await;
        run(&mut admin, TABLES).await;
        let set = format!("ALTER DATABASE {} SET search_path = app, public", database.name());
        run(&mut admin, &set).await;
        run(&mut admin, "SET search_path = app, public").await;
        // one connection: statements prepared for the live tables must not be reused
        let store = open(PgEventStoreConfig { max_transactions: 1, ..database.config() }).await;
        let transactions = store.transactions().unwrap();
        let tables = ["customers", "orders"].map(Into::into).into();
        let shadow = Shadow { name: Name::from_static("projection:orders (rebuild)"), tables };
        Self { store, transactions, admin, shadow, database }
    }

    async fn make(&self) -> Position {
        self.transactions.make_shadow(&self.shadow).await.unwrap()
    }

    /// Adds an order to the shadow's copies, and advances.
    async fn fill(&self, from: u64, to: u64, cents: i64) {
        let mut transaction = self.transactions.begin_in(&self.shadow).await.unwrap();
        insert(&mut *transaction, i64::try_from(to).unwrap(), cents).await.unwrap();
        let hour = Duration::from_secs(3_600);
        let owner = Name::from_static("one");
        let lease = self.store.seize_lease(&self.shadow.name, &owner, hour).await.unwrap();
        assert!(transaction.advance(&lease, from.into(), to.into()).await.unwrap());
        transaction.commit().await.unwrap();
    }

    async fn insert_live(&self, customer: i64) {
        let mut transaction = self.transactions.begin().await.unwrap();
        insert(&mut *transaction, customer, 300).await.unwrap();
        transaction.commit().await.unwrap();
    }

    /// The orders of the live table: customer, cents, euros.
    async fn orders(&mut self) -> Vec<(i64, i64, i64)> {
        let orders = sqlx::query_as("SELECT customer, cents, euros FROM app.orders ORDER BY id");
        orders.fetch_all(&mut self.admin).await.unwrap()
    }

    async fn count(&mut self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut self.admin).await.unwrap()
    }
}

const SHADOWS: &str = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'eventbus\\_shadow\\_%'";

/// Writes as a projection does, with the same statements for live and copied tables.
async fn insert(transaction: &mut dyn Transaction, customer: i64, cents: i64) -> Result<(), BoxError> {
    let connection = PgConnection::take(Some(transaction.as_any_mut())).unwrap();
    sqlx::query("INSERT INTO customers VALUES ($1, 'x')").bind(customer).execute(&mut *connection).await?;
    sqlx::query("INSERT INTO orders (customer, cents) VALUES ($1, $2)")
        .bind(customer)
        .bind(cents)
        .execute(connection)
        .await?;
    Ok(())
}

fn is_no_table(error: &BoxError) -> bool {
    matches!(error.downcast_ref(), Some(PgTransactionError::NoTable { .. }))
}

#[tokio::test]
async fn copies_are_not_filled_while_their_rows_replace_the_live_ones() {
    let place = Place::new().await;
    place.make().await;
    place.fill(0, 7, 500).await;
    let filling = open(place.database.config()).await;
    let hour = Duration::from_secs(3_600);
    let lease = filling.seize_lease(&place.shadow.name, &Name::from_static("two"), hour).await.unwrap();
    let mut filler = filling.transactions().unwrap().begin_in(&place.shadow).await.unwrap();
    insert(&mut *filler, 8, 800).await.unwrap();

    let mut switch = place.transactions.begin().await.unwrap();
    assert_eq!(switch.replace_rows(&place.shadow).await.unwrap(), Position::new(7));
    let mut advance = filler.advance(&lease, 7.into(), 8.into());
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut advance).await.is_err(), "it waits");
    drop(switch);
    assert!(advance.await.unwrap());
}

#[tokio::test]
async fn copies_are_filled_apart_and_their_rows_replace_the_live_ones() {
    let mut place = Place::new().await;
    place.insert_live(2).await;
    assert_eq!(place.make().await, Position::START);
    place.fill(0, 7, 500).await;
    assert_eq!(place.orders().await, [(1, 100, 1), (1, 200, 2), (2, 300, 3)]);
    assert_eq!(place.make().await, Position::new(7), "it is there already");
    for at in 7..12 {
        place.fill(at, at + 1, 700).await;
    }
    place.insert_live(3).await;

    let mut transaction = place.transactions.begin().await.unwrap();
    assert_eq!(transaction.replace_rows(&place.shadow).await.unwrap(), Position::new(12));
    assert_eq!(place.orders().await.len(), 4, "it is seen before it is committed");
    transaction.commit().await.unwrap();
    let replaced = [(7, 500, 5), (8, 700, 7), (9, 700, 7), (10, 700, 7), (11, 700, 7), (12, 700, 7)];
    assert_eq!(place.orders().await, replaced);
    assert_eq!(place.count("SELECT cents::bigint FROM app.totals").await, 4_000, "the view shows something else");

    assert_eq!(place.store.load_checkpoint(&place.shadow.name).await.unwrap(), None);

    place.transactions.drop_shadow(&place.shadow).await.unwrap();
    place.transactions.drop_shadow(&place.shadow).await.unwrap();
    assert_eq!(place.count(SHADOWS).await, 0);
    assert_eq!(place.store.load_checkpoint(&place.shadow.name).await.unwrap(), None);
    for customer in [21, 22, 23] {
        place.insert_live(customer).await;
    }
    assert_eq!(place.orders().await.len(), 9, "the live table goes on counting after what it was given");
    let references = "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND conrelid = 'app.orders'::regclass";
    assert_eq!(place.count(references).await, 1, "the foreign key is gone");
}

#[derive(Clone, Default)]
struct Notices(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Notices {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Those of a user's statements reach the log as before, on the same connection.
#[tokio::test]
async fn tables_are_set_up_and_copies_dropped_without_a_notice_in_the_log() {
    let notices = Notices::default();
    // while there is only one subscriber, threads without one may switch a log line off for it, too
    static ANOTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(tracing_subscriber::fmt().finish()));
    LazyLock::force(&ANOTHER);
    let writer = notices.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _here = tracing::subscriber::set_default(subscriber);
    let place = Place::new().await;
    place.make().await;
    place.fill(0, 7, 500).await;
    place.transactions.drop_shadow(&place.shadow).await.unwrap();
    place.make().await;
    place.transactions.set_up_tables("CREATE TABLE IF NOT EXISTS app.orders ()").await.unwrap();
    let mut transaction = place.transactions.begin().await.unwrap();
    let connection = PgConnection::take(Some(transaction.as_any_mut())).unwrap();
    sqlx::raw_sql("DO $$ BEGIN RAISE NOTICE 'of the user'; END $$").execute(connection).await.unwrap();
    let log = String::from_utf8(notices.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("of the user"), "{log}");
    assert!(!log.contains("cascade") && !log.contains("skipping"), "{log}");
}

#[tokio::test]
async fn copies_that_have_served_are_made_anew_if_nobody_dropped_them() {
    let mut place = Place::new().await;
    place.make().await;
    place.fill(0, 7, 500).await;
    for is_committed in [false, true] {
        let mut transaction = place.transactions.begin().await.unwrap();
        assert_eq!(transaction.replace_rows(&place.shadow).await.unwrap(), Position::new(7));
        if is_committed {
            transaction.commit().await.unwrap();
        } else {
            drop(transaction);
        }
        // as after a crash
        let expected = if is_committed { Position::START } else { Position::new(7) };
        assert_eq!(place.make().await, expected);
    }
    place.fill(0, 7, 600).await;
    let mut transaction = place.transactions.begin().await.unwrap();
    transaction.replace_rows(&place.shadow).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(place.orders().await.iter().map(|order| (order.0, order.1)).collect::<Vec<_>>(), [(7, 600)]);
}

#[tokio::test]
async fn nothing_is_written_to_the_live_tables_once_the_copies_are_gone() {
    let mut place = Place::new().await;
    assert!(place.transactions.begin_in(&place.shadow).await.is_err(), "there are no copies yet");
    place.make().await;
    place.fill(0, 7, 500).await;
    place.transactions.drop_shadow(&place.shadow).await.unwrap();
    assert!(place.transactions.begin_in(&place.shadow).await.is_err(), "there are no copies any more");
    assert_eq!(place.orders().await.len(), 2);
    assert_eq!(place.make().await, Position::START);
}

#[tokio::test]
async fn copies_wait_to_be_dropped_while_somebody_fills_them() {
    let place = Place::new().await;
    let transactions = open(place.database.config()).await.transactions().unwrap();
    place.make().await;
    let mut filling = place.transactions.begin_in(&place.shadow).await.unwrap();
    let shadow = place.shadow.clone();
    let dropping = tokio::spawn(async move { transactions.drop_shadow(&shadow).await });
    let mut watcher = place.database.connection().await;
    crate::common::waiting_backend(&mut watcher, "DROP SCHEMA").await;
    insert(&mut *filling, 5, 500).await.unwrap();
    filling.commit().await.unwrap();
    crate::common::within(dropping).await.unwrap().unwrap();
}

#[tokio::test]
async fn copies_of_tables_that_changed_are_made_anew() {
    let mut place = Place::new().await;
    place.make().await;
    place.fill(0, 7, 500).await;
    run(&mut place.admin, "ALTER TABLE app.customers ADD COLUMN city text").await;
    assert_eq!(place.make().await, Position::START);
    assert_eq!(place.store.load_checkpoint(&place.shadow.name).await.unwrap(), None);
    place.fill(0, 3, 500).await;
    place.shadow.tables.remove(0);
    assert_eq!(place.make().await, Position::new(3));
}

#[tokio::test]
async fn tables_are_called_by_plain_names_that_exist() {
    let mut place = Place::new().await;
    for (table, is_missing) in
        [("nothing", true), ("app.orders", false), ("orders\"; DROP TABLE app.orders; --", false)]
    {
        place.shadow.tables = vec!["orders".into(), table.into()];
        let error = place.transactions.make_shadow(&place.shadow).await.unwrap_err();
        assert_eq!(is_no_table(&error), is_missing, "{error}");
        let invalid = matches!(error.downcast_ref(), Some(PgTransactionError::InvalidName { .. }));
        assert_eq!(invalid, !is_missing, "{error}");
        let mut transaction = place.transactions.begin().await.unwrap();
        assert!(transaction.delete_rows(table, "id", "1").await.is_err());
    }
    assert_eq!(place.count(SHADOWS).await, 0, "it is made in part");
}

#[tokio::test]
async fn tables_and_columns_are_looked_for_where_statements_find_them() {
    let place = Place::new().await;
    let mut transaction = place.transactions.begin().await.unwrap();
    let mut found = Vec::new();
    for (table, column) in
        [("orders", None), ("orders", Some("customer")), ("order", None), ("orders", Some("no")), ("order", Some("no"))]
    {
        found.push(transaction.has_table(table, column).await.unwrap());
    }
    assert_eq!(found, [true, true, false, false, false]);
    let connection = PgConnection::take(Some(transaction.as_any_mut())).unwrap();
    sqlx::query("CREATE TABLE app.fresh (id text)").execute(connection).await.unwrap();
    assert!(transaction.has_table("fresh", Some("id")).await.unwrap(), "made in the same transaction");
    assert!(transaction.has_table("app.orders", None).await.is_err());
    assert!(!transaction.has_rows("fresh").await.unwrap() && !transaction.has_rows("order").await.unwrap());
    let connection = PgConnection::take(Some(transaction.as_any_mut())).unwrap();
    sqlx::query("INSERT INTO app.fresh VALUES ('1')").execute(connection).await.unwrap();
    assert!(transaction.has_rows("fresh").await.unwrap());
    assert!(transaction.has_rows("app.orders").await.is_err());
}

#[tokio::test]
async fn rows_are_deleted_by_the_value_of_a_column_of_any_type() {
    let mut place = Place::new().await;
    let mut transaction = place.transactions.begin().await.unwrap();
    let error = transaction.delete_rows("orders", "nothing", "1").await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(PgTransactionError::NoColumn { .. })), "{error}");
    transaction.delete_rows("orders", "cents", "100").await.unwrap();
    transaction.delete_rows("customers", "name", "nobody's").await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(place.orders().await, [(1, 200, 2)]);
    let mut transaction = place.transactions.begin().await.unwrap();
    assert!(transaction.delete_rows("orders", "cents", "a lot").await.is_err());
    drop(transaction);

    place.make().await;
    let mut transaction = place.transactions.begin_in(&place.shadow).await.unwrap();
    transaction.delete_rows("orders", "cents", "200").await.unwrap();
    let error = transaction.replace_rows(&place.shadow).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(PgTransactionError::InShadow)), "{error}");
    drop(transaction);
    assert_eq!(place.orders().await, [(1, 200, 2)]);
}

/// Before the copies are filled, which may take hours.
#[tokio::test]
async fn tables_that_would_lose_rows_with_those_that_are_replaced_or_forbid_it_are_named() {
    for on_delete in ["ON DELETE CASCADE", "ON DELETE SET NULL", "ON DELETE RESTRICT", ""] {
        let mut place = Place::new().await;
        let notes = format!("CREATE TABLE app.notes (about integer REFERENCES app.orders {on_delete})");
        let insert = "INSERT INTO app.notes VALUES (1)";
        place.make().await;
        run(&mut place.admin, &format!("{notes}; {insert}")).await;
        for is_made in [true, false] {
            let error = match is_made {
                true => place.transactions.begin().await.unwrap().replace_rows(&place.shadow).await.unwrap_err(),
                false => place.transactions.make_shadow(&place.shadow).await.unwrap_err(),
            };
            let Some(PgTransactionError::Referred { table, by }) = error.downcast_ref() else { panic!("{error}") };
            assert_eq!((&**table, &**by), ("orders", "notes"));
        }
        assert_eq!(place.count("SELECT count(*) FROM app.notes WHERE about = 1").await, 1);
    }
}

#[tokio::test]
async fn rows_that_others_refer_to_by_a_key_that_can_be_deferred_are_replaced() {
    let mut place = Place::new().await;
    let notes =
        "CREATE TABLE app.notes (about integer REFERENCES app.orders DEFERRABLE); INSERT INTO app.notes VALUES (2)";
    run(&mut place.admin, notes).await;
    place.make().await;
    let replace = async |place: &Place| -> Result<(), BoxError> {
        let mut transaction = place.transactions.begin().await?;
        transaction.replace_rows(&place.shadow).await?;
        transaction.commit().await
    };
    place.fill(0, 7, 500).await;
    let refused = replace(&place).await.unwrap_err();
    assert!(refused.to_string().contains("notes_about_fkey"), "there would be no second order: {refused}");
    place.fill(7, 8, 700).await;
    replace(&place).await.unwrap();
    assert_eq!(place.count("SELECT cents FROM app.notes JOIN app.orders o ON o.id = about").await, 700);
}
