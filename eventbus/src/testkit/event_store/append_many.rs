//! Rules of several appends in one call.

use super::store_under_test::{StoreUnderTest, event, events, stream, versions};
use crate::{
    ExpectedVersion, Name, NewEvent, Position, RecordedEvent, StreamId,
    port::{Append, AppendError, EventStore},
};

use ExpectedVersion::{Any, Exact, NoStream, StreamExists};

fn append(stream: &StreamId, expected: ExpectedVersion, events: &[NewEvent]) -> Append {
    Append { stream: stream.clone(), expected, events: events.to_vec() }
}

/// Makes several appends, each of which the store must accept.
async fn add_many<S: EventStore>(store: &StoreUnderTest<S>, appends: Vec<Append>) -> Vec<Vec<RecordedEvent>> {
    let given = appends.len();
    let results = store.append_many(appends).await;
    store.same(results.len(), given, "number of results");
    let numbered = results.into_iter().enumerate();
    numbered.map(|(number, result)| store.ok(result, format_args!("append {number} of {given}"))).collect()
}

/// Each append has its own result, in the order given, whichever version it expects.
pub async fn each_of_many_appends_has_its_result<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("each_of_many_appends_has_its_result", store);
    let (new, other, there, old) = (stream(), stream(), stream(), stream());
    let first = store.add(&there, Any, &events(2)).await;
    let older = store.add(&old, Any, &events(1)).await;
    let given = [events(3), events(1), events(2), Vec::new(), events(1)];
    let appends = vec![
        append(&new, NoStream, &given[0]),
        append(&other, Any, &given[1]),
        append(&there, Exact(2.into()), &given[2]),
        append(&stream(), Exact(7.into()), &given[3]),
        append(&old, StreamExists, &given[4]),
    ];
    let results = add_many(&store, appends).await;
    for (given, recorded) in given.iter().zip(&results) {
        let ids = |events: &[NewEvent]| events.iter().map(NewEvent::event_id).collect::<Vec<_>>();
        let recorded: Vec<_> = recorded.iter().map(|event| event.metadata().event_id()).collect();
        store.same(recorded, ids(given), "an append has the result of a different one");
    }
    store.holds(&new, &results[0]).await;
    store.holds(&other, &results[1]).await;
    store.holds(&there, &[first, results[2].clone()].concat()).await;
    store.holds(&old, &[older, results[4].clone()].concat()).await;
    store.same(store.append_many(Vec::new()).await.len(), 0, "number of results of no appends");
}

/// A conflict, a refusal and a known event id fail only the append that has them.
pub async fn failing_append_harms_no_other_of_its_call<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("failing_append_harms_no_other_of_its_call", store);
    let moved = stream();
    let there = store.add(&moved, Any, &events(2)).await;
    let mut conflicts = Vec::new();
    for expected in [Exact(1.into()), NoStream, Exact(3.into())] {
        let (good, behind) = (append(&stream(), NoStream, &events(1)), append(&moved, expected, &events(1)));
        conflicts.extend(store.append_many(vec![good, behind]).await);
    }
    for pair in conflicts.chunks(2) {
        let is_right = matches!(pair, [Ok(_), Err(AppendError::Conflict { actual, .. })] if actual.get() == 2);
        store.check(is_right, format_args!("not one stored and one in conflict at version 2: {pair:?}"));
    }
    let used = stream();
    let first = store.add(&used, NoStream, &events(1)).await;
    let known = event().with_event_id(first[0].metadata().event_id());
    let bad = NewEvent::new(Name::from_static("Deposited"), 1, "no JSON");
    let streams: Vec<_> = (0..5).map(|_| stream()).collect();
    let appends = vec![
        append(&streams[0], NoStream, &events(1)),
        append(&moved, Exact(1.into()), &events(1)),
        append(&streams[1], Any, &events(2)),
        append(&streams[2], Any, &[event(), bad]),
        append(&streams[3], NoStream, &events(1)),
        append(&used, Any, &[event(), known]),
        append(&streams[4], StreamExists, &events(1)),
        append(&moved, StreamExists, &events(1)),
    ];
    let results = store.append_many(appends).await;
    store.same(results.len(), 8, "number of results");
    let conflict = |number: usize, at: u64| {
        let is_that = matches!(&results[number], Err(AppendError::Conflict { actual, .. }) if actual.get() == at);
        store.check(is_that, format_args!("no conflict at version {at}: {:?}", results[number]));
    };
    conflict(1, 2);
    conflict(6, 0);
    store.check(matches!(results[3], Err(AppendError::Refused { .. })), format_args!("not refused: {:?}", results[3]));
    store.check(
        matches!(results[5], Err(AppendError::EventIdTaken { .. })),
        format_args!("not `EventIdTaken`: {:?}", results[5]),
    );
    for (number, stream) in [(0, &streams[0]), (2, &streams[1]), (4, &streams[3])] {
        match &results[number] {
            Ok(recorded) => store.holds(stream, recorded).await,
            Err(error) => store.fail(format_args!("append {number} was harmed: {error:?}")),
        }
    }
    for unchanged in [&streams[2], &streams[4]] {
        store.holds(unchanged, &[]).await;
    }
    store.holds(&used, &first).await;
    match &results[7] {
        Ok(recorded) => store.holds(&moved, &[there, recorded.clone()].concat()).await,
        Err(error) => store.fail(format_args!("the append after the conflict was harmed: {error:?}")),
    }
}

/// Appends to one stream are made in the order given: each finds the state that earlier ones left, whether stored or
/// not.
pub async fn appends_to_one_stream_are_made_in_order<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("appends_to_one_stream_are_made_in_order", store);
    let (one, two) = (stream(), stream());
    let results = add_many(
        &store,
        vec![
            append(&one, NoStream, &events(2)),
            append(&two, Any, &events(1)),
            append(&one, Exact(2.into()), &events(1)),
            append(&one, Any, &events(2)),
            append(&two, StreamExists, &events(2)),
            append(&one, Exact(5.into()), &events(1)),
            append(&two, Exact(3.into()), &events(1)),
        ],
    )
    .await;
    let of = |numbers: &[usize]| numbers.iter().flat_map(|number| results[*number].clone()).collect::<Vec<_>>();
    store.same(versions(&of(&[0, 2, 3, 5])), (1..=6).collect(), "versions as returned");
    store.holds(&one, &of(&[0, 2, 3, 5])).await;
    store.holds(&two, &of(&[1, 4, 6])).await;

    let results = store
        .append_many(vec![
            append(&one, Exact(5.into()), &events(1)),
            append(&one, Exact(6.into()), &events(1)),
            append(&one, Exact(6.into()), &events(1)),
            append(&one, NoStream, &events(1)),
            append(&one, Any, &events(1)),
        ])
        .await;
    let outcome: Vec<_> = results
        .iter()
        .map(|result| match result {
            Ok(recorded) => (true, recorded[0].version().get()),
            Err(AppendError::Conflict { actual, .. }) => (false, actual.get()),
            Err(error) => store.fail(format_args!("neither stored nor a conflict: {error:?}")),
        })
        .collect();
    let wanted = vec![(false, 6), (true, 7), (false, 7), (false, 7), (true, 8)];
    store.same(outcome, wanted, "what is stored or in conflict, and at which version");
}

/// A repeat within one call, or of an earlier call, returns the first result.
pub async fn repeats_among_many_return_the_first_result<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("repeats_among_many_return_the_first_result", store);
    for expected in [NoStream, Any] {
        let (one, two, three, four) = (stream(), stream(), stream(), stream());
        let (given, other) = (events(2), events(1));
        let first = store.add(&one, expected, &given).await;
        let results = add_many(
            &store,
            vec![
                append(&two, expected, &other),
                append(&one, expected, &given),
                append(&two, expected, &other),
                append(&three, expected, &events(1)),
                append(&one, Any, &given[1..]),
                append(&four, NoStream, &events(2)),
                append(&four, Exact(2.into()), &events(1)),
            ],
        )
        .await;
        store.same(&results[1], &first, format_args!("repeat of a former append at {expected}"));
        store.same(&results[2], &results[0], format_args!("repeat within the call at {expected}"));
        store.same(&*results[4], &first[1..], "repeat of the second event alone");
        store.holds(&one, &first).await;
        store.holds(&two, &results[0]).await;
        store.holds(&three, &results[3]).await;
        store.holds(&four, &[results[5].clone(), results[6].clone()].concat()).await;
    }
}

/// One call appends to many streams, and a second call appends to them again.
pub async fn many_streams_are_appended_to_at_once<S: EventStore>(store: S) {
    const STREAMS: usize = 300;
    let store = StoreUnderTest::new("many_streams_are_appended_to_at_once", store);
    let streams: Vec<_> = (0..STREAMS).map(|_| stream()).collect();
    let appends = |expected| streams.iter().map(|stream| append(stream, expected, &events(2))).collect();
    let first = add_many(&store, appends(NoStream)).await;
    let second = add_many(&store, appends(Exact(2.into()))).await;
    let mut feed = store.feed(Position::START).await;
    store.same(feed.len(), 4 * STREAMS, "events in the feed");
    for number in [0, STREAMS / 2, STREAMS - 1] {
        store.holds(&streams[number], &[first[number].clone(), second[number].clone()].concat()).await;
    }
    let mut returned: Vec<_> = first.into_iter().chain(second).flatten().collect();
    feed.sort_by_key(RecordedEvent::position);
    returned.sort_by_key(RecordedEvent::position);
    store.same(feed, returned, "the feed holds other events than were returned");
}
