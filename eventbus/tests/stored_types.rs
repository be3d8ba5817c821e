//! One warning at the start names stored event types unknown to the code, and schema versions higher than the code's.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod lines;

use eventbus::{
    ExpectedVersion, InMemoryEventStore, Name, NewEvent, StreamId,
    port::{AppendEvents, EventStore},
    prelude::*,
    support::PersonalFields,
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
    let repair = r#"here version 3; an event that was renamed names its former type, `#[event(was("..")"#;
    assert!(line.contains(repair) && line.contains("their effect on the state is lost"), "{line}");
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

#[derive(Debug, Default, Aggregate)]
#[aggregate(fold_of = Letter, events(LetterPosted), retired("Torn"))]
struct Envelopes {}

impl Apply for Envelopes {
    fn apply(&mut self, _event: &EnvelopesEvent) {}
}

#[tokio::test]
async fn former_names_and_retired_types_are_known() {
    let store = InMemoryEventStore::new();
    append(&store, &[("Posted", 1), ("Posted", 2), ("LetterPosted", 2), ("Stamped", 7)]).await;
    assert_eq!(warnings(store.clone()).await, Vec::<String>::new(), "all is known");
    append(&store, &[("Posted", 3), ("Torn", 1)]).await;
    let all = warnings(store).await;
    assert!(all[0].contains("`Posted` (version 3, first at position 1), here version 2"), "{all:#?}");
    assert!(all[0].contains("`Torn` (version 1, "), "only a further state passes it by: {all:#?}");
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

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Member, unique(email, normalize = str::to_lowercase), tags(email))]
struct Joined {
    email: String,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Joined))]
struct Member {}

impl Apply for Member {
    fn apply(&mut self, _event: &MemberEvent) {}
}

/// Which parts of the declarations the warnings at a start say to be younger than stored events of `Joined`.
async fn outdated(store: &InMemoryEventStore) -> (bool, bool) {
    let lines = Lines::default();
    let guard = lines.capture("warn");
    drop(App::builder().store(store.clone()).start().await.unwrap());
    drop(guard);
    let log = lines.text();
    let has =
        |advice: &str| log.lines().any(|line| line.contains("stored events of Joined may") && line.contains(advice));
    (has("`take_unique_values`"), has("`app.tag_stored_events`"))
}

#[tokio::test]
async fn events_from_before_their_values_and_tags_were_declared_are_told_until_they_have_them() {
    let store = InMemoryEventStore::new();
    append(&store, &[("Sent", 1)]).await;
    assert_eq!(outdated(&store).await, (false, false), "none is stored");
    let members = AggregateRepository::<Member>::new(store.clone());
    members
        .create(&"ada".parse().unwrap(), |_| Ok::<_, eventbus::Never>(Joined { email: "a@x".into() }))
        .await
        .unwrap();
    assert_eq!(outdated(&store).await, (false, false), "all events were saved with them");

    let store = InMemoryEventStore::new();
    let stream = StreamId::parse("Member", "ada").unwrap();
    let event = NewEvent::new(Name::from_static("Joined"), 1, r#"{"email":"a@x"}"#);
    store.append(&stream, ExpectedVersion::Any, vec![event]).await.unwrap();
    let members = AggregateRepository::<Member>::new(store.clone());
    for _ in 0..2 {
        assert_eq!(outdated(&store).await, (true, true));
    }
    members.take_unique_values(|_| {}).await.unwrap();
    assert_eq!(outdated(&store).await, (false, true));
    let app = App::builder().store(store.clone()).start().await.unwrap();
    app.tag_stored_events::<Joined>(|_| {}).await.unwrap();
    assert_eq!(outdated(&store).await, (false, false));

    // as a release noted it that did not normalize the addresses
    let note = Name::from_static("unique-values:Joined");
    store.notes().unwrap().save_note(&note, "email\n").await.unwrap();
    assert_eq!(outdated(&store).await, (true, false));
}

#[tokio::test]
async fn the_note_of_a_type_that_declares_something_else_is_deleted_unless_the_program_lacks_its_aggregate() {
    let store = InMemoryEventStore::new();
    let notes = store.notes().unwrap();
    let names = ["tags:LetterPosted", "unique-values:Posted", "tags:Joined", "tags:Sent"].map(Name::from_static);
    for name in &names {
        notes.save_note(name, "email\n").await.unwrap();
    }
    drop(App::builder().store(store.clone()).start().await.unwrap());
    let mut kept = Vec::new();
    for name in &names {
        kept.push(notes.load_note(name).await.unwrap().is_some());
    }
    assert_eq!(kept, [false, false, true, true]);
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Parcel", was("Labelled"), personal(street, name))]
struct Addressed {
    street: String,
    #[serde(alias = "recipient")]
    name: String,
}

#[tokio::test]
async fn the_names_of_personal_fields_are_noted_at_the_start() {
    let store = InMemoryEventStore::new();
    for _ in 0..2 {
        drop(App::builder().store(store.clone()).start().await.unwrap());
        let noted = PersonalFields::load(&store).await.unwrap();
        for event_type in ["Addressed", "Labelled"] {
            assert!(noted.of_type(event_type).eq(["name", "recipient", "street"]), "{event_type}: {noted:?}");
        }
        assert!(noted.of_type("Sent").next().is_none(), "{noted:?}");
    }
}
