//! Appends in a transaction of the caller.

use std::{error::Error as _, time::Duration};

use crate::common::{TestSchema, add, event, events, feed, read, run, stream, within};
use eventbus::{
    ExpectedVersion, Name, NewEvent, RecordedEvent, Version,
    event::Tag,
    port::{AppendError, AppendEvents as _, EventTypes as _, ReadFeed as _},
};
use eventstore_postgres::{PgAppendInError, PgConnection, PgEventStore};
use sqlx::Connection as _;

use ExpectedVersion::{Any, Exact, NoStream, StreamExists};

/// A store, and a connection of the application's own to its database, with a table of the application's.
struct Application {
    store: PgEventStore,
    connection: PgConnection,
    // last, so that it is dropped after its users
    schema: TestSchema,
}

impl Application {
    async fn new() -> Self {
        let schema = TestSchema::new();
        let store = schema.store().await;
        let mut connection = schema.connection().await;
        run(&mut connection, "CREATE TABLE rows (number integer)").await;
        Self { store, connection, schema }
    }

    async fn rows(&self) -> i64 {
        let count = sqlx::query_scalar("SELECT count(*) FROM rows");
        count.fetch_one(&mut self.schema.connection().await).await.unwrap()
    }

    /// Checks that the feed waits for no open append.
    async fn holds_nobody_up(&self) {
        let last = add(&self.store, &stream(), 1).await;
        assert!(feed(&self.store).await.ends_with(&last));
    }
}

#[tokio::test]
async fn events_and_rows_are_kept_together_or_not_at_all() {
    let mut app = Application::new().await;
    let stream = stream();
    for (number, commit) in [false, true, false, true].into_iter().enumerate() {
        let mut signal = app.store.appended().watch();
        let before = read(&app.store, &stream).await;
        let expected = Exact(Version::new(before.len() as u64));
        let mut transaction = app.connection.begin().await.unwrap();
        run(&mut transaction, "INSERT INTO rows VALUES (1)").await;
        let appended = app.store.append_in(&mut transaction, &stream, expected, events(2)).await.unwrap();
        let more = app.store.append_in(&mut transaction, &stream, StreamExists, events(1)).await.unwrap();
        assert_eq!(read(&app.store, &stream).await, before, "visible before commit");
        if commit {
            transaction.commit().await.unwrap();
            assert_eq!(read(&app.store, &stream).await, [before, appended, more].concat());
            app.store.appended().notify();
            within(signal.appended()).await;
        } else {
            transaction.rollback().await.unwrap();
            assert_eq!(read(&app.store, &stream).await, before);
        }
        assert_eq!(app.rows().await, (number as i64 + 1) / 2);
        app.holds_nobody_up().await;
    }
}

#[tokio::test]
async fn a_transaction_of_the_store_keeps_both_and_wakes_readers_or_keeps_neither() {
    let app = Application::new().await;
    let schema = &app.schema.config().schema;
    let insert = format!("INSERT INTO {schema}.rows VALUES (1)");
    let stream = stream();
    let mut signal = app.store.appended().watch();
    for expected in [NoStream, NoStream] {
        let mut transaction = app.store.begin_transaction().await.unwrap();
        run(transaction.connection(), &insert).await;
        app.store.append_in(transaction.connection(), &stream, expected, events(2)).await.unwrap();
        drop(transaction);
        assert_eq!((read(&app.store, &stream).await.len(), app.rows().await), (0, 0));
    }
    let mut transaction = app.store.begin_transaction().await.unwrap();
    run(transaction.connection(), &insert).await;
    let appended = app.store.append_in(transaction.connection(), &stream, NoStream, events(2)).await.unwrap();
    transaction.commit().await.unwrap();
    within(signal.appended()).await;
    assert_eq!((read(&app.store, &stream).await, app.rows().await), (appended, 1));
    app.holds_nobody_up().await;
}

#[tokio::test]
async fn what_is_recorded_is_what_is_read() {
    let mut app = Application::new().await;
    let (one, two) = (stream(), stream());
    let mut transaction = app.connection.begin().await.unwrap();
    let first = app.store.append_in(&mut transaction, &one, NoStream, events(3)).await.unwrap();
    let second = app.store.append_in(&mut transaction, &two, Any, events(1)).await.unwrap();
    let nothing = app.store.append_in(&mut transaction, &two, NoStream, Vec::new()).await.unwrap();
    assert_eq!(nothing, []);
    transaction.commit().await.unwrap();
    assert_eq!(read(&app.store, &one).await, first);
    assert_eq!(feed(&app.store).await, [first, second].concat());
}

/// The ways in which an append may fail, and their errors.
async fn goes_wrong(app: &mut Application, wrong: &str) {
    let (there, mine) = (stream(), stream());
    let known = add(&app.store, &there, 2).await;
    let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(200_000), "]".repeat(200_000));
    let deep = NewEvent::new(Name::from_static("Deposited"), 1, deep);
    let mut transaction = app.connection.begin().await.unwrap();
    run(&mut transaction, "INSERT INTO rows VALUES (1)").await;
    let before = app.store.append_in(&mut transaction, &mine, NoStream, events(1)).await.unwrap();
    let known_id = event().with_event_id(before[0].metadata().event_id());
    let failed = match wrong {
        "conflict" => app.store.append_in(&mut transaction, &there, NoStream, events(1)).await,
        "id taken" => app.store.append_in(&mut transaction, &mine, Any, vec![event(), known_id]).await,
        "refused" => app.store.append_in(&mut transaction, &mine, Any, vec![event(), deep]).await,
        other => panic!("{other}"),
    };
    let is_that = match failed.unwrap_err() {
        AppendError::Conflict { actual, .. } => wrong == "conflict" && actual == known[1].version(),
        AppendError::EventIdTaken { .. } => wrong == "id taken",
        AppendError::Refused { .. } => wrong == "refused",
        _ => false,
    };
    assert!(is_that, "{wrong}");
    // the failure leaves the transaction as it was
    let after = app.store.append_in(&mut transaction, &mine, Exact(Version::FIRST), events(1)).await.unwrap();
    run(&mut transaction, "INSERT INTO rows VALUES (2)").await;
    transaction.commit().await.unwrap();
    assert_eq!(read(&app.store, &mine).await, [before, after].concat(), "{wrong}");
    assert_eq!(read(&app.store, &there).await, known);
}

#[tokio::test]
async fn an_append_that_fails_leaves_the_transaction_as_it_was() {
    let mut app = Application::new().await;
    for (number, wrong) in ["conflict", "id taken", "refused"].into_iter().enumerate() {
        goes_wrong(&mut app, wrong).await;
        assert_eq!(app.rows().await, 2 * (number as i64 + 1));
    }
}

/// An append that stored no event does not hold the feed, however long its transaction stays open.
#[tokio::test]
async fn an_append_that_fails_does_not_hold_up_the_feed() {
    let mut app = Application::new().await;
    let there = stream();
    add(&app.store, &there, 1).await;
    let mut transaction = app.connection.begin().await.unwrap();
    let conflict = app.store.append_in(&mut transaction, &there, NoStream, events(1)).await;
    assert!(conflict.unwrap_err().is_conflict());
    add(&app.store, &stream(), 1).await;
    assert_eq!(feed(&app.store).await.len(), 2);
    transaction.commit().await.unwrap();
}

#[tokio::test]
async fn a_repeat_returns_the_first_result() {
    let mut app = Application::new().await;
    for expected in [NoStream, Any] {
        let (stream, given) = (stream(), events(2));
        let first = app.store.append(&stream, expected, given.clone()).await.unwrap();
        let mut transaction = app.connection.begin().await.unwrap();
        let again = app.store.append_in(&mut transaction, &stream, expected, given.clone()).await.unwrap();
        assert_eq!(again, first);
        // also if the first append was in the same transaction
        let mine = events(1);
        let one = app.store.append_in(&mut transaction, &stream, Any, mine.clone()).await.unwrap();
        let two = app.store.append_in(&mut transaction, &stream, Any, mine).await.unwrap();
        assert_eq!(one, two);
        run(&mut transaction, "INSERT INTO rows VALUES (1)").await;
        transaction.commit().await.unwrap();
        assert_eq!(read(&app.store, &stream).await, [first, one].concat());
    }
    assert_eq!(app.rows().await, 2);
}

/// The same append in two concurrent transactions: the second waits for the first, and returns its result.
#[tokio::test]
async fn repeats_at_the_same_time_are_stored_once() {
    for commit in [true, false] {
        let mut app = Application::new().await;
        let (target, given) = (stream(), events(2));
        let mut other = app.schema.connection().await;
        let mut first = app.connection.begin().await.unwrap();
        let stored = app.store.append_in(&mut first, &target, Any, given.clone()).await.unwrap();
        let mut watcher = app.schema.connection().await;
        let store = app.store.clone();
        let second = async {
            let mut transaction = other.begin().await.unwrap();
            let stored = store.append_in(&mut transaction, &target, Any, given.clone()).await.unwrap();
            transaction.commit().await.unwrap();
            stored
        };
        let end = async {
            crate::common::blocked_backend(&mut watcher, app.schema.name()).await;
            if commit { first.commit().await.unwrap() } else { first.rollback().await.unwrap() }
        };
        let (again, ()) = within(async { tokio::join!(second, end) }).await;
        if commit {
            assert_eq!(again, stored);
        }
        assert_eq!(feed(&app.store).await, again);
    }
}

fn fault(result: Result<Vec<RecordedEvent>, AppendError>) -> PgAppendInError {
    let error = result.unwrap_err();
    assert!(!error.is_retryable());
    *error.source().unwrap().downcast_ref().unwrap()
}

#[tokio::test]
async fn what_a_transaction_lacks_is_said_with_its_repair() {
    let mut app = Application::new().await;
    let stream = stream();
    let outside = app.store.append_in(&mut app.connection, &stream, Any, events(1)).await;
    assert_eq!(fault(outside), PgAppendInError::NoTransaction);

    for set in ["SET LOCAL synchronous_commit = off", "SET LOCAL synchronous_commit = local"] {
        let mut transaction = app.connection.begin().await.unwrap();
        run(&mut transaction, "INSERT INTO rows VALUES (1)").await;
        run(&mut transaction, set).await;
        let appended = app.store.append_in(&mut transaction, &stream, Any, events(1)).await;
        if set.ends_with("off") {
            let fault = fault(appended);
            assert_eq!(fault, PgAppendInError::SynchronousCommitOff);
            assert!(fault.to_string().contains("SET LOCAL synchronous_commit = on"), "{fault}");
        } else {
            appended.unwrap();
        }
        transaction.commit().await.unwrap();
    }
    assert_eq!(app.rows().await, 2, "a refusal leaves the transaction as it was");

    let mut reading = app.store.begin_read().await.unwrap();
    let refused = app.store.append_in(reading.connection(), &stream, Any, events(1)).await;
    assert_eq!(fault(refused), PgAppendInError::ReadOnly);
    let number: i32 = sqlx::query_scalar("SELECT 1").fetch_one(reading.connection()).await.unwrap();
    assert_eq!(number, 1, "a refusal leaves the read as it was");

    let mut transaction = app.connection.begin().await.unwrap();
    sqlx::query("SELECT 1 / 0").execute(&mut *transaction).await.unwrap_err();
    let failed = app.store.append_in(&mut transaction, &stream, Any, events(1)).await;
    assert_eq!(fault(failed), PgAppendInError::Failed);
    transaction.rollback().await.unwrap();
    assert_eq!(read(&app.store, &stream).await.len(), 1);
}

/// Events appended while the transaction is open have later positions, and readers see them after its events.
#[tokio::test]
async fn the_feed_waits_for_an_open_transaction() {
    for commit in [true, false] {
        let mut app = Application::new().await;
        let before = add(&app.store, &stream(), 2).await;
        let mut transaction = app.connection.begin().await.unwrap();
        let held = app.store.append_in(&mut transaction, &stream(), Any, events(2)).await.unwrap();
        let after = add(&app.store, &stream(), 2).await;
        assert!(held[1].position() < after[0].position());
        let head = app.store.head().await.unwrap();
        assert_eq!(Some(head), before[1].position());
        assert_eq!(feed(&app.store).await, before, "the feed has a gap");
        let wanted = if commit {
            transaction.commit().await.unwrap();
            [before, held, after].concat()
        } else {
            transaction.rollback().await.unwrap();
            [before, after].concat()
        };
        assert_eq!(feed(&app.store).await, wanted);
    }
}

/// An append that waits for the transaction's stream does not delay appends of its process to a different stream.
#[tokio::test]
async fn others_append_while_a_transaction_is_open() {
    let mut app = Application::new().await;
    let (mine, other) = (stream(), stream());
    let mut transaction = app.connection.begin().await.unwrap();
    app.store.append_in(&mut transaction, &mine, NoStream, events(1)).await.unwrap();
    let (store, target) = (app.store.clone(), mine.clone());
    let waiting = tokio::spawn(async move { store.append(&target, Any, events(1)).await });
    let mut watcher = app.schema.connection().await;
    crate::common::blocked_backend(&mut watcher, app.schema.name()).await;
    let appended = tokio::time::timeout(Duration::from_secs(10), app.store.append(&other, Any, events(1)));
    appended.await.expect("it waits for the transaction").unwrap();
    transaction.commit().await.unwrap();
    let last = within(waiting).await.unwrap().unwrap();
    assert_eq!(last[0].version().get(), 2);
}

#[tokio::test]
async fn event_types_are_listed_with_the_transaction_that_stores_them_and_hold_nobody_up() {
    let mut app = Application::new().await;
    let listed = async |store: &PgEventStore| {
        let types = within(store.stored_event_types()).await.unwrap();
        types.iter().map(|stored| (stored.schema_version, stored.first_position.get())).collect::<Vec<_>>()
    };
    let mut open = app.connection.begin().await.unwrap();
    app.store.append_in(&mut open, &stream(), NoStream, events(2)).await.unwrap();
    // this process and a second one store the first event of the type meanwhile, without waiting
    let first = within(add(&app.store, &stream(), 1)).await;
    let other = app.schema.store().await;
    within(add(&other, &stream(), 1)).await;
    let first = first[0].position().unwrap().get();
    assert_eq!(listed(&app.store).await, [(1, first)]);
    open.rollback().await.unwrap();
    assert_eq!(listed(&app.store).await, [(1, first)], "it was rolled back");

    let new = |version| NewEvent::new(Name::from_static("New"), version, "{}");
    for (commits, wanted) in [(false, 1), (true, 2), (true, 2)] {
        let mut transaction = app.connection.begin().await.unwrap();
        app.store.append_in(&mut transaction, &stream(), NoStream, vec![new(3)]).await.unwrap();
        if commits {
            transaction.commit().await.unwrap();
        } else {
            transaction.rollback().await.unwrap();
        }
        assert_eq!(listed(&app.store).await.len(), wanted);
    }
}

#[tokio::test]
async fn a_process_that_only_appends_in_transactions_lists_each_type_once() {
    let mut app = Application::new().await;
    let mut other = app.schema.connection().await;
    let new = |version| NewEvent::new(Name::from_static("New"), version, "{}");
    // (versions of the appends of one transaction, whether it commits, the rows afterwards)
    for (versions, commits, rows) in [
        (&[3, 3][..], false, 0), // the second append finds the row of the first
        (&[3, 3], true, 1),
        (&[3], true, 1),
        (&[4], true, 2),
        (&[3, 4], true, 2),
    ] {
        let mut transaction = app.connection.begin().await.unwrap();
        for version in versions {
            app.store.append_in(&mut transaction, &stream(), Any, vec![new(*version)]).await.unwrap();
        }
        if commits {
            transaction.commit().await.unwrap();
        } else {
            transaction.rollback().await.unwrap();
        }
        assert_eq!(listed_rows(&mut other).await, rows, "{versions:?}, committed: {commits}");
    }
    sqlx::query("DELETE FROM event_types").execute(&mut other).await.unwrap();
    let mut transaction = app.connection.begin().await.unwrap();
    app.store.append_in(&mut transaction, &stream(), Any, vec![new(3), new(4)]).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(listed_rows(&mut other).await, 0, "it knows that these are listed, and looks no more");
}

/// Number of rows that list a stored type.
async fn listed_rows(connection: &mut PgConnection) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM event_types").fetch_one(connection).await.unwrap()
}

/// Number of advisory locks of a transaction, which are the bounds of its appends.
async fn bounds(transaction: &mut PgConnection) -> i64 {
    let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()";
    sqlx::query_scalar(sql).fetch_one(transaction).await.unwrap()
}

/// The lock table of the server has room for some thousand locks, which all its databases share.
#[tokio::test]
async fn a_transaction_that_appends_often_holds_one_lock() {
    for ends in ["COMMIT", "ROLLBACK"] {
        let mut app = Application::new().await;
        let before = add(&app.store, &stream(), 1).await;
        let (mut held, mut between) = (Vec::new(), Vec::new());
        run(&mut app.connection, "BEGIN").await;
        for number in 0..300 {
            // a tag takes the statement for several streams
            let tags = (number % 2 == 1).then(|| Tag::from_stored("owner:ada").unwrap());
            let given = vec![event().with_tags(tags)];
            held.extend(app.store.append_in(&mut app.connection, &stream(), Any, given).await.unwrap());
            if number % 100 == 50 {
                between.extend(add(&app.store, &stream(), 1).await);
            }
        }
        assert_eq!(bounds(&mut app.connection).await, 1);
        assert_eq!(Some(app.store.head().await.unwrap()), before[0].position());
        assert_eq!(feed(&app.store).await, before, "the feed has a gap");
        run(&mut app.connection, ends).await;
        let kept = if ends == "COMMIT" { held } else { Vec::new() };
        let mut wanted = [before, kept, between].concat();
        wanted.sort_by_key(RecordedEvent::position);
        assert_eq!(feed(&app.store).await, wanted);
    }
}

/// The lock and the note that the transaction holds it are made and undone together.
#[tokio::test]
async fn the_lock_of_a_transaction_is_released_with_the_savepoint_of_its_first_append() {
    let mut app = Application::new().await;
    let mut kept = add(&app.store, &stream(), 1).await;
    run(&mut app.connection, "BEGIN; SAVEPOINT first").await;
    app.store.append_in(&mut app.connection, &stream(), Any, events(1)).await.unwrap();
    run(&mut app.connection, "ROLLBACK TO SAVEPOINT first").await;
    assert_eq!(bounds(&mut app.connection).await, 0);
    kept.extend(add(&app.store, &stream(), 1).await);
    assert_eq!(feed(&app.store).await, kept, "it waits for what was rolled back");

    let mut later = app.store.append_in(&mut app.connection, &stream(), Any, events(1)).await.unwrap();
    run(&mut app.connection, "RELEASE SAVEPOINT first; SAVEPOINT second").await;
    app.store.append_in(&mut app.connection, &stream(), Any, events(1)).await.unwrap();
    run(&mut app.connection, "ROLLBACK TO SAVEPOINT second").await;
    assert_eq!(bounds(&mut app.connection).await, 1);
    later.extend(add(&app.store, &stream(), 1).await);
    assert_eq!(feed(&app.store).await, kept, "the feed has a gap");
    run(&mut app.connection, "COMMIT").await;
    assert_eq!(feed(&app.store).await, [kept, later].concat());
}
