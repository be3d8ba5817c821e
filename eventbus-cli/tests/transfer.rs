//! Moving events between stores: every field arrives, interrupted moves go on, and damage is found.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{fs, path::Path};

use common::{Ran, Running, assert_json, eventbus, eventbus_piped};
use eventbus::{
    EventContext, ExpectedVersion, Name, NewEvent, Position, RecordedEvent, StreamId, Uuid,
    event::Attributes,
    store::{EventStore, FeedFilter, ReadFeed as _},
};
use eventstore_postgres::{PgEventStore, PgEventStoreConfig};
use eventstore_sqlite::SqliteEventStore;
use futures_util::TryStreamExt as _;
use serde_json::json;
use tempfile::TempDir;

/// A file with some thousand events of many streams, in turns.
async fn source(folder: &TempDir, events: u64) -> String {
    let path = folder.path().join("source.db");
    let store = SqliteEventStore::open(&path).await.unwrap();
    for number in 0..events {
        let tenant = (number % 7 == 0).then(|| Uuid::from_u128(7));
        let stream = StreamId::parse("Order", &format!("o-{}", number % 50)).unwrap().with_tenant_id(tenant);
        let context = EventContext {
            tenant_id: tenant,
            actor_id: (number % 3 == 0).then(|| "ada".to_owned()),
            causation_id: (number % 5 == 0).then(|| Uuid::from_u128(number.into())),
            attributes: Attributes::parse(if number % 2 == 0 { "{}" } else { "{ \"k\" : 1.50 }" }).unwrap(),
            ..EventContext::default()
        };
        let payload =
            if number % 11 == 0 { "{\n  \"cents\": 1.0\n}".to_owned() } else { format!("{{\"cents\":{number}}}") };
        let event = NewEvent::new(Name::from_static("Noted"), 2, payload).with_context(context);
        eventbus::port::AppendEvents::append(&store, &stream, ExpectedVersion::Any, vec![event]).await.unwrap();
    }
    format!("sqlite:{}", path.display())
}

/// What a move keeps of an event, as text.
fn kept(event: &RecordedEvent) -> String {
    let metadata = event.metadata();
    let recorded_at = metadata.original_recorded_at().or(metadata.recorded_at());
    let moved = metadata.clone().with_position(None).with_recorded_at(None).with_original_recorded_at(recorded_at);
    format!("{moved:?} {:?}", event.payload())
}

async fn feed(store: &dyn EventStore) -> Vec<String> {
    let head = store.head().await.unwrap();
    let events: Vec<_> = store.read_feed(Position::START, head, &FeedFilter::all()).try_collect().await.unwrap();
    events.iter().map(kept).collect()
}

async fn feed_of(url: &str) -> Vec<String> {
    feed(&SqliteEventStore::connect(url).await.unwrap()).await
}

fn migrated(folder: &TempDir, name: &str) -> String {
    let url = format!("sqlite:{}", folder.path().join(name).display());
    assert_eq!(eventbus(&["--store", &url, "--yes", "migrate"]).code, 0);
    url
}

fn file(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).display().to_string()
}

#[track_caller]
fn done(ran: &Ran) {
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_imported_to_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    let url = source(&folder, 2_500).await;
    let wanted = feed_of(&url).await;
    // one document a line, also of payloads of several lines
    let events = eventbus(&["--store", &url, "--json", "streams", "show", "Order", "o-11"]).documents();
    assert!(events.iter().any(|shown| shown["event"]["fields"] == json!({ "cents": 1.0 })), "{events:?}");
    let nowhere = file(&folder, "no/such/folder.jsonl");
    let refused = eventbus(&["--store", &url, "export", &nowhere]);
    assert!(refused.code == 2 && refused.err.contains(&format!("`{nowhere}` cannot be written: ")), "{refused:?}");
    for name in ["events.jsonl", "events.jsonl.zst"] {
        let file = file(&folder, name);
        let exported = eventbus(&["--store", &url, "--json", "export", &file]).masked_json();
        let shown = json!({
            "version": 1, "as_of": "TIME", "file": file, "store_id": "UUID", "events": 2_500, "verified": true,
        });
        assert_json(&exported, &shown);
        assert_eq!(eventbus(&["--store", &url, "export", &file]).code, 64, "an existing file is kept");
        assert_eq!(eventbus(&["--store", &url, "--dry-run", "export", &file]).code, 64);
        assert_eq!(eventbus(&["--store", &url, "--dry-run", "export", &file, "--resume"]).code, 0);
        assert_eq!(eventbus(&["--store", &url, "--dry-run", "export", "/no/such/file", "--resume"]).code, 3);
        let target = migrated(&folder, &format!("{name}.db"));
        let dry = eventbus(&["--store", &target, "--dry-run", "import", &file]);
        assert_eq!((dry.code, dry.out.as_str()), (0, ""));
        let dry = eventbus(&["--store", &target, "--dry-run", "--json", "import", &file]).masked_json();
        let would = dry["would"].as_str().unwrap();
        assert!(dry["dry_run"] == true && would.starts_with("append 2500 events to "), "{dry}");
        assert_eq!(eventbus(&["--store", &target, "import", &file]).code, 4);
        assert_eq!(feed_of(&target).await, [""; 0]);
        let imported = eventbus(&["--store", &target, "--yes", "import", &file]);
        assert_eq!((imported.code, imported.out.as_str()), (0, "imported 2500 events, verified\n"), "{imported:?}");
        assert!(feed_of(&target).await == wanted);
        // again: all events are there
        done(&eventbus(&["--store", &target, "--yes", "import", &file]));
        assert!(feed_of(&target).await == wanted);
    }
    let (plain, packed) = (file(&folder, "events.jsonl"), file(&folder, "events.jsonl.zst"));
    assert!(fs::metadata(packed).unwrap().len() * 2 < fs::metadata(plain).unwrap().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_export_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let url = source(&folder, 2_500).await;
    for name in ["events.jsonl", "events.jsonl.zst"] {
        let file = file(&folder, name);
        done(&eventbus(&["--store", &url, "export", &file]));
        let whole = fs::read(&file).unwrap();
        // a process that was killed has written any part of it
        for part in [whole.len() - 1, whole.len() - 30, whole.len() / 2, 200, 20, 0] {
            fs::write(&file, &whole[..part]).unwrap();
            let target = migrated(&folder, &format!("{name}.{part}.db"));
            let refused = eventbus(&["--store", &target, "--yes", "import", &file]);
            assert_eq!(refused.code, 2, "{part} of {} bytes: {refused:?}", whole.len());
            assert_eq!(feed_of(&target).await, [""; 0]);
            done(&eventbus(&["--store", &url, "export", &file, "--resume"]));
            assert!(fs::read(&file).unwrap() == whole, "{part} of {} bytes", whole.len());
        }
        // of a complete file nothing is missing
        done(&eventbus(&["--store", &url, "export", &file, "--resume"]));
        assert!(fs::read(&file).unwrap() == whole);
        let other = migrated(&folder, &format!("{name}.other.db"));
        assert_eq!(eventbus(&["--store", &other, "export", &file, "--resume"]).code, 2);
        // a part of a header is that of an export, a different text is kept
        fs::write(&file, &whole[..20]).unwrap();
        assert_eq!(eventbus(&["--store", &url, "--dry-run", "export", &file, "--resume"]).code, 0);
        assert!(fs::read(&file).unwrap() == whole[..20]);
        fs::write(&file, "{\"note\":").unwrap();
        assert_eq!(eventbus(&["--store", &url, "export", &file, "--resume"]).code, 2);
        assert_eq!(fs::read_to_string(&file).unwrap(), "{\"note\":");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complete_export_takes_up_later_events() {
    let folder = tempfile::tempdir().unwrap();
    let url = source(&folder, 30).await;
    let store = SqliteEventStore::connect(&url).await.unwrap();
    for name in ["events.jsonl", "events.jsonl.zst"] {
        let (file, target) = (file(&folder, name), migrated(&folder, &format!("{name}.db")));
        let dry = eventbus(&["--store", &url, "--dry-run", "export", &file]);
        assert_eq!((dry.code, Path::new(&file).exists()), (0, false), "{dry:?}");
        let dry = eventbus(&["--store", &url, "--dry-run", "--json", "export", &file]).masked_json();
        assert!(dry["would"].as_str().unwrap().starts_with("write the events of "), "{dry}");
        done(&eventbus(&["--store", &url, "export", &file]));
        done(&eventbus(&["--store", &target, "--yes", "import", &file]));
        add_one(&store, "later").await;
        done(&eventbus(&["--store", &url, "export", &file, "--resume"]));
        done(&eventbus(&["--store", &target, "--yes", "import", &file]));
        assert_eq!(feed_of(&target).await, feed_of(&url).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_before_an_event_is_imported() {
    let folder = tempfile::tempdir().unwrap();
    let (url, target) = (source(&folder, 1_200).await, migrated(&folder, "target.db"));
    for name in ["events.jsonl", "events.jsonl.zst"] {
        let file = file(&folder, name);
        done(&eventbus(&["--store", &url, "export", &file]));
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file, &bytes).unwrap();
        let refused = eventbus(&["--store", &target, "--yes", "import", &file]);
        assert_eq!(refused.code, 2, "{refused:?}");
        assert!(refused.err.contains(&file), "{}", refused.err);
        // what follows the damage may be nowhere else
        assert_eq!(eventbus(&["--store", &url, "export", &file, "--resume"]).code, 2);
        assert!(fs::read(&file).unwrap() == bytes, "the file is kept");
    }
    let whole = file(&folder, "whole.jsonl");
    done(&eventbus(&["--store", &url, "export", &whole]));
    let anew = file(&folder, "anew.jsonl.zst");
    zstd::stream::copy_encode(fs::File::open(&whole).unwrap(), fs::File::create(&anew).unwrap(), 3).unwrap();
    let refused = eventbus(&["--store", &target, "--yes", "import", &anew]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.err.contains("it was compressed anew: decompress it by `zstd -d`"), "{}", refused.err);
    // a second reading of a pipe would find it empty
    let header = fs::read_to_string(&whole).unwrap().split_inclusive('\n').take(1).collect::<String>();
    let piped = eventbus_piped(&["--store", &target, "--yes", "import", "/dev/stdin"], &header);
    assert!(piped.code == 64 && piped.err.contains("`/dev/stdin` is no regular file"), "{piped:?}");
    let text = file(&folder, "events.jsonl");
    let lines = fs::read_to_string(&text).unwrap();
    fs::write(&text, lines.lines().skip(1).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    assert_eq!(eventbus(&["--store", &target, "--yes", "import", &text]).code, 2, "a file without its header");
    assert_eq!(eventbus(&["--store", &target, "--yes", "import", "/no/such/file"]).code, 3);
    assert_eq!(feed_of(&target).await, [""; 0]);
}

/// The store may lack the events by now. Some damage makes the last chunk reach beyond the end of the file, as one that was
/// not written to its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_complete_file_whose_last_chunk_is_damaged_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let url = source(&folder, 1_200).await;
    let (plain, packed) = (file(&folder, "events.jsonl"), file(&folder, "events.jsonl.zst"));
    for file in [&plain, &packed] {
        done(&eventbus(&["--store", &url, "export", file]));
    }
    let find_last = |bytes: &[u8], text: &[u8]| bytes.windows(text.len()).rposition(|at| at == text).unwrap();
    let refuse = |file: &str, mut bytes: Vec<u8>, at: usize, to: u8| {
        bytes[at] = to;
        fs::write(file, &bytes).unwrap();
        let refused = eventbus(&["--store", &url, "export", file, "--resume"]);
        assert_eq!(refused.code, 2, "byte {at}: {refused:?}");
        assert!(fs::read(file).unwrap() == bytes, "byte {at}");
    };
    let bytes = fs::read(&plain).unwrap();
    let line = find_last(&bytes, b"{\"position\"");
    refuse(&plain, bytes, line - 1, b' ');
    let bytes = fs::read(&packed).unwrap();
    let magic = 0xFD2F_B528_u32.to_le_bytes();
    let chunk = find_last(&bytes[..find_last(&bytes, &magic)], &magic);
    for at in chunk..chunk + 16 {
        refuse(&packed, bytes.clone(), at, bytes[at] ^ 0x40);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_copied_to_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let url = source(&folder, 1_500).await;
    let wanted = feed_of(&url).await;
    let (database, redis) = (eventbus_test::postgres(), eventbus_test::redis());
    done(&eventbus(&["--store", database.url(), "--yes", "migrate"]));
    done(&eventbus(&["--store", redis.url(), "--store-prefix", redis.prefix(), "--yes", "migrate"]));
    let copied = eventbus(&["--store", &url, "--yes", "copy", "--to", database.url()]);
    assert_eq!((copied.code, copied.out.as_str()), (0, "copied 1500 events, verified\n"), "{copied:?}");
    assert!(feed(&PgEventStore::connect(database.url()).await.unwrap()).await == wanted);
    let to_redis = ["copy", "--to", redis.url(), "--to-prefix", redis.prefix()];
    done(&eventbus(&[&["--store", database.url(), "--yes"], &to_redis[..]].concat()));
    let back = migrated(&folder, "back.db");
    let from_redis = ["--store", redis.url(), "--store-prefix", redis.prefix(), "--yes", "copy", "--to", &back];
    done(&eventbus(&from_redis));
    assert!(feed_of(&back).await == wanted);

    done(&eventbus(&["--store", database.url(), "--schema", "other", "--yes", "migrate"]));
    let config = PgEventStoreConfig {
        database_url: database.url().into(),
        schema: "other".into(),
        ..PgEventStoreConfig::default()
    };
    let other = PgEventStore::connect_with(config).await.unwrap();
    let to_other = ["copy", "--to", database.url(), "--to-schema", "other"];
    let dry = eventbus(&[&["--store", &url, "--dry-run", "--json"], &to_other[..]].concat()).masked_json();
    assert!(dry["would"].as_str().unwrap().starts_with("append the events of "), "{dry}");
    assert_eq!(feed(&other).await, [""; 0]);
    done(&eventbus(&[&["--store", &url, "--yes"], &to_other[..]].concat()));
    assert!(feed(&other).await == wanted);

    let itself = eventbus(&["--store", &url, "--yes", "copy", "--to", &url]);
    assert_eq!(itself.code, 64, "{itself:?}");
    let used = source_of_other(folder.path()).await;
    let refused = eventbus(&["--store", &url, "--yes", "copy", "--to", &used]);
    assert!(refused.code == 64 && refused.err.contains("holds events already"), "{refused:?}");
    assert_eq!(eventbus(&["--store", &url, "--dry-run", "copy", "--to", &used]).code, 64);
}

async fn source_of_other(folder: &Path) -> String {
    let path = folder.join("used.db");
    add_one(&SqliteEventStore::open(&path).await.unwrap(), "mine").await;
    format!("sqlite:{}", path.display())
}

async fn add_one(store: &SqliteEventStore, id: &str) {
    let event = NewEvent::new(Name::from_static("Noted"), 1, "{}");
    let stream = StreamId::parse("Order", id).unwrap();
    eventbus::port::AppendEvents::append(store, &stream, ExpectedVersion::Any, vec![event]).await.unwrap();
}

/// The state that a process leaves behind which was killed between its last append and saving the checkpoint.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_killed_in_its_last_chunk_goes_on_although_the_source_has_grown() {
    let folder = tempfile::tempdir().unwrap();
    let (url, target) = (source(&folder, 20).await, migrated(&folder, "target.db"));
    done(&eventbus(&["--store", &url, "--yes", "copy", "--to", &target]));
    let store = SqliteEventStore::connect(&url).await.unwrap();
    let from = eventbus::store::ReadFeed::store_id(&store).await.unwrap();
    let rows = rusqlite::Connection::open(target.trim_start_matches("sqlite:")).unwrap();
    let set_back = "UPDATE eventbus_checkpoints SET position = 0 WHERE name = ?1";
    assert_eq!(rows.execute(set_back, [format!("import:{from}")]).unwrap(), 1);
    for number in 0..3 {
        add_one(&store, &format!("o-{number}")).await;
    }
    done(&eventbus(&["--store", &url, "--yes", "copy", "--to", &target]));
    assert_eq!(feed_of(&target).await, feed_of(&url).await);
    // chunks that end elsewhere than those of the interrupted copy
    for number in 0..1_500 {
        add_one(&store, &format!("o-{}", number % 7)).await;
    }
    done(&eventbus(&["--store", &url, "--yes", "copy", "--to", &target]));
    let moved = feed_of(&url).await.len();
    for position in [1, 2, 20, 1_000, 1_001, 1_500, moved - 1] {
        rows.execute(&set_back.replace('0', &position.to_string()), [format!("import:{from}")]).unwrap();
        done(&eventbus(&["--store", &url, "--yes", "copy", "--to", &target]));
    }
    assert_eq!(feed_of(&target).await, feed_of(&url).await);
    // an application that has begun to write to the copy
    add_one(&SqliteEventStore::connect(&target).await.unwrap(), "o-4").await;
    add_one(&store, "o-4").await;
    rows.execute(set_back, [format!("import:{from}")]).unwrap();
    let refused = eventbus(&["--store", &url, "--yes", "copy", "--to", &target]);
    assert!(refused.code == 2 && refused.err.contains("`Order/o-4` is a different event in the store"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_does_not_go_on_in_a_store_that_an_application_has_begun_to_use() {
    let folder = tempfile::tempdir().unwrap();
    let (url, target) = (source(&folder, 1_020).await, migrated(&folder, "target.db"));
    let copy = ["--store", &url, "--yes", "copy", "--to", &target];
    done(&eventbus(&copy));
    done(&eventbus(&copy));
    let (store, moved) =
        (SqliteEventStore::connect(&url).await.unwrap(), SqliteEventStore::connect(&target).await.unwrap());
    add_one(&store, "late").await;
    done(&eventbus(&copy));
    add_one(&moved, "new").await;
    add_one(&store, "later").await;
    let exported = file(&folder, "events.jsonl");
    done(&eventbus(&["--store", &url, "export", &exported]));
    let before = feed(&moved).await;
    for refused in [eventbus(&copy), eventbus(&["--store", &target, "--yes", "import", &exported])] {
        let wanted = "holds an event that was not moved: version 1 of `Order/new`";
        assert!(refused.code == 2 && refused.err.contains(wanted), "{refused:?}");
        assert!(feed(&moved).await == before, "nothing is appended behind it");
    }
    // a move that was ended before its first event
    let other = migrated(&folder, "other.db");
    let from = eventbus::store::ReadFeed::store_id(&store).await.unwrap();
    let begun = SqliteEventStore::connect(&other).await.unwrap();
    let checkpoint = Name::new("checkpoint", format!("import:{from}")).unwrap();
    eventbus::port::Checkpoints::save_checkpoint(&begun, &checkpoint, Position::START).await.unwrap();
    add_one(&begun, "mine").await;
    let refused = eventbus(&["--store", &url, "--yes", "copy", "--to", &other]);
    assert!(refused.code == 2 && refused.err.contains("was not moved: version 1 of `Order/mine`"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_move_is_compared_with_its_source_and_a_difference_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (url, target, exported) =
        (source(&folder, 120).await, migrated(&folder, "target.db"), file(&folder, "events.jsonl"));
    done(&eventbus(&["--store", &url, "export", &exported]));
    let move_again = || {
        [
            eventbus(&["--store", &url, "--yes", "copy", "--to", &target]),
            eventbus(&["--store", &target, "--yes", "import", &exported]),
        ]
    };
    move_again().iter().for_each(done);
    let rows = rusqlite::Connection::open(target.trim_start_matches("sqlite:")).unwrap();
    let payload: String =
        rows.query_row("SELECT payload FROM eventbus_events WHERE position = 60", [], |row| row.get(0)).unwrap();
    let change = "UPDATE eventbus_events SET payload = ?1 WHERE position = 60";
    assert_eq!(rows.execute(change, [r#"{"cents":-1}"#]).unwrap(), 1);
    for refused in move_again() {
        assert!(refused.code == 2 && refused.out.is_empty(), "{refused:?}");
        assert!(refused.err.contains("target.db holds as many events as were moved, but they differ"), "{refused:?}");
    }
    assert_eq!(rows.execute(change, [payload]).unwrap(), 1);
    move_again().iter().for_each(done);
    add_one(&SqliteEventStore::connect(&target).await.unwrap(), "additional").await;
    for refused in move_again() {
        assert!(refused.code == 2 && refused.out.is_empty(), "{refused:?}");
        assert!(refused.err.contains("target.db holds 121 events, moved were 120"), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_cannot_be_moved_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let url = source(&folder, 120).await;
    let rows = rusqlite::Connection::open(url.trim_start_matches("sqlite:")).unwrap();
    for (name, change, wanted) in [
        (
            "sealed",
            "has_sealed_fields = 1",
            "version 3 of `Order/o-1` at position 102 has sealed fields: a newer release",
        ),
        (
            "damaged",
            "has_sealed_fields = 0, payload = '{a}'",
            "version 3 of `Order/o-1` at position 102 cannot be moved, its fields",
        ),
    ] {
        rows.execute(&format!("UPDATE eventbus_events SET {change} WHERE position = 102"), []).unwrap();
        let export = eventbus(&["--store", &url, "export", &file(&folder, name)]);
        assert!(export.code == 2 && export.err.contains(wanted), "{export:?}");
        let target = migrated(&folder, &format!("{name}.db"));
        let copied = eventbus(&["--store", &url, "--yes", "copy", "--to", &target]);
        assert!(copied.code == 2 && copied.err.contains(wanted), "{copied:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_its_archived_events_is_not_moved_and_the_error_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let (url, target) = (source(&folder, 120).await, migrated(&folder, "target.db"));
    let rows = rusqlite::Connection::open(url.trim_start_matches("sqlite:")).unwrap();
    let archive = "
        UPDATE eventbus_streams SET archived_through = 1 WHERE aggregate_id = 'o-3' AND tenant_id = zeroblob(16);
        DELETE FROM eventbus_events WHERE version = 1 AND stream_no =
            (SELECT stream_no FROM eventbus_streams WHERE archived_through = 1)";
    rows.execute_batch(archive).unwrap();
    let refused = eventbus(&["--store", &url, "--yes", "copy", "--to", &target]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.err.contains("o-3` begins with version 2: its earlier events were archived"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_killed_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let url = source(&folder, 6_000).await;
    let target = migrated(&folder, "target.db");
    let reader = SqliteEventStore::connect(&target).await.unwrap();
    let mut copying = Running::start(&["--store", &url, "--yes", "copy", "--to", &target]);
    wait_until_begun(&reader).await;
    copying.child.kill().unwrap();
    copying.child.wait().unwrap();
    done(&eventbus(&["--store", &url, "--yes", "copy", "--to", &target]));
    assert!(feed(&reader).await == feed_of(&url).await);
}

/// Interrupts an import or a copy of these events, and runs it again.
async fn assert_goes_on_after_ctrl_c(arguments: &[&str], target: &str, wanted: &[String]) {
    let reader = SqliteEventStore::connect(target).await.unwrap();
    let mut moving = Running::start(arguments);
    wait_until_begun(&reader).await;
    // a writer that holds the file keeps the command from its end
    let writer = rusqlite::Connection::open(target.trim_start_matches("sqlite:")).unwrap();
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    moving.interrupt();
    assert_eq!(moving.child.wait().unwrap().code(), Some(130));
    writer.execute_batch("ROLLBACK").unwrap();
    assert!(feed(&reader).await.len() < wanted.len());
    done(&eventbus(arguments));
    assert!(feed(&reader).await == wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_and_a_copy_that_ctrl_c_has_ended_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let (url, file) = (source(&folder, 20_000).await, file(&folder, "events.jsonl"));
    let wanted = feed_of(&url).await;
    done(&eventbus(&["--store", &url, "export", &file]));
    let [imported, copied] = ["imported.db", "copied.db"].map(|name| migrated(&folder, name));
    assert_goes_on_after_ctrl_c(&["--store", &imported, "--yes", "import", &file], &imported, &wanted).await;
    assert_goes_on_after_ctrl_c(&["--store", &url, "--yes", "copy", "--to", &copied], &copied, &wanted).await;
}

/// Waits until a move has stored more than its first chunk.
async fn wait_until_begun(target: &SqliteEventStore) {
    let begun = async {
        while eventbus::store::ReadFeed::head(target).await.unwrap() < Position::new(1_500) {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), begun).await.unwrap();
}

/// A store that was restored has the same id, and different events at the positions that the file has.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_does_not_go_on_with_a_store_that_was_restored() {
    let folder = tempfile::tempdir().unwrap();
    let url = source(&folder, 6).await;
    let backup = file(&folder, "backup.db");
    let vacuum = format!("VACUUM INTO '{backup}'");
    rusqlite::Connection::open(folder.path().join("source.db")).unwrap().execute_batch(&vacuum).unwrap();
    let export = file(&folder, "events.jsonl.zst");
    add_one(&SqliteEventStore::connect(&url).await.unwrap(), "lost").await;
    done(&eventbus(&["--store", &url, "export", &export]));
    let written = fs::read(&export).unwrap();

    let restored = format!("sqlite:{backup}");
    let refuses = || {
        let refused = eventbus(&["--store", &restored, "export", &export, "--resume"]);
        assert!(refused.code == 2 && refused.err.contains("was restored from a backup"), "{refused:?}");
        assert_eq!(fs::read(&export).unwrap(), written, "the file is kept");
    };
    refuses();
    let store = SqliteEventStore::connect(&restored).await.unwrap();
    for id in ["other", "further"] {
        add_one(&store, id).await;
    }
    refuses();
    done(&eventbus(&["--store", &url, "export", &export, "--resume"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_has_one_export_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let url = source(&folder, 6).await;
    let export = file(&folder, "events.jsonl");
    done(&eventbus(&["--store", &url, "export", &export]));
    let writes = fs::File::open(&export).unwrap();
    writes.lock().unwrap();
    let refused = eventbus(&["--store", &url, "export", &export, "--resume"]);
    assert!(refused.code == 64 && refused.err.contains("another export writes"), "{refused:?}");
    drop(writes);
    done(&eventbus(&["--store", &url, "export", &export, "--resume"]));
}

/// An event as another program writes it, with spaces and nulls as PostgreSQL makes them.
fn foreign(id: &str, version: u64, fields: &str) -> String {
    format!(
        r#"{{"aggregate_type" : "Account", "aggregate_id" : "{id}", "version" : {version}, "event_type" : "Deposited", "occurred_at" : "2019-05-17T10:30:00.123456+02:00", "actor_id" : null, "fields" : {fields}}}"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_another_program_are_imported_once_and_later_ones_are_added() {
    let folder = tempfile::tempdir().unwrap();
    let target = migrated(&folder, "target.db");
    let lines: Vec<_> = (1..=700).flat_map(|version| [("ada", version), ("bob", version)]).collect();
    let text = |lines: &[(&str, u64)]| {
        let line = |&(id, version): &(_, u64)| foreign(id, version, &format!("{{\"cents\": {version}.50}}")) + "\n";
        lines.iter().map(line).collect::<String>()
    };
    let file = file(&folder, "foreign.jsonl");
    fs::write(&file, text(&lines[..1_000])).unwrap();
    let would = eventbus(&["--store", &target, "--dry-run", "--json", "import", "--foreign", &file]).masked_json();
    assert!(would["would"].as_str().unwrap().starts_with("append 1000 events to "), "{would}");
    assert_eq!(feed_of(&target).await, [""; 0]);
    let imported = eventbus(&["--store", &target, "--yes", "import", "--foreign", &file]);
    assert_eq!((imported.code, imported.out.as_str()), (0, "imported 1000 events, verified\n"), "{imported:?}");
    assert!(!imported.err.contains("earlier lines"), "{imported:?}");
    let first = feed_of(&target).await;

    // the rest, in an order in which no line has the number that it had
    let mut sorted = lines.clone();
    sorted.sort_unstable();
    let packed = folder.path().join("foreign.jsonl.zst");
    fs::write(&packed, zstd::encode_all(text(&sorted).as_bytes(), 1).unwrap()).unwrap();
    let imported = eventbus(&["--store", &target, "--yes", "import", "--foreign", &packed.display().to_string()]);
    done(&imported);
    // ada's later events are new, and behind bob's first 500
    let said = "the feed has 500 events before events of earlier lines, first that of line 701: ";
    assert!(imported.err.contains(said), "{imported:?}");
    let all = feed_of(&target).await;
    assert_eq!(all.len(), lines.len());
    assert!(all.starts_with(&first));

    let store = SqliteEventStore::connect(&target).await.unwrap();
    let event =
        store.read_feed(Position::START, Position::new(1), &FeedFilter::all()).try_next().await.unwrap().unwrap();
    let metadata = event.metadata();
    let at = time::macros::datetime!(2019-05-17 08:30:00.123456 UTC);
    assert_eq!((event.payload(), metadata.occurred_at()), ("{\"cents\": 1.50}", at));
    assert_eq!(metadata.original_recorded_at(), Some(at), "the mark of an imported event");
    assert_eq!(metadata.correlation_id(), metadata.event_id().as_uuid());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_another_program_keeps_its_id_tenant_and_context() {
    let folder = tempfile::tempdir().unwrap();
    let target = migrated(&folder, "target.db");
    let file = file(&folder, "foreign.jsonl");
    let uuid = |number| Uuid::from_u128(number).to_string();
    let line = json!({
        "event_id": uuid(1), "aggregate_type": "Account", "aggregate_id": "ada", "tenant": uuid(2), "version": 1,
        "event_type": "Opened", "schema_version": 3, "occurred_at": "2019-05-17T08:30:00Z",
        "recorded_at": "2019-05-17T08:31:00Z", "correlation_id": uuid(4), "causation_id": uuid(5), "actor_id": "zoë",
        "attributes": { "ip": "::1" }, "fields": { "owner": "Ada" },
    });
    fs::write(&file, format!("{line}\n\n")).unwrap();
    done(&eventbus(&["--store", &target, "--yes", "import", "--foreign", &file]));
    let exported = folder.path().join("exported.jsonl");
    done(&eventbus(&["--store", &target, "export", &exported.display().to_string()]));
    let exported = fs::read_to_string(exported).unwrap();
    let event: serde_json::Value = serde_json::from_str(exported.lines().nth(1).unwrap()).unwrap();
    assert_eq!(event, line);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_in_a_file_of_another_program_is_named_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "foreign.jsonl");
    let fields = "{\"cents\":1}";
    let good = foreign("ada", 1, fields);
    let mistakes = [
        ("no event", "expected ident (column 2)"),
        (&good.replace("\"actor_id\"", "\"actor\""), "unknown field `actor`"),
        (&good.replace("\"fields\"", "\"attributes\""), "missing field `fields`"),
        (&foreign("ada", 0, fields), "the versions of a stream begin with 1"),
        (&foreign("bob", 1, "[1]"), "JSON object"),
        (&foreign("bob", 1, "{\"tenant_id\":1}"), "`tenant_id`"),
    ];
    for (mistake, said) in mistakes {
        fs::write(&path, format!("{good}\n{mistake}\n")).unwrap();
        let target = migrated(&folder, "mistakes.db");
        let refused = eventbus(&["--store", &target, "--yes", "import", "--foreign", &path]);
        assert_eq!(refused.code, 2, "{refused:?}");
        assert!(refused.err.contains("foreign.jsonl`, line 2: ") && refused.err.contains(said), "{refused:?}");
        assert_eq!(feed_of(&target).await, [""; 0], "nothing is stored");
    }

    // what only the store finds
    let target = migrated(&folder, "target.db");
    fs::write(&path, format!("{good}\n")).unwrap();
    done(&eventbus(&["--store", &target, "--yes", "import", "--foreign", &path]));
    let changed = foreign("ada", 1, "{\"cents\":2}");
    for (mistake, said) in
        [(&changed, "the store has this event with other data"), (&foreign("ada", 3, fields), "version")]
    {
        fs::write(&path, format!("\n{mistake}\n")).unwrap();
        let refused = eventbus(&["--store", &target, "--yes", "import", "--foreign", &path]);
        assert!(refused.code == 2 && refused.err.contains("foreign.jsonl`, line 2: "), "{refused:?}");
        assert!(refused.err.contains(said), "{refused:?}");
    }
    assert_eq!(feed_of(&target).await.len(), 1);
    assert_eq!(eventbus(&["--store", &target, "--yes", "import", "--foreign", "/no/such/file"]).code, 3);
    let folder = folder.path().display().to_string();
    assert_eq!(eventbus(&["--store", &target, "--yes", "import", "--foreign", &folder]).code, 64);
}
