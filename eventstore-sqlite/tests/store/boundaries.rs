//! The tables of tags, and conditions of several handles of one file.

use std::{collections::BTreeSet, path::Path};

use crate::common::{events, feed, fresh_path, fresh_stream, open};
use eventbus::{
    ExpectedVersion::{Any, Exact, NoStream},
    Name, NewEvent, Position, StreamId, Uuid, Version,
    event::Tag,
    port::{Append, AppendError, AppendEvents as _, FeedFilter, MultiStreamAppends as _, ReadError, ReadFeed as _},
    store::{Boundaries as _, Boundary, BoundaryCondition, MultiStreamAppend},
};
use eventstore_sqlite::SqliteEventStore;
use futures_util::TryStreamExt as _;
use rusqlite::Connection;
use tokio::task::JoinSet;

const ENROLLED: Name = Name::from_static("Enrolled");
const VIEWED: Name = Name::from_static("Viewed \"twice\".");

fn tag(text: &str) -> Tag {
    Tag::from_stored(text).unwrap()
}

fn tagged(event_type: &Name, tags: &[&str]) -> NewEvent {
    NewEvent::new(event_type.clone(), 1, "{}").with_tags(tags.iter().map(|text| tag(text)))
}

fn append(stream: &StreamId, events: Vec<NewEvent>) -> Append {
    Append { stream: stream.clone(), expected: Any, events }
}

/// The enrolments that have all tags of an item.
fn boundary(items: &[&[&str]]) -> Boundary {
    let items = items.iter().map(|item| item.iter().map(|text| tag(text)).collect()).collect();
    Boundary { tenant_id: None, event_types: BTreeSet::from([ENROLLED]), items }
}

async fn append_if(
    store: &SqliteEventStore,
    condition: BoundaryCondition,
    events: Vec<NewEvent>,
) -> Result<(), AppendError> {
    let appends = vec![append(&fresh_stream(), events)];
    let multi = MultiStreamAppend { appends, condition: Some(condition), ..Default::default() };
    store.append_streams(multi).await.map(drop)
}

fn rows(path: &Path, sql: &str) -> Vec<String> {
    let connection = Connection::open(path).unwrap();
    let mut statement = connection.prepare(sql).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

/// Compares both tables of tags with the tags of the events; returns the number of counts.
fn recount(path: &Path) -> usize {
    let of_events = "
        SELECT hex(s.tenant_id) || ' ' || tag.value || ' ' || e.event_type || ' ' || count(*)
        FROM eventbus_events e JOIN eventbus_streams s USING (stream_no), json_each(e.tags) tag
        GROUP BY s.tenant_id, tag.value, e.event_type ORDER BY 1";
    let counts = "
        SELECT hex(t.tenant_id) || ' ' || t.tag || ' ' || c.key || ' ' || c.value
        FROM eventbus_tags t, json_each(t.counts) c WHERE c.key <> '' ORDER BY 1";
    let recounted = rows(path, of_events);
    assert_eq!(rows(path, counts), recounted, "counts");
    let of_events = "
        SELECT hex(s.tenant_id) || ' ' || tag.value || ' ' || e.position
        FROM eventbus_events e JOIN eventbus_streams s USING (stream_no), json_each(e.tags) tag ORDER BY 1";
    let index = "
        SELECT hex(t.tenant_id) || ' ' || t.tag || ' ' || i.position
        FROM eventbus_tagged_events i JOIN eventbus_tags t USING (tag_no) ORDER BY 1";
    assert_eq!(rows(path, index), rows(path, of_events), "index");
    recounted.len()
}

/// One of the tasks that save events with tags in every way, also ways that fail.
async fn save_in_every_way(store: SqliteEventStore, streams: Vec<StreamId>) {
    let courses: Vec<_> = (0..5).map(|n| format!("course:{n}")).collect();
    let event = || {
        let course = &*courses[fastrand::usize(..courses.len())];
        match fastrand::u8(..4) {
            0 => tagged(&VIEWED, &[course]),
            1 => tagged(&ENROLLED, &[course, "term:1"]),
            2 => tagged(&ENROLLED, &[course, "term:1", "student:ada"]),
            _ => events(1).remove(0),
        }
    };
    let some = || (0..fastrand::usize(1..4)).map(|_| event()).collect::<Vec<_>>();
    let stream = || &streams[fastrand::usize(..streams.len())];
    for round in 0..48 {
        match round % 8 {
            0 => drop(store.append(stream(), Any, some()).await.unwrap()),
            1 => drop(store.append(stream(), NoStream, some()).await),
            2 => {
                let (to, given) = (stream(), some());
                let first = store.append(to, Any, given.clone()).await.unwrap();
                assert_eq!(store.append(to, Any, given.clone()).await.unwrap(), first);
                let [known, new] = [given[0].clone(), event()];
                store.append(to, Any, vec![new, known]).await.unwrap_err();
            }
            3 => {
                let refused = Append { expected: NoStream, ..append(stream(), some()) };
                let given = vec![append(stream(), some()), refused, append(stream(), some())];
                let results = store.append_many(given).await;
                assert!(results[0].is_ok() && results[2].is_ok());
            }
            4 => {
                let appends = vec![append(&fresh_stream(), some()), append(&fresh_stream(), some())];
                store.append_streams(MultiStreamAppend { appends, ..Default::default() }).await.unwrap();
            }
            5 => {
                let condition = store.count_tagged(&boundary(&[&["course:1"], &["course:2"]])).await.unwrap();
                if let Err(error) = append_if(&store, condition, some()).await {
                    assert!(matches!(error, AppendError::BoundaryMoved { .. }), "{error:?}");
                }
            }
            6 => {
                let mut transaction = store.begin_transaction().await.unwrap();
                let given = some();
                for _ in 0..2 {
                    store.append_in(&mut transaction, &streams[0], Any, given.clone()).await.unwrap();
                }
                let refused = store.append_in(&mut transaction, stream(), Exact(Version::new(9_999)), some()).await;
                assert!(refused.is_err());
                store.append_in(&mut transaction, stream(), Any, some()).await.unwrap();
                if fastrand::bool() {
                    transaction.commit().await.unwrap();
                }
            }
            _ => {
                let stored = store.append(stream(), Any, vec![event()]).await.unwrap();
                for _ in 0..2 {
                    store.add_tag(&stored[0], &tag("later:1")).await.unwrap();
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_equal_a_recount_after_appends_of_every_way() {
    let path = fresh_path();
    let stores = [open(path.clone()).await, open(path.clone()).await];
    let of_tenant = fresh_stream().with_tenant_id(Some(Uuid::from_u128(7)));
    let streams = vec![fresh_stream(), fresh_stream(), of_tenant];
    let tasks: JoinSet<_> = (0..8).map(|n| save_in_every_way(stores[n % 2].clone(), streams.clone())).collect();
    tasks.join_all().await;
    let counts = recount(&path);
    assert!(counts > 20, "only {counts} counts");
    let plain = "SELECT count(*) || '' FROM eventbus_events WHERE event_type = 'Counted' AND tags <> '[\"later:1\"]'";
    assert_eq!(rows(&path, plain), ["0"], "events without tags");
    let all: Vec<_> = feed(&stores[0]).await;
    let term = FeedFilter::all().tagged([tag("term:1")]);
    let of_term: Vec<_> =
        stores[1].read_feed(Position::START, Position::new(u64::MAX), &term).try_collect().await.unwrap();
    let enrolled: Vec<_> = all.into_iter().filter(|event| *event.event_type() == ENROLLED).collect();
    assert_eq!(of_term, enrolled);
}

/// Each of two handles of one file, as two processes have them, appends what the other one's condition excludes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_handles_one_passes_a_condition() {
    let path = fresh_path();
    let stores = [open(path.clone()).await, open(path.clone()).await];
    for round in 0..100 {
        let (one, two) = (format!("seat:{round}"), format!("row:{round}"));
        // in the first rounds of each ten, the tag has events
        if round % 10 < 5 {
            stores[0].append(&fresh_stream(), NoStream, vec![tagged(&ENROLLED, &[&one, &two])]).await.unwrap();
        }
        let condition = stores[1].count_tagged(&boundary(&[&[&one], &[&two]])).await.unwrap();
        let tries: JoinSet<_> = stores
            .iter()
            .zip([one, two])
            .map(|(store, own)| {
                let (store, condition) = (store.clone(), condition.clone());
                async move { append_if(&store, condition, vec![tagged(&ENROLLED, &[&own])]).await }
            })
            .collect();
        let results = tries.join_all().await;
        let is_moved = |result: &&Result<_, _>| matches!(result, Err(AppendError::BoundaryMoved { .. }));
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "round {round}: {results:?}");
        assert_eq!(results.iter().filter(is_moved).count(), 1, "round {round}: {results:?}");
    }
    assert_eq!(recount(&path), 2 * 50 + 50);
}

#[tokio::test]
async fn tags_are_a_sorted_array_and_null_without_tags() {
    let path = fresh_path();
    let store = open(path.clone()).await;
    let given = vec![tagged(&ENROLLED, &["student:\"ä\"", "course:1"]), tagged(&ENROLLED, &[])];
    let stored = store.append(&fresh_stream(), Any, given).await.unwrap();
    store.add_tag(&stored[0], &tag("day:1")).await.unwrap();
    let tags = "SELECT coalesce(tags, 'null') FROM eventbus_events ORDER BY position";
    assert_eq!(rows(&path, tags), [r#"["course:1","day:1","student:\"ä\""]"#, "null"]);
    assert_eq!(recount(&path), 3);
}

#[tokio::test]
async fn a_tag_cannot_be_deleted() {
    let path = fresh_path();
    let store = open(path.clone()).await;
    store.append(&fresh_stream(), Any, vec![tagged(&ENROLLED, &["course:1"])]).await.unwrap();
    let deleted = Connection::open(&path).unwrap().execute("DELETE FROM eventbus_tags", []);
    assert!(deleted.unwrap_err().to_string().contains("a tag cannot be deleted"));
}

/// An event that was removed is no longer found; its count stays, so that conditions about it still fail.
#[tokio::test]
async fn removed_events_are_not_found_by_their_tags() {
    let path = fresh_path();
    let store = open(path.clone()).await;
    let given = (0..3).map(|_| tagged(&ENROLLED, &["course:1"])).collect();
    let stored = store.append(&fresh_stream(), Any, given).await.unwrap();
    Connection::open(&path).unwrap().execute("DELETE FROM eventbus_events WHERE position = 2", []).unwrap();
    let filter = FeedFilter::all().tagged([tag("course:1")]);
    let all = Position::new(u64::MAX);
    let found: Vec<_> = store.read_feed(Position::START, all, &filter).try_collect().await.unwrap();
    assert_eq!(found, [stored[0].clone(), stored[2].clone()]);
    assert_eq!(store.count_events(Position::START, all, &filter).await.unwrap(), 2);
    assert_eq!(store.count_tagged(&boundary(&[&["course:1"]])).await.unwrap().counts, [3]);
}

/// Damaged rows of tags are named without the tag, and only what depends on them is refused.
#[tokio::test]
async fn damaged_rows_of_tags_are_named() {
    for damage in ["counts = '{'", "counts = '[1]'", "counts = '{\"Enrolled\":-1}'", "counts = '{\"Enrolled\":\"1\"}'"]
    {
        let path = fresh_path();
        let store = open(path.clone()).await;
        let (stream, given) = (fresh_stream(), vec![tagged(&ENROLLED, &["course:secret"])]);
        let stored = store.append(&stream, Any, given.clone()).await.unwrap();
        let of_course = boundary(&[&["course:secret"]]);
        let condition = store.count_tagged(&of_course).await.unwrap();
        Connection::open(&path).unwrap().execute(&format!("UPDATE eventbus_tags SET {damage}"), []).unwrap();
        let is_named = |error: &ReadError| {
            let ReadError::Corrupt { place, source, .. } = error else { panic!("{error:?}") };
            assert_eq!(place, "the counts of tag 1", "{damage}");
            assert!(!source.to_string().contains("secret"), "{source}");
        };
        is_named(&store.count_tagged(&of_course).await.unwrap_err());
        let filter = FeedFilter::all().tagged([tag("course:secret")]);
        let read: Result<Vec<_>, _> = store.read_feed(Position::START, Position::new(9), &filter).try_collect().await;
        is_named(&read.unwrap_err());
        let other = || vec![tagged(&ENROLLED, &["course:other"])];
        let given_too = vec![append(&stream, other()), append(&stream, vec![tagged(&VIEWED, &["course:secret"])])];
        let results = store.append_many(given_too).await;
        assert!(results[0].is_ok(), "{results:?}");
        let refused = [
            results.into_iter().next_back().unwrap().map(drop),
            append_if(&store, condition, other()).await,
            store
                .add_tag(&stored[0], &tag("day:1"))
                .await
                .and(store.add_tag(&feed(&store).await[1], &tag("course:secret")).await)
                .map(drop),
        ];
        for refused in refused {
            let Err(AppendError::Refused { source, .. }) = refused else { panic!("{damage}: {refused:?}") };
            is_named(source.downcast_ref().unwrap());
        }
        assert_eq!(store.append(&stream, NoStream, given).await.unwrap(), stored, "a repeat");
        assert_eq!(feed(&store).await.len(), 2);
    }
    let path = fresh_path();
    let store = open(path.clone()).await;
    let stored = store.append(&fresh_stream(), Any, vec![tagged(&ENROLLED, &["course:1"])]).await.unwrap();
    Connection::open(&path).unwrap().execute("UPDATE eventbus_events SET tags = '[1]'", []).unwrap();
    let Err(AppendError::Refused { source, .. }) = store.add_tag(&stored[0], &tag("day:1")).await else { panic!() };
    assert!(source.to_string().contains("the tags of position 1"), "{source}");
}

/// An append that the index refuses, which is damaged, leaves no event, no count and no stream.
#[tokio::test]
async fn an_append_that_the_index_refuses_leaves_no_trace() {
    let path = fresh_path();
    let store = open(path.clone()).await;
    let first = fresh_stream();
    store.append(&first, Any, vec![tagged(&ENROLLED, &["course:1"])]).await.unwrap();
    Connection::open(&path).unwrap().execute("INSERT INTO eventbus_tagged_events VALUES (1, 2)", []).unwrap();
    let event = || tagged(&ENROLLED, &["a:1", "course:1"]);
    let given = [vec![event()], vec![event(), event()]].map(|events| append(&fresh_stream(), events));
    let results = store.append_many(given.into_iter().chain([append(&first, events(1))]).collect()).await;
    let is_refused = |result: &Result<_, _>| matches!(result, Err(AppendError::Refused { .. }));
    assert!(is_refused(&results[0]) && is_refused(&results[1]) && results[2].is_ok(), "{results:?}");
    Connection::open(&path).unwrap().execute("DELETE FROM eventbus_tagged_events WHERE position = 2", []).unwrap();
    assert_eq!(recount(&path), 1);
    assert_eq!(rows(&path, "SELECT count(*) || '' FROM eventbus_streams"), ["1"]);
}

/// The sets of a filter are read by several statements; a commit between two of them must not hide an event from the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_several_sets_are_read_without_gaps_beside_writers() {
    let store = open(fresh_path()).await;
    let tags: Vec<_> = (0..8).map(|n| format!("course:{n}")).collect();
    let filter = FeedFilter::all().tagged_any(tags.iter().map(|text| BTreeSet::from([tag(text)])));
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for _ in 0..300 {
                let one_each = tags.iter().map(|text| append(&fresh_stream(), vec![tagged(&ENROLLED, &[text])]));
                assert!(store.append_many(one_each.collect()).await.iter().all(Result::is_ok));
            }
        }
    });
    let mut next = 1;
    loop {
        let is_last = writer.is_finished();
        let after = Position::new(next - 1);
        let found: Vec<_> = store.read_feed(after, Position::new(u64::MAX), &filter).try_collect().await.unwrap();
        for event in found {
            assert_eq!(event.position(), Some(Position::new(next)));
            next += 1;
        }
        if is_last {
            break;
        }
    }
    writer.await.unwrap();
    assert_eq!(next, 8 * 300 + 1);
}
