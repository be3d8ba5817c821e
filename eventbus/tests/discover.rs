//! Discovery: linked handlers and projections run, in sorted order, and are listed.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::{Arc, Mutex};

use eventbus::{
    InMemoryEventBus, Version, app::StartMistake, event::EventRegistry, handler::StateMap, port::EventBus, prelude::*,
};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account, type = "account.opened")]
struct Opened {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Closed;

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Opened, Closed))]
struct Account {
    open: bool,
}

impl Apply for Account {
    fn apply(&mut self, event: &AccountEvent) {
        self.open = matches!(event, AccountEvent::Opened(_));
    }
}

type Log = Arc<Mutex<Vec<&'static str>>>;

#[handler]
async fn greet(_event: &Opened, State(log): State<Log>) {
    log.lock().unwrap().push("greet");
}

#[handler(group = "audit")]
async fn audit(_event: &RecordedEvent, State(log): State<Log>) {
    log.lock().unwrap().push("audit");
}

#[handler(manual)]
async fn never(_event: &Opened) {
    unreachable!("it is not discovered");
}

#[derive(Debug, Default)]
struct Accounts {
    open: u64,
}

#[projection(name = "accounts")]
impl Accounts {
    fn opened(&mut self, _event: &Opened) {
        self.open += 1;
    }

    fn closed(&mut self, _event: &Closed) {
        self.open -= 1;
    }
}

/// Two projections that one line declares.
macro_rules! counts_openings {
    ($($projection:ident $name:literal),+) => {
        $(
            #[derive(Debug, Default)]
            struct $projection(u64);

            #[projection(name = $name)]
            impl $projection {
                fn opened(&mut self, _event: &Opened) {
                    self.0 += 1;
                }
            }
        )+
    };
}

counts_openings!(First "first", Second "second");

/// A projection that discovery leaves out.
#[derive(Debug, Default)]
struct Asked(u64);

#[projection(name = "asked", manual)]
impl Asked {
    fn opened(&mut self, _event: &Opened) {
        self.0 += 1;
    }
}

async fn play(app: &App) {
    let accounts = app.repository::<Account>();
    let mut account = accounts.create_new(AggregateId::new());
    account.record(Opened {});
    accounts.save(&mut account).await.unwrap();
    assert!(account.open);
    app.settled().await.unwrap();
}

#[tokio::test]
async fn everything_linked_runs() {
    let log = Log::default();
    let app = App::builder().state(log.clone()).discover().start().await.unwrap();
    play(&app).await;
    let mut lines = log.lock().unwrap().clone();
    lines.sort_unstable();
    assert_eq!(lines, ["audit", "greet"]);
    assert_eq!(app.projection::<Accounts>().unwrap().read().await.open, 1);
    assert_eq!(app.projection::<First>().unwrap().read().await.0, 1);
    assert_eq!(app.projection::<Second>().unwrap().read().await.0, 1);
    assert!(app.projection::<Asked>().is_err());
}

#[tokio::test]
async fn a_manual_projection_runs_if_it_is_given() {
    let app = App::builder().state(Log::default()).discover().projection_with(Asked::default).start().await.unwrap();
    play(&app).await;
    assert_eq!(app.projection::<Asked>().unwrap().read().await.0, 1);
}

#[tokio::test]
async fn groups_run_alone() {
    let log = Log::default();
    let app = App::builder().state(log.clone()).discover_groups(["audit"]).start().await.unwrap();
    play(&app).await;
    assert_eq!(*log.lock().unwrap(), ["audit"]);
    assert!(app.projection::<Accounts>().is_err());

    let app = App::builder().discover_groups(["projections"]).start().await.unwrap();
    play(&app).await;
    assert_eq!(log.lock().unwrap().len(), 1);
    assert_eq!(app.projection::<Accounts>().unwrap().read().await.open, 1);
}

#[tokio::test]
async fn a_group_that_nothing_belongs_to_is_a_mistake() {
    let error = App::builder().discover_groups(["adit"]).start().await.unwrap_err();
    assert!(matches!(error.mistakes(), [StartMistake::UnknownGroup { .. }]));
    assert!(error.to_string().ends_with("no handler belongs to group `adit` (groups: audit, greet, projections)"));
}

#[tokio::test]
async fn the_instance_given_by_hand_is_the_one_that_runs() {
    let app = App::builder().state(Log::default()).discover().projection(Accounts { open: 10 }).start().await.unwrap();
    play(&app).await;
    assert_eq!(app.projection::<Accounts>().unwrap().read().await.open, 11);
}

#[tokio::test]
async fn a_handler_that_is_found_and_given_runs_once() {
    let log = Log::default();
    let app = App::builder().state(log.clone()).discover().handler::<greet>().handler::<greet>();
    play(&app.start().await.unwrap()).await;
    assert_eq!(log.lock().unwrap().iter().filter(|line| **line == "greet").count(), 1);
}

#[tokio::test]
async fn a_missing_state_is_named_with_each_handler_that_takes_it() {
    let error = App::builder().discover().start().await.unwrap_err();
    let text = error.to_string();
    assert_eq!(error.mistakes().len(), 2, "{text}");
    let line = line!();
    assert!(text.contains(&format!("`audit` ({}:", file!())), "{text} (this is line {line})");
    assert!(text.contains("`greet` (") && text.contains("but the builder has no `.state(..)` of that type"), "{text}");
}

#[tokio::test]
async fn a_bus_without_an_app_does_the_same() {
    let (bus, log) = (InMemoryEventBus::new(), Log::default());
    let subscriptions = bus.subscribe_discovered(&StateMap::new().with(log.clone())).unwrap();
    let groups: Vec<_> = subscriptions.iter().map(|subscription| subscription.group().to_string()).collect();
    assert_eq!(groups, ["audit", "default"]);
    let record = RecordedEvent::from_event(&Opened {}, AggregateId::new(), Version::FIRST).unwrap();
    bus.publish(&[record]).await.unwrap();
    assert_eq!(bus.subscribe_discovered(&StateMap::new()).unwrap_err().mistakes().len(), 2);
}

#[test]
fn the_registry_lists_what_is_linked() {
    let registry = EventRegistry::discover();
    let names: Vec<_> = registry.iter().map(|event| event.event_type).collect();
    assert_eq!(names, ["Closed", "account.opened"]);
    let opened = registry.get("account.opened").unwrap();
    assert_eq!((opened.aggregate_type, opened.rust_type), ("Account", "discover::Opened"));
    let error = registry.get("Opened").unwrap_err().to_string();
    assert_eq!(
        error,
        "unknown event type `Opened` (known: Closed, account.opened); a crate that the binary never names is not \
         linked, `use my_crate as _;` links it"
    );
    let mut by_hand = EventRegistry::new();
    assert!(by_hand.is_empty());
    by_hand.register::<Opened>();
    by_hand.register::<Opened>();
    assert_eq!(by_hand.len(), 1);
}
