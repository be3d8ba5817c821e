//! Methods that take batches of events.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use eventbus::{
    App, BoxError, ExpectedVersion, Name, NewEvent, Position, StreamId,
    port::EventStore,
    prelude::*,
    projection::{ProjectionError, RebuildError},
};
use serde_json::json;

use crate::{
    kinds::Kind,
    orders::{Paid, pay},
};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Order")]
pub(crate) struct Refunded {
    pub(crate) cents: i64,
}

/// Rows that a second write, or an amount below zero, breaks at once, and an amount of 1,000,000 at the commit.
const SET_UP: &str = "CREATE TABLE IF NOT EXISTS lucky_amounts (cents bigint PRIMARY KEY);
    CREATE TABLE IF NOT EXISTS receipts (
        order_id text, version bigint, cents bigint CHECK (cents >= 0),
        lucky bigint REFERENCES lucky_amounts DEFERRABLE INITIALLY DEFERRED, PRIMARY KEY (order_id, version))";
const RECEIPTS: &str = "SELECT coalesce(string_agg(order_id || ' ' || version || ' ' || cents, '; ' ORDER BY order_id, version), '') \
     FROM receipts";

/// The events of each call of the methods: `paid` with its amounts, or `refunded` with one.
#[derive(Clone, Default)]
pub(crate) struct Calls(Arc<Mutex<Vec<Vec<i64>>>>);

impl Calls {
    fn note(&self, cents: Vec<i64>) {
        self.0.lock().unwrap().push(cents);
    }

    fn take(&self) -> Vec<Vec<i64>> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// Inserts rows given as a JSON array by one statement.
pub(crate) trait Insert {
    fn insert(&mut self, rows: String) -> impl Future<Output = Result<(), BoxError>> + Send;
}

impl Insert for eventstore_sqlite::SqliteTransaction {
    async fn insert(&mut self, rows: String) -> Result<(), BoxError> {
        const INSERT: &str = "INSERT INTO receipts SELECT value ->> 0, value ->> 1, value ->> 2, \
             CASE value ->> 2 WHEN 1000000 THEN 1000000 END FROM json_each(?1)";
        self.execute(INSERT, (rows,))?;
        Ok(())
    }
}

impl Insert for eventstore_postgres::PgConnection {
    async fn insert(&mut self, rows: String) -> Result<(), BoxError> {
        const INSERT: &str = "INSERT INTO receipts SELECT value ->> 0, (value ->> 1)::bigint, (value ->> 2)::bigint, \
             CASE (value ->> 2)::bigint WHEN 1000000 THEN 1000000 END FROM json_array_elements($1::json)";
        sqlx::query(INSERT).bind(rows).execute(self).await?;
        Ok(())
    }
}

async fn write<'e>(
    connection: &mut impl Insert,
    calls: &Calls,
    receipts: impl Iterator<Item = (&'e Metadata, i64)>,
) -> Result<(), BoxError> {
    let (rows, cents): (Vec<_>, Vec<_>) =
        receipts.map(|(meta, cents)| (json!([meta.aggregate_id(), meta.version().get(), cents]), cents)).unzip();
    calls.note(cents);
    connection.insert(json!(rows).to_string()).await
}

macro_rules! receipts_on {
    ($module:ident, $connection:ty) => {
        pub(crate) mod $module {
            use super::*;

            #[derive(Default)]
            pub(crate) struct Receipts;

            #[projection(name = "receipts", tables("receipts"), key = "order_id", set_up = SET_UP, manual)]
            impl Receipts {
                async fn paid(
                    &self,
                    events: &[Envelope<Paid>],
                    connection: &mut $connection,
                    State(calls): State<Calls>,
                ) -> Result<(), BoxError> {
                    write(connection, &calls, events.iter().map(|event| (event.metadata(), event.cents))).await
                }

                async fn refunded(
                    &self,
                    event: &Refunded,
                    meta: &Metadata,
                    connection: &mut $connection,
                    State(calls): State<Calls>,
                ) -> Result<(), BoxError> {
                    write(connection, &calls, std::iter::once((meta, event.cents))).await
                }
            }
        }
    };
}

receipts_on!(sqlite, eventstore_sqlite::SqliteTransaction);
receipts_on!(postgres, eventstore_postgres::PgConnection);

fn order(number: u64) -> StreamId {
    StreamId::parse("Order", &format!("order-{number}")).unwrap()
}

fn paid(cents: i64) -> NewEvent {
    NewEvent::from_event(&Paid { cents }).unwrap()
}

fn refunded(cents: i64) -> NewEvent {
    NewEvent::from_event(&Refunded { cents }).unwrap()
}

async fn append(store: &dyn EventStore, number: u64, news: Vec<NewEvent>) -> Position {
    let records = store.append(&order(number), ExpectedVersion::Any, news).await.unwrap();
    records.last().unwrap().position().unwrap()
}

async fn start<K: Kind>(kind: &K) -> (App, Calls) {
    let calls = Calls::default();
    let builder = App::builder().store(kind.store()).state(calls.clone()).projection(K::Receipts::default());
    (builder.without_relay().start().await.unwrap(), calls)
}

pub(crate) async fn batches_are_consecutive_events_in_feed_order_and_as_long_as_possible<K: Kind>() {
    let place = K::place();
    let kind = K::open(&place).await;
    let store = kind.store();
    append(&*store, 1, (1..=600).map(paid).collect()).await;
    append(&*store, 2, vec![refunded(601), refunded(602)]).await;
    append(&*store, 1, (603..=604).map(paid).collect()).await;
    // an event of a type that the projection does not handle
    append(&*store, 3, vec![NewEvent::new(Name::from_static("Noted"), 1, "{}")]).await;
    append(&*store, 2, vec![paid(605)]).await;
    let last = append(&*store, 2, vec![refunded(606)]).await;
    let (app, calls) = start(&kind).await;
    app.projected::<K::Receipts>(last).await.map(drop).unwrap();
    let expected = [(1..=600).collect(), vec![601], vec![602], vec![603, 604, 605], vec![606]];
    assert_eq!(calls.take(), expected, "one statement for 600 events");
    let sum = kind.ask("SELECT CAST(count(*) || ' ' || sum(cents) AS text) FROM receipts").await;
    assert_eq!(sum, format!("606 {}", 606 * 607 / 2));
}

/// The event is refused by a constraint, cannot be decoded, or is refused by a constraint that the commit checks.
pub(crate) async fn a_failing_event_of_a_batch_is_found_and_those_before_it_are_committed_once<K: Kind>() {
    let undecodable = NewEvent::new(Name::from_static("Paid"), 1, r#"{"cents": "many"}"#);
    for (bad, solo_calls) in [(paid(-1), 4), (undecodable, 0), (paid(1_000_000), 4)] {
        let tried = stops_at_a_bad_event_and_goes_on_after_it::<K>(paid, bad).await;
        let solo = tried.iter().filter(|call| matches!(call[..], [-1 | 1_000_000])).count();
        assert_eq!(solo, solo_calls, "{tried:?}");
        assert!(tried.len() - solo <= 7, "halves, and no single events: {tried:?}");
    }
}

pub(crate) async fn an_event_that_fails_at_the_commit_is_found_among_those_of_one_event_methods<K: Kind>() {
    let tried = stops_at_a_bad_event_and_goes_on_after_it::<K>(refunded, refunded(1_000_000)).await;
    assert!(tried.len() < 150, "smaller transactions, and not one for each event: {}", tried.len());
}

/// Returns the calls until the projection stops.
async fn stops_at_a_bad_event_and_goes_on_after_it<K: Kind>(good: fn(i64) -> NewEvent, bad: NewEvent) -> Vec<Vec<i64>> {
    let place = K::place();
    let kind = K::open(&place).await;
    let store = kind.store();
    let (position, bad_index) = (Position::new(26), 25);
    let mut news: Vec<_> = (20..=59).map(good).collect();
    news[bad_index as usize] = bad;
    append(&*store, 1, news).await;
    let (app, calls) = start(&kind).await;
    let error = app.projected::<K::Receipts>(position).await.map(drop).unwrap_err();
    assert!(matches!(&error, ProjectionError::Stopped { position: at, .. } if *at == position), "{error:?}");
    let row = |index: i64| format!("order-1 {} {}", index + 1, index + 20);
    let before: Vec<_> = (0..bad_index).map(row).collect();
    assert_eq!(kind.ask(RECEIPTS).await, before.join("; "), "those before it, and no more");
    let checkpoint = store.load_checkpoint(&Name::from_static("projection:receipts")).await.unwrap();
    assert_eq!(checkpoint, Some(Position::new(25)));
    let tried = calls.take();

    assert!(app.skip_event::<K::Receipts>(position, "a bad amount").await.unwrap());
    let last = append(&*store, 2, vec![good(7)]).await;
    app.projected::<K::Receipts>(last).await.map(drop).unwrap();
    let after = (bad_index + 1..40).map(row).chain(["order-2 1 7".to_owned()]);
    let rows: Vec<_> = before.iter().cloned().chain(after).collect();
    assert_eq!(kind.ask(RECEIPTS).await, rows.join("; "), "all but the skipped one");
    assert_eq!(calls.take().concat(), (46..=59).chain([7]).collect::<Vec<_>>(), "none is written twice");
    app.shutdown(Duration::from_secs(10)).await.unwrap();
    tried
}

pub(crate) async fn a_rebuild_by_batches_equals_the_live_rows<K: Kind>() {
    let place = K::place();
    let kind = K::open(&place).await;
    let store = kind.store();
    for number in 1..=4 {
        append(&*store, number, (0..275).map(paid).collect()).await;
    }
    let (app, calls) = start(&kind).await;
    let reached = async || {
        let head = store.head().await.unwrap();
        app.projected::<K::Receipts>(head).await.map(drop).unwrap();
    };
    reached().await;
    let live = kind.ask(RECEIPTS).await;
    kind.tell("UPDATE receipts SET cents = 0").await;
    calls.take();
    let rebuilt = app.rebuild::<K::Receipts>().await.unwrap();
    assert_eq!((rebuilt.events, kind.ask(RECEIPTS).await), (1_100, live));
    assert!(calls.take().len() <= 4, "a call for each transaction");

    let writer = tokio::spawn({
        let store = store.clone();
        async move { pay(&*store, 5, 100).await }
    });
    app.rebuild::<K::Receipts>().await.unwrap();
    writer.await.unwrap();
    reached().await;
    let live = kind.ask(RECEIPTS).await;
    app.rebuild::<K::Receipts>().await.unwrap();
    assert_eq!(kind.ask(RECEIPTS).await, live, "byte for byte");
}

pub(crate) async fn the_rows_of_one_aggregate_are_rebuilt_by_batches<K: Kind>() {
    let place = K::place();
    let kind = K::open(&place).await;
    let store = kind.store();
    append(&*store, 1, (20..=24).map(paid).collect()).await;
    append(&*store, 1, vec![refunded(25)]).await;
    append(&*store, 2, vec![paid(30)]).await;
    let last = append(&*store, 1, (26..=40).map(paid).collect()).await;
    let (app, calls) = start(&kind).await;
    app.projected::<K::Receipts>(last).await.map(drop).unwrap();
    let live = kind.ask(RECEIPTS).await;
    kind.tell("DELETE FROM receipts WHERE cents > 22").await;
    calls.take();
    let rebuilt = app.rebuild_aggregate::<K::Receipts>(&order(1)).await.unwrap();
    assert_eq!((rebuilt.events, calls.take()), (21, vec![(20..=24).collect(), vec![25], (26..=40).collect()]));
    app.rebuild_aggregate::<K::Receipts>(&order(2)).await.unwrap();
    assert_eq!(kind.ask(RECEIPTS).await, live);

    // the row of order 2 is in the way of the amount of 30, the event at position 12
    kind.tell("DELETE FROM receipts WHERE order_id = 'order-1'").await;
    kind.tell("CREATE UNIQUE INDEX one_receipt_per_amount ON receipts (cents)").await;
    let error = app.rebuild_aggregate::<K::Receipts>(&order(1)).await.map(drop).unwrap_err();
    assert!(matches!(&error, RebuildError::Failed { position, .. } if *position == Position::new(12)), "{error:?}");
}
