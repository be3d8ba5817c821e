//! What a handler saves by its repositories: together, once, and as a part of the event's conversation.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use async_trait::async_trait;
use eventbus::{
    AggregateRepository, EventContext, InMemoryEventBus, InMemoryEventStore, Never, StartError, StreamId, UpdateError,
    Uuid, Version,
    app::StartMistake,
    event::Attributes,
    port::{Direction, EventStore, FeedFilter, ReadError, ReadFeed as _, ReadStream, RecordStream},
    prelude::*,
    testkit::delegate,
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::sync::{Notify, watch};

use crate::wait::until;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Loan)]
struct ReturnedLate {
    member: String,
    days: u64,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(type = "ReactionsLoan", events(ReturnedLate))]
struct Loan;

impl Apply for Loan {
    fn apply(&mut self, _event: &LoanEvent) {}
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Member)]
struct Fined {
    days: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Member)]
struct Warned {
    owes: u64,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize, Aggregate)]
#[aggregate(type = "ReactionsMember", events(Fined, Warned), snapshot(every = 3))]
struct Member {
    owes: u64,
    warnings: Vec<u64>,
}

impl Apply for Member {
    fn apply(&mut self, event: &MemberEvent) {
        match event {
            MemberEvent::Fined(event) => self.owes += event.days,
            MemberEvent::Warned(event) => self.warnings.push(event.owes),
        }
    }
}

/// Where a handler waits until the test goes on.
#[derive(Default)]
struct Gate {
    arrived: Notify,
    is_open: watch::Sender<bool>,
}

impl Gate {
    async fn pass(&self) {
        self.arrived.notify_one();
        self.is_open.subscribe().wait_for(|is_open| *is_open).await.unwrap();
    }

    fn open(&self) {
        self.is_open.send_replace(true);
    }
}

/// The plan of a test: how many runs of the handler fail, and where it waits.
#[derive(Clone, Default)]
struct Plan {
    runs: Arc<AtomicU32>,
    failures: u32,
    gate: Option<Arc<Gate>>,
    /// The tasks that runs of the handler left behind, and that were refused.
    refused: Arc<AtomicU32>,
}

/// Fines the member, then warns by what the fine has made of it, then counts at the library's desk.
#[handler]
async fn fine(event: &ReturnedLate, members: Repository<Member>, State(plan): State<Plan>) -> Result<(), HandlerError> {
    let run = plan.runs.fetch_add(1, Ordering::SeqCst);
    let (member, desk) = (event.member.parse()?, "desk".parse()?);
    let saved = members.upsert(&member, |_| Ok::<_, Never>(Fined { days: event.days })).await?;
    assert_eq!(saved.position, None, "it is not stored yet");
    members.update(&member, |member| Ok::<_, Never>(Warned { owes: member.owes })).await?;
    members.upsert(&desk, |_| Ok::<_, Never>(Fined { days: event.days })).await?;
    assert_eq!(members.version(&member).await?, members.load(&member).await?.version());
    if let Some(gate) = &plan.gate {
        gate.pass().await;
    }
    let (members, refused) = (members.clone(), Arc::clone(&plan.refused));
    tokio::spawn(async move {
        while members.upsert(&member, |_| Ok::<_, Never>(Warned { owes: 0 })).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        refused.fetch_add(1, Ordering::SeqCst);
    });
    if run < plan.failures { Err("on purpose".into()) } else { Ok(()) }
}

struct World {
    app: App,
    store: InMemoryEventStore,
    members: AggregateRepository<Member>,
    plan: Plan,
}

async fn world(plan: Plan) -> World {
    let store = InMemoryEventStore::new();
    let app = App::builder().store(store.clone()).state(plan.clone()).handler::<fine>().start().await.unwrap();
    World { members: AggregateRepository::new(store.clone()), app, store, plan }
}

impl World {
    async fn return_late(&self, member: &str, days: u64) -> RecordedEvent {
        let event = ReturnedLate { member: member.into(), days };
        let loans = self.app.repository::<Loan>();
        let mut saved = loans.upsert(&AggregateId::new(), |_| Ok::<_, Never>(event.clone())).await.unwrap();
        saved.events.remove(0)
    }

    async fn member(&self, id: &str) -> (u64, Vec<u64>) {
        let member = self.members.load(&id.parse().unwrap()).await.unwrap();
        (member.owes, member.warnings.clone())
    }

    async fn events(&self) -> Vec<RecordedEvent> {
        let head = self.store.head().await.unwrap();
        self.store.read_feed(Default::default(), head, &FeedFilter::all()).try_collect().await.unwrap()
    }
}

#[tokio::test]
async fn the_saves_of_a_run_are_stored_together_and_seen_by_it() {
    let world = world(Plan::default()).await;
    world.return_late("ada", 3).await;
    world.app.settled().await.unwrap();
    assert_eq!(world.member("ada").await, (3, vec![3]));
    assert_eq!(world.member("desk").await, (3, vec![]));
    world.return_late("ada", 4).await;
    world.app.settled().await.unwrap();
    assert_eq!(world.member("ada").await, (7, vec![3, 7]));
    assert_eq!(world.plan.runs.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_run_that_fails_stores_nothing() {
    let world = world(Plan { failures: 3, ..Plan::default() }).await;
    world.return_late("ada", 3).await;
    until("the handler has run often", async || world.plan.runs.load(Ordering::SeqCst) == 4).await;
    world.app.settled().await.unwrap();
    assert_eq!(world.events().await.len(), 4, "the cause, and the events of one run");
    assert_eq!(world.member("ada").await, (3, vec![3]));
}

#[tokio::test]
async fn what_another_writer_stored_meanwhile_is_decided_on_again() {
    let gate = Arc::new(Gate::default());
    let world = world(Plan { gate: Some(Arc::clone(&gate)), ..Plan::default() }).await;
    world.return_late("ada", 3).await;
    gate.arrived.notified().await;
    world.members.upsert(&"ada".parse().unwrap(), |_| Ok::<_, Never>(Fined { days: 10 })).await.unwrap();
    gate.open();
    world.app.settled().await.unwrap();
    assert_eq!(world.member("ada").await, (13, vec![13]), "the warning of the first run was never stored");
    assert_eq!(world.member("desk").await, (3, vec![]));
    assert_eq!(world.plan.runs.load(Ordering::SeqCst), 2);
    assert_eq!(world.app.bus().stats().handler_errors, 0, "a conflict is no failure of the handler");
}

#[tokio::test]
async fn a_delivery_takes_effect_once_however_often_it_comes() {
    let (store, bus) = (InMemoryEventStore::new(), InMemoryEventBus::new());
    let plan = Plan::default();
    let state = eventbus::handler::StateMap::new().with(plan.clone());
    bus.subscribe_handler::<fine>((&state, &store)).unwrap();
    let consuming = bus.start_consuming_in_background();
    let loans = AggregateRepository::<Loan>::new(store.clone());
    let late = |member: &str| ReturnedLate { member: member.into(), days: 3 };
    let ada = loans.upsert(&AggregateId::new(), |_| Ok::<_, Never>(late("ada"))).await.unwrap().events;
    let bob = loans.upsert(&AggregateId::new(), |_| Ok::<_, Never>(late("bob"))).await.unwrap().events;
    use eventbus::port::EventBus as _;
    for events in [&ada, &ada, &bob, &ada] {
        bus.publish(events).await.unwrap();
    }
    let members = AggregateRepository::<Member>::new(store.clone());
    let owes = async |id: &str| members.find(&id.parse().unwrap()).await.unwrap().map(|member| member.owes);
    until("bob is fined", async || owes("bob").await == Some(3)).await;
    until("all are handled", async || bus.stats().events_processed_success == 4).await;
    assert_eq!(owes("ada").await, Some(3));
    assert_eq!(plan.runs.load(Ordering::SeqCst), 2, "a handled delivery does not run");
    bus.stop_consuming().await;
    consuming.await.unwrap().unwrap();
}

#[tokio::test]
async fn saves_continue_the_conversation_of_the_event() {
    let world = world(Plan::default()).await;
    let tenant = Uuid::from_u128(7);
    let context = EventContext::default()
        .with_correlation(Uuid::from_u128(8))
        .with_causation(Uuid::from_u128(9))
        .with_actor("clerk")
        .with_attributes(Attributes::parse(r#"{"channel":"web"}"#).unwrap())
        .with_trace("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Some("vendor=1"));
    let loans = world.app.repository::<Loan>().for_tenant(tenant).with_context(context);
    let late = ReturnedLate { member: "ada".into(), days: 3 };
    let cause = loans.upsert(&AggregateId::new(), |_| Ok::<_, Never>(late.clone())).await.unwrap().events.remove(0);
    world.app.settled().await.unwrap();
    let effects: Vec<_> = world.events().await.into_iter().skip(1).collect();
    assert_eq!(effects.len(), 3);
    for effect in effects {
        let event = effect.metadata();
        assert_eq!((event.correlation_id(), event.actor_id()), (Uuid::from_u128(8), Some("clerk")));
        assert_eq!(event.causation_id(), Some(cause.metadata().event_id().as_uuid()));
        assert_eq!(event.tenant_id(), Some(tenant));
        let attributes =
            r#"{"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","tracestate":"vendor=1"}"#;
        assert_eq!(event.attributes().as_json(), attributes, "the trace, and nothing else of the cause");
    }
    assert!(world.members.find(&"ada".parse().unwrap()).await.unwrap().is_none(), "of no tenant");
}

#[tokio::test]
async fn a_task_that_outlives_its_handler_is_refused() {
    let world = world(Plan { failures: 2, ..Plan::default() }).await;
    world.return_late("ada", 3).await;
    let refused = || world.plan.refused.load(Ordering::SeqCst);
    until("the tasks of two runs that failed and of one that did not are refused", async || refused() == 3).await;
    world.app.settled().await.unwrap();
    let (owes, warnings) = world.member("ada").await;
    assert_eq!((owes, warnings.first()), (3, Some(&3)));
}

#[tokio::test]
async fn snapshots_are_of_what_is_stored() {
    let gate = Arc::new(Gate::default());
    let world = world(Plan { failures: 1, gate: Some(Arc::clone(&gate)), ..Plan::default() }).await;
    let snapshots = world.store.snapshots().unwrap();
    let fold = eventbus::Name::new("fold", concat!(module_path!(), "::Member")).unwrap();
    let stream = StreamId::parse("ReactionsMember", "ada").unwrap();
    let version = async || {
        let read = snapshots.read_from_snapshot(&stream, &fold).await.unwrap();
        read.snapshot.map(|snapshot| snapshot.version.get())
    };
    world.members.upsert(&"ada".parse().unwrap(), |_| Ok::<_, Never>(Fined { days: 1 })).await.unwrap();
    world.return_late("ada", 3).await;
    gate.arrived.notified().await;
    assert_eq!(version().await, None, "the third event may never be stored");
    gate.open();
    world.app.settled().await.unwrap();
    until("the snapshot is taken", async || version().await == Some(3)).await;
    assert_eq!(world.member("ada").await, (4, vec![4]));
}

/// Fines only members without an earlier event.
#[handler(manual, retries = 0)]
async fn fine_newcomer(
    event: &ReturnedLate,
    members: Repository<Member>,
    State(plan): State<Plan>,
) -> eventbus::Result<()> {
    plan.runs.fetch_add(1, Ordering::SeqCst);
    let fined = members.create(&event.member.parse()?, |_| Ok::<_, Never>(Fined { days: event.days })).await;
    if !fined.as_ref().is_err_and(UpdateError::is_conflict) {
        fined?;
    }
    Ok(())
}

#[tokio::test]
async fn a_handler_that_creates_an_aggregate_learns_at_once_that_it_exists() {
    let (store, plan) = (InMemoryEventStore::new(), Plan::default());
    let app = App::builder().store(store.clone()).state(plan.clone()).handler::<fine_newcomer>();
    let app = app.start().await.unwrap();
    let world = World { members: AggregateRepository::new(store.clone()), app, store, plan };
    for days in [3, 4] {
        world.return_late("ada", days).await;
        world.app.settled().await.unwrap();
    }
    assert_eq!(world.member("ada").await, (3, vec![]));
    let errors = world.app.bus().stats().handler_errors;
    assert_eq!((world.plan.runs.load(Ordering::SeqCst), errors), (2, 0), "it runs once for each event");
}

/// Fines only members that do not exist, and checks that before it creates them.
#[handler(manual, retries = 0)]
async fn fine_if_absent(
    event: &ReturnedLate,
    members: Repository<Member>,
    State(plan): State<Plan>,
) -> eventbus::Result<()> {
    plan.runs.fetch_add(1, Ordering::SeqCst);
    let member: AggregateId = event.member.parse()?;
    if members.exists(&member).await? {
        return Ok(());
    }
    if let Some(gate) = &plan.gate {
        gate.pass().await;
    }
    members.create(&member, |_| Ok::<_, Never>(Fined { days: event.days })).await?;
    Ok(())
}

#[tokio::test]
async fn a_handler_that_returns_the_conflict_of_a_create_runs_again() {
    let gate = Arc::new(Gate::default());
    let (store, plan) = (InMemoryEventStore::new(), Plan { gate: Some(Arc::clone(&gate)), ..Plan::default() });
    let app = App::builder().store(store.clone()).state(plan.clone()).handler::<fine_if_absent>();
    let app = app.start().await.unwrap();
    let world = World { members: AggregateRepository::new(store.clone()), app, store, plan };
    world.return_late("ada", 3).await;
    gate.arrived.notified().await;
    world.members.upsert(&"ada".parse().unwrap(), |_| Ok::<_, Never>(Fined { days: 10 })).await.unwrap();
    gate.open();
    world.app.settled().await.unwrap();
    assert_eq!(world.member("ada").await, (10, vec![]));
    let errors = world.app.bus().stats().handler_errors;
    assert_eq!((world.plan.runs.load(Ordering::SeqCst), errors), (2, 0), "a conflict is no failure of the handler");
}

/// Fines only members that do not exist; that one exists is final.
#[handler(manual)]
async fn fine_or_give_up(
    event: &ReturnedLate,
    members: Repository<Member>,
    State(plan): State<Plan>,
) -> Result<(), HandlerError> {
    plan.runs.fetch_add(1, Ordering::SeqCst);
    let member: AggregateId = event.member.parse()?;
    let fined = members.create(&member, |_| Ok::<_, Never>(Fined { days: event.days })).await;
    fined.map(drop).map_err(HandlerError::permanent)
}

#[tokio::test]
async fn a_conflict_that_a_handler_returns_as_permanent_is_final() {
    let (store, plan) = (InMemoryEventStore::new(), Plan::default());
    let members = AggregateRepository::<Member>::new(store.clone());
    members.upsert(&"ada".parse().unwrap(), |_| Ok::<_, Never>(Fined { days: 10 })).await.unwrap();
    let app = App::builder().store(store.clone()).state(plan.clone()).handler::<fine_or_give_up>();
    let world = World { members, app: app.start().await.unwrap(), store, plan };
    world.return_late("ada", 3).await;
    world.app.settled().await.unwrap_err();
    assert_eq!(world.plan.runs.load(Ordering::SeqCst), 1);
    assert_eq!(world.member("ada").await, (10, vec![]));
}

/// Fines the member twice, and loads it between.
#[handler(manual, retries = 0)]
async fn fine_twice(event: &ReturnedLate, members: Repository<Member>) -> eventbus::Result<()> {
    let member = event.member.parse()?;
    for _ in 0..2 {
        members.update(&member, |_| Ok::<_, Never>(Fined { days: event.days })).await?;
    }
    Ok(())
}

/// A store whose members lack their first events, as they are archived.
#[derive(Debug, Clone)]
struct ArchivedStore(InMemoryEventStore);

delegate!(ArchivedStore, self => self.0; AppendEvents, ReadFeed, Checkpoints, Leases, EventStore);

#[async_trait]
impl ReadStream for ArchivedStore {
    fn read_stream(&self, stream: &StreamId, from: Version, direction: Direction) -> RecordStream<'_> {
        if stream.aggregate_type() == "ReactionsMember" && from == Version::FIRST {
            let missing = ReadError::corrupt("the first event of a member", "it is archived");
            return futures_util::stream::once(std::future::ready(Err(missing))).boxed();
        }
        self.0.read_stream(stream, from, direction)
    }

    async fn stream_version(&self, stream: &StreamId) -> Result<Version, ReadError> {
        self.0.stream_version(stream).await
    }
}

#[tokio::test]
async fn after_a_save_too_a_handler_reads_from_the_snapshot() {
    let store = InMemoryEventStore::new();
    let members = AggregateRepository::<Member>::new(store.clone());
    members.upsert(&"ada".parse().unwrap(), |_| Ok::<_, Never>([1, 1].map(|days| Fined { days }))).await.unwrap();
    members.snapshot(&"ada".parse().unwrap()).await.unwrap();
    let app = App::builder().store(ArchivedStore(store.clone())).handler::<fine_twice>().start().await.unwrap();
    let world = World { members, app, store, plan: Plan::default() };
    world.return_late("ada", 3).await;
    world.app.settled().await.unwrap();
    assert_eq!(world.member("ada").await, (8, vec![]));
    assert_eq!(world.app.bus().stats().handler_errors, 0);
}

#[derive(Debug, Default)]
struct Fines;

#[projection(name = "fines", manual)]
impl Fines {
    async fn late(&self, _event: &ReturnedLate, _members: Repository<Member>) {}
}

fn mistakes(result: Result<App, StartError>) -> Vec<String> {
    result.unwrap_err().mistakes().iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn an_app_that_cannot_save_is_refused_at_start() {
    let bus = InMemoryEventBus::new();
    let consuming = App::builder().bus(bus).state(Plan::default()).handler::<fine>().start().await;
    let [mistake] = &mistakes(consuming)[..] else { panic!("not one") };
    assert!(mistake.contains("takes `Repository<Member>`") && mistake.contains("only consumes"), "{mistake}");
    let projection = App::builder().projection(Fines).start().await.unwrap_err();
    let found = projection.mistakes().iter().any(|mistake| matches!(mistake, StartMistake::ProjectionSaves { .. }));
    assert!(found, "{projection}");
}
