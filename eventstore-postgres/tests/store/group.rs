//! Callers that append at the same time: they share statements, and fail alone.

use std::{
    collections::HashMap,
    future::poll_fn,
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::Poll,
    time::{Duration, Instant},
};

use crate::common::{TestSchema, event, events, feed, held::Held, open, read, stream, within};
use eventbus::{
    EventId, ExpectedVersion, Name, NewEvent, RecordedEvent, StreamId, Version,
    port::{Append, AppendError, AppendEvents as _, ReadFeed as _},
};
use eventstore_postgres::{PgEventStore, PgEventStoreConfig};
use sqlx::PgConnection;
use tokio::{task::JoinSet, time::timeout};

use ExpectedVersion::{Any, Exact, NoStream, StreamExists};

/// The number of transactions in which the events of a schema were stored.
async fn transactions(schema: &TestSchema) -> i64 {
    let count = sqlx::query_scalar("SELECT count(DISTINCT xmin::text) FROM events");
    count.fetch_one(&mut schema.connection().await).await.unwrap()
}

fn append(stream: &StreamId, expected: ExpectedVersion, events: Vec<NewEvent>) -> Append {
    Append { stream: stream.clone(), expected, events }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_append_at_the_same_time_share_statements() {
    let schema = TestSchema::new();
    let store = schema.store().await;
    let callers: JoinSet<()> = (0..64)
        .map(|_| {
            let store = store.clone();
            async move {
                let stream = stream();
                for version in 0..20_u64 {
                    let expected = Exact(version.into());
                    store.append(&stream, expected, events(1)).await.unwrap();
                }
            }
        })
        .collect();
    within(callers.join_all()).await;
    assert_eq!(feed(&store).await.len(), 64 * 20);
    let transactions = transactions(&schema).await;
    assert!(transactions < 64 * 20 / 8, "{transactions} transactions");
}

/// Events of two streams may have one id, by which the server names those that it has stored.
#[tokio::test]
async fn an_append_in_conflict_does_not_take_the_result_of_one_with_the_same_event_id() {
    let schema = TestSchema::new();
    let (store, stored, new, given) = (schema.store().await, stream(), stream(), events(1));
    crate::common::add(&store, &stored, 1).await;
    let both = [&stored, &new].map(|stream| append(stream, NoStream, given.clone()));
    let [conflict, appended] = <[_; 2]>::try_from(store.append_many(both.into()).await).unwrap();
    assert!(conflict.unwrap_err().is_conflict());
    assert_eq!(read(&store, &new).await, appended.unwrap());
}

/// A server plans a statement once and keeps the plan as the tables grow: while they are empty or hold a few rows, a
/// full scan looks cheapest.
#[tokio::test]
async fn no_table_is_read_whole_however_small_it_was_when_statements_were_planned() {
    let schema = TestSchema::new();
    let store = open(PgEventStoreConfig { max_connections: 1, ..schema.config() }).await;
    let mut server = schema.connection().await;
    for _ in 0..2 {
        for _ in 0..10 {
            let streams: Vec<StreamId> = (0..10).map(|_| stream()).collect();
            for version in 0..2_u64 {
                let of_stream = |stream| append(stream, Exact(version.into()), events(1));
                for stored in store.append_many(streams.iter().map(of_stream).collect()).await {
                    stored.unwrap();
                }
            }
            store.append(&streams[0], Exact(2.into()), events(1)).await.unwrap();
            assert_eq!(read(&store, &streams[0]).await.len(), 3);
        }
        crate::common::run(&mut server, "ANALYZE streams, events").await;
    }
    store.close().await;
    let statistics = "SELECT sum(n_tup_ins)::bigint, sum(seq_tup_read + idx_tup_fetch)::bigint
        FROM pg_stat_user_tables WHERE schemaname = current_schema() AND relname IN ('streams', 'events')";
    // a connection reports its statistics when it ends
    let rows_read = within(async {
        loop {
            let (inserted, read): (i64, i64) = sqlx::query_as(statistics).fetch_one(&mut server).await.unwrap();
            if inserted == 2 * 10 * (10 + 21) {
                break read;
            }
            tokio::task::yield_now().await;
        }
    });
    let rows_read = rows_read.await;
    assert!(rows_read < 2_000, "{rows_read} rows were read to append 420 events");
}

#[tokio::test]
async fn a_call_for_many_streams_is_one_statement() {
    let schema = TestSchema::new();
    let store = schema.store().await;
    let appends = (0..500).map(|_| append(&stream(), NoStream, events(2))).collect();
    let results = store.append_many(appends).await;
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(transactions(&schema).await, 1);
    let appends = (0..2_500).map(|_| append(&stream(), Any, events(1))).collect();
    assert!(store.append_many(appends).await.iter().all(Result::is_ok));
    assert_eq!(transactions(&schema).await, 1 + 3, "at most 1,000 appends in a statement");
}

/// A timer of the runtime takes at least a millisecond; the fastest of many appends takes no longer than a commit.
#[tokio::test]
async fn a_lone_caller_waits_for_no_timer() {
    const APPENDS: usize = 100;
    let schema = TestSchema::new();
    let store = schema.store().await;
    let mut by_hand = schema.connection().await;
    crate::common::run(&mut by_hand, "CREATE TABLE by_hand (number integer)").await;
    let (mut ours, mut hands) = (Duration::MAX, Duration::MAX);
    for _ in 0..APPENDS {
        let begin = Instant::now();
        store.append(&stream(), NoStream, events(1)).await.unwrap();
        ours = ours.min(begin.elapsed());
        let begin = Instant::now();
        sqlx::query("INSERT INTO by_hand VALUES (1)").execute(&mut by_hand).await.unwrap();
        hands = hands.min(begin.elapsed());
    }
    assert_eq!(transactions(&schema).await, APPENDS as i64);
    assert!(ours < hands + Duration::from_millis(1), "{ours:?} for an append, {hands:?} for a row");
}

/// A payload of JSON nested more deeply than the server can parse.
fn too_deep() -> NewEvent {
    let depth = 200_000;
    let payload = format!(r#"{{"a":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    NewEvent::new(Name::from_static("Deposited"), 1, payload)
}

/// 64 appends, of which the server refuses one, one is in conflict, and one repeats an earlier one.
struct Mixed {
    store: PgEventStore,
    appends: Vec<Append>,
    first: Vec<RecordedEvent>,
    // last, so that it is dropped after the store
    _schema: TestSchema,
}

impl Mixed {
    const BAD: usize = 11;
    const CONFLICT: usize = 23;
    const REPEAT: usize = 42;

    async fn new() -> Self {
        let schema = TestSchema::new();
        let store = schema.store().await;
        let mut appends: Vec<_> = (0..64).map(|_| append(&stream(), Any, events(2))).collect();
        appends[Self::BAD].events[1] = too_deep();
        let there = appends[Self::CONFLICT].stream.clone();
        store.append(&there, NoStream, events(1)).await.unwrap();
        appends[Self::CONFLICT].expected = NoStream;
        let Append { stream, expected, events } = appends[Self::REPEAT].clone();
        let first = store.append(&stream, expected, events).await.unwrap();
        Self { store, appends, first, _schema: schema }
    }

    async fn check(self, results: Vec<Result<Vec<RecordedEvent>, AppendError>>) {
        assert_eq!(results.len(), 64);
        for (number, result) in results.into_iter().enumerate() {
            let stored = read(&self.store, &self.appends[number].stream).await;
            match (number, result) {
                (Self::BAD, Err(AppendError::Refused { .. })) => assert_eq!(stored, []),
                (Self::CONFLICT, Err(AppendError::Conflict { actual: Version::FIRST, .. })) => {
                    assert_eq!(stored.len(), 1);
                }
                (Self::REPEAT, Ok(recorded)) => assert_eq!((&recorded, &stored), (&self.first, &self.first)),
                (_, Ok(recorded)) => {
                    let given = self.appends[number].events.iter().map(NewEvent::event_id);
                    assert!(given.eq(recorded.iter().map(|event| event.metadata().event_id())), "{number}");
                    assert_eq!(recorded, stored);
                }
                (_, error) => panic!("append {number}: {error:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_result_per_append_in_one_call() {
    let mixed = Mixed::new().await;
    let results = within(mixed.store.append_many(mixed.appends.clone())).await;
    mixed.check(results).await;
}

#[tokio::test]
async fn a_result_per_append_of_many_callers() {
    let mixed = Mixed::new().await;
    let calls = mixed.appends.iter().cloned().map(|Append { stream, expected, events }| {
        let store = mixed.store.clone();
        async move { store.append(&stream, expected, events).await }
    });
    let results = within(futures_util::future::join_all(calls)).await;
    mixed.check(results).await;
}

/// Appends before the refused one are stored, and appends after it find their events.
#[tokio::test]
async fn a_refused_append_harms_no_other_to_its_stream() {
    let schema = TestSchema::new();
    let (store, stream) = (schema.store().await, stream());
    let appends = vec![
        append(&stream, NoStream, events(2)),
        append(&stream, Any, vec![event(), too_deep()]),
        append(&stream, Exact(2.into()), events(1)),
    ];
    let results = store.append_many(appends).await;
    let [Ok(first), Err(AppendError::Refused { .. }), Ok(last)] = &results[..] else {
        panic!("{results:?}");
    };
    assert_eq!(read(&store, &stream).await, [first.clone(), last.clone()].concat());
}

#[tokio::test]
async fn a_stream_that_somebody_keeps_for_himself_keeps_nobody_else_waiting() {
    let mut held = Held::new().await;
    let store = open(held.schema.config()).await;
    let mut appends: Vec<_> = (0..40).map(|_| append(&stream(), Any, events(1))).collect();
    appends[17].stream = held.stream.clone();
    let streams: Vec<_> = appends.iter().map(|append| append.stream.clone()).collect();
    let call = tokio::spawn({
        let store = store.clone();
        async move { store.append_many(appends).await }
    });
    // all but one are stored, and so is an append of a second caller, while the row is locked
    within(async { while feed(&store).await.len() < 1 + 39 {} }).await;
    let other = within(store.append(&stream(), NoStream, events(1))).await;
    other.unwrap();
    assert!(!call.is_finished());
    held.blocked().await;
    held.release().await;
    let results = within(call).await.unwrap();
    for (stream, result) in streams.iter().zip(results) {
        assert!(read(&store, stream).await.ends_with(&result.unwrap()));
    }
}

/// Calls that waited in a circle would give way after a while, and repeat stream by stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_for_the_same_streams_in_another_order_do_not_wait_in_a_circle() {
    const CALLS: usize = 40;
    let schema = TestSchema::new();
    let mut streams: Vec<_> = (0..60).map(|_| stream()).collect();
    let mut callers = JoinSet::new();
    for _ in 0..2 {
        let (store, order) = (schema.store().await, streams.clone());
        callers.spawn(async move {
            for _ in 0..CALLS {
                let appends = order.iter().map(|stream| append(stream, Any, events(1))).collect();
                assert!(store.append_many(appends).await.iter().all(Result::is_ok));
            }
        });
        streams.reverse();
    }
    within(callers.join_all()).await;
    let store = schema.store().await;
    assert_eq!(feed(&store).await.len(), 2 * CALLS * streams.len());
    let transactions = transactions(&schema).await;
    // on a very busy machine a call may give way without a circle
    assert!(transactions < 2 * CALLS as i64 + 8, "{transactions} transactions for {} calls", 2 * CALLS);
}

#[tokio::test]
async fn who_finds_no_room_waits() {
    let mut held = Held::new().await;
    let store = open(PgEventStoreConfig { append_queue: 8, ..held.schema.config() }).await;
    let mut waiting = JoinSet::new();
    for _ in 0..8 {
        let (store, stream) = (store.clone(), held.stream.clone());
        waiting.spawn(async move { store.append(&stream, Any, events(1)).await });
    }
    held.blocked().await;
    let other = stream();
    let mut late = pin!(store.append(&other, Any, events(1)));
    let mut many = pin!(store.append_many((0..20).map(|_| append(&stream(), Any, events(1))).collect()));
    // no append may complete during this time
    let early = tokio::time::timeout(Duration::from_millis(500), async {
        tokio::select! {
            result = &mut late => format!("{result:?}"),
            results = &mut many => format!("{results:?}"),
        }
    });
    assert!(early.await.is_err(), "there was room");
    assert_eq!(waiting.len(), 8);
    held.release().await;
    let (late, many) = within(async { tokio::join!(late, many) }).await;
    late.unwrap();
    assert!(many.iter().all(Result::is_ok), "a call may be larger than the room");
    for result in within(waiting.join_all()).await {
        result.unwrap();
    }
    assert_eq!(feed(&store).await.len(), 1 + 8 + 1 + 20);
}

/// The test locks rows of more streams than there are lanes, and in each round appends to each of them again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_somebody_keeps_for_himself_take_no_lane_from_the_others() {
    const HELD: usize = 8;
    const ROUNDS: usize = 20;
    let mut held = Held::streams(HELD).await;
    let store = held.schema.store().await;
    let mut tempted = JoinSet::new();
    for round in 0..ROUNDS {
        for number in 0..HELD {
            let (store, target) = (store.clone(), held.streams[number].clone());
            tempted.spawn(async move {
                if number % 2 == 0 {
                    return vec![store.append(&target, Any, events(1)).await];
                }
                store.append_many(vec![append(&target, Any, events(1)), append(&stream(), Any, events(1))]).await
            });
        }
        let other = stream();
        let appended = timeout(Duration::from_secs(4), store.append(&other, NoStream, events(1))).await;
        appended.unwrap_or_else(|_| panic!("round {round}: it waits with the others")).unwrap();
    }
    // and the appends that shared a call with waiting ones
    within(async { while feed(&store).await.len() < HELD + ROUNDS + ROUNDS * HELD / 2 {} }).await;
    held.release().await;
    for result in within(tempted.join_all()).await.into_iter().flatten() {
        result.unwrap();
    }
    assert_eq!(feed(&store).await.len(), HELD + ROUNDS + ROUNDS * HELD * 3 / 2);
}

/// Any number of appends may wait for a locked row: reads and renewals of leases do not wait with them.
#[tokio::test]
async fn appends_that_wait_for_long_leave_connections_to_others() {
    let mut held = Held::new().await;
    let store = open(PgEventStoreConfig { max_connections: 2, ..held.schema.config() }).await;
    let mut waiting = JoinSet::new();
    for _ in 0..2 {
        let (store, target) = (store.clone(), held.stream.clone());
        waiting.spawn(async move { store.append(&target, Any, events(1)).await });
        held.blocked().await;
        // the waiting append no longer blocks the next statement
        assert!(timeout(Duration::from_millis(500), waiting.join_next()).await.is_err());
    }
    within(store.head()).await.unwrap();
    held.release().await;
    for result in within(waiting.join_all()).await {
        result.unwrap();
    }
}

#[tokio::test]
async fn closing_the_store_answers_those_who_wait() {
    let mut held = Held::new().await;
    let store = open(PgEventStoreConfig { max_connections: 1, ..held.schema.config() }).await;
    let (first, closing) = (store.clone(), store.clone());
    let target = held.stream.clone();
    let first = tokio::spawn(async move { first.append(&target, Any, events(1)).await });
    held.blocked().await;
    let mut waiting = JoinSet::new();
    for _ in 0..20 {
        let store = store.clone();
        waiting.spawn(async move { store.append(&stream(), Any, events(1)).await });
    }
    let closing = tokio::spawn(async move { closing.close().await });
    for result in within(waiting.join_all()).await {
        assert!(matches!(result, Err(AppendError::Unavailable(_))), "{result:?}");
    }
    held.release().await;
    within(first).await.unwrap().unwrap();
    within(closing).await.unwrap();
    assert_eq!(feed(&open(held.schema.config()).await).await.len(), 2);
}

/// Polls a future at most so many times, then drops it.
async fn cut<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut polled = 0;
    poll_fn(|context| {
        if polled == polls {
            return Poll::Ready(None);
        }
        polled += 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

/// Each caller is cut off at every point at which it may wait, and repeats; the remaining callers get only successes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_away_harms_no_other() {
    const CALLERS: usize = 32;
    const APPENDS: usize = 50;
    static CUTS: AtomicUsize = AtomicUsize::new(0);
    let schema = TestSchema::new();
    let store = schema.store().await;
    let shared: Vec<_> = (0..4).map(|_| stream()).collect();
    let callers: JoinSet<Vec<RecordedEvent>> = (0..CALLERS)
        .map(|caller| {
            let (store, shared) = (store.clone(), shared.clone());
            async move {
                let own = stream();
                let mut told = Vec::new();
                let mut version = Version::NONE;
                for number in 0..APPENDS {
                    let is_own = number % 2 == 0;
                    let target = if is_own { &own } else { &shared[(caller + number) % shared.len()] };
                    let expected = if is_own { Exact(version) } else { Any };
                    let given = events(1 + number % 3);
                    // every fourth caller completes each call
                    let polls = if caller % 4 == 0 { 0..0 } else { 1..1 + (caller + number) % 4 };
                    for polls in polls {
                        let call = store.append(target, expected, given.clone());
                        match cut(call, polls).await {
                            Some(recorded) => told.extend(recorded.unwrap()),
                            None => drop(CUTS.fetch_add(1, Ordering::Relaxed)),
                        }
                    }
                    let recorded = store.append(target, expected, given).await.unwrap();
                    if is_own {
                        version = recorded.last().unwrap().version();
                    }
                    told.extend(recorded);
                }
                told
            }
        })
        .collect();
    let told = within(callers.join_all()).await.concat();
    let mut by_id: HashMap<EventId, RecordedEvent> = HashMap::new();
    for event in told {
        let first = by_id.entry(event.metadata().event_id()).or_insert_with(|| event.clone());
        assert_eq!(*first, event, "two answers");
    }
    let all = feed(&store).await;
    assert_eq!(all.len(), CALLERS * (0..APPENDS).map(|number| 1 + number % 3).sum::<usize>());
    let mut versions: HashMap<StreamId, u64> = HashMap::new();
    for event in &all {
        assert_eq!(by_id[&event.metadata().event_id()], *event);
        let version = versions.entry(event.metadata().stream().clone()).or_default();
        *version += 1;
        assert_eq!(event.version().get(), *version);
    }
    let cuts = CUTS.load(Ordering::Relaxed);
    assert!(cuts > CALLERS * APPENDS / 2, "only {cuts} were cut off");
}

/// The active backends of the appending store.
const KILL: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE application_name = $1 AND state = 'active'";

/// Each stream has one writer, which knows its version: any conflict is a wrong answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_doubled_or_denied_when_backends_are_killed() {
    const CALLERS: usize = 24;
    const TIME: Duration = Duration::from_secs(3);
    let schema = TestSchema::new();
    let url = format!("{}?application_name={}", eventbus_test::postgres_url(), schema.name());
    let store = open(PgEventStoreConfig { database_url: url, ..schema.config() }).await;
    let begin = Instant::now();
    let callers: JoinSet<(usize, Vec<RecordedEvent>)> = (0..CALLERS)
        .map(|caller| {
            let store = store.clone();
            async move { write(&store, caller, || begin.elapsed() < TIME).await }
        })
        .collect();
    let mut killer: PgConnection = schema.connection().await;
    let mut kills = 0;
    while begin.elapsed() < TIME {
        let killed = sqlx::query_scalar::<_, i64>(KILL).bind(schema.name()).fetch_one(&mut killer);
        kills += killed.await.unwrap();
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    let (mut retries, mut told) = (0, Vec::new());
    for (again, of_caller) in within(callers.join_all()).await {
        retries += again;
        told.extend(of_caller);
    }
    let mut all = feed(&store).await;
    eprintln!("{} events, {kills} backends killed, {retries} appends made again by their callers", all.len());
    all.sort_by_key(RecordedEvent::position);
    told.sort_by_key(RecordedEvent::position);
    assert_eq!(all, told, "what was acknowledged is not what is there");
    assert!(kills > 10, "only {kills} were killed");
}

/// Appends to three streams at a time; repeats appends with an unknown or retryable outcome.
async fn write(store: &PgEventStore, caller: usize, goes_on: impl Fn() -> bool) -> (usize, Vec<RecordedEvent>) {
    let streams = [stream(), stream(), stream()];
    let (mut versions, mut told, mut retries) = ([Version::NONE; 3], Vec::new(), 0);
    let mut round = caller;
    while goes_on() {
        round += 1;
        let expected = |number: usize| match (round + number) % 5 {
            0 => Any,
            1 if versions[number] > Version::NONE => StreamExists,
            _ => Exact(versions[number]),
        };
        let mut open: Vec<_> =
            (0..3).map(|number| (number, append(&streams[number], expected(number), vec![event()]))).collect();
        while !open.is_empty() {
            let results = if open.len() == 1 {
                let Append { stream, expected, events } = open[0].1.clone();
                vec![store.append(&stream, expected, events).await]
            } else {
                store.append_many(open.iter().map(|(_, append)| append.clone()).collect()).await
            };
            let mut again = Vec::new();
            for ((number, append), result) in open.into_iter().zip(results) {
                match result {
                    Ok(recorded) => {
                        versions[number] = recorded[0].version();
                        told.extend(recorded);
                    }
                    Err(error) if error.is_retryable() => again.push((number, append)),
                    Err(error) => panic!("{error:?}"),
                }
            }
            retries += again.len();
            open = again;
        }
    }
    (retries, told)
}
