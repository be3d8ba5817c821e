//! One warning at the start names stored event types unknown to the code, and schema versions higher than the code's.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod lines;

use eventbus::{
    ExpectedVersion, InMemoryEventStore, Name, NewEvent, StreamId,
    port::{AppendEvents, EventStore},
    prelude::*,
};
use lines::Lines;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Parcel", version = 2)]
struct Sent {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Parcel", version = 3)]
struct Lost {}

/// The warnings about event types at the start of an app on a store.
async fn warnings(store: impl EventStore) -> Vec<String> {
    let lines = Lines::default();
    let guard = lines.capture("warn");
    drop(App::builder().store(store).start().await.unwrap());
    drop(guard);
    lines.text().lines().filter(|line| line.contains("event types")).map(str::to_owned).collect()
}

async fn append(store: &impl AppendEvents, events: &[(&'static str, u32)]) {
    let stream = StreamId::parse("Parcel", "1").unwrap();
    let event = |&(name, version): &(&'static str, u32)| NewEvent::new(Name::from_static(name), version, "{}");
    store.append(&stream, ExpectedVersion::Any, events.iter().map(event).collect()).await.unwrap();
}

#[tokio::test]
async fn stored_event_types_that_no_code_knows_are_named_in_one_warning() {
    let store = InMemoryEventStore::new();
    append(&store, &[("Sent", 1), ("Sent", 2), ("Lost", 3)]).await;
    assert_eq!(warnings(store.clone()).await, Vec::<String>::new(), "all is known");

    append(&store, &[("Burnt", 1), ("Lost", 4), ("Burnt", 7), ("Lost", 2), ("Eaten", 1)]).await;
    let all = warnings(store).await;
    let [line] = &all[..] else { panic!("{all:#?}") };
    let named = "`Burnt` (version 7, first at position 4), `Eaten` (version 1, first at position 8), \
                 `Lost` (version 4, first at position 3), here version 3;";
    assert!(line.contains(named), "{line}");
    assert!(!line.contains("`Sent`"), "{line}");
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Letter, version = 2, was("Posted"))]
struct LetterPosted {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(LetterPosted), retired("Stamped"))]
struct Letter {}

impl Apply for Letter {
    fn apply(&mut self, _event: &LetterEvent) {}
}

#[tokio::test]
async fn former_names_and_retired_types_are_known() {
    let store = InMemoryEventStore::new();
    append(&store, &[("Posted", 1), ("Posted", 2), ("LetterPosted", 2), ("Stamped", 7)]).await;
    assert_eq!(warnings(store.clone()).await, Vec::<String>::new(), "all is known");
    append(&store, &[("Posted", 3)]).await;
    let all = warnings(store).await;
    assert!(all[0].contains("`Posted` (version 3, first at position 1), here version 2;"), "{all:#?}");
}

#[tokio::test]
async fn a_line_names_no_more_event_types_than_can_be_read() {
    let store = InMemoryEventStore::new();
    let names: Vec<(&'static str, u32)> = (0..60).map(|n| (&*format!("Old{n:02}").leak(), 1)).collect();
    append(&store, &names).await;
    let all = warnings(store).await;
    let [line] = &all[..] else { panic!("{all:#?}") };
    assert!(line.contains("`Old49`") && !line.contains("`Old50`") && line.contains(", and 10 more;"), "{line}");
}
