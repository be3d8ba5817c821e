//! The rights that the security page names: enough to use the store, and not enough to change an event.

use std::{collections::BTreeMap, time::Duration};

use crate::common::{TestSchema, add, event, events, feed, open, read, run, stream, within};
use eventbus::{
    ExpectedVersion, Name, Position, Uuid,
    delivery::DeliveryAttempts,
    event::{Tag, UniqueChange},
    handler::HandlerStart,
    port::{
        Append, AppendError, AppendEvents as _, Checkpoints as _, EventTypes as _, HandlerProgress as _, Leases as _,
        MultiStreamAppends as _, Snapshots as _, StoredSnapshot,
        handler_progress::{DeclaredHandler, DeliveryRow, Member, ShardId, ShardSave},
    },
    store::{Boundaries as _, Handled, HandledCommand, MultiStreamAppend},
};
use eventstore_postgres::{PgEventStore, PgEventStoreConfig};
use sqlx::{AssertSqlSafe, Executor as _};
use time::OffsetDateTime;

/// The statements of the page for a schema and a role, unchanged.
fn statements(schema: &str, role: &str) -> String {
    let page = include_str!("../../../SECURITY.md");
    let (_, rest) = page.split_once("```sql\n").expect("the page has the statements");
    let (statements, _) = rest.split_once("```").expect("they end");
    statements
        .replace("eventbus.", &format!("{schema}."))
        .replace("SCHEMA eventbus", &format!("SCHEMA {schema}"))
        .replace(" app;", &format!(" {role};"))
}

/// A handler makes each kind of progress, and is retired.
async fn handlers_make_progress(store: &PgEventStore) {
    let (mail, process, minute) = (Name::from_static("mail"), Name::from_static("process"), Duration::from_secs(60));
    let declared = |types: &[&'static str]| DeclaredHandler {
        name: mail.clone(),
        group: mail.clone(),
        types: types.iter().copied().map(Name::from_static).collect(),
        shards: 1,
        start: HandlerStart::Oldest,
    };
    for declared in [declared(&["Opened"]), declared(&["Closed", "Opened"])] {
        within(store.declare_handlers(&[declared], Position::START)).await.unwrap();
    }
    for _ in 0..2 {
        let member = Member { name: process.clone(), handlers: BTreeMap::new() };
        within(store.join(&member)).await.unwrap();
    }
    let shard = ShardId { handler: mail.clone(), number: 0 };
    let acquired =
        within(store.acquire_shards(&process, std::slice::from_ref(&shard), minute)).await.unwrap().remove(0);
    let row = |position| DeliveryRow {
        position: Position::new(position),
        attempts: DeliveryAttempts::default(),
        dead_since: Some(OffsetDateTime::UNIX_EPOCH),
        is_held: false,
    };
    let mut save = ShardSave {
        shard: shard.clone(),
        epoch: acquired.epoch,
        checkpoint: Position::new(3),
        waiting: Vec::new(),
        started: Vec::new(),
        has_progressed: true,
        left: BTreeMap::new(),
        rows: vec![row(1), row(2)],
        finished: vec![Position::new(3)],
        is_release: false,
    };
    within(store.save_shards(&process, None, &[save.clone()])).await.unwrap();
    let beat = within(store.heartbeat(
        &process,
        std::slice::from_ref(&mail),
        &[(shard, acquired.epoch)],
        Some(minute),
        minute,
    ))
    .await;
    assert_eq!(beat.unwrap().held.len(), 1);
    assert!(within(store.replay_dead(&mail, Position::new(1))).await.unwrap());
    assert!(within(store.discard_dead(&mail, Position::new(2))).await.unwrap());
    for is_paused in [true, true, false] {
        within(store.set_paused(&mail, is_paused)).await.unwrap();
    }
    save.is_release = true;
    within(store.save_shards(&process, None, &[save])).await.unwrap();
    within(store.leave(&process)).await.unwrap();
    within(store.retire_handler(&mail)).await.unwrap();
}

/// Fails if the page grants a right too many, or if the store needs one more.
#[tokio::test]
async fn with_the_grants_of_the_security_page_events_are_added_and_never_changed() {
    let schema = TestSchema::new();
    let name = schema.name().to_owned();
    PgEventStore::migrate(&schema.config()).await.unwrap();
    let mut admin = schema.connection().await;
    run(&mut admin, &format!("CREATE ROLE {name} LOGIN")).await;
    run(&mut admin, &statements(&name, &name)).await;

    // a start option sets the role, so that the login stays that of the tests
    let database_url = format!("{}?options[role]={name}", schema.config().database_url);
    let store = open(PgEventStoreConfig { database_url, migrate: false, ..schema.config() }).await;
    let order = stream();
    add(&store, &order, 3).await;
    within(store.append(&stream(), ExpectedVersion::Any, events(2))).await.unwrap();
    within(store.append(&order, ExpectedVersion::Any, vec![event()])).await.unwrap();
    assert_eq!((read(&store, &order).await.len(), feed(&store).await.len()), (4, 6));
    let (reader, owner) = (Name::from_static("reader"), Name::from_static("owner"));
    for position in [1, 2] {
        within(store.save_checkpoint(&reader, Position::new(position))).await.unwrap();
    }
    within(store.delete_checkpoint(&reader)).await.unwrap();
    let lease = within(store.acquire_lease(&reader, &owner, Duration::from_secs(60))).await.unwrap().unwrap();
    within(store.release_lease(&lease)).await.unwrap();
    handlers_make_progress(&store).await;
    assert!(!within(store.stored_event_types()).await.unwrap().is_empty());
    for version in [1, 2] {
        let snapshot = StoredSnapshot { version: version.into(), data: Vec::new() };
        assert!(within(store.save_snapshot(&order, &reader, &snapshot)).await.unwrap());
    }
    assert!(within(store.read_from_snapshot(&order, &reader)).await.unwrap().snapshot.is_some());
    assert_eq!(within(store.remove_snapshots(&reader)).await.unwrap(), 1);
    let course = Tag::from_stored("course:1").unwrap();
    for (number, value) in ["ada@example.org", "bob@example.org"].into_iter().enumerate() {
        let change = UniqueChange::new(Name::from_static("email"), Some(value.into())).unwrap();
        let appends = vec![Append {
            stream: order.clone(),
            expected: ExpectedVersion::Any,
            events: vec![event().with_unique(vec![change]).with_tags([course.clone()])],
        }];
        let key = format!("k{number}").parse().unwrap();
        let command = HandledCommand { tenant_id: None, key, request: Uuid::from_u128(1), answer: "{}".into() };
        let multi = MultiStreamAppend { appends, handled: Some(Handled::Command(command)), ..Default::default() };
        within(store.append_streams(multi)).await.unwrap();
    }
    assert_eq!(within(store.forget_commands(Duration::ZERO)).await.unwrap(), 2);
    let first = read(&store, &order).await.remove(0);
    let refused = store.add_tag(&first, &course).await;
    assert!(matches!(refused, Err(AppendError::Refused { .. })), "{refused:?}");
    run(&mut admin, &format!("GRANT UPDATE (tags) ON events TO {name}")).await;
    assert!(store.add_tag(&first, &course).await.unwrap());
    store.close().await;

    let mut app = schema.connection().await;
    run(&mut app, &format!("SET ROLE {name}")).await;
    for statement in [
        "UPDATE events SET payload = '{}'",
        "UPDATE events SET version = version + 1 WHERE false",
        "DELETE FROM events WHERE false",
        "TRUNCATE events",
        "DELETE FROM streams WHERE false",
        "UPDATE event_types SET first_position = 1",
        "DELETE FROM event_types WHERE false",
        "TRUNCATE streams CASCADE",
        "ALTER TABLE events DROP COLUMN actor_id",
        "DROP TABLE events",
        "CREATE TABLE more (id int)",
        "UPDATE migrations SET version = 1",
        "INSERT INTO migrations (version, name, kind) VALUES (99, 'future', 'breaking')",
    ] {
        let refused = app.execute(sqlx::raw_sql(AssertSqlSafe(statement))).await.unwrap_err();
        let code = refused.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
        assert_eq!(code.as_deref(), Some("42501"), "{statement}: {refused}");
    }
    run(&mut app, "RESET ROLE").await;
    run(&mut admin, &format!("DROP OWNED BY {name}; DROP ROLE {name}")).await;
}
