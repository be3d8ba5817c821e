//! Rebuilding a projection's tables beside the live ones.

use std::{path::PathBuf, time::Duration};

use crate::common::{events, fresh_path, fresh_stream, open, within};
use eventbus::{
    BoxError, EventId, ExpectedVersion, Name, Position,
    port::{AppendEvents as _, Checkpoints as _, Lease, Leases as _, Shadow, Transaction, Transactions as _},
};
use eventbus_test::internal::Actor;
use eventstore_sqlite::{SqliteEventStore, SqliteTransaction, SqliteTransactionError};

const TABLES: &str = "
    CREATE TABLE orders (id TEXT PRIMARY KEY, total INTEGER, twice INTEGER GENERATED ALWAYS AS (total * 2) STORED);
    CREATE INDEX orders_by_total ON orders (total);
    CREATE TABLE counts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE prices (id TEXT PRIMARY KEY, price INTEGER);
    CREATE TABLE lines (order_id TEXT REFERENCES orders (id) ON DELETE CASCADE);
    CREATE TRIGGER orders_count AFTER INSERT ON orders BEGIN
        INSERT INTO counts VALUES ('orders', 1) ON CONFLICT DO UPDATE SET value = value + 1;
    END;
    INSERT INTO orders (id, total) VALUES ('old', 1);
    INSERT INTO prices VALUES ('a', 5), ('b', 7);
    INSERT INTO lines VALUES ('old')";

fn shadow() -> Shadow {
    Shadow { name: Name::from_static("projection:orders/v2"), tables: vec!["orders".into(), "Counts".into()] }
}

fn sql(tx: &mut dyn Transaction) -> &mut SqliteTransaction {
    tx.as_any_mut().downcast_mut().unwrap()
}

async fn run(store: &SqliteEventStore, statements: &str) {
    let mut tx = store.begin().await.unwrap();
    sql(&mut *tx).connection().unwrap().execute_batch(statements).unwrap();
    tx.commit().await.unwrap();
}

/// Runs statements on the copies.
async fn run_in(store: &SqliteEventStore, shadow: &Shadow, statements: &str) {
    let mut tx = store.begin_in(shadow).await.unwrap();
    sql(&mut *tx).connection().unwrap().execute_batch(statements).unwrap();
    tx.commit().await.unwrap();
}

/// Replaces the live rows by those of the copies.
async fn switch(store: &SqliteEventStore, shadow: &Shadow) {
    let mut tx = store.begin().await.unwrap();
    tx.replace_rows(shadow).await.unwrap();
    tx.commit().await.unwrap();
}

async fn both() -> [SqliteEventStore; 2] {
    let stores = [open(fresh_path()).await, SqliteEventStore::in_memory().await.unwrap()];
    for store in &stores {
        run(store, TABLES).await;
    }
    stores
}

fn text(tx: &mut dyn Transaction, query: &str) -> String {
    sql(tx).connection().unwrap().query_row(query, [], |row| row.get(0)).unwrap()
}

const ORDERS: &str =
    "SELECT coalesce(group_concat(id || ':' || total || ':' || twice, ' ' ORDER BY id), '') FROM orders";
const COUNTS: &str = "SELECT coalesce(group_concat(name || ':' || value, ' ' ORDER BY name), '') FROM counts";

/// Orders and counts of the live tables.
async fn live(store: &SqliteEventStore) -> [String; 2] {
    let mut tx = store.begin().await.unwrap();
    [ORDERS, COUNTS].map(|query| text(&mut *tx, query))
}

async fn lease(store: &SqliteEventStore) -> Lease {
    let ttl = Duration::from_secs(60);
    store.seize_lease(&shadow().name, &Name::from_static("owner"), ttl).await.unwrap()
}

async fn fill(store: &SqliteEventStore, lease: &Lease, id: &str, from: u64, to: u64) -> bool {
    let mut tx = store.begin_in(&shadow()).await.unwrap();
    let insert = "INSERT INTO orders (id, total) SELECT ?1, price FROM prices WHERE id = 'b'";
    sql(&mut *tx).execute(insert, [id]).unwrap();
    let advanced = tx.advance(lease, from.into(), to.into()).await.unwrap();
    if advanced {
        tx.commit().await.unwrap();
    }
    advanced
}

fn reason(error: BoxError) -> SqliteTransactionError {
    *error.downcast().unwrap()
}

fn files(path: &std::path::Path) -> Vec<String> {
    let name = path.file_name().unwrap().to_str().unwrap();
    let all = std::fs::read_dir(path.parent().unwrap()).unwrap().map(|file| file.unwrap().file_name());
    let mut mine: Vec<_> =
        all.map(|file| file.into_string().unwrap()).filter(|file| file.starts_with(&format!("{name}."))).collect();
    mine.sort();
    mine
}

#[tokio::test]
async fn copies_are_filled_beside_the_live_tables_until_the_switch() {
    for store in both().await {
        let lease = lease(&store).await;
        assert_eq!(store.make_shadow(&shadow()).await.unwrap(), Position::START);
        let before = live(&store).await;
        assert_eq!(before, ["old:1:2", "orders:1"]);
        assert!(fill(&store, &lease, "new", 0, 4).await);
        let dropped = {
            let mut tx = store.begin_in(&shadow()).await.unwrap();
            sql(&mut *tx).execute("DELETE FROM orders", ()).unwrap();
            tx.advance(&lease, 4.into(), 9.into()).await.unwrap()
        };
        assert!(dropped);
        assert!(fill(&store, &lease, "newer", 4, 6).await);
        assert_eq!(store.make_shadow(&shadow()).await.unwrap(), 6_u64);
        assert_eq!(live(&store).await, before, "not a live row is touched");
        assert_eq!(store.load_checkpoint(&lease.role).await.unwrap(), None);
        store.append(&fresh_stream(), ExpectedVersion::Any, events(2)).await.unwrap();

        let mut tx = store.begin().await.unwrap();
        assert_eq!(tx.replace_rows(&shadow()).await.unwrap(), 6_u64, "as far as the copies are filled");
        assert!(tx.advance(&lease, 0.into(), 6.into()).await.unwrap());
        drop(tx);
        assert_eq!(live(&store).await, before, "rolled back as a whole");
        let mut tx = store.begin().await.unwrap();
        tx.replace_rows(&shadow()).await.unwrap();
        tx.replace_rows(&shadow()).await.unwrap();
        assert!(tx.advance(&lease, 0.into(), 6.into()).await.unwrap());
        tx.commit().await.unwrap();
        assert_eq!(live(&store).await, ["new:7:14 newer:7:14", "orders:2"], "the trigger counted once");
        assert_eq!(store.load_checkpoint(&lease.role).await.unwrap(), Some(6.into()));
        let mut tx = store.begin().await.unwrap();
        assert_eq!(text(&mut *tx, "SELECT order_id FROM lines"), "old", "other tables are left alone");
        drop(tx);

        // as after a crash
        assert_eq!(store.make_shadow(&shadow()).await.unwrap(), Position::START, "they have served");
        let mut tx = store.begin_in(&shadow()).await.unwrap();
        assert_eq!(text(&mut *tx, ORDERS), "");
        drop(tx);

        // triggers and foreign keys are back
        store.drop_shadow(&shadow()).await.unwrap();
        store.drop_shadow(&shadow()).await.unwrap();
        run(&store, "INSERT INTO orders (id, total) VALUES ('more', 1)").await;
        assert_eq!(live(&store).await[1], "orders:3");
        let mut tx = store.begin().await.unwrap();
        assert!(sql(&mut *tx).execute("INSERT INTO lines VALUES ('none')", ()).is_err());
        drop(tx);
        assert_eq!(store.make_shadow(&shadow()).await.unwrap(), Position::START, "dropped is forgotten");
        let mut tx = store.begin_in(&shadow()).await.unwrap();
        assert_eq!(text(&mut *tx, ORDERS), "");
    }
}

#[tokio::test]
async fn tables_and_columns_are_looked_for_where_statements_find_them() {
    for store in both().await {
        let mut tx = store.begin().await.unwrap();
        let mut found = Vec::new();
        for (table, column) in [
            ("Orders", None),
            ("orders", Some("ID")),
            ("orders", Some("twice")),
            ("order", None),
            ("orders", Some("no")),
        ] {
            found.push(tx.has_table(table, column).await.unwrap());
        }
        assert_eq!(found, [true, true, true, false, false]);
        sql(&mut *tx).execute("CREATE TABLE fresh (id TEXT)", ()).unwrap();
        assert!(tx.has_table("fresh", Some("id")).await.unwrap(), "made in the same transaction");
        assert!(!tx.has_rows("fresh").await.unwrap() && !tx.has_rows("order").await.unwrap());
        sql(&mut *tx).execute("INSERT INTO fresh VALUES ('1')", ()).unwrap();
        assert!(tx.has_rows("Fresh").await.unwrap());
        assert!(tx.has_rows("a.b").await.is_err());
        for (table, column) in [("eventbus_events", None), ("a.b", None), ("orders", Some("a b"))] {
            let error = reason(tx.has_table(table, column).await.unwrap_err());
            assert!(matches!(error, SqliteTransactionError::InvalidName { .. }), "{error:?}");
        }
    }
}

#[tokio::test]
async fn a_former_owner_fills_nothing() {
    for store in both().await {
        let former = lease(&store).await;
        store.make_shadow(&shadow()).await.unwrap();
        assert!(fill(&store, &former, "one", 0, 1).await);
        let now = lease(&store).await;
        assert!(!fill(&store, &former, "two", 1, 2).await);
        assert!(!fill(&store, &now, "two", 0, 2).await);
        assert!(fill(&store, &now, "two", 1, 2).await);
        assert!(!fill(&store, &former, "three", 2, 3).await);
        assert_eq!(store.make_shadow(&shadow()).await.unwrap(), 2_u64);
        let mut tx = store.begin_in(&shadow()).await.unwrap();
        assert_eq!(text(&mut *tx, ORDERS), "one:7:14 two:7:14");
    }
}

/// The transaction reads the live lease as of its begin: then the epoch in the copies decides.
#[tokio::test]
async fn an_owner_that_was_paused_in_a_transaction_is_fenced_by_the_copies() {
    let path = fresh_path();
    let (store, other) = (open(path.clone()).await, open(path).await);
    run(&store, TABLES).await;
    let former = lease(&store).await;
    store.make_shadow(&shadow()).await.unwrap();
    let now = lease(&other).await;
    assert_eq!(other.make_shadow(&shadow()).await.unwrap(), Position::START);
    assert!(fill(&other, &now, "two", 0, 2).await);
    // as if the former owner still had the lease
    let back = format!("UPDATE eventbus_leases SET epoch = {}", former.epoch);
    run(&store, &back).await;
    assert!(!fill(&store, &former, "one", 2, 3).await);
}

#[tokio::test]
async fn copies_outlive_the_process_and_go_with_their_files() {
    let path = fresh_path();
    let store = open(path.clone()).await;
    run(&store, TABLES).await;
    let owner = lease(&store).await;
    assert_eq!(store.make_shadow(&shadow()).await.unwrap(), Position::START);
    assert!(fill(&store, &owner, "one", 0, 3).await);
    drop(store);
    let store = open(path.clone()).await;
    let owner = lease(&store).await;
    assert_eq!(store.make_shadow(&shadow()).await.unwrap(), 3_u64);
    assert!(fill(&store, &owner, "two", 3, 4).await);
    drop(store);
    // also without a call for the copies' checkpoint
    let store = open(path.clone()).await;
    let mut tx = store.begin_in(&shadow()).await.unwrap();
    assert_eq!(text(&mut *tx, ORDERS), "one:7:14 two:7:14");
    drop(tx);
    switch(&store, &shadow()).await;
    assert!(!files(&path).is_empty());
    store.drop_shadow(&shadow()).await.unwrap();
    assert_eq!(files(&path), Vec::<String>::new());
    assert_eq!(live(&store).await[0], "one:7:14 two:7:14");
}

/// Fails if the mask of the process alone decides who may read the copies.
#[cfg(unix)]
#[tokio::test]
async fn copies_have_the_mode_of_the_store() {
    use std::{fs, os::unix::fs::PermissionsExt as _};
    let path = fresh_path();
    let store = open(path.clone()).await;
    run(&store, TABLES).await;
    for mode in [0o600, 0o640] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        store.make_shadow(&shadow()).await.unwrap();
        let copies = files(&path);
        assert!(!copies.is_empty());
        for copy in copies {
            let metadata = fs::metadata(path.with_file_name(&copy)).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, mode, "{copy}");
        }
        store.drop_shadow(&shadow()).await.unwrap();
    }
}

/// Fails if the path of a database becomes a text on its way to SQLite.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_store_whose_path_is_no_utf_8_has_copies_too() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
    let directory = fresh_path();
    std::fs::create_dir(&directory).unwrap();
    let store = open(directory.join(OsStr::from_bytes(b"caf\xe9.db"))).await;
    run(&store, TABLES).await;
    let owner = lease(&store).await;
    assert_eq!(store.make_shadow(&shadow()).await.unwrap(), Position::START);
    assert!(fill(&store, &owner, "new", 0, 4).await);
    switch(&store, &shadow()).await;
    assert_eq!(live(&store).await[0], "new:7:14");
}

/// After the files of the copies are removed by hand, the store makes copies in new files.
#[tokio::test]
async fn lost_copies_are_made_again() {
    let path = fresh_path();
    let store = open(path.clone()).await;
    run(&store, TABLES).await;
    let owner = lease(&store).await;
    store.make_shadow(&shadow()).await.unwrap();
    assert!(fill(&store, &owner, "one", 0, 3).await);
    drop(store);
    let former = files(&path);
    for file in &former {
        std::fs::remove_file(path.with_file_name(file)).unwrap();
    }
    let store = open(path.clone()).await;
    let error = reason(store.begin_in(&shadow()).await.unwrap_err());
    assert!(matches!(error, SqliteTransactionError::NoShadow { .. }), "{error:?}");
    let mut tx = store.begin().await.unwrap();
    let error = reason(tx.replace_rows(&shadow()).await.unwrap_err());
    assert!(matches!(error, SqliteTransactionError::NoShadow { .. }), "{error:?}");
    drop(tx);
    assert_eq!(live(&store).await[0], "old:1:2");
    assert_eq!(store.make_shadow(&shadow()).await.unwrap(), Position::START);
    let now = files(&path);
    assert!(former.iter().all(|file| !now.contains(file)), "{former:?} {now:?}");
}

#[tokio::test]
async fn copies_of_tables_that_have_changed_are_made_again() {
    for store in both().await {
        let owner = lease(&store).await;
        store.make_shadow(&shadow()).await.unwrap();
        assert!(fill(&store, &owner, "one", 0, 3).await);
        run(&store, "ALTER TABLE orders ADD COLUMN note TEXT").await;
        assert_eq!(store.make_shadow(&shadow()).await.unwrap(), Position::START);
        let mut tx = store.begin_in(&shadow()).await.unwrap();
        assert_eq!(text(&mut *tx, "SELECT count(note) || ' ' || count(*) FROM orders"), "0 0");
        drop(tx);
        let fewer = Shadow { tables: vec!["orders".into()], ..shadow() };
        assert!(fill(&store, &owner, "one", 0, 3).await);
        assert_eq!(store.make_shadow(&fewer).await.unwrap(), Position::START);
    }
}

/// SQLite reads a quoted name that no column has as a text: each row would get the name of the column.
#[tokio::test]
async fn copies_that_lack_a_column_of_the_live_table_replace_no_rows() {
    for store in both().await {
        let owner = lease(&store).await;
        store.make_shadow(&shadow()).await.unwrap();
        assert!(fill(&store, &owner, "new", 0, 1).await);
        run(&store, "ALTER TABLE orders ADD COLUMN note TEXT").await;
        let mut tx = store.begin().await.unwrap();
        let error = reason(tx.replace_rows(&shadow()).await.unwrap_err());
        assert!(matches!(error, SqliteTransactionError::Sqlite(_)), "{error:?}");
        drop(tx);
        assert_eq!(live(&store).await, ["old:1:2", "orders:1"]);
        assert_eq!(store.make_shadow(&shadow()).await.unwrap(), Position::START, "the next attempt has new copies");
    }
}

/// Statements find texts, and rows of a table without a key, by the rowid.
#[tokio::test]
async fn rows_keep_their_rowids_in_the_switch() {
    for store in both().await {
        run(&store, "CREATE VIRTUAL TABLE texts USING fts5 (body); CREATE TABLE keyless (name TEXT)").await;
        let shadow = Shadow { tables: vec!["texts".into(), "keyless".into()], ..shadow() };
        store.make_shadow(&shadow).await.unwrap();
        let rows = "INSERT INTO texts (rowid, body) VALUES (7, 'red'), (9, 'blue');
            INSERT INTO keyless (rowid, name) VALUES (8, 'red')";
        run_in(&store, &shadow, rows).await;
        switch(&store, &shadow).await;
        let mut tx = store.begin().await.unwrap();
        let rowids = "SELECT (SELECT rowid FROM texts WHERE texts MATCH 'blue') || ' ' || (SELECT rowid FROM keyless)";
        assert_eq!(text(&mut *tx, rowids), "9 8");
    }
}

/// Fails if the switch removes the words of the new texts from the index, in place of those of the former ones.
#[tokio::test]
async fn the_index_of_a_full_text_table_is_that_of_the_new_texts() {
    for store in both().await {
        let tables = "CREATE TABLE docs (id INTEGER PRIMARY KEY, body TEXT);
            CREATE VIRTUAL TABLE words USING fts5 (body, content = 'docs', content_rowid = 'id')";
        let rows = |body| {
            format!("INSERT INTO docs VALUES (1, '{body}'); INSERT INTO words (rowid, body) VALUES (1, '{body}')")
        };
        run(&store, &format!("{tables}; {}", rows("red"))).await;
        let shadow = Shadow { tables: vec!["docs".into(), "words".into()], ..shadow() };
        store.make_shadow(&shadow).await.unwrap();
        run_in(&store, &shadow, &rows("blue")).await;
        switch(&store, &shadow).await;
        let mut tx = store.begin().await.unwrap();
        let found = |word| format!("SELECT count(*) || '' FROM words WHERE words MATCH '{word}'");
        assert_eq!(["red", "blue"].map(|word| text(&mut *tx, &found(word))), ["0", "1"]);
        let check = "INSERT INTO words (words, rank) VALUES ('integrity-check', 1)";
        sql(&mut *tx).execute(check, ()).unwrap();
    }
}

/// Live rows of an order go with it, so those in the copies do.
#[tokio::test]
async fn foreign_keys_cascade_in_copies_unless_a_parent_has_no_copy() {
    let (path, memory) = (fresh_path(), SqliteEventStore::in_memory().await.unwrap());
    let file = open(path.clone()).await;
    let whole = Shadow { tables: ["orders", "counts", "Lines"].map(str::to_owned).into(), ..shadow() };
    for store in [&file, &memory] {
        run(store, TABLES).await;
        store.make_shadow(&whole).await.unwrap();
    }
    // the second one opens copies that exist
    for store in [&file, &open(path).await, &memory] {
        let mut tx = store.begin_in(&whole).await.unwrap();
        let statements = "INSERT INTO orders (id, total) VALUES ('new', 1);
            INSERT INTO lines VALUES ('new');
            DELETE FROM orders";
        sql(&mut *tx).connection().unwrap().execute_batch(statements).unwrap();
        assert_eq!(text(&mut *tx, "SELECT count(*) || '' FROM lines"), "0");
    }
    let child = Shadow { tables: vec!["lines".into()], ..shadow() };
    file.make_shadow(&child).await.unwrap();
    let mut tx = file.begin_in(&child).await.unwrap();
    sql(&mut *tx).execute("INSERT INTO lines VALUES ('of a live order')", ()).unwrap();
}

#[tokio::test]
async fn copies_can_be_made_of_plain_tables_only() {
    for store in both().await {
        run(&store, "CREATE VIEW big AS SELECT * FROM orders").await;
        let of = |table: &str| Shadow { tables: vec![table.into()], ..shadow() };
        for name in ["", "a b", "main.orders", "eventbus_events", "sqlite_schema", "orders\"; --", "ärger"] {
            for error in [store.make_shadow(&of(name)).await.err(), store.begin_in(&of(name)).await.err()] {
                let error = reason(error.unwrap());
                assert!(matches!(&error, SqliteTransactionError::InvalidName { .. }), "{name}: {error:?}");
            }
        }
        for name in ["missing", "big", "orders_by_total"] {
            let error = reason(store.make_shadow(&of(name)).await.unwrap_err());
            assert!(matches!(&error, SqliteTransactionError::NoTable { table } if table == name), "{error:?}");
        }
        let error = reason(store.begin_in(&Shadow { name: Name::from_static("other"), ..shadow() }).await.unwrap_err());
        assert!(matches!(error, SqliteTransactionError::NoShadow { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_transaction_on_copies_fills_copies_only() {
    for (store, is_memory) in both().await.into_iter().zip([false, true]) {
        store.make_shadow(&shadow()).await.unwrap();
        let mut tx = store.begin_in(&shadow()).await.unwrap();
        let error = store.append_in(sql(&mut *tx), &fresh_stream(), ExpectedVersion::Any, events(1)).await.unwrap_err();
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("append_in"), "{error:?}");
        let error =
            reason(tx.is_first(&Name::from_static("handler"), &fresh_stream(), EventId::new()).await.unwrap_err());
        assert!(matches!(error, SqliteTransactionError::InShadow { .. }), "{error:?}");
        let error = reason(tx.replace_rows(&shadow()).await.unwrap_err());
        assert!(matches!(error, SqliteTransactionError::InShadow { .. }), "{error:?}");
        if !is_memory {
            assert!(sql(&mut *tx).execute("DELETE FROM prices", ()).is_err(), "the live tables are only read");
            // and no append waits for it
            within(store.append(&fresh_stream(), ExpectedVersion::Any, events(1))).await.unwrap();
        }
    }
}

/// A process that dies in the middle of the switch leaves the old rows and the copies.
#[tokio::test]
async fn a_switch_is_whole_or_not_at_all() {
    let path = fresh_path();
    let store = open(path.clone()).await;
    run(&store, TABLES).await;
    let owner = lease(&store).await;
    store.make_shadow(&shadow()).await.unwrap();
    assert!(fill(&store, &owner, "one", 0, 3).await);
    drop(store);
    for point in ["replaced", "advanced", "committed"] {
        die_in_a_switch(&path, point);
        let store = open(path.clone()).await;
        if point == "committed" {
            assert_eq!(live(&store).await[0], "one:7:14");
            assert_eq!(store.make_shadow(&shadow()).await.unwrap(), Position::START, "the copies have served");
            let copies = files(&path).iter().filter(|file| file.ends_with(".rebuild")).count();
            assert_eq!(copies, 1, "the former are gone");
            break;
        }
        assert_eq!(live(&store).await, ["old:1:2", "orders:1"]);
        assert_eq!(store.load_checkpoint(&shadow().name).await.unwrap(), None);
        assert_eq!(store.make_shadow(&shadow()).await.unwrap(), 3_u64);
    }
}

const PATH: &str = "EVENTSTORE_SHADOW_PATH";
const POINT: &str = "EVENTSTORE_SHADOW_POINT";

/// Runs this test binary as a process that is killed at that point.
fn die_in_a_switch(path: &std::path::Path, point: &str) {
    let (ended, _) =
        Actor::play("shadows::switching_process", &[(PATH, path.to_str().unwrap()), (POINT, point)]).wait();
    assert!(!ended.success(), "it did not die");
}

#[tokio::test]
async fn switching_process() {
    let (Ok(path), Ok(point)) = (std::env::var(PATH), std::env::var(POINT)) else {
        return; // only as a process of its own
    };
    let store = open(PathBuf::from(path)).await;
    let owner = lease(&store).await;
    let mut tx = store.begin().await.unwrap();
    tx.replace_rows(&shadow()).await.unwrap();
    if point != "replaced" {
        assert!(tx.advance(&owner, 0.into(), 3.into()).await.unwrap());
    }
    if point == "committed" {
        tx.commit().await.unwrap();
    }
    // like SIGKILL: the process drops and flushes no value
    std::process::abort();
}
