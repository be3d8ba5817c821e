//! Rules of appends to several streams at once.

use std::time::Duration;

use super::store_under_test::{StoreUnderTest, event, events, stream};
use crate::{
    ExpectedVersion, Name, NewEvent, Position, RecordedEvent, StreamId, Uuid, Version,
    port::{
        Append, AppendError, EventStore, MultiStreamAppends,
        multi_stream_append::{
            Handled, HandledDelivery, MULTI_STREAM_APPENDS_MAX, MultiStreamAppend, MultiStreamOutcome,
        },
    },
};

const ANY: ExpectedVersion = ExpectedVersion::Any;

pub(super) fn multi_stream<S: EventStore>(store: &StoreUnderTest<S>) -> &dyn MultiStreamAppends {
    store.multi_stream_appends().unwrap_or_else(|| store.fail("the store appends to one stream at a time only"))
}

fn append(stream: &StreamId, expected: ExpectedVersion, events: Vec<NewEvent>) -> Append {
    Append { stream: stream.clone(), expected, events }
}

/// Returns an append without events, which only checks the version of a stream.
fn check(stream: &StreamId, expected: ExpectedVersion) -> Append {
    append(stream, expected, Vec::new())
}

fn all_of(appends: impl Into<Vec<Append>>) -> MultiStreamAppend {
    MultiStreamAppend { appends: appends.into(), ..Default::default() }
}

fn handled(handler: &'static str, event: &RecordedEvent) -> HandledDelivery {
    HandledDelivery::new(Name::from_static(handler), event.metadata())
}

/// Makes a multi-stream append that the store must accept, and returns its records.
async fn add<S: EventStore>(store: &StoreUnderTest<S>, multi: MultiStreamAppend) -> Vec<Vec<RecordedEvent>> {
    let streams: Vec<_> = multi.appends.iter().map(|append| append.stream.to_string()).collect();
    let outcome = multi_stream(store).append_streams(multi).await;
    match store.ok(outcome, format_args!("a multi-stream append to {streams:?}")) {
        MultiStreamOutcome::Appended(records) => records,
        MultiStreamOutcome::AlreadyHandled => store.fail("the store takes a new delivery for a handled one"),
    }
}

/// Makes a multi-stream append that the store must refuse.
async fn refused<S: EventStore>(store: &StoreUnderTest<S>, multi: MultiStreamAppend) -> AppendError {
    match multi_stream(store).append_streams(multi).await {
        Ok(outcome) => store.fail(format_args!("the multi-stream append was accepted: {outcome:?}")),
        Err(error) => error,
    }
}

/// Checks that a multi-stream append conflicts at a stream.
async fn conflicts<S: EventStore>(store: &StoreUnderTest<S>, multi: MultiStreamAppend, at: &StreamId, version: u64) {
    match refused(store, multi).await {
        AppendError::Conflict { stream, actual, .. } => {
            store.same(&stream, at, "the conflict names another stream");
            store.same(actual.get(), version, "the conflict names another version");
        }
        other => store.fail(format_args!("no conflict but {other:?}")),
    }
}

async fn is_handled<S: EventStore>(store: &StoreUnderTest<S>, delivery: &HandledDelivery) -> bool {
    let handled = multi_stream(store).is_handled(delivery).await;
    store.ok(handled, "asking for a handled delivery")
}

/// A multi-stream append stores the events of all its streams, with positions in the order of its appends.
pub async fn multi_stream_append_stores_the_events_of_all_streams<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("multi_stream_append_stores_the_events_of_all_streams", store);
    let (one, two, three) = (stream(), stream(), stream().with_tenant_id(Some(Uuid::from_u128(7))));
    let mut of_two = store.add(&two, ExpectedVersion::NoStream, &events(2)).await;
    let records = add(
        &store,
        all_of([
            append(&three, ExpectedVersion::NoStream, events(3)),
            append(&two, ExpectedVersion::Exact(2.into()), events(1)),
            check(&two.clone().with_tenant_id(Some(Uuid::from_u128(7))), ExpectedVersion::NoStream),
            append(&one, ANY, events(2)),
        ]),
    )
    .await;
    store.same(records.iter().map(Vec::len).collect::<Vec<_>>(), vec![3, 1, 0, 2], "records of each append");
    let positions: Vec<_> = records.iter().flatten().map(RecordedEvent::position).collect();
    store.check(positions.is_sorted() && positions[0].is_some(), format_args!("positions: {positions:?}"));
    store.holds(&three, &records[0]).await;
    of_two.extend(records[1].clone());
    store.holds(&two, &of_two).await;
    store.holds(&one, &records[3]).await;
}

/// If one stream is not at its expected version, even one that is only checked, all streams stay as they are.
pub async fn multi_stream_append_takes_effect_whole_or_not_at_all<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("multi_stream_append_takes_effect_whole_or_not_at_all", store);
    let (filled, new, absent) = (stream(), stream(), stream());
    let before = store.add(&filled, ExpectedVersion::NoStream, &events(3)).await;
    for (expected, culprit, version) in [
        (ExpectedVersion::NoStream, &filled, 3),
        (ExpectedVersion::Exact(2.into()), &filled, 3),
        (ExpectedVersion::Exact(4.into()), &filled, 3),
        (ExpectedVersion::StreamExists, &absent, 0),
        (ExpectedVersion::Exact(1.into()), &absent, 0),
    ] {
        for count in [0, 2] {
            let culprit_append = || append(culprit, expected, events(count));
            let good = || append(&new, ExpectedVersion::NoStream, events(2));
            conflicts(&store, all_of([good(), culprit_append()]), culprit, version).await;
            conflicts(&store, all_of([culprit_append(), good()]), culprit, version).await;
        }
    }
    store.holds(&filled, &before).await;
    store.holds(&new, &[]).await;
    store.holds(&absent, &[]).await;
    for expected in [ANY, ExpectedVersion::StreamExists, ExpectedVersion::Exact(3.into())] {
        add(&store, all_of([check(&filled, expected), append(&stream(), ANY, events(1))])).await;
    }
    store.same(
        add(&store, all_of([check(&filled, ANY)])).await,
        vec![vec![]],
        "a multi-stream append that only checks",
    );
    store.same(add(&store, all_of([])).await, vec![], "an empty multi-stream append");
}

/// A conflict names the first stream that is not at its expected version.
pub async fn conflict_of_a_group_names_its_first_stream<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("conflict_of_a_group_names_its_first_stream", store);
    let mut streams: Vec<StreamId> = (0..4).map(|_| stream()).collect();
    streams.sort();
    for stream in &streams {
        store.add(stream, ANY, &events(1)).await;
    }
    streams.rotate_left(2);
    let wrong = |stream: &StreamId| append(stream, ExpectedVersion::Exact(5.into()), events(1));
    let appends: Vec<_> = streams.iter().map(wrong).collect();
    conflicts(&store, all_of(appends), &streams[0], 1).await;
}

/// A stream that must not exist can be created after a multi-stream append has only checked it.
pub async fn stream_that_was_checked_to_be_absent_can_be_created<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("stream_that_was_checked_to_be_absent_can_be_created", store);
    for expected in [ExpectedVersion::NoStream, ExpectedVersion::Exact(Version::NONE), ANY] {
        let absent = stream();
        add(&store, all_of([check(&absent, ExpectedVersion::NoStream), append(&stream(), ANY, events(1))])).await;
        let version = store.ok(store.stream_version(&absent).await, "asking for the version");
        store.same(version, Version::NONE, "the version of a stream without events");
        store.refused(&absent, ExpectedVersion::StreamExists, &events(1)).await;
        let records = store.add(&absent, expected, &events(2)).await;
        store.holds(&absent, &records).await;
    }
    let absent = stream();
    add(&store, all_of([check(&absent, ExpectedVersion::NoStream), append(&stream(), ANY, events(1))])).await;
    let appends = [absent, stream()].map(|stream| append(&stream, ExpectedVersion::NoStream, events(1)));
    for appended in store.append_many(appends.to_vec()).await {
        store.ok(appended, "appending to several streams without events");
    }
}

/// A repeated multi-stream append returns the first result, whatever its streams hold since.
pub async fn repeat_of_a_group_returns_the_first_result<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("repeat_of_a_group_returns_the_first_result", store);
    let (one, two, checked) = (stream(), stream(), stream());
    store.add(&checked, ANY, &events(1)).await;
    for expected in [ExpectedVersion::NoStream, ANY] {
        let (one, two) = if expected == ANY { (stream(), stream()) } else { (one.clone(), two.clone()) };
        let version = store.ok(store.stream_version(&checked).await, "asking for the version");
        let sent = all_of([
            append(&one, expected, events(2)),
            check(&checked, ExpectedVersion::Exact(version)),
            append(&two, expected, events(1)),
        ]);
        let first = add(&store, sent.clone()).await;
        store.same(add(&store, sent.clone()).await, first.clone(), "at once");
        for stream in [&one, &two, &checked] {
            store.add(stream, ANY, &events(1)).await;
        }
        store.same(add(&store, sent.clone()).await, first.clone(), "after other events");
        let again = store.at_once(4, |_| {
            let (store, sent) = (store.clone(), sent.clone());
            async move { add(&store, sent).await }
        });
        for repeated in again.await {
            store.same(repeated, first.clone(), "several at once");
        }
        store.same(store.read(&one).await.len(), 3, "events of the first stream");
    }
}

/// A multi-stream append is refused, and stores no event, if an earlier call has stored only some of its events.
pub async fn partly_stored_group_is_refused<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("partly_stored_group_is_refused", store);
    let (one, two) = (stream(), stream());
    let given = events(2);
    let stored = store.add(&one, ANY, &given).await;
    for expected in [ANY, ExpectedVersion::NoStream] {
        for appends in [
            [append(&one, expected, given.clone()), append(&two, expected, events(1))],
            [append(&two, expected, events(1)), append(&one, expected, given.clone())],
        ] {
            match refused(&store, all_of(appends)).await {
                AppendError::EventIdTaken { stream, .. } => store.same(&stream, &one, "the error names another stream"),
                other => store.fail(format_args!("the id is not taken but {other:?}")),
            }
        }
    }
    store.holds(&one, &stored).await;
    store.holds(&two, &[]).await;
}

/// A multi-stream append with two appends to one stream, too many appends, or an event that no store keeps is refused.
pub async fn multi_stream_append_that_no_store_takes_is_refused<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("multi_stream_append_that_no_store_takes_is_refused", store);
    let (one, two) = (stream(), stream());
    let bad = NewEvent::new(Name::from_static("Deposited"), 1, "[1]");
    let many = || (0..=MULTI_STREAM_APPENDS_MAX).map(|_| check(&stream(), ANY)).collect::<Vec<_>>();
    for (what, appends) in [
        ("one stream twice", vec![append(&one, ANY, events(1)), append(&two, ANY, events(1)), check(&one, ANY)]),
        ("too many", [append(&one, ANY, events(1))].into_iter().chain(many()).collect()),
        ("no object", vec![append(&one, ANY, events(1)), append(&two, ANY, vec![bad])]),
    ] {
        let error = refused(&store, all_of(appends)).await;
        store.check(matches!(error, AppendError::Refused { .. }), format_args!("{what}: {error:?}"));
    }
    let given = event();
    let error = refused(&store, all_of([append(&one, ANY, vec![given.clone(), given])])).await;
    store.check(matches!(error, AppendError::EventIdTaken { .. }), format_args!("an id twice: {error:?}"));
    store.holds(&one, &[]).await;
    store.holds(&two, &[]).await;
}

/// A multi-stream append of the largest allowed size is stored.
pub async fn large_groups_are_stored_whole<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("large_groups_are_stored_whole", store);
    let streams: Vec<_> = (0..MULTI_STREAM_APPENDS_MAX).map(|_| stream()).collect();
    let appends: Vec<_> = streams.iter().map(|stream| append(stream, ExpectedVersion::NoStream, events(1))).collect();
    let records = add(&store, all_of(appends)).await;
    store.same(store.feed(Position::START).await, records.into_iter().flatten().collect(), "the feed");
}

/// Of the multi-stream appends that handle one delivery, one takes effect, also if many run concurrently; a failed one
/// does not note the delivery.
pub async fn delivery_takes_effect_once<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("delivery_takes_effect_once", store);
    let (cause, effect) = (stream(), stream());
    let causes = store.add(&cause, ANY, &events(3)).await;
    let reaction = |cause: &RecordedEvent, expected| MultiStreamAppend {
        handled: Some(Handled::Delivery(handled("billing/charge", cause))),
        ..all_of([append(&effect, expected, events(1))])
    };
    conflicts(&store, reaction(&causes[0], ExpectedVersion::StreamExists), &effect, 0).await;
    store
        .check(!is_handled(&store, &handled("billing/charge", &causes[0])).await, "a failed append notes its delivery");
    let mut all = add(&store, reaction(&causes[0], ExpectedVersion::NoStream)).await.remove(0);
    store.check(is_handled(&store, &handled("billing/charge", &causes[0])).await, "the delivery is not noted");
    store.check(!is_handled(&store, &handled("billing/refund", &causes[0])).await, "another handler");
    store.check(!is_handled(&store, &handled("billing/charge", &causes[1])).await, "another event");
    let ids = |causes: &[RecordedEvent]| {
        causes.iter().map(|cause| (cause.metadata().stream().clone(), cause.metadata().event_id())).collect::<Vec<_>>()
    };
    let noted = multi_stream(&store).handled_deliveries(&ids(&causes)).await;
    store.same(
        store.ok(noted, "the noted deliveries"),
        vec![handled("billing/charge", &causes[0])],
        "the noted deliveries",
    );
    for expected in [ANY, ExpectedVersion::NoStream, ExpectedVersion::Exact(9.into())] {
        let again = multi_stream(&store).append_streams(reaction(&causes[0], expected)).await;
        store.same(
            store.ok(again, "a handled delivery"),
            MultiStreamOutcome::AlreadyHandled,
            "a second multi-stream append",
        );
    }
    let outcomes = store.at_once(8, |_| {
        let (store, reaction) = (store.clone(), reaction(&causes[1], ANY));
        async move { store.ok(multi_stream(&store).append_streams(reaction).await, "one of several at once") }
    });
    for outcome in outcomes.await {
        if let MultiStreamOutcome::Appended(records) = outcome {
            all.extend(records.into_iter().flatten());
        }
    }
    store.same(all.len(), 2, "effects of two deliveries");
    store.holds(&effect, &all).await;
    let also_mailed =
        MultiStreamAppend { handled: Some(Handled::Delivery(handled("mail/thank", &causes[1]))), ..all_of([]) };
    add(&store, also_mailed).await;
    let noted = multi_stream(&store).handled_deliveries(&ids(&causes[1..])).await;
    let mut noted = store.ok(noted, "the noted deliveries");
    noted.sort();
    let wanted = vec![handled("billing/charge", &causes[1]), handled("mail/thank", &causes[1])];
    store.same(noted, wanted, "the noted deliveries of an event to two handlers");
    let without_events =
        MultiStreamAppend { handled: Some(Handled::Delivery(handled("billing/charge", &causes[2]))), ..all_of([]) };
    add(&store, without_events.clone()).await;
    let again = store.ok(multi_stream(&store).append_streams(without_events).await, "a delivery without events");
    store.same(again, MultiStreamOutcome::AlreadyHandled, "a second multi-stream append without events");
}

/// Events of two streams, or of two tenants, may have the same id: each is a delivery of its own.
pub async fn deliveries_of_two_streams_are_two<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("deliveries_of_two_streams_are_two", store);
    let given = event();
    let one = stream();
    let effect = stream();
    for cause in [one.clone(), stream(), one.with_tenant_id(Some(Uuid::from_u128(7)))] {
        let cause = store.add(&cause, ANY, std::slice::from_ref(&given)).await.remove(0);
        let delivery = handled("billing/charge", &cause);
        store.check(!is_handled(&store, &delivery).await, format_args!("of {}", cause.metadata().stream()));
        add(
            &store,
            MultiStreamAppend {
                handled: Some(Handled::Delivery(delivery)),
                ..all_of([append(&effect, ANY, events(1))])
            },
        )
        .await;
    }
    store.same(store.read(&effect).await.len(), 3, "effects");
}

/// Recorded deliveries are forgotten once they are old enough, and not before.
pub async fn old_deliveries_are_forgotten<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("old_deliveries_are_forgotten", store);
    let causes = store.add(&stream(), ANY, &events(3)).await;
    let handle = async |cause: &RecordedEvent| {
        let handled = Some(Handled::Delivery(handled("mail", cause)));
        let outcome = multi_stream(&store).append_streams(MultiStreamAppend { handled, ..all_of([]) }).await;
        store.ok(outcome, "handling a delivery") != MultiStreamOutcome::AlreadyHandled
    };
    let forget = async |age| store.ok(multi_stream(&store).forget_deliveries(age).await, "forgetting");
    for cause in &causes {
        store.check(handle(cause).await, "the first delivery is not first");
    }
    for age in [Duration::from_secs(3_600), Duration::MAX] {
        store.same(forget(age).await, 0, format_args!("deliveries older than {age:?}"));
    }
    store.check(!handle(&causes[0]).await, "a delivery is forgotten too early");
    let forget_all = async {
        let mut forgotten = 0;
        while forgotten < 3 {
            forgotten += forget(Duration::ZERO).await;
        }
        forgotten
    };
    store.same(store.within("forgetting", forget_all).await, 3, "deliveries of any age");
    for cause in &causes {
        store.check(handle(cause).await, "a delivery is not forgotten");
    }
}

/// Concurrent multi-stream appends to the same streams, in any order, take effect one by one: each follows the versions
/// that it saw. Single appends take effect between them.
pub async fn concurrent_groups_are_serial<S: EventStore>(store: S) {
    const ROUNDS: usize = 15;
    let store = StoreUnderTest::new("concurrent_groups_are_serial", store);
    let accounts: Vec<_> = (0..4).map(|_| stream()).collect();
    let transfers = store.at_once(6, |writer| {
        let (store, accounts) = (store.clone(), accounts.clone());
        async move {
            let mut made = Vec::new();
            for round in 0..ROUNDS {
                let from = &accounts[(writer + round) % 4];
                let to = &accounts[(writer + round * round + 1 + (writer + round) % 3) % 4];
                if from == to {
                    store.add(from, ANY, &events(1)).await;
                    continue;
                }
                made.push(transfer(&store, from, to).await);
            }
            made
        }
    });
    let transfers: Vec<_> = transfers.await.into_iter().flatten().collect();
    for records in &transfers {
        for event in records.iter().flatten() {
            let seen = event.payload().split_once(':').and_then(|(_, rest)| rest.trim_end_matches('}').parse().ok());
            store.same(
                seen,
                Some(event.version().get() - 1),
                format_args!("the version that was seen before {event:?}"),
            );
        }
    }
    let feed = store.feed(Position::START).await;
    let stored = |records: &Vec<RecordedEvent>| records.iter().all(|event| feed.contains(event));
    store.check(transfers.iter().flatten().all(stored), "the feed misses events of a multi-stream append");
}

/// Appends to two streams an event that names the version seen before; repeats this until there is no conflict.
async fn transfer<S: EventStore>(store: &StoreUnderTest<S>, from: &StreamId, to: &StreamId) -> Vec<Vec<RecordedEvent>> {
    loop {
        let mut appends = Vec::new();
        for stream in [from, to] {
            let seen = store.ok(store.stream_version(stream).await, "asking for the version");
            let event = NewEvent::new(Name::from_static("Moved"), 1, format!("{{\"seen\":{seen}}}"));
            appends.push(append(stream, ExpectedVersion::Exact(seen), vec![event]));
        }
        match multi_stream(store).append_streams(all_of(appends)).await {
            Ok(MultiStreamOutcome::Appended(records)) => return records,
            Err(AppendError::Conflict { .. }) => tokio::task::yield_now().await,
            other => store.fail(format_args!("no conflict but {other:?}")),
        }
    }
}

/// A stream that a multi-stream append only checks does not change between the check and the append's effect.
pub async fn checked_stream_is_as_it_was_seen<S: EventStore>(store: S) {
    const ROUNDS: u64 = 20;
    let store = StoreUnderTest::new("checked_stream_is_as_it_was_seen", store);
    let policy = stream();
    let effects: Vec<StreamId> = (0..4).map(|_| stream()).collect();
    let writers = store.at_once(5, |writer| {
        let (store, policy, effects) = (store.clone(), policy.clone(), effects.clone());
        async move {
            let Some(effect) = effects.get(writer) else {
                for _ in 0..ROUNDS {
                    store.add(&policy, ANY, &events(1)).await;
                    tokio::task::yield_now().await;
                }
                return;
            };
            for _ in 0..ROUNDS {
                let seen = store.ok(store.stream_version(&policy).await, "asking for the version");
                let event = NewEvent::new(Name::from_static("Decided"), 1, format!("{{\"seen\":{seen}}}"));
                let checked = check(&policy, ExpectedVersion::Exact(seen));
                match multi_stream(&store).append_streams(all_of([append(effect, ANY, vec![event]), checked])).await {
                    Ok(_) | Err(AppendError::Conflict { .. }) => {}
                    other => store.fail(format_args!("no conflict but {other:?}")),
                }
            }
        }
    });
    writers.await;
    let (mut version, mut decided) = (0, 0);
    for event in store.feed(Position::START).await {
        if event.metadata().stream() == &policy {
            version = event.version().get();
        } else {
            decided += 1;
            store.same(event.payload(), &*format!("{{\"seen\":{version}}}"), "the version of the checked stream");
        }
    }
    store.check(decided > 0, "no multi-stream append took effect");
}
