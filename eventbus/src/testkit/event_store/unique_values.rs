//! Rules of unique values.

use std::collections::BTreeMap;

use super::{
    multi_stream_appends::multi_stream,
    store_under_test::{StoreUnderTest, event, events, stream},
};
use crate::{
    ExpectedVersion, Name, NewEvent, Position, StreamId, Uuid,
    event::{UNIQUE_VALUE_BYTES_MAX, UniqueChange},
    port::{
        Append, AppendError, EventStore,
        unique_values::{UniqueKey, UniqueValues},
    },
    store::MultiStreamAppend,
};

const ANY: ExpectedVersion = ExpectedVersion::Any;
const EMAIL: Name = Name::from_static("email");

fn unique_values<S: EventStore>(store: &StoreUnderTest<S>) -> &dyn UniqueValues {
    store.unique_values().unwrap_or_else(|| store.fail("the store has no unique values"))
}

fn change(value: Option<&str>) -> UniqueChange {
    UniqueChange::new(EMAIL, value.map(str::to_owned)).expect("a value that stores keep")
}

/// Returns an event that takes an address, or gives it back.
pub(super) fn holding(value: Option<&str>) -> NewEvent {
    event().with_unique(vec![change(value)])
}

async fn take<S: EventStore>(store: &StoreUnderTest<S>, stream: &StreamId, value: Option<&str>) {
    store.add(stream, ANY, &[holding(value)]).await;
}

/// Checks that the store refuses events of a stream because another stream holds the address, and stores none of them.
async fn is_refused<S: EventStore>(store: &StoreUnderTest<S>, to: &StreamId, events: Vec<NewEvent>) {
    let before = store.ok(store.stream_version(to).await, "asking for the version");
    is_taken(store, to, store.append(to, ANY, events).await);
    let after = store.ok(store.stream_version(to).await, "asking for the version");
    store.same(after, before, "a refused append stored events");
}

fn is_taken<S: EventStore, T: std::fmt::Debug>(store: &StoreUnderTest<S>, to: &StreamId, got: Result<T, AppendError>) {
    match got {
        Err(error @ AppendError::Taken { .. }) => {
            store.check(error.is_taken("email") && !error.is_taken("name"), format_args!("{error:?}"));
            store.check(error.to_string().contains(&to.to_string()), format_args!("another stream: {error}"));
        }
        other => store.fail(format_args!("taken by two: {other:?}")),
    }
}

fn key(of: &StreamId, value: &str) -> UniqueKey {
    UniqueKey::new(of.tenant_id(), of.aggregate_type().clone(), EMAIL, value)
}

async fn holder_of<S: EventStore>(store: &StoreUnderTest<S>, of: &StreamId, value: &str) -> Option<StreamId> {
    store.ok(unique_values(store).find_holder(&key(of, value)).await, "looking for the holder")
}

/// Checks which stream holds an address, among the streams of the type and tenant of `ada`.
async fn holds<S: EventStore>(store: &StoreUnderTest<S>, ada: &StreamId, value: &str, holder: Option<&StreamId>) {
    store.same(holder_of(store, ada, value).await.as_ref(), holder, "the holder of the address");
}

/// A value has one holder: another stream that takes it stores nothing.
pub async fn unique_value_is_held_by_one_stream<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("unique_value_is_held_by_one_stream", store);
    let (ada, bob) = (stream(), stream());
    holds(&store, &ada, "a@x", None).await;
    take(&store, &ada, Some("a@x")).await;
    holds(&store, &ada, "a@x", Some(&ada)).await;
    is_refused(&store, &bob, vec![holding(Some("a@x"))]).await;
    is_refused(&store, &bob, vec![event(), holding(Some("a@x")), event()]).await;
    // its own again, and another one
    take(&store, &ada, Some("a@x")).await;
    take(&store, &bob, Some("A@x")).await;
    is_refused(&store, &bob, vec![holding(Some("a@x"))]).await;
    holds(&store, &ada, "A@x", Some(&bob)).await;
    holds(&store, &ada, "a@x", Some(&ada)).await;
    // a conflict comes first, and changes nothing
    let conflict = store.append(&bob, ExpectedVersion::NoStream, vec![holding(Some("b@x"))]).await;
    store.check(conflict.is_err_and(|error| error.is_conflict()), "no conflict");
    holds(&store, &ada, "b@x", None).await;
}

/// The same value of a different tenant, aggregate type or name is a different value.
pub async fn unique_values_are_of_a_tenant_a_type_and_a_name<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("unique_values_are_of_a_tenant_a_type_and_a_name", store);
    let ada = stream();
    let of_tenant = ada.clone().with_tenant_id(Some(Uuid::from_u128(7)));
    let of_type = StreamId::parse("Another", ada.aggregate_id().as_str()).expect("a valid stream");
    for stream in [&ada, &of_tenant, &of_type] {
        take(&store, stream, Some("a@x")).await;
    }
    for stream in [&ada, &of_tenant, &of_type] {
        holds(&store, stream, "a@x", Some(stream)).await;
    }
    let name = UniqueChange::new(Name::from_static("name"), Some("a@x".into())).expect("a value that stores keep");
    let bob = stream();
    store.add(&bob, ANY, &[event().with_unique(vec![name])]).await;
    holds(&store, &ada, "a@x", Some(&ada)).await;
    is_refused(&store, &bob, vec![holding(Some("a@x"))]).await;
}

/// A stream that takes its next value gives the last one back; an event can also release it.
pub async fn unique_value_is_given_back<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("unique_value_is_given_back", store);
    let (ada, bob) = (stream(), stream());
    take(&store, &ada, Some("a@x")).await;
    take(&store, &ada, Some("b@x")).await;
    take(&store, &bob, Some("a@x")).await;
    holds(&store, &ada, "a@x", Some(&bob)).await;
    holds(&store, &ada, "b@x", Some(&ada)).await;
    take(&store, &ada, None).await;
    take(&store, &ada, None).await;
    holds(&store, &ada, "b@x", None).await;
    take(&store, &bob, Some("b@x")).await;
    // of several changes in an append the last one counts
    store.add(&ada, ANY, &[holding(Some("b@x")), holding(Some("c@x"))]).await;
    store.add(&ada, ANY, &[holding(None), event(), holding(Some("d@x"))]).await;
    store.add(&ada, ANY, &[holding(Some("e@x")), holding(None)]).await;
    for (value, holder) in [("a@x", None), ("b@x", Some(&bob)), ("c@x", None), ("d@x", None), ("e@x", None)] {
        holds(&store, &ada, value, holder).await;
    }
}

/// A repeated append returns the first result, and changes no value.
pub async fn repeated_append_changes_no_unique_value<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("repeated_append_changes_no_unique_value", store);
    let (ada, bob) = (stream(), stream());
    let first = [holding(Some("a@x"))];
    let recorded = store.add(&ada, ExpectedVersion::NoStream, &first).await;
    take(&store, &ada, Some("b@x")).await;
    store.same(store.add(&ada, ExpectedVersion::NoStream, &first).await, recorded.clone(), "the first result");
    holds(&store, &ada, "b@x", Some(&ada)).await;
    take(&store, &bob, Some("a@x")).await;
    store.same(store.add(&ada, ExpectedVersion::NoStream, &first).await, recorded, "the first result");
    holds(&store, &ada, "a@x", Some(&bob)).await;
}

/// Each append of a call takes its values, or is refused alone.
pub async fn appends_of_one_call_take_their_unique_values<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("appends_of_one_call_take_their_unique_values", store);
    let (ada, bob, eve) = (stream(), stream(), stream());
    let append = |stream: &StreamId, events| Append { stream: stream.clone(), expected: ANY, events };
    let results = store
        .append_many(vec![
            append(&ada, vec![holding(Some("a@x"))]),
            append(&bob, vec![holding(Some("a@x"))]),
            append(&eve, events(2)),
            append(&ada, vec![holding(Some("b@x"))]),
            append(&bob, vec![holding(Some("a@x"))]),
        ])
        .await;
    let outcomes: Vec<_> = results.iter().map(|result| result.as_ref().map(Vec::len).ok()).collect();
    store.same(outcomes, vec![Some(1), None, Some(2), Some(1), Some(1)], "events stored by each append");
    holds(&store, &ada, "a@x", Some(&bob)).await;
    holds(&store, &ada, "b@x", Some(&ada)).await;
}

/// Appends to several streams change their values together: one gives back what another takes.
pub async fn multi_stream_append_changes_unique_values_together<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("multi_stream_append_changes_unique_values_together", store);
    let (ada, bob, new) = (stream(), stream(), stream());
    take(&store, &ada, Some("a@x")).await;
    take(&store, &bob, Some("b@x")).await;
    let all = |appends: &[(&StreamId, ExpectedVersion, Option<&str>)]| {
        let append = |(stream, expected, value): &(&StreamId, ExpectedVersion, Option<&str>)| Append {
            stream: (*stream).clone(),
            expected: *expected,
            events: vec![holding(*value)],
        };
        MultiStreamAppend { appends: appends.iter().map(append).collect(), ..Default::default() }
    };
    let send = |multi| multi_stream(&store).append_streams(multi);
    store.ok(send(all(&[(&ada, ANY, Some("b@x")), (&bob, ANY, Some("a@x"))])).await, "two streams that exchange");
    holds(&store, &ada, "a@x", Some(&bob)).await;
    holds(&store, &ada, "b@x", Some(&ada)).await;
    is_taken(&store, &new, send(all(&[(&bob, ANY, Some("c@x")), (&new, ANY, Some("b@x"))])).await);
    is_taken(&store, &new, send(all(&[(&bob, ANY, Some("d@x")), (&new, ANY, Some("d@x"))])).await);
    let conflict = send(all(&[(&bob, ANY, Some("d@x")), (&ada, ExpectedVersion::NoStream, Some("e@x"))])).await;
    store.check(conflict.is_err_and(|error| error.is_conflict()), "no conflict");
    for value in ["c@x", "d@x", "e@x"] {
        holds(&store, &ada, value, None).await;
    }
    store.holds(&new, &[]).await;
    store.ok(send(all(&[(&new, ANY, Some("a@x")), (&bob, ANY, None)])).await, "a new stream takes over");
    holds(&store, &ada, "a@x", Some(&new)).await;
}

/// Of many streams that take one value concurrently, one holds it; the holder of a value has the event that took it
/// last.
pub async fn concurrent_takers_of_a_unique_value_are_one<S: EventStore>(store: S) {
    const ROUNDS: usize = 25;
    let store = StoreUnderTest::new("concurrent_takers_of_a_unique_value_are_one", store);
    let values = ["a@x", "b@x", "c@x"];
    // two writers for each stream: a stream changes under a writer that takes a value for it
    let streams: Vec<StreamId> = (0..4).map(|_| stream()).collect();
    let mut held: BTreeMap<StreamId, Option<String>> = BTreeMap::new();
    let mut seen = Position::START;
    for round in 0..ROUNDS {
        let writers = store.at_once(8, |writer| {
            let (store, stream) = (store.clone(), streams[writer % streams.len()].clone());
            async move {
                let value = values.get((round + writer) % 4).copied();
                let json = serde_json::json!({ "email": value }).to_string();
                let event = NewEvent::new(Name::from_static("Held"), 1, json).with_unique(vec![change(value)]);
                match store.append(&stream, ANY, vec![event]).await {
                    Ok(_) | Err(AppendError::Taken { .. }) => {}
                    other => store.fail(format_args!("neither stored nor taken: {other:?}")),
                }
            }
        });
        writers.await;
        for event in store.feed(seen).await {
            let payload: serde_json::Value = store.ok(serde_json::from_str(event.payload()), "reading a payload");
            let value = payload["email"].as_str().map(str::to_owned);
            let stream = event.metadata().stream();
            let is_held = held.iter().any(|(other, held)| other != stream && held.is_some() && *held == value);
            store.check(!is_held, format_args!("{value:?} has two holders at {:?}", event.position()));
            held.insert(stream.clone(), value);
            seen = event.position().unwrap_or(seen);
        }
        for value in values {
            let holder = held.iter().find(|(_, held)| held.as_deref() == Some(value)).map(|(stream, _)| stream);
            holds(&store, &streams[0], value, holder).await;
        }
    }
}

/// A stream whose events are stored already can take a value, at the version at which its value was read.
pub async fn unique_value_is_assigned_to_a_stored_stream<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("unique_value_is_assigned_to_a_stored_stream", store);
    let (ada, bob) = (stream(), stream());
    store.add(&ada, ANY, &events(2)).await;
    store.add(&bob, ANY, &events(1)).await;
    let assign = async |stream: &StreamId, version: u64, value: Option<&str>| {
        unique_values(&store).assign(stream, version.into(), &[change(value)]).await
    };
    for (stream, version) in [(&ada, 1), (&ada, 3), (&stream(), 1)] {
        let conflict = assign(stream, version, Some("a@x")).await;
        store.check(conflict.is_err_and(|error| error.is_conflict()), format_args!("no conflict at {version}"));
    }
    holds(&store, &ada, "a@x", None).await;
    store.ok(assign(&ada, 2, Some("a@x")).await, "assigning");
    store.ok(assign(&ada, 2, Some("a@x")).await, "assigning again");
    holds(&store, &ada, "a@x", Some(&ada)).await;
    is_taken(&store, &bob, assign(&bob, 1, Some("a@x")).await);
    is_refused(&store, &bob, vec![holding(Some("a@x"))]).await;
    store.ok(assign(&ada, 2, Some("b@x")).await, "assigning another one");
    store.ok(assign(&bob, 1, Some("a@x")).await, "assigning what was given back");
    store.ok(assign(&ada, 2, None).await, "giving back");
    holds(&store, &ada, "b@x", None).await;
    store.same(store.feed(Position::START).await.len(), 3, "assigning stores no event");
}

/// A stream holds one value of a name, also if a value is assigned to it while saves run.
pub async fn assigning_beside_saves_leaves_one_value<S: EventStore>(store: S) {
    const ROUNDS: usize = 30;
    let store = StoreUnderTest::new("assigning_beside_saves_leaves_one_value", store);
    let values = ["a@x", "b@x", "c@x", "d@x"];
    let ada = stream();
    store.add(&ada, ANY, &events(1)).await;
    for _ in 0..ROUNDS {
        let writers = store.at_once(values.len(), |writer| {
            let (store, ada, value) = (store.clone(), ada.clone(), values[writer]);
            async move {
                if writer % 2 == 0 {
                    take(&store, &ada, Some(value)).await;
                    return;
                }
                let version = store.ok(store.stream_version(&ada).await, "asking for the version");
                match unique_values(&store).assign(&ada, version, &[change(Some(value))]).await {
                    Ok(()) | Err(AppendError::Conflict { .. }) => {}
                    other => store.fail(format_args!("neither assigned nor a conflict: {other:?}")),
                }
            }
        });
        writers.await;
        let mut held = 0;
        for value in values {
            held += usize::from(holder_of(&store, &ada, value).await.is_some());
        }
        store.same(held, 1, "values of one stream");
    }
}

/// An append that a transaction refuses leaves the transaction as it was.
pub async fn taken_value_leaves_the_transaction_as_it_was<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("taken_value_leaves_the_transaction_as_it_was", store);
    let transactions = store.transactions().unwrap_or_else(|| store.fail("the store has no transactions"));
    let (ada, bob, eve) = (stream(), stream(), stream());
    take(&store, &ada, Some("a@x")).await;
    let append =
        |stream: &StreamId, value| Append { stream: stream.clone(), expected: ANY, events: vec![holding(Some(value))] };
    let mut transaction = store.ok(transactions.begin().await, "beginning");
    store.ok(transaction.append(append(&eve, "e@x")).await, "appending");
    is_taken(&store, &bob, transaction.append(append(&bob, "a@x")).await);
    store.ok(transaction.append(append(&bob, "b@x")).await, "appending another value");
    store.ok(transaction.commit().await, "committing");
    for (value, holder) in [("a@x", &ada), ("b@x", &bob), ("e@x", &eve)] {
        holds(&store, &ada, value, Some(holder)).await;
    }
    let of_bob = store.ok(store.stream_version(&bob).await, "asking for the version");
    store.same(of_bob.get(), 1, "events of a refused append");

    let mut transaction = store.ok(transactions.begin().await, "beginning");
    store.ok(transaction.append(append(&ada, "c@x")).await, "appending");
    drop(transaction);
    holds(&store, &ada, "a@x", Some(&ada)).await;
    holds(&store, &ada, "c@x", None).await;
}

/// The longest value is kept, whatever its characters; two values are the same only if all their bytes are.
pub async fn unique_values_are_compared_byte_by_byte<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("unique_values_are_compared_byte_by_byte", store);
    let longest = "é".repeat(UNIQUE_VALUE_BYTES_MAX / 2);
    let values = ["", " ", "a", "A", "a ", "\u{e9}", "e\u{301}", "%", "a:b", "\n", "\u{1f980}", "'--", &longest];
    let mut holders = Vec::new();
    for value in values {
        let holder = stream();
        take(&store, &holder, Some(value)).await;
        holders.push(holder);
    }
    for (value, holder) in values.into_iter().zip(&holders) {
        holds(&store, holder, value, Some(holder)).await;
    }
    store.check(UniqueChange::new(EMAIL, Some(format!("{longest}a"))).is_err(), "a value that is too long");
    store.check(UniqueChange::new(EMAIL, Some("\0".into())).is_err(), "a value with U+0000");
    for value in ["\0", "a\0", &format!("{longest}a")] {
        holds(&store, &holders[0], value, None).await;
    }
}
