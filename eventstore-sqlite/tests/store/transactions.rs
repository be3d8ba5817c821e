//! Transactions of the store: atomic, in turn with appends, and limited in time.

use std::{error::Error as _, panic::AssertUnwindSafe, path::PathBuf, pin::pin, thread, time::Duration};

use crate::common::{events, feed, fresh_path, fresh_stream, read, within};
use eventbus::{
    AggregateId, BoxError, EventId, ExpectedVersion, Name, Position, StreamId, Version,
    event::{Tag, UniqueChange},
    port::{
        Append, AppendError, AppendEvents as _, Checkpoints as _, EventStore as _, EventTypes as _, Leases as _,
        MultiStreamAppends as _, ReadFeed as _, ReadStream as _, Transaction, Transactions as _,
    },
    store::{Boundaries as _, MultiStreamAppend, UniqueValues as _},
};
use eventstore_sqlite::{
    SqliteEventStore, SqliteEventStoreConfig, SqliteTransaction, SqliteTransactionError, rusqlite,
};
use futures_util::{
    FutureExt as _,
    future::{join, join3},
    poll,
};

const HANDLER: Name = Name::from_static("list-orders");

async fn prepared(path: PathBuf, config: SqliteEventStoreConfig) -> SqliteEventStore {
    let store = SqliteEventStore::open_with(path, config).await.unwrap();
    with_table(store).await
}

async fn with_table(store: SqliteEventStore) -> SqliteEventStore {
    let mut tx = store.begin().await.unwrap();
    sql(&mut *tx).execute("CREATE TABLE orders (id TEXT PRIMARY KEY, total INTEGER)", ()).unwrap();
    tx.commit().await.unwrap();
    store
}

async fn both() -> [SqliteEventStore; 2] {
    let memory = SqliteEventStore::in_memory().await.unwrap();
    [prepared(fresh_path(), SqliteEventStoreConfig::default()).await, with_table(memory).await]
}

fn sql(tx: &mut dyn Transaction) -> &mut SqliteTransaction {
    tx.as_any_mut().downcast_mut().unwrap()
}

fn add(tx: &mut dyn Transaction, id: &str) {
    sql(tx).execute("INSERT INTO orders VALUES (?1, 7)", [id]).unwrap();
}

async fn orders(store: &SqliteEventStore) -> String {
    let mut tx = store.begin().await.unwrap();
    listed(&mut *tx)
}

fn listed(tx: &mut dyn Transaction) -> String {
    let all = "SELECT coalesce(group_concat(id, ' ' ORDER BY id), '') FROM orders";
    sql(tx).connection().unwrap().query_row(all, [], |row| row.get(0)).unwrap()
}

fn reason(error: BoxError) -> SqliteTransactionError {
    *error.downcast().unwrap()
}

fn refusal(error: AppendError) -> SqliteTransactionError {
    match error {
        AppendError::Refused { source, .. } => reason(source),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_committed_is_there_and_what_is_dropped_is_not() {
    for store in both().await {
        let mut tx = store.begin().await.unwrap();
        add(&mut *tx, "kept");
        tx.commit().await.unwrap();
        let mut tx = store.begin().await.unwrap();
        add(&mut *tx, "dropped");
        assert!(tx.is_first(&HANDLER, &fresh_stream(), EventId::new()).await.unwrap());
        drop(tx);
        assert_eq!(orders(&store).await, "kept");
        store.append(&fresh_stream(), ExpectedVersion::Any, events(2)).await.unwrap();
        assert_eq!(orders(&store).await, "kept");
    }
}

#[tokio::test]
async fn a_panic_of_its_user_rolls_back_and_frees_the_connection() {
    for store in both().await {
        let panicking = store.clone();
        let user = tokio::spawn(async move {
            let mut tx = panicking.begin().await.unwrap();
            add(&mut *tx, "lost");
            let connection = sql(&mut *tx).connection().unwrap();
            connection.execute("INSERT INTO orders VALUES ('lost too', 1)", []).unwrap();
            panic!("of the user");
        });
        assert!(user.await.unwrap_err().is_panic());
        store.append(&fresh_stream(), ExpectedVersion::Any, events(1)).await.unwrap();
        assert_eq!(orders(&store).await, "");
    }
}

#[tokio::test]
async fn appends_wait_for_an_open_transaction_and_go_on_when_it_ends() {
    for store in both().await {
        let mut tx = store.begin().await.unwrap();
        add(&mut *tx, "one");
        let mut waiting: Vec<_> = (0..20)
            .map(|_| {
                let store = store.clone();
                tokio::spawn(async move { store.append(&fresh_stream(), ExpectedVersion::Any, events(2)).await })
            })
            .collect();
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(waiting.iter().all(|append| !append.is_finished()));
        tx.commit().await.unwrap();
        for append in waiting.drain(..) {
            within(append).await.unwrap().unwrap();
        }
        assert_eq!(orders(&store).await, "one");
    }
}

/// Transactions and appends without a pause: neither has to wait until the last of the other kind.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn transactions_and_appends_take_turns() {
    for store in both().await {
        let mut users = tokio::task::JoinSet::new();
        for n in 0..8 {
            let store = store.clone();
            users.spawn(async move {
                for i in 0..20 {
                    if n % 2 == 0 {
                        let mut tx = store.begin().await.unwrap();
                        add(&mut *tx, &format!("{n}-{i}"));
                        let stream = fresh_stream();
                        store.append_in(sql(&mut *tx), &stream, ExpectedVersion::NoStream, events(1)).await.unwrap();
                        tokio::task::yield_now().await;
                        if i % 3 == 0 { drop(tx) } else { tx.commit().await.unwrap() }
                    } else {
                        store.append(&fresh_stream(), ExpectedVersion::Any, events(3)).await.unwrap();
                    }
                }
            });
        }
        within(users.join_all()).await;
        let committed = 4 * 13;
        assert_eq!(orders(&store).await.split(' ').count(), committed);
        assert_eq!(feed(&store).await.len(), 4 * 20 * 3 + committed);
    }
}

#[tokio::test]
async fn one_that_is_open_for_too_long_is_rolled_back_while_others_append() {
    let config = || SqliteEventStoreConfig {
        transaction_timeout: Duration::from_millis(50),
        ..SqliteEventStoreConfig::default()
    };
    let memory = SqliteEventStore::connect_with("sqlite::memory:", config()).await.unwrap();
    for store in [prepared(fresh_path(), config()).await, with_table(memory).await] {
        let mut tx = store.begin().await.unwrap();
        add(&mut *tx, "late");
        let appending = store.clone();
        // an append of a second task, which waits for the transaction to time out
        let append =
            tokio::spawn(async move { appending.append(&fresh_stream(), ExpectedVersion::Any, events(1)).await });
        within(append).await.unwrap().unwrap();
        let late = sql(&mut *tx).execute("INSERT INTO orders VALUES ('later', 1)", ()).unwrap_err();
        assert!(matches!(late, SqliteTransactionError::TimedOut { limit } if limit == Duration::from_millis(50)));
        let error = store.append_in(sql(&mut *tx), &fresh_stream(), ExpectedVersion::Any, events(1)).await;
        match error.unwrap_err() {
            AppendError::Unavailable(over) => assert!(matches!(reason(over), SqliteTransactionError::TimedOut { .. })),
            other => panic!("{other:?}"),
        }
        assert!(matches!(reason(tx.commit().await.unwrap_err()), SqliteTransactionError::TimedOut { .. }));
        assert_eq!(orders(&store).await, "");
        assert_eq!(feed(&store).await.len(), 1);
    }
}

/// The store interrupts a statement that runs too long, and does not commit statements that follow at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_runs_too_long_is_interrupted() {
    let config = SqliteEventStoreConfig { transaction_timeout: Duration::from_millis(50), ..Default::default() };
    let store = prepared(fresh_path(), config).await;
    let using = store.clone();
    let user = tokio::spawn(async move {
        let mut tx = using.begin().await.unwrap();
        let connection = sql(&mut *tx).connection().unwrap();
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
            INSERT INTO orders SELECT 'many', max(i) FROM n";
        let error = connection.execute(endless, []).unwrap_err();
        assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::OperationInterrupted));
        let after = connection.execute("INSERT INTO orders VALUES ('after', 1)", []);
        assert!(after.is_err());
    });
    within(store.append(&fresh_stream(), ExpectedVersion::Any, events(1))).await.unwrap();
    within(user).await.unwrap();
    assert_eq!(orders(&store).await, "");
}

/// As the index of a large table takes.
#[tokio::test]
async fn a_set_up_may_take_longer_than_a_transaction() {
    let config = SqliteEventStoreConfig { transaction_timeout: Duration::from_millis(200), ..Default::default() };
    let store = prepared(fresh_path(), config).await;
    let long = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000000)
        INSERT INTO orders SELECT 'many', max(i) FROM n";
    store.set_up_tables(long).await.unwrap();
    assert_eq!(orders(&store).await, "many");
}

#[tokio::test]
async fn writing_beside_the_own_transaction_is_refused_at_once() {
    for store in both().await {
        let stored = store.append(&fresh_stream(), ExpectedVersion::Any, events(1)).await.unwrap();
        let mut tx = store.begin().await.unwrap();
        add(&mut *tx, "one");
        let stream = fresh_stream();
        let error = within(store.append(&stream, ExpectedVersion::Any, events(1))).await.unwrap_err();
        let said = error.source().unwrap().to_string();
        assert!(said.contains("append_in"), "{said}");
        assert!(matches!(refusal(error), SqliteTransactionError::InsideTransaction));
        let appends = vec![Append { stream: stream.clone(), expected: ExpectedVersion::Any, events: events(1) }];
        let error = within(store.append_many(appends)).await.remove(0).unwrap_err();
        assert!(matches!(refusal(error), SqliteTransactionError::InsideTransaction));
        let append = Append { stream: stream.clone(), expected: ExpectedVersion::Any, events: events(1) };
        let error = within(store.append_streams(MultiStreamAppend::single(append))).await.unwrap_err();
        assert!(matches!(refusal(error), SqliteTransactionError::InsideTransaction));
        let email = UniqueChange::new(Name::from_static("email"), Some("ada@example.com".into())).unwrap();
        let error = within(store.assign(stored[0].metadata().stream(), 1.into(), &[email])).await.unwrap_err();
        assert!(matches!(refusal(error), SqliteTransactionError::InsideTransaction));
        let error = within(store.add_tag(&stored[0], &Tag::new("course", "c1").unwrap())).await.unwrap_err();
        assert!(matches!(refusal(error), SqliteTransactionError::InsideTransaction));
        assert!(matches!(reason(within(store.begin()).await.unwrap_err()), SqliteTransactionError::InsideTransaction));
        let error = within(store.save_checkpoint(&HANDLER, Position::START)).await.unwrap_err();
        assert!(matches!(reason(error.source), SqliteTransactionError::InsideTransaction));
        let error = within(store.acquire_lease(&HANDLER, &HANDLER, Duration::ZERO)).await.unwrap_err();
        assert!(matches!(reason(error.source), SqliteTransactionError::InsideTransaction));
        // reads are allowed, also with a single connection
        assert_eq!(within(store.stream_version(&stream)).await.unwrap(), Version::NONE);
        assert_eq!(within(store.head()).await.unwrap(), Position::new(1));
        tx.commit().await.unwrap();
        store.append(&stream, ExpectedVersion::NoStream, events(1)).await.unwrap();
        assert_eq!(orders(&store).await, "one");
    }
}

#[tokio::test]
async fn a_multi_stream_append_that_takes_too_long_may_be_repeated() {
    let config = SqliteEventStoreConfig { transaction_timeout: Duration::from_millis(1), ..Default::default() };
    let store = SqliteEventStore::open_with(fresh_path(), config).await.unwrap();
    for events_each in [0, 1] {
        let append = |_| Append { stream: fresh_stream(), expected: ExpectedVersion::Any, events: events(events_each) };
        let multi = MultiStreamAppend { appends: (0..1_000).map(append).collect(), ..Default::default() };
        let error = store.append_streams(multi).await.unwrap_err();
        assert!(matches!(error, AppendError::Unavailable(_)) && error.is_retryable(), "{error:?}");
    }
    assert_eq!(feed(&store).await, []);
}

/// The task that uses a transaction counts, not the one that began it.
#[tokio::test]
async fn a_transaction_may_go_to_another_task() {
    for store in both().await {
        let mut tx = store.begin().await.unwrap();
        let inside = store.clone();
        let user = tokio::spawn(async move {
            add(&mut *tx, "one");
            let error = within(inside.append(&fresh_stream(), ExpectedVersion::Any, events(1))).await.unwrap_err();
            assert!(matches!(refusal(error), SqliteTransactionError::InsideTransaction));
            tx.commit().await.unwrap();
        });
        user.await.unwrap();
        assert_eq!(orders(&store).await, "one");
    }
}

#[tokio::test]
async fn what_is_appended_in_a_transaction_commits_and_rolls_back_with_the_rows() {
    for store in both().await {
        let (kept, lost) = (fresh_stream(), fresh_stream());
        let given = events(3);
        for (stream, commit) in [(&lost, false), (&kept, true)] {
            let mut signal = store.appended().watch();
            let mut tx = store.begin().await.unwrap();
            add(&mut *tx, &commit.to_string());
            let recorded =
                store.append_in(sql(&mut *tx), stream, ExpectedVersion::NoStream, given.clone()).await.unwrap();
            assert_eq!(recorded.len(), 3);
            let conflict = store.append_in(sql(&mut *tx), stream, ExpectedVersion::NoStream, events(1)).await;
            assert!(conflict.unwrap_err().is_conflict());
            let more = ExpectedVersion::Exact(3.into());
            // more than a task inserts by itself
            store.append_in(sql(&mut *tx), stream, more, events(200)).await.unwrap();
            if commit {
                tx.commit().await.unwrap();
                within(signal.appended()).await;
                assert_eq!(feed(&store).await[..3], recorded);
                let again = store.append(stream, ExpectedVersion::NoStream, given.clone()).await.unwrap();
                assert_eq!(again, recorded);
            } else {
                drop(tx);
                assert_eq!(feed(&store).await, []);
            }
        }
        assert_eq!((read(&store, &lost).await.len(), read(&store, &kept).await.len()), (0, 203));
        assert_eq!(orders(&store).await, "true");
    }
}

#[tokio::test]
async fn a_transaction_of_another_store_is_refused() {
    let [one, two] = both().await;
    let mut tx = one.begin().await.unwrap();
    let error = two.append_in(sql(&mut *tx), &fresh_stream(), ExpectedVersion::Any, events(1)).await.unwrap_err();
    assert!(matches!(refusal(error), SqliteTransactionError::OtherStore));
}

/// Statements by hand cannot commit a part: the store commits all or none.
#[tokio::test]
async fn transactions_by_hand_commit_nothing() {
    let spoil = [
        "COMMIT",
        "ROLLBACK",
        "ROLLBACK; BEGIN; INSERT INTO orders VALUES ('hand', 1)",
        "ROLLBACK; BEGIN; INSERT INTO orders VALUES ('hand', 1); COMMIT",
        "ROLLBACK; INSERT INTO orders VALUES ('hand', 1)",
        "INSERT OR ROLLBACK INTO orders VALUES ('mine', 1)",
    ];
    for store in both().await {
        for by_hand in spoil {
            let mut tx = store.begin().await.unwrap();
            add(&mut *tx, "mine");
            let connection = sql(&mut *tx).connection().unwrap();
            let _ = connection.execute_batch(by_hand);
            drop(connection);
            let spoilt = sql(&mut *tx).execute("INSERT INTO orders VALUES ('after', 1)", ()).unwrap_err();
            assert!(matches!(spoilt, SqliteTransactionError::RolledBack), "{by_hand}: {spoilt:?}");
            assert!(matches!(reason(tx.commit().await.unwrap_err()), SqliteTransactionError::RolledBack));
            assert_eq!(orders(&store).await, "", "{by_hand}");
        }
        let mut tx = store.begin().await.unwrap();
        let connection = sql(&mut *tx).connection().unwrap();
        assert!(connection.execute_batch("BEGIN").is_err());
        drop(connection);
        let savepoint = "INSERT INTO orders VALUES ('a', 1); SAVEPOINT mine; INSERT INTO orders VALUES ('b', 1);
            ROLLBACK TO mine; RELEASE mine; SAVEPOINT left_open; INSERT INTO orders VALUES ('c', 1)";
        sql(&mut *tx).connection().unwrap().execute_batch(savepoint).unwrap();
        tx.commit().await.unwrap();
        assert_eq!(orders(&store).await, "a c");
    }
}

#[tokio::test]
async fn a_delivery_is_first_once_and_until_it_is_forgotten() {
    for store in both().await {
        let (stream, event) = (fresh_stream(), EventId::new());
        for (commit, first) in [(false, true), (true, true), (true, false)] {
            let mut tx = store.begin().await.unwrap();
            assert_eq!(tx.is_first(&HANDLER, &stream, event).await.unwrap(), first);
            assert!(tx.is_first(&Name::from_static("other"), &stream, EventId::new()).await.unwrap());
            if commit {
                tx.commit().await.unwrap();
            }
        }
        assert_eq!(store.forget_deliveries(Duration::from_secs(3_600)).await.unwrap(), 0);
        assert_eq!(store.forget_deliveries(Duration::MAX).await.unwrap(), 0);
        assert_eq!(store.forget_deliveries(Duration::ZERO).await.unwrap(), 3);
        let mut tx = store.begin().await.unwrap();
        assert!(tx.is_first(&HANDLER, &stream, event).await.unwrap());
    }
}

#[tokio::test]
async fn more_deliveries_than_are_forgotten_at_once_are_forgotten() {
    let [store, _] = both().await;
    let mut tx = store.begin().await.unwrap();
    for _ in 0..2_500 {
        tx.is_first(&HANDLER, &fresh_stream(), EventId::new()).await.unwrap();
    }
    tx.commit().await.unwrap();
    assert_eq!(store.forget_deliveries(Duration::ZERO).await.unwrap(), 2_500);
}

#[tokio::test]
async fn a_fenced_owner_moves_no_checkpoint() {
    let (role, ttl) = (Name::from_static("projection:orders"), Duration::from_secs(60));
    let [one, two] = [Name::from_static("one"), Name::from_static("two")];
    for store in both().await {
        let former = store.acquire_lease(&role, &one, ttl).await.unwrap().unwrap();
        let mut tx = store.begin().await.unwrap();
        add(&mut *tx, "one");
        assert!(tx.advance(&former, Position::START, 5.into()).await.unwrap());
        tx.commit().await.unwrap();
        assert_eq!(store.load_checkpoint(&role).await.unwrap(), Some(5.into()));

        let now = store.seize_lease(&role, &two, ttl).await.unwrap();
        for (lease, from) in [(&former, 5), (&now, 4), (&now, 0), (&now, 6)] {
            let mut tx = store.begin().await.unwrap();
            assert!(!tx.advance(lease, from.into(), 9.into()).await.unwrap(), "{lease:?} from {from}");
            // even if its caller commits regardless
            tx.commit().await.unwrap();
            assert_eq!(store.load_checkpoint(&role).await.unwrap(), Some(5.into()));
        }
        let mut tx = store.begin().await.unwrap();
        assert!(tx.advance(&now, 5.into(), 9.into()).await.unwrap());
        tx.commit().await.unwrap();
        assert_eq!(store.load_checkpoint(&role).await.unwrap(), Some(9.into()));
    }
}

#[tokio::test]
async fn rows_are_deleted_by_plain_names_only() {
    for store in both().await {
        let mut tx = store.begin().await.unwrap();
        add(&mut *tx, "1");
        add(&mut *tx, "2");
        tx.delete_rows("orders", "id", "1").await.unwrap();
        assert_eq!(listed(&mut *tx), "2");
        for (table, column) in [
            ("eventbus_events", "position"),
            ("EventBus_leases", "role"),
            ("sqlite_schema", "name"),
            ("orders; DROP TABLE orders", "id"),
            ("main.orders", "id"),
            ("orders", "id\" OR 1 --"),
            ("", "id"),
            ("1st", "id"),
        ] {
            let error = reason(tx.delete_rows(table, column, "2").await.unwrap_err());
            assert!(matches!(error, SqliteTransactionError::InvalidName { .. }), "{table} {column} {error:?}");
        }
        // the value is not compared as a text, which would equal it
        let error = reason(tx.delete_rows("orders", "missing", "missing").await.unwrap_err());
        assert!(matches!(error, SqliteTransactionError::Sqlite(_)), "{error:?}");
        assert_eq!(listed(&mut *tx), "2");
        tx.delete_rows("orders", "total", "7").await.unwrap();
        assert_eq!(listed(&mut *tx), "");
    }
}

/// No text equals a BLOB.
#[tokio::test]
async fn rows_whose_ids_are_bytes_are_deleted_too() {
    for store in both().await {
        let mut tx = store.begin().await.unwrap();
        sql(&mut *tx).execute("CREATE TABLE bytes (id BLOB PRIMARY KEY)", ()).unwrap();
        let id = AggregateId::new().to_string();
        let uuid = uuid::Uuid::parse_str(&id).unwrap();
        for bytes in [&uuid.as_bytes()[..], id.as_bytes(), b"other"] {
            sql(&mut *tx).execute("INSERT INTO bytes VALUES (?1)", [bytes]).unwrap();
        }
        tx.delete_rows("bytes", "id", &id).await.unwrap();
        let left = "SELECT group_concat(CAST(id AS TEXT)) FROM bytes";
        let left: String = sql(&mut *tx).connection().unwrap().query_row(left, [], |row| row.get(0)).unwrap();
        assert_eq!(left, "other");
    }
}

/// The port's view: a handler asks for the transaction by its type.
#[tokio::test]
async fn transactions_are_offered_by_the_store() {
    for store in both().await {
        let transactions = store.transactions().unwrap();
        let wanted = eventbus::port::TypeKey::of::<SqliteTransaction>();
        assert_eq!(transactions.transaction_type(), wanted);
        let mut tx = transactions.begin().await.unwrap();
        let mut slot: Option<&mut (dyn std::any::Any + Send)> = Some(tx.as_any_mut());
        let taken = <SqliteTransaction as eventbus::port::FromTransaction<SqliteEventStore>>::take(slot.take());
        taken.unwrap().execute("INSERT INTO orders VALUES ('taken', 1)", ()).unwrap();
        tx.commit().await.unwrap();
        assert_eq!(orders(&store).await, "taken");
    }
}

#[tokio::test]
async fn a_begin_that_is_given_up_leaves_the_connection_free() {
    for store in both().await {
        let tx = store.begin().await.unwrap();
        let waiting = {
            let store = store.clone();
            tokio::spawn(async move { store.begin().await.map(drop) })
        };
        tokio::task::yield_now().await;
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        drop(tx);
        within(store.append(&fresh_stream(), ExpectedVersion::Any, events(1))).await.unwrap();
        within(store.begin()).await.unwrap().commit().await.unwrap();
    }
}

/// A transaction waits on a thread for a second process that writes.
#[tokio::test]
async fn a_transaction_waits_for_another_connection() {
    let path = fresh_path();
    let store = prepared(path.clone(), SqliteEventStoreConfig::default()).await;
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let beginning = {
        let store = store.clone();
        tokio::spawn(async move {
            let mut tx = store.begin().await.unwrap();
            add(&mut *tx, "waited");
            tx.commit().await.unwrap();
        })
    };
    tokio::task::yield_now().await;
    other.execute_batch("ROLLBACK").unwrap();
    within(beginning).await.unwrap();
    assert_eq!(orders(&store).await, "waited");
    let impatient = SqliteEventStoreConfig { busy_timeout: Duration::from_millis(30), ..Default::default() };
    let store = SqliteEventStore::open_with(&path, impatient).await.unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(within(store.begin()).await.is_err());
    other.execute_batch("ROLLBACK").unwrap();
    within(store.begin()).await.unwrap();
}

#[tokio::test]
async fn appends_of_one_call_succeed_and_fail_alone() {
    let [one, two, taken] = [fresh_stream(), fresh_stream(), fresh_stream()];
    let append = |stream: &StreamId, expected, events| Append { stream: stream.clone(), expected, events };
    for store in both().await {
        let known = store.append(&taken, ExpectedVersion::Any, events(2)).await.unwrap();
        let first = events(2);
        let appends = vec![
            append(&one, ExpectedVersion::NoStream, first.clone()),
            append(&taken, ExpectedVersion::NoStream, events(1)),
            append(&one, ExpectedVersion::Exact(2.into()), events(1)),
            append(&two, ExpectedVersion::Any, Vec::new()),
            append(&one, ExpectedVersion::NoStream, first),
            append(&two, ExpectedVersion::NoStream, events(3)),
        ];
        let results = store.append_many(appends).await;
        let lengths: Vec<_> = results.iter().map(|result| result.as_ref().ok().map(Vec::len)).collect();
        assert_eq!(lengths, [Some(2), None, Some(1), Some(0), Some(2), Some(3)]);
        assert!(results[1].as_ref().unwrap_err().is_conflict());
        assert_eq!(results[4].as_ref().unwrap(), results[0].as_ref().unwrap());
        assert_eq!(feed(&store).await.len(), known.len() + 6);
    }
}

/// More appends than the queue holds, some of them cancelled: all remaining ones are stored.
#[tokio::test]
async fn appends_wait_for_room_in_the_queue() {
    let config = SqliteEventStoreConfig { queued_appends: 4, ..Default::default() };
    let store = prepared(fresh_path(), config).await;
    let tx = store.begin().await.unwrap();
    let append = |store: &SqliteEventStore| {
        let store = store.clone();
        tokio::spawn(async move { store.append(&fresh_stream(), ExpectedVersion::Any, events(1)).await })
    };
    let mut waiting: Vec<_> = (0..40).map(|_| append(&store)).collect();
    let many = {
        let store = store.clone();
        let one = || Append {
            stream: StreamId::new(Name::from_static("Account"), AggregateId::new()),
            expected: ExpectedVersion::Any,
            events: events(1),
        };
        tokio::spawn(async move { store.append_many((0..30).map(|_| one()).collect()).await })
    };
    tokio::task::yield_now().await;
    let cut = waiting.drain(..20);
    for caller in cut {
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
    }
    drop(tx);
    for caller in waiting {
        within(caller).await.unwrap().unwrap();
    }
    assert!(within(many).await.unwrap().iter().all(Result::is_ok));
    assert_eq!(feed(&store).await.len(), 50);
}

#[tokio::test]
async fn one_of_the_callers_own_keeps_rows_and_events_or_neither() {
    for store in both().await {
        for (id, is_kept) in [("kept", true), ("dropped", false)] {
            let mut tx = store.begin_transaction().await.unwrap();
            add(&mut tx, id);
            store.append_in(&mut tx, &fresh_stream(), ExpectedVersion::NoStream, events(2)).await.unwrap();
            if is_kept { tx.commit().await.unwrap() } else { drop(tx) }
        }
        assert_eq!(orders(&store).await, "kept");
        assert_eq!(feed(&store).await.len(), 2);
    }
}

#[tokio::test]
async fn a_transaction_that_was_begun_for_somebody_who_never_looks_again_blocks_nobody() {
    let short = SqliteEventStoreConfig { transaction_timeout: Duration::from_millis(50), ..Default::default() };
    let path = fresh_path();
    let store = prepared(path.clone(), short).await;
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut kept = store.begin();
    // polled once, and kept
    assert!(tokio::time::timeout(Duration::ZERO, &mut kept).await.is_err(), "the file is locked");
    other.execute_batch("ROLLBACK").unwrap();
    within(store.append(&fresh_stream(), ExpectedVersion::Any, events(1))).await.unwrap();
    // on a busy machine the append may have come first: then it begins only now
    if let Err(late) = within(kept).await {
        let late = reason(late);
        assert!(matches!(late, SqliteTransactionError::TimedOut { .. }), "{late}");
    }
}

#[tokio::test]
async fn an_append_in_a_transaction_wakes_the_readers_after_its_commit() {
    for store in both().await {
        let mut watch = store.appended().watch();
        let mut tx = store.begin().await.unwrap();
        store.append_in(sql(&mut *tx), &fresh_stream(), ExpectedVersion::Any, events(1)).await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(50), watch.appended()).await;
        assert!(early.is_err(), "it is not committed");
        tx.commit().await.unwrap();
        within(watch.appended()).await;
    }
}

#[tokio::test]
async fn event_types_are_listed_with_the_transaction_that_stores_them() {
    for store in both().await {
        let listed = async || {
            let types = store.stored_event_types().await.unwrap();
            types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        for commits in [false, true] {
            let mut tx = store.begin().await.unwrap();
            store.append_in(sql(&mut *tx), &fresh_stream(), ExpectedVersion::NoStream, events(2)).await.unwrap();
            if commits {
                tx.commit().await.unwrap();
            } else {
                drop(tx);
                assert_eq!(listed().await, "");
            }
        }
        let event_type = events(1)[0].event_type().clone();
        assert_eq!(listed().await, format!("`{event_type}` (version 1, first at position 1)"));
        // nor does a rollback affect the types that this process has listed
        store.append(&fresh_stream(), ExpectedVersion::NoStream, events(1)).await.unwrap();
        assert_eq!(listed().await, format!("`{event_type}` (version 1, first at position 1)"));
    }
}

#[tokio::test]
async fn a_query_reads_committed_rows_and_writes_nothing() {
    for store in both().await {
        let write =
            |connection: &rusqlite::Connection| Ok(connection.execute("INSERT INTO orders VALUES ('b', 1)", [])?);
        let refused: rusqlite::Error = *store.read(write).await.unwrap_err().downcast().unwrap();
        assert_eq!(refused.sqlite_error_code(), Some(rusqlite::ErrorCode::ReadOnly));
        let mut tx = store.begin().await.unwrap();
        add(&mut *tx, "a");
        tx.commit().await.unwrap();
        let ids = store.read(|rows| Ok(rows.query_row("SELECT id FROM orders", [], |row| row.get::<_, String>(0))?));
        assert_eq!(ids.await.unwrap(), "a");
    }
}

#[tokio::test]
async fn a_query_sees_one_snapshot() {
    let path = fresh_path();
    let store = prepared(path.clone(), SqliteEventStoreConfig::default()).await;
    let counts = store.read(move |rows| {
        let count = || rows.query_row("SELECT count(*) FROM orders", [], |row| row.get::<_, i64>(0));
        let before = count()?;
        rusqlite::Connection::open(&path)?.execute("INSERT INTO orders VALUES ('a', 1)", [])?;
        Ok((before, count()?))
    });
    assert_eq!(counts.await.unwrap(), (0, 0), "a row that is stored after the first statement is not seen");
    assert_eq!(orders(&store).await, "a");
}

/// Begins a transaction of a different task: the calling task waits for it like any other.
async fn begin_elsewhere(store: &SqliteEventStore) -> SqliteTransaction {
    let store = store.clone();
    tokio::spawn(async move { store.begin_transaction().await.unwrap() }).await.unwrap()
}

async fn count_orders(store: &SqliteEventStore) -> i64 {
    let count = "SELECT count(*) FROM orders";
    store.read(|rows| Ok(rows.query_row(count, [], |row| row.get(0))?)).await.unwrap()
}

#[tokio::test]
async fn a_query_that_panics_fails_its_caller_alone() {
    for store in both().await {
        let tx = begin_elsewhere(&store).await;
        let panicking = store.read(|_| -> Result<(), BoxError> { panic!("the query fails") });
        let panicking = AssertUnwindSafe(panicking).catch_unwind();
        let stream = fresh_stream();
        let appending = store.append(&stream, ExpectedVersion::NoStream, events(1));
        // polled in this order: in memory, both wait for the end of the transaction, which runs them
        let (panicked, appended, ()) = within(join3(panicking, appending, async { drop(tx) })).await;
        assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"the query fails"));
        appended.unwrap();
        assert_eq!(within(count_orders(&store)).await, 0, "the connection reads on");
    }
}

#[tokio::test]
async fn a_query_runs_on_a_thread_that_may_block() {
    for store in both().await {
        let used_thread = || store.read(|_| Ok(thread::current().id()));
        assert_ne!(used_thread().await.unwrap(), thread::current().id());
        // and after a wait, which ends in this task where there is one connection in all
        let tx = begin_elsewhere(&store).await;
        let (used, ()) = within(join(used_thread(), async { drop(tx) })).await;
        assert_ne!(used.unwrap(), thread::current().id());
    }
}

#[tokio::test]
async fn a_query_in_a_transaction_of_its_task_sees_its_rows_where_it_has_one_connection_in_all() {
    for (store, sees) in both().await.into_iter().zip([0, 1]) {
        let mut tx = store.begin().await.unwrap();
        add(&mut *tx, "a");
        assert_eq!(within(count_orders(&store)).await, sees);
    }
}

#[tokio::test]
async fn queries_leave_readers_to_the_store() {
    let store = prepared(fresh_path(), SqliteEventStoreConfig { readers: 2, ..Default::default() }).await;
    let query = || {
        let (release, released) = std::sync::mpsc::channel::<()>();
        (release, store.read(move |_| Ok(released.recv()?)))
    };
    let ((release, first), (release_second, second)) = (query(), query());
    let (mut first, mut second) = (pin!(first), pin!(second));
    // polled once: the first takes its reader, and the second one too if there is one for it
    assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
    let stream = fresh_stream();
    store.append(&stream, ExpectedVersion::Any, events(2)).await.unwrap();
    assert_eq!(within(read(&store, &stream)).await.len(), 2, "one reader is left to the store");
    release.send(()).unwrap();
    within(first).await.unwrap();
    release_second.send(()).unwrap();
    within(second).await.unwrap();
}
