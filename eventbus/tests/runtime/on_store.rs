//! Handlers that read the store: shared by apps, paused, replayed, and taken over.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use eventbus::{
    EventId, ExpectedVersion, InMemoryEventStore, Name, Never, NewEvent, Position, StreamId,
    event::{EncodeError, FieldError, Fields},
    handler::{Handler, HandlerDefinition, HandlerStart},
    health::HealthThresholds,
    port::{
        Append, AppendEvents as _, DeadLetterFilter, EventBus as _, HandlerProgress,
        handler_progress::{DeclaredHandler, Member, MemberGuard, MemberHandler, ShardId},
    },
    prelude::*,
    testkit::{ManualClock, TestApp, delegate},
};
use tokio::sync::Semaphore;

use crate::{
    gated::GatedStore,
    orders::{Order, OrderCreated, created},
    wait::until,
};

/// The customers whose orders were handled, and by which app.
#[derive(Clone, Default)]
struct Handled {
    by: &'static str,
    log: Arc<Mutex<Vec<(&'static str, String)>>>,
    refuses: Arc<AtomicBool>,
}

impl Handled {
    fn by(&self, by: &'static str) -> Self {
        Self { by, ..self.clone() }
    }

    fn take(&self) -> Vec<(&'static str, String)> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }
}

#[handler(manual, group = "mail")]
async fn greet(event: &OrderCreated, State(handled): State<Handled>) -> Result<(), HandlerError> {
    if handled.refuses.load(Ordering::SeqCst) {
        return Err(HandlerError::permanent("no such customer"));
    }
    handled.log.lock().unwrap().push((handled.by, event.customer_id.clone()));
    Ok(())
}

async fn app(store: &InMemoryEventStore, handled: Handled) -> App {
    let builder = App::builder().store(store.clone()).state(handled);
    builder.handler::<greet>().start().await.unwrap()
}

async fn save(app: &App, customer: &str) {
    let order = AggregateId::new();
    app.repository::<Order>().upsert(&order, |_| Ok::<_, Never>(created(customer, 1.0))).await.unwrap();
}

#[tokio::test]
async fn two_apps_on_one_store_handle_each_event_once_and_one_goes_on_for_the_other() {
    let (store, handled) = (InMemoryEventStore::new(), Handled::default());
    let one = app(&store, handled.by("one")).await;
    until("it owns the handler", async || {
        store.list_handlers().await.unwrap().iter().any(|listed| listed.shards[0].owner.is_some())
    })
    .await;
    let other = app(&store, handled.by("other")).await;
    save(&other, "ada").await;
    other.settled().await.unwrap();
    assert_eq!(handled.take(), [("one", "ada".to_owned())], "the first app has the only shard");
    one.shutdown(Duration::from_secs(60)).await.unwrap();
    save(&one, "bob").await;
    other.settled().await.unwrap();
    assert_eq!(handled.take(), [("other", "bob".to_owned())]);
    other.shutdown(Duration::from_secs(60)).await.unwrap();
    let again = app(&store, handled.by("again")).await;
    again.settled().await.unwrap();
    assert_eq!(handled.take(), [], "what was handled is handled for good");
}

/// Less than the second between two heartbeats.
const AT_ONCE: Duration = Duration::from_millis(200);

#[tokio::test(start_paused = true)]
async fn a_standby_takes_over_at_once_when_the_owner_ends() {
    let (store, handled) = (InMemoryEventStore::new(), Handled::default());
    let owner = app(&store, handled.by("owner")).await;
    save(&owner, "ada").await;
    owner.settled().await.unwrap();
    let standby = app(&store, handled.by("standby")).await;
    let is_owned = async || store.list_handlers().await.unwrap()[0].shards[0].owner.is_some();
    // the next heartbeat of the standby is far
    tokio::time::sleep(Duration::from_millis(1_250)).await;
    owner.shutdown(Duration::from_secs(60)).await.unwrap();
    let ended = tokio::time::Instant::now();
    while !is_owned().await {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(ended.elapsed() < AT_ONCE, "the standby owns the handler after {:?}", ended.elapsed());
    standby.shutdown(Duration::from_secs(60)).await.unwrap();
}

/// Health and metrics show the pause, which is no alert.
async fn assert_pause(app: &App, is_paused: bool) {
    let (health, metrics) = (app.health().await, app.metrics().await);
    assert_eq!(health.paused.contains("mail"), is_paused, "{health:?}");
    assert_eq!(health.alerts(&HealthThresholds::default()), [""; 0]);
    let flag = metrics.number("eventbus_group_paused", &[("group", "mail")]);
    assert_eq!(flag, Some(f64::from(u8::from(is_paused))));
}

#[tokio::test]
async fn a_paused_group_begins_nothing_until_it_is_resumed() {
    let (store, handled) = (InMemoryEventStore::new(), Handled::default());
    let mail = Name::from_static("mail");
    store.set_paused(&mail, true).await.unwrap();
    let app = app(&store, handled.by("app")).await;
    save(&app, "ada").await;
    until("it owns the handler", async || {
        store.list_handlers().await.unwrap().iter().any(|listed| listed.shards[0].owner.is_some())
    })
    .await;
    assert_eq!(handled.take(), []);
    assert_pause(&app, true).await;
    assert!(app.resume_group(&mail).await.unwrap());
    app.settled().await.unwrap();
    assert_eq!(handled.take(), [("app", "ada".to_owned())]);
    assert_pause(&app, false).await;
    assert!(!app.pause_group(&Name::from_static("post")).await.unwrap(), "an unknown group");
    assert!(app.pause_group(&mail).await.unwrap());
    until("the pause is known", async || app.health().await.paused.contains("mail")).await;
    save(&app, "bob").await;
    app.shutdown(Duration::from_secs(60)).await.unwrap();
    assert_eq!(handled.take(), []);
}

#[tokio::test]
async fn a_running_app_takes_a_dead_letter_that_is_replayed() {
    let (store, handled) = (InMemoryEventStore::new(), Handled::default());
    let app = app(&store, handled.by("app")).await;
    handled.refuses.store(true, Ordering::SeqCst);
    save(&app, "ada").await;
    app.settled().await.unwrap_err();
    let dead_letters = app.bus().dead_letters().unwrap();
    let found = dead_letters.list_dead_letters(&DeadLetterFilter::default(), None, 10).await.unwrap().letters;
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!((found[0].handler.as_deref(), found[0].group.as_deref()), (Some("greet"), Some("mail")));
    handled.refuses.store(false, Ordering::SeqCst);
    assert!(dead_letters.replay(&found[0].id).await.unwrap());
    until("it is handled", async || !handled.log.lock().unwrap().is_empty()).await;
    app.settled().await.unwrap();
    assert_eq!(store.count_dead_rows(10).await.unwrap(), 0);
    assert_eq!(store.list_handlers().await.unwrap()[0].waiting_rows, 0);
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

/// Handlers whose progress has options of their own.
mod options {
    use super::*;

    #[handler(manual, when_dead = "hold")]
    pub(super) async fn greet_in_order(
        event: &OrderCreated,
        State(handled): State<Handled>,
    ) -> Result<(), HandlerError> {
        greet(event, State(handled)).await
    }

    #[handler(manual, shards = 4)]
    pub(super) async fn greet_in_shards(event: &OrderCreated, State(handled): State<Handled>) {
        if handled.by == "one" && handled.refuses.load(Ordering::SeqCst) {
            std::future::pending().await
        }
        handled.log.lock().unwrap().push((handled.by, event.customer_id.clone()));
    }

    #[handler(manual, max_waiting = 10)]
    pub(super) async fn greet_later(event: &OrderCreated, State(handled): State<Handled>) -> Result<(), HandlerError> {
        if handled.refuses.load(Ordering::SeqCst) && event.customer_id == "ada" {
            return Err(HandlerError::retry_after(Duration::from_millis(20), "not yet"));
        }
        handled.log.lock().unwrap().push((handled.by, event.customer_id.clone()));
        Ok(())
    }
}

async fn save_to(app: &App, order: &AggregateId, customer: &str) {
    app.repository::<Order>().upsert(order, |_| Ok::<_, Never>(created(customer, 1.0))).await.unwrap();
}

#[tokio::test]
async fn a_held_dead_letter_keeps_later_events_of_its_aggregate_until_it_is_replayed() {
    let (store, handled) = (InMemoryEventStore::new(), Handled::default());
    let builder = App::builder().store(store.clone()).state(handled.by("app"));
    let app = builder.handler::<options::greet_in_order>().start().await.unwrap();
    let order = AggregateId::new();
    handled.refuses.store(true, Ordering::SeqCst);
    save_to(&app, &order, "ada").await;
    until("it is held", async || store.dead_rows(None, 10).await.unwrap().iter().any(|row| row.is_held)).await;
    handled.refuses.store(false, Ordering::SeqCst);
    save_to(&app, &order, "bob").await;
    save(&app, "eve").await;
    until("another aggregate goes on", async || !handled.log.lock().unwrap().is_empty()).await;
    assert_eq!(handled.take(), [("app", "eve".to_owned())]);
    let held = store.dead_rows(None, 10).await.unwrap().remove(0);
    assert!(store.replay_dead(&held.handler, held.position).await.unwrap());
    app.settled().await.unwrap_err(); // names the delivery that was given up
    app.settled().await.unwrap();
    assert_eq!(handled.take(), [("app", "ada".to_owned()), ("app", "bob".to_owned())]);
    assert_eq!(store.count_dead_rows(10).await.unwrap(), 0);
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test]
async fn two_apps_share_the_shards_of_a_handler() {
    let (store, handled) = (InMemoryEventStore::new(), Handled::default());
    let start = async |by| {
        let builder = App::builder().store(store.clone()).state(handled.by(by));
        builder.handler::<options::greet_in_shards>().start().await.unwrap()
    };
    let (one, other) = (start("one").await, start("other").await);
    until("each owns two of the four shards", async || {
        let listed = store.list_handlers().await.unwrap().remove(0);
        let mut owners: Vec<_> = listed.shards.iter().filter_map(|shard| shard.owner.clone()).collect();
        owners.sort_unstable();
        owners.len() == 4 && owners[0] == owners[1] && owners[2] == owners[3] && owners[1] != owners[2]
    })
    .await;
    let customers: Vec<_> = (10..50).map(|number| format!("customer {number}")).collect();
    for customer in &customers {
        save(&one, customer).await;
    }
    one.settled().await.unwrap();
    other.settled().await.unwrap();
    let (apps, mut greeted): (Vec<_>, Vec<_>) = handled.take().into_iter().unzip();
    greeted.sort_unstable();
    assert_eq!(greeted, customers, "each once");
    assert!(apps.contains(&"one") && apps.contains(&"other"), "{apps:?}");

    // the other app has read past the events of shards that it takes over
    handled.refuses.store(true, Ordering::SeqCst);
    for customer in &customers {
        save(&other, customer).await;
    }
    let is_over = |handled: &Handled| handled.log.lock().unwrap().len() >= customers.len() / 4;
    until("the other app has handled its share", async || is_over(&handled)).await;
    one.shutdown(Duration::ZERO).await.unwrap_err();
    other.settled().await.unwrap();
    let mut greeted: Vec<_> = handled.take().into_iter().map(|(_, customer)| customer).collect();
    greeted.sort_unstable();
    assert_eq!(greeted, customers, "each once");
    other.shutdown(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test]
async fn a_handler_with_too_many_waiting_events_reads_no_more_and_is_an_alert() {
    let (store, handled) = (InMemoryEventStore::new(), Handled::default());
    let builder = App::builder().store(store.clone()).state(handled.by("app"));
    let app = builder.handler::<options::greet_later>().start().await.unwrap();
    let order = AggregateId::new();
    handled.refuses.store(true, Ordering::SeqCst);
    for _ in 0..1_000 {
        save_to(&app, &order, "ada").await;
    }
    until("it is an alert", async || {
        let alerts = app.health().await.alerts(&HealthThresholds::default());
        alerts.iter().any(|alert| alert.contains("greet_later"))
    })
    .await;
    save(&app, "bob").await;
    let read = app.bus().in_flight()[&Name::from_static("greet_later")].entries;
    assert!(read < 1_000, "it reads on: {read}");
    assert_eq!(handled.take(), []);
    handled.refuses.store(false, Ordering::SeqCst);
    app.settled().await.unwrap();
    assert_eq!(handled.take().len(), 1_001);
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test]
async fn a_shard_that_an_app_acquires_while_it_stops_is_released_without_a_run() {
    let (store, handled) = (InMemoryEventStore::new(), Handled::default());
    handled.refuses.store(true, Ordering::SeqCst);
    let first = app(&store, handled.by("first")).await;
    save(&first, "ada").await;
    first.settled().await.unwrap_err();
    first.shutdown(Duration::from_secs(60)).await.unwrap();
    let greet = Name::from_static("greet");
    assert!(store.replay_dead(&greet, Position::new(1)).await.unwrap());
    handled.refuses.store(false, Ordering::SeqCst);

    // the next owner reads the replayed event, which waits for a permit
    let gated = GatedStore::over(store.clone());
    let permits = gated.events.forget_permits(usize::MAX);
    let builder = App::builder().store(gated.clone()).state(handled.by("second"));
    let second = builder.handler::<self::greet>().start().await.unwrap();
    until("it has acquired the shard", async || store.list_handlers().await.unwrap()[0].shards[0].owner.is_some())
        .await;
    let mut stopping = std::pin::pin!(second.shutdown(Duration::from_secs(60)));
    assert!(futures_util::poll!(&mut stopping).is_pending());
    // all tasks have seen the stop
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    gated.events.add_permits(permits);
    stopping.await.unwrap();

    let next = Member { name: Name::from_static("next"), handlers: BTreeMap::new() };
    let _guard = store.join(&next).await.unwrap();
    let shard = ShardId { handler: greet, number: 0 };
    let acquired = store.acquire_shards(&next.name, &[shard], Duration::from_secs(60)).await.unwrap();
    assert!(!acquired[0].has_crashed, "the app has released the shard: {acquired:?}");
    assert_eq!(handled.take(), []);
}

/// Two releases of a service: the second one changes an event.
mod releases {
    use super::*;

    pub(super) type Prices = Arc<Mutex<Vec<u64>>>;

    pub(super) mod first {
        use super::*;

        #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
        #[event(aggregate_type = "Offer")]
        pub(crate) struct Priced {
            pub(crate) euros: u64,
        }

        #[handler(manual)]
        pub(crate) async fn note_price(event: &Priced, State(prices): State<Prices>) {
            prices.lock().unwrap().push(event.euros * 100);
        }
    }

    pub(super) mod second {
        use super::*;

        #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
        #[event(aggregate_type = "Offer", version = 2, upcast(from_euros))]
        pub(crate) struct Priced {
            pub(crate) cents: u64,
        }

        fn from_euros(fields: &mut Fields) -> Result<(), FieldError> {
            let euros: u64 = fields.take("euros")?;
            fields.insert("cents", euros * 100)
        }

        #[handler(manual)]
        pub(crate) async fn note_price(event: &Priced, State(prices): State<Prices>) {
            prices.lock().unwrap().push(event.cents);
        }
    }
}

#[tokio::test]
async fn an_event_that_cannot_be_decoded_here_waits_for_a_release_of_its_version() {
    let (store, prices, clock) = (InMemoryEventStore::new(), releases::Prices::default(), ManualClock::new());
    let append = async |offer: &str, event: Result<NewEvent, EncodeError>| {
        let stream = StreamId::parse("Offer", offer).unwrap();
        store.append(&stream, ExpectedVersion::Any, vec![event.unwrap()]).await.unwrap();
    };
    append("newer", NewEvent::from_event(&releases::second::Priced { cents: 150 })).await;
    append("newer", NewEvent::from_event(&releases::first::Priced { euros: 3 })).await;
    append("other", NewEvent::from_event(&releases::first::Priced { euros: 2 })).await;

    let builder = || App::builder().store(store.clone()).clock(clock.clone()).state(prices.clone());
    let older = builder().handler::<releases::first::note_price>().start().await.unwrap();
    until("the other offer is handled", async || *prices.lock().unwrap() == [200]).await;
    older.settled().await.unwrap();
    let alerts = async || older.health().await.alerts(&HealthThresholds::default());
    clock.advance(Duration::from_secs(300));
    assert_eq!(alerts().await, [""; 0]);
    clock.advance(Duration::from_secs(1));
    let alert = alerts().await.concat();
    assert!(alert.contains("`note_price`"), "{alert}");
    older.shutdown(Duration::from_secs(10)).await.unwrap();
    let shard = ShardId { handler: Name::from_static("note_price"), number: 0 };
    let rows = store.live_rows(&[shard]).await.unwrap().into_values().flatten();
    let attempts: Vec<_> = rows.map(|row| (row.attempts.attempts, row.attempts.most_attempts())).collect();
    assert_eq!(attempts, [(0, 0)], "no attempt counts");
    assert_eq!(store.count_dead_rows(10).await.unwrap(), 0);

    let current = builder().handler::<releases::second::note_price>().start().await.unwrap();
    until("the newer event is handled, and the one behind it", async || *prices.lock().unwrap() == [200, 150, 300])
        .await;
    current.settled().await.unwrap();
    current.shutdown(Duration::from_secs(10)).await.unwrap();
}

/// [`greet`] as the crate `mail` defines it.
struct GreetOfMail;

impl Handler for GreetOfMail {
    fn definition() -> HandlerDefinition {
        let mut definition = greet::definition();
        definition.source.module = "mail::greet";
        definition
    }
}

#[tokio::test]
async fn two_processes_whose_handlers_of_one_name_are_of_different_crates_both_say_so() {
    let (store, handled) = (InMemoryEventStore::new(), Handled::default());
    let own = app(&store, handled.by("own")).await;
    let builder = App::builder().store(store.clone()).state(handled.by("mail"));
    let mail = builder.handler::<GreetOfMail>().start().await.unwrap();
    let says = async |app: &App, here: &str, there: &str| {
        let problem = format!("handler `greet` is of crate `{here}` here and of `{there}` in another process");
        let health = app.health().await;
        health.alerts(&HealthThresholds::default()).iter().any(|alert| alert.contains(&problem))
    };
    until("both say so", async || says(&own, "runtime", "mail").await && says(&mail, "mail", "runtime").await).await;
    mail.shutdown(Duration::from_secs(60)).await.unwrap();
    until("one is alone", async || !says(&own, "runtime", "mail").await).await;
    own.shutdown(Duration::from_secs(60)).await.unwrap();
}

async fn append_orders(store: &InMemoryEventStore, count: usize) {
    let append = |number| Append {
        stream: StreamId::parse("Order", &format!("o{number}")).unwrap(),
        expected: ExpectedVersion::NoStream,
        events: vec![NewEvent::from_event(&created("ada", 1.0)).unwrap()],
    };
    for result in store.append_many((0..count).map(append).collect()).await {
        result.unwrap();
    }
}

#[handler(manual)]
async fn never_end(_event: &OrderCreated) {
    std::future::pending().await
}

#[tokio::test]
async fn a_handler_that_does_not_end_holds_up_no_other() {
    const EVENTS: usize = 10_000;
    let (store, handled) = (InMemoryEventStore::new(), Handled::default());
    let builder = App::builder().store(store.clone()).state(handled.clone()).handler::<greet>();
    let app = builder.handler::<never_end>().start().await.unwrap();
    append_orders(&store, EVENTS).await;
    until("the other one has handled all", async || handled.log.lock().unwrap().len() == EVENTS).await;
    app.shutdown(Duration::ZERO).await.unwrap_err();
}

#[handler(manual)]
async fn greet_when_let(event: &OrderCreated, State(handled): State<Handled>, State(let_run): State<Arc<Semaphore>>) {
    handled.log.lock().unwrap().push((handled.by, event.customer_id.clone()));
    let_run.acquire().await.unwrap().forget();
}

#[tokio::test]
async fn a_pause_lets_the_running_handler_end_and_outlasts_a_restart() {
    let (handled, let_run) = (Handled::default(), Arc::new(Semaphore::new(0)));
    let (group, states) = (Name::from_static("greet_when_let"), (handled.clone(), Arc::clone(&let_run)));
    let builder = move || {
        let builder = App::builder().state(states.0.clone()).state(Arc::clone(&states.1));
        builder.handler::<greet_when_let>().wait_timeout(Duration::from_millis(50))
    };
    let mut app = TestApp::start(builder).await;
    app.save("1", created("ada", 1.0)).await;
    app.save("2", created("bob", 1.0)).await;
    until("one runs", async || !handled.log.lock().unwrap().is_empty()).await;
    assert!(app.pause_group(&group).await.unwrap());
    until("the pause is known", async || app.health().await.paused.contains("greet_when_let")).await;
    let_run.add_permits(2);
    let assert_paused = async |app: &TestApp| {
        app.settle().await;
        assert_eq!(app.handled::<greet_when_let>(), 1);
        let error = app.settled().await.unwrap_err().to_string();
        assert!(error.contains("group `greet_when_let` (") && error.contains("paused)"), "{error}");
    };
    assert_paused(&app).await;
    app.restart().await;
    assert_paused(&app).await;
    assert!(app.resume_group(&group).await.unwrap());
    app.settle().await;
    assert_eq!(app.handled::<greet_when_let>(), 2);
}

/// Gives the only shards of these handlers to a process that dies when the result is dropped.
async fn owned_elsewhere(store: &InMemoryEventStore, handlers: &[&'static str]) -> MemberGuard {
    let declared = handlers.iter().map(|handler| DeclaredHandler {
        name: Name::from_static(handler),
        group: Name::from_static(handler),
        types: vec![Name::from_static("OrderCreated")],
        shards: 1,
        start: HandlerStart::Oldest,
    });
    let declared: Vec<_> = declared.collect();
    store.declare_handlers(&declared, Position::START).await.unwrap();
    let owner = Member { name: Name::new("name", EventId::new().to_string()).unwrap(), handlers: BTreeMap::new() };
    let guard = store.join(&owner).await.unwrap();
    let shards: Vec<_> = declared.into_iter().map(|declared| ShardId { handler: declared.name, number: 0 }).collect();
    let acquired = store.acquire_shards(&owner.name, &shards, Duration::ZERO).await.unwrap();
    assert_eq!(acquired.len(), handlers.len());
    guard
}

#[tokio::test(start_paused = true)]
async fn settled_does_not_wait_for_the_next_heartbeat_when_nobody_owns_a_shard() {
    let (store, handled) = (InMemoryEventStore::new(), Handled::default());
    let owner = owned_elsewhere(&store, &["greet"]).await;
    let standby = app(&store, handled.by("standby")).await;
    // the next heartbeat of the standby is far
    tokio::time::sleep(Duration::from_millis(1_250)).await;
    save(&standby, "ada").await;
    drop(owner);
    let died = tokio::time::Instant::now();
    standby.settled().await.unwrap();
    assert!(died.elapsed() < AT_ONCE, "it has settled after {:?}", died.elapsed());
    assert_eq!(handled.take(), [("standby", "ada".to_owned())]);
    standby.shutdown(Duration::from_secs(60)).await.unwrap();
}

/// Half of the shards are the share of a process that lives and acquires none: it hangs.
#[tokio::test(start_paused = true)]
async fn shards_that_a_live_process_does_not_acquire_are_acquired_by_another_after_two_heartbeats() {
    let (store, handled) = (InMemoryEventStore::new(), Handled::default());
    let builder = App::builder().store(store.clone()).state(handled.by("app"));
    let app = builder.handler::<options::greet_in_shards>().start().await.unwrap();
    let types = [Name::from_static("OrderCreated")];
    let list = store.list_handlers().await.unwrap()[0].noted.list_number(&types);
    let handler = MemberHandler { list, crate_name: "shop".into() };
    let handlers = BTreeMap::from([(Name::from_static("greet_in_shards"), handler)]);
    let _hangs = store.join(&Member { name: Name::from_static("hangs"), handlers }).await.unwrap();
    let owned = async || {
        let listed = store.list_handlers().await.unwrap().remove(0);
        listed.shards.iter().filter(|shard| shard.owner.is_some()).count()
    };
    until("the app gives up half of its shards", async || owned().await == 2).await;
    let free = tokio::time::Instant::now();
    for number in 0..20 {
        save(&app, &number.to_string()).await;
    }
    app.settled().await.unwrap();
    assert!(free.elapsed() < Duration::from_secs(4), "it has settled after {:?}", free.elapsed());
    assert_eq!(handled.take().len(), 20);
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

/// How many handlers run, and the most that ran beside a suspect, itself included.
#[derive(Clone, Default)]
struct Running(Arc<(AtomicUsize, AtomicUsize)>);

impl Running {
    async fn run(&self, is_suspect: bool) {
        let (now, most) = &*self.0;
        now.fetch_add(1, Ordering::SeqCst);
        for _ in 0..10 {
            most.fetch_max(now.load(Ordering::SeqCst) * usize::from(is_suspect), Ordering::SeqCst);
            tokio::task::yield_now().await;
        }
        now.fetch_sub(1, Ordering::SeqCst);
    }
}

#[handler(manual, concurrency = 5)]
async fn kill_owner(_event: &OrderCreated, State(running): State<Running>) {
    running.run(true).await;
}

#[handler(manual, concurrency = 5)]
async fn kill_owner_too(_event: &OrderCreated, State(running): State<Running>) {
    running.run(true).await;
}

#[handler(manual, concurrency = 5)]
async fn harm_nobody(_event: &OrderCreated, State(running): State<Running>) {
    running.run(false).await;
}

#[tokio::test]
async fn after_three_owners_without_progress_events_run_one_at_a_time_in_a_process() {
    for (owners, at_once) in [(2, 15), (3, 1)] {
        let (store, running) = (InMemoryEventStore::new(), Running::default());
        append_orders(&store, 20).await;
        for _ in 0..owners {
            drop(owned_elsewhere(&store, &["kill_owner", "kill_owner_too"]).await);
        }
        let builder = App::builder().store(store).state(running.clone()).handler::<harm_nobody>();
        let app = builder.handler::<kill_owner>().handler::<kill_owner_too>().start().await.unwrap();
        app.settled().await.unwrap();
        assert_eq!(running.0.1.load(Ordering::SeqCst), at_once, "after {owners} owners");
        app.shutdown(Duration::from_secs(60)).await.unwrap();
    }
}

/// A store that notes of which handlers each save is.
#[derive(Clone, Default)]
struct NotingStore {
    store: InMemoryEventStore,
    saves: Arc<Mutex<Vec<Vec<Name>>>>,
}

delegate!(NotingStore, self => self.store; HandlerProgress {
    async fn save_shards(
        &self,
        member: &Name,
        last_read: Option<(Position, EventId)>,
        saves: &[ShardSave],
    ) -> Result<Saved, HandlerProgressError> {
        self.saves.lock().unwrap().push(saves.iter().map(|save| save.shard.handler.clone()).collect());
        self.store.save_shards(member, last_read, saves).await
    }
});

delegate!(NotingStore, self => self.store; AppendEvents, ReadStream, ReadFeed, Checkpoints, Leases, EventStore {
    fn handler_progress(&self) -> Option<&dyn HandlerProgress> {
        Some(self)
    }
});

#[tokio::test]
async fn the_progress_of_all_handlers_of_a_process_is_saved_in_one_step() {
    let (store, handled) = (NotingStore::default(), Handled::default());
    let builder = App::builder().store(store.clone()).state(handled.by("app")).handler::<greet>();
    let app = builder.handler::<options::greet_in_shards>().start().await.unwrap();
    save(&app, "ada").await;
    app.settled().await.unwrap();
    app.shutdown(Duration::from_secs(60)).await.unwrap();
    let last = store.saves.lock().unwrap().pop().unwrap();
    let shards_of = |handler: &str| last.iter().filter(|saved| **saved == *handler).count();
    assert_eq!((shards_of("greet"), shards_of("greet_in_shards")), (1, 4), "{last:?}");
}
