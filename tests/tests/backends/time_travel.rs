//! Aggregates as they were at a time, and their history, on every store.

use eventbus::{
    AggregateRepository, EventContext, InMemoryEventStore, LoadError, Never, NewEvent, StreamId, port::EventStore,
    prelude::*, repository::HistoryError,
};
use time::{Duration, OffsetDateTime};
use workspace_tests::stores;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Deposited {
    cents: u64,
}

#[derive(Debug, Default, Serialize, Aggregate)]
#[aggregate(events(Deposited), retired("AccountViewed"))]
struct Account {
    balance: u64,
    deposits: Vec<u64>,
}

impl Apply for Account {
    fn apply(&mut self, AccountEvent::Deposited(event): &AccountEvent) {
        self.balance += event.cents;
        self.deposits.push(event.cents);
    }
}

/// Saves events, and loads the aggregate as of a thousand random times.
async fn states_are_those_of_their_times(store: impl EventStore) {
    const EVENTS: u64 = 100;
    let accounts = AggregateRepository::<Account>::new(store);
    let id = AggregateId::new();
    let start = OffsetDateTime::now_utc();
    // when the save of each event began, and when it was acknowledged
    let (mut begun, mut acknowledged) = (Vec::new(), Vec::new());
    for cents in 1..=EVENTS {
        begun.push(OffsetDateTime::now_utc());
        accounts.upsert(&id, |_| Ok::<_, Never>(Deposited { cents })).await.unwrap();
        acknowledged.push(OffsetDateTime::now_utc());
    }
    let end = OffsetDateTime::now_utc();
    let history = accounts.history(&id).await.unwrap();
    let recorded: Vec<_> = history.iter().map(|step| step.metadata.recorded_at().unwrap()).collect();
    let mut random = fastrand::Rng::with_seed(1);
    let micros = i64::try_from((end - start).whole_microseconds()).unwrap();
    for _ in 0..1_000 {
        let time = start + Duration::microseconds(random.i64(-1_000..micros + 1_000));
        let loaded = match accounts.load_as_of(&id, time).await {
            Ok(root) => root.version().get(),
            Err(error) if error.is_not_found() => 0,
            Err(error) => panic!("{error}"),
        };
        let count = |times: &[OffsetDateTime]| times.iter().filter(|at| **at <= time).count() as u64;
        assert_eq!(loaded, count(&recorded), "as of {time}");
        assert!(count(&acknowledged) <= loaded && loaded <= count(&begun), "{loaded} events as of {time}");
    }
    let last = accounts.load_as_of(&id, *recorded.last().unwrap()).await.unwrap();
    assert_eq!(
        (last.balance, last.version().get()),
        (EVENTS * (EVENTS + 1) / 2, EVENTS),
        "the time itself is included"
    );
}

/// The history names each change of the state, and passes retired events by.
async fn a_history_says_what_each_event_changed(store: impl EventStore + Clone) {
    let accounts = AggregateRepository::<Account>::new(store.clone());
    let id: AggregateId = "ada".parse().unwrap();
    let by_eve = accounts.with_context(EventContext::default().with_actor("eve"));
    by_eve.upsert(&id, |_| Ok::<_, Never>(Deposited { cents: 120 })).await.unwrap();
    let viewed = NewEvent::new(eventbus::Name::from_static("AccountViewed"), 1, "{}");
    let stream = StreamId::parse("Account", "ada").unwrap();
    store.append(&stream, eventbus::ExpectedVersion::Any, vec![viewed]).await.unwrap();
    accounts.update(&id, |_| Ok::<_, Never>(Deposited { cents: 30 })).await.unwrap();
    let history = accounts.history(&id).await.unwrap();
    let shown: Vec<_> = history
        .iter()
        .map(|step| {
            let changes: Vec<_> = step.changes.iter().map(ToString::to_string).collect();
            (step.metadata.version().get(), step.metadata.actor_id(), step.event.is_some(), changes)
        })
        .collect();
    let changes = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        shown,
        [
            (1, Some("eve"), true, changes(&["balance: 0 → 120", "deposits[0]: added 120"])),
            (2, None, false, changes(&[])),
            (3, None, true, changes(&["balance: 120 → 150", "deposits[1]: added 30"])),
        ]
    );
    let missing = accounts.history(&AggregateId::new()).await.unwrap_err();
    assert!(matches!(missing, HistoryError::Load(LoadError::NotFound { .. })), "{missing}");
}

async fn check(store: impl EventStore + Clone) {
    states_are_those_of_their_times(store.clone()).await;
    a_history_says_what_each_event_changed(store).await;
}

#[tokio::test]
async fn in_memory() {
    check(InMemoryEventStore::new()).await;
}

#[tokio::test]
async fn on_sqlite() {
    let folder = stores::folder("times");
    check(stores::sqlite(&folder).await).await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn on_postgres() {
    check(stores::postgres(&eventbus_test::unique_name("times")).await).await;
}

#[tokio::test]
async fn on_redis() {
    check(stores::redis(&eventbus_test::unique_name("times")).await).await;
}
