//! Rules of commands that take effect once.

use std::time::Duration;

use super::{
    multi_stream_appends::multi_stream,
    store_under_test::{StoreUnderTest, events, stream},
    unique_values::holding,
};
use crate::{
    ExpectedVersion, Name, NewEvent, StreamId, Uuid,
    domain::idempotency_key::IdempotencyKey,
    port::{
        Append, AppendError, EventStore,
        multi_stream_append::{Handled, HandledCommand, MultiStreamAppend, MultiStreamOutcome},
    },
};

const ANY: ExpectedVersion = ExpectedVersion::Any;

/// Returns a command with a key of its own.
fn command<S: EventStore>(store: &StoreUnderTest<S>, answer: &str) -> HandledCommand {
    let key = store.ok(Uuid::now_v7().to_string().parse(), "a key");
    HandledCommand { tenant_id: None, key, request: Uuid::now_v7(), answer: answer.into() }
}

fn append(stream: &StreamId, expected: ExpectedVersion, count: usize, command: &HandledCommand) -> MultiStreamAppend {
    let append = Append { stream: stream.clone(), expected, events: events(count) };
    MultiStreamAppend { handled: Some(Handled::Command(command.clone())), ..MultiStreamAppend::single(append) }
}

/// Returns a command that takes a unique value for a stream.
fn with_value(stream: &StreamId, value: &str, command: &HandledCommand) -> MultiStreamAppend {
    let append = Append { stream: stream.clone(), expected: ANY, events: vec![holding(Some(value))] };
    MultiStreamAppend { handled: Some(Handled::Command(command.clone())), ..MultiStreamAppend::single(append) }
}

async fn send<S: EventStore>(store: &StoreUnderTest<S>, multi: MultiStreamAppend) -> MultiStreamOutcome {
    store.ok(multi_stream(store).append_streams(multi).await, "a command")
}

async fn find<S: EventStore>(store: &StoreUnderTest<S>, command: &HandledCommand) -> Option<HandledCommand> {
    let found = multi_stream(store).find_command(command.tenant_id, &command.key).await;
    store.ok(found, "looking for a command")
}

/// A command takes effect once, whatever the version of its stream; then the store finds its request and answer.
pub async fn command_takes_effect_once<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("command_takes_effect_once", store);
    let (one, other) = (stream(), stream());
    let first = command(&store, r#"{"version":2}"#);
    store.same(find(&store, &first).await, None, "before the command");
    let MultiStreamOutcome::Appended(records) = send(&store, append(&one, ExpectedVersion::NoStream, 2, &first)).await
    else {
        store.fail("the first command was handled before")
    };
    let second = HandledCommand { request: Uuid::now_v7(), answer: "another".into(), ..first.clone() };
    for (stream, expected) in [(&one, ANY), (&one, ExpectedVersion::Exact(9.into())), (&other, ANY)] {
        let outcome = send(&store, append(stream, expected, 1, &second)).await;
        store.same(outcome, MultiStreamOutcome::AlreadyHandled, format_args!("at {expected:?}"));
    }
    store.holds(&one, &records.concat()).await;
    store.holds(&other, &[]).await;
    store.same(find(&store, &first).await.as_ref(), Some(&first), "after the command");

    // a repeat stores no event, and so lists no type: only the append that stores the first event of the type lists it
    let renamed = || vec![NewEvent::new(Name::from_static("Renamed"), 1, "{}")];
    let repeat = Append { stream: one.clone(), expected: ANY, events: renamed() };
    let repeat = MultiStreamAppend { handled: Some(Handled::Command(first)), ..MultiStreamAppend::single(repeat) };
    store.same(send(&store, repeat).await, MultiStreamOutcome::AlreadyHandled, "with an event of a new type");
    let third = append(&other, ANY, 1, &command(&store, "third"));
    let of_new_type = Append { stream: other.clone(), expected: ANY, events: renamed() };
    send(&store, MultiStreamAppend { appends: vec![of_new_type], ..third }).await;
    if let Some(types) = store.event_types() {
        let listed = store.ok(types.stored_event_types().await, "asking for the event types");
        let is_listed = listed.iter().any(|listed| *listed.event_type == *"Renamed");
        store.check(is_listed, format_args!("the type is not listed: {listed:?}"));
    }
}

/// A command without events also takes effect once, and only if its stream is as expected.
pub async fn command_without_events_takes_effect_once<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("command_without_events_takes_effect_once", store);
    let (known, given) = (stream(), command(&store, "nothing to do"));
    store.add(&known, ANY, &events(1)).await;
    let late = multi_stream(&store).append_streams(append(&known, ExpectedVersion::NoStream, 0, &given)).await;
    store.check(late.is_err_and(|error| error.is_conflict()), "a command is noted though its stream has moved");
    store.same(find(&store, &given).await, None, "after the conflict");
    let now = || append(&known, ExpectedVersion::Exact(1.into()), 0, &given);
    store.same(send(&store, now()).await, MultiStreamOutcome::Appended(vec![Vec::new()]), "the first time");
    store.same(send(&store, now()).await, MultiStreamOutcome::AlreadyHandled, "the second time");
    store.same(find(&store, &given).await, Some(given), "after the command");
}

/// A command whose append is refused is not noted: neither after a conflict nor if another stream holds a unique value.
pub async fn refused_command_is_not_noted<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("refused_command_is_not_noted", store);
    let (known, given) = (stream(), command(&store, "done"));
    store.add(&known, ANY, &events(1)).await;
    for (expected, count) in [(ExpectedVersion::NoStream, 1), (ExpectedVersion::Exact(7.into()), 2)] {
        let refused = multi_stream(&store).append_streams(append(&known, expected, count, &given)).await;
        store.check(matches!(refused, Err(AppendError::Conflict { .. })), "no conflict");
        store.same(find(&store, &given).await, None, "after a conflict");
    }
    let holder = stream();
    store.add(&holder, ANY, &[holding(Some("a@x"))]).await;
    let taken = multi_stream(&store).append_streams(with_value(&known, "a@x", &given)).await;
    store.check(taken.is_err_and(|error| error.is_taken("email")), "a held value is not taken");
    store.same(find(&store, &given).await, None, "after a taken value");
    let again = send(&store, append(&known, ExpectedVersion::Exact(1.into()), 1, &given)).await;
    store.check(matches!(again, MultiStreamOutcome::Appended(_)), "the same key after the errors");
}

/// Of many concurrent commands with one key, each of which takes the same value for a stream of its own, one takes
/// effect; for the rest the store reports that the command took effect, not that the value is taken.
pub async fn concurrent_commands_of_one_key_and_value_are_one<S: EventStore>(store: S) {
    const ROUNDS: usize = 20;
    let store = StoreUnderTest::new("concurrent_commands_of_one_key_and_value_are_one", store);
    for round in 0..ROUNDS {
        let given = command(&store, &round.to_string());
        let value = format!("{round}@x");
        let outcomes = store.at_once(8, |_| {
            let (store, multi) = (store.clone(), with_value(&stream(), &value, &given));
            async move { send(&store, multi).await }
        });
        let first = outcomes.await.into_iter().filter(|outcome| matches!(outcome, MultiStreamOutcome::Appended(_)));
        store.same(first.count(), 1, format_args!("commands of one key that took effect, round {round}"));
    }
}

/// The same key of two tenants is two keys.
pub async fn command_keys_are_those_of_a_tenant<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("command_keys_are_those_of_a_tenant", store);
    let of_none = command(&store, "none");
    let of_tenant =
        |id| HandledCommand { tenant_id: Some(Uuid::from_u128(id)), answer: id.to_string(), ..of_none.clone() };
    let all = [of_none.clone(), of_tenant(7), of_tenant(8)];
    for command in &all {
        let stream = stream().with_tenant_id(command.tenant_id);
        let outcome = send(&store, append(&stream, ANY, 1, command)).await;
        store.check(matches!(outcome, MultiStreamOutcome::Appended(_)), format_args!("{:?}", command.tenant_id));
    }
    for command in all {
        store.same(find(&store, &command).await, Some(command), "the command of its tenant");
    }
}

/// Of many concurrent commands with one key, one takes effect, on new and known streams.
pub async fn concurrent_commands_of_one_key_are_one<S: EventStore>(store: S) {
    const ROUNDS: usize = 20;
    let store = StoreUnderTest::new("concurrent_commands_of_one_key_are_one", store);
    let known = stream();
    for round in 0..ROUNDS {
        let given = command(&store, &round.to_string());
        let target = if round % 2 == 0 { stream() } else { known.clone() };
        let before = store.read(&target).await.len();
        let outcomes = store.at_once(8, |_| {
            let (store, multi) = (store.clone(), append(&target, ANY, 2, &given));
            async move { send(&store, multi).await }
        });
        let first = outcomes.await.into_iter().filter(|outcome| matches!(outcome, MultiStreamOutcome::Appended(_)));
        store.same(first.count(), 1, format_args!("commands of one key that took effect, round {round}"));
        store.same(store.read(&target).await.len(), before + 2, "events of one command");
    }
}

/// The store forgets commands of at least a given age; a command with the same key then takes effect again.
pub async fn commands_are_forgotten<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("commands_are_forgotten", store);
    let (target, given) = (stream(), command(&store, "done"));
    send(&store, append(&target, ANY, 1, &given)).await;
    let notes = multi_stream(&store);
    store.same(store.ok(notes.forget_commands(Duration::from_secs(3_600)).await, "forgetting"), 0, "young commands");
    store.same(find(&store, &given).await.as_ref(), Some(&given), "after an hour's retention");
    // commands of other tests may be there
    let forgotten = store.ok(notes.forget_commands(Duration::ZERO).await, "forgetting");
    store.check(forgotten >= 1, "no command was forgotten");
    store.same(find(&store, &given).await, None, "a forgotten command");
    let again = send(&store, append(&target, ANY, 1, &given)).await;
    store.check(matches!(again, MultiStreamOutcome::Appended(_)), "the key is new again");
}

/// A key may have 255 bytes, and any characters except control characters.
pub async fn command_keys_and_answers_are_texts<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("command_keys_and_answers_are_texts", store);
    let texts = ["x".repeat(255), "a:b%3A c".into(), "Schlüssel 🔑".into(), "{tag}'\"\\".into()];
    for (number, text) in texts.iter().enumerate() {
        let key: IdempotencyKey = store.ok(format!("{number}{}", &text[1..]).parse(), text);
        let given = HandledCommand { key, ..command(&store, &format!(" {text}\n{text} ")) };
        send(&store, append(&stream(), ANY, 1, &given)).await;
        store.same(find(&store, &given).await, Some(given), text);
    }
}
