//! Rules of the list of stored event types.

use super::store_under_test::{StoreUnderTest, stream};
use crate::{
    ExpectedVersion, Name, NewEvent, Position,
    port::{EventStore, StoredEventType},
};

const OPENED: Name = Name::from_static("Opened");
const CLOSED: Name = Name::from_static("order.clos\u{e9}d \u{6f22}");

fn event_of(event_type: &Name, schema_version: u32) -> NewEvent {
    NewEvent::new(event_type.clone(), schema_version, "{}")
}

async fn listed<S: EventStore>(store: &StoreUnderTest<S>) -> Vec<StoredEventType> {
    let Some(types) = store.event_types() else { store.fail("the store lists no event types") };
    store.ok(types.stored_event_types().await, "asking for the event types")
}

fn row(event_type: &Name, schema_version: u32, first_position: Option<Position>) -> StoredEventType {
    StoredEventType {
        event_type: event_type.clone(),
        schema_version,
        first_position: first_position.unwrap_or_default(),
    }
}

/// Each type that was appended is listed once, sorted by name, with its highest schema version and its first position.
pub async fn event_types_are_listed_by_appends<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("event_types_are_listed_by_appends", store);
    store.same(listed(&store).await, Vec::new(), "an empty store");
    let (one, other) = (stream(), stream());
    let any = ExpectedVersion::Any;
    let first = store.add(&one, any, &[event_of(&CLOSED, 2), event_of(&OPENED, 1), event_of(&CLOSED, 1)]).await;
    let (closed_at, opened_at) = (first[0].position(), first[1].position());
    store.same(listed(&store).await, vec![row(&OPENED, 1, opened_at), row(&CLOSED, 2, closed_at)], "after one append");
    store.add(&one, any, &[event_of(&CLOSED, 1), event_of(&OPENED, 1)]).await;
    store.add(&other, any, &[event_of(&OPENED, 7)]).await;
    store.add(&one, any, &[event_of(&OPENED, 3), event_of(&CLOSED, 2)]).await;
    store.same(listed(&store).await, vec![row(&OPENED, 7, opened_at), row(&CLOSED, 2, closed_at)], "a higher version");
    store.add(&other, any, &[event_of(&CLOSED, 2), event_of(&CLOSED, i32::MAX as u32)]).await;
    let all = vec![row(&OPENED, 7, opened_at), row(&CLOSED, i32::MAX as u32, closed_at)];
    store.same(listed(&store).await, all, "the highest version there is");
}

/// A refused append lists no types; a later append that is stored lists its types as usual.
pub async fn refused_appends_list_no_event_types<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("refused_appends_list_no_event_types", store);
    let stream = stream();
    let opened = store.add(&stream, ExpectedVersion::NoStream, &[event_of(&OPENED, 1)]).await;
    let known = event_of(&OPENED, 1).with_event_id(opened[0].metadata().event_id());
    let wanted = || vec![row(&OPENED, 1, opened[0].position())];
    store.conflict(&stream, ExpectedVersion::NoStream, 1).await;
    store.refused(&stream, ExpectedVersion::NoStream, &[event_of(&CLOSED, 1)]).await;
    store.refused(&stream, ExpectedVersion::Any, &[event_of(&CLOSED, 1), event_of(&OPENED, 9), known]).await;
    store.same(listed(&store).await, wanted(), "after appends that were refused");
    let closed = store.add(&stream, ExpectedVersion::Any, &[event_of(&CLOSED, 1), event_of(&OPENED, 9)]).await;
    let wanted = vec![row(&OPENED, 9, opened[0].position()), row(&CLOSED, 1, closed[0].position())];
    store.same(listed(&store).await, wanted, "after the append that was stored");
}

/// If concurrent appends store a type for the first time, the lowest position and the highest version are listed.
pub async fn racing_first_appends_list_their_type_once<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("racing_first_appends_list_their_type_once", store);
    for round in 0..4 {
        let event_type = Name::from_static(["A", "B", "C", "D"][round]);
        let answers = store
            .at_once(16, |number| {
                let (store, event_type) = (store.clone(), event_type.clone());
                async move {
                    let event = event_of(&event_type, 1 + number as u32 % 5);
                    store.add(&stream(), ExpectedVersion::NoStream, &[event]).await
                }
            })
            .await;
        let first = answers.iter().flatten().filter_map(crate::RecordedEvent::position).min();
        let found = listed(&store).await;
        store.same(found.len(), round + 1, "the number of types");
        store.same(found.last().cloned(), Some(row(&event_type, 5, first)), "the type of the concurrent appends");
    }
}

/// The store has one list: each handle adds the types that are not yet listed, also after reopening.
pub async fn event_types_survive_reopening<P, S, O>(place: P, open: O)
where
    P: Clone,
    S: EventStore,
    O: AsyncFn(P) -> S,
{
    let rule = "event_types_survive_reopening";
    let (one, two) =
        (StoreUnderTest::new(rule, open(place.clone()).await), StoreUnderTest::new(rule, open(place.clone()).await));
    let (stream, any) = (stream(), ExpectedVersion::Any);
    let first = one.add(&stream, any, &[event_of(&OPENED, 1)]).await;
    two.add(&stream, any, &[event_of(&OPENED, 3)]).await;
    one.add(&stream, any, &[event_of(&OPENED, 2)]).await;
    let mut wanted = vec![row(&OPENED, 3, first[0].position())];
    for store in [one, two] {
        store.same(listed(&store).await, wanted.clone(), "one list for two handles");
    }
    let again = StoreUnderTest::new(rule, open(place).await);
    again.same(listed(&again).await, wanted.clone(), "after reopening");
    let closed = again.add(&stream, any, &[event_of(&OPENED, 3), event_of(&CLOSED, 1)]).await;
    wanted.push(row(&CLOSED, 1, closed[1].position()));
    again.same(listed(&again).await, wanted, "what came after reopening");
}
