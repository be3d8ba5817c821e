//! The parts for web services: errors as problem details, repositories as state, probes.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod lines;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{Path, State, rejection::JsonRejection},
    http::{HeaderValue, Request, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use eventbus::{
    App, EventContext, ExpectedVersion, InMemoryEventBus, InMemoryEventStore, LoadError, Name, Never, NewEvent,
    Position, SaveError, StreamId, UpdateError,
    app::PublishedError,
    axum::{Mistake, Problem, health_routes, status_routes},
    port::{
        AppendError, AppendEvents as _, AppendSignal, DeadLetterError, DeadLetterFilter, EventBus, FeedFilter,
        MissingEvent, ReadError, ReadFeed, RecordStream,
    },
    prelude::*,
    projection::ProjectionError,
    repository::IdempotencyKey,
    testkit::{Fault, FaultyBus, FaultyStore, LossyBus, ManualClock, delegate},
};
use lines::Lines;
use serde_json::{Value, json, value::RawValue};
use tower_service::Service;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Opened {
    owner: String,
}

#[derive(Debug, Default, Serialize, Aggregate)]
#[aggregate(events(Opened))]
struct Account {
    owner: String,
}

impl Apply for Account {
    fn apply(&mut self, AccountEvent::Opened(opened): &AccountEvent) {
        self.owner.clone_from(&opened.owner);
    }
}

struct Taken;

impl From<Taken> for Problem {
    fn from(_: Taken) -> Self {
        Self::new(StatusCode::CONFLICT, "the account has an owner")
    }
}

#[handler]
async fn greet(_event: &Opened) {}

/// Status and body of a response.
async fn read(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

#[tokio::test]
async fn a_problem_is_as_rfc_9457_has_it() {
    let mistakes = vec![Mistake::in_field("email", "is missing")];
    let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "the request has mistakes").with_mistakes(mistakes);
    let response = problem.into_response();
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert!(!response.headers().contains_key("retry-after"));
    let body = json!({
        "type": "about:blank",
        "title": "Unprocessable Entity",
        "status": 422,
        "detail": "the request has mistakes",
        "errors": [{ "pointer": "#/email", "detail": "is missing" }],
    });
    assert_eq!(read(response).await, (422, body));
}

#[tokio::test]
async fn what_passes_is_to_be_tried_again_and_says_nothing_of_the_inside() {
    let timeout = std::time::Duration::from_secs(1);
    let (position, wanted) = (Position::START, Position::START);
    for problem in [
        Problem::from(ReadError::Unavailable("secret".into())),
        Problem::from(eventbus::SaveError::from(AppendError::Unavailable("secret".into()))),
        Problem::from(ProjectionError::Busy { name: "secret", timeout }),
        Problem::from(DeadLetterError::ShutDown { destination: Name::from_static("secret") }),
        Problem::from(PublishedError::TimedOut { position, wanted, timeout, problem: "secret".into() }),
    ] {
        let response = problem.into_response();
        assert_eq!(response.headers()["retry-after"], "1");
        let (status, body) = read(response).await;
        assert!(status == 503 && !body.to_string().contains("secret"), "{body}");
    }
    for problem in [
        Problem::from(ReadError::corrupt("secret", "secret")),
        Problem::from(ProjectionError::Stopped { name: "secret", position, error: "secret".into() }),
        Problem::from(PublishedError::NoRelay),
    ] {
        let response = problem.into_response();
        assert!(!response.headers().contains_key("retry-after"));
        let (status, body) = read(response).await;
        assert!(status == 500 && !body.to_string().contains("secret"), "{body}");
    }
}

#[tokio::test]
async fn a_save_of_unknown_outcome_is_not_to_be_tried_again_without_a_key() {
    let unknown = || SaveError::from(AppendError::OutcomeUnknown("secret".into()));
    for problem in [Problem::from(unknown()), Problem::from(UpdateError::<Never>::Save(unknown()))] {
        let response = problem.into_response();
        assert!(!response.headers().contains_key("retry-after"));
        let detail = "it is not known whether the change took effect; repeat it only with the same Idempotency-Key";
        let (status, body) = read(response).await;
        assert_eq!((status, &body["title"], &body["detail"]), (504, &json!("Gateway Timeout"), &json!(detail)));
    }
}

#[tokio::test]
async fn a_bus_without_dead_letters_is_named_to_the_client() {
    async fn list(State(app): State<App>) -> Result<String, Problem> {
        let filter = DeadLetterFilter::default();
        Ok(format!("{:?}", app.bus().require_dead_letters()?.list_dead_letters(&filter, None, 1).await?.letters))
    }
    for (bus, answer) in [
        (Arc::new(InMemoryEventBus::new()) as Arc<dyn EventBus>, Ok("[]")),
        (Arc::new(LossyBus::new()), Err("event bus `memory` offers no dead letters")),
    ] {
        let app = App::builder().bus(bus).start().await.unwrap();
        match (list(State(app)).await, answer) {
            (Ok(listed), Ok(expected)) => assert_eq!(listed, expected),
            (Err(problem), Err(expected)) => {
                let (status, body) = read(problem.into_response()).await;
                assert_eq!((status, body["detail"].as_str()), (501, Some(expected)));
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn open(
    State(accounts): State<AggregateRepository<Account>>,
    Path(id): Path<String>,
    owner: Result<Json<String>, JsonRejection>,
) -> Result<StatusCode, Problem> {
    let Json(owner) = owner?;
    let id = id.parse().map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "no id"))?;
    let open = |account: &Account| match account.owner.as_str() {
        "" => Ok(Opened { owner: owner.clone() }),
        _ => Err(Taken),
    };
    accounts.upsert(&id, open).await?;
    Ok(StatusCode::CREATED)
}

async fn show(State(accounts): State<AggregateRepository<Account>>, Path(id): Path<String>) -> Result<String, Problem> {
    let id = id.parse().map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "no id"))?;
    Ok(accounts.load(&id).await?.owner.clone())
}

fn router(app: &App) -> Router {
    let accounts = Router::new().route("/accounts/{id}", put(open).get(show));
    accounts.merge(health_routes([app.clone()]).merge(status_routes([app.clone()]))).with_state(app.clone())
}

async fn ask(app: &App, method: &str, path: &str, body: &str) -> (u16, Value) {
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    read(router(app).call(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap()).await
}

#[tokio::test]
async fn each_outcome_of_a_repository_has_its_status() {
    let store = FaultyStore::new(InMemoryEventStore::new());
    let app = App::builder().store(store.clone()).start().await.unwrap();
    let open = async |body| ask(&app, "PUT", "/accounts/1", body).await;
    assert_eq!(ask(&app, "GET", "/accounts/1", "").await.0, 404);
    assert_eq!(open("\"a").await.0, 400);
    assert_eq!(open("5").await.0, 422);
    store.appends.fail_next(Fault::Unavailable, 1);
    assert_eq!(open("\"Ada\"").await.0, 503);
    store.appends.fail_next(Fault::LostReply, 1);
    assert_eq!(open("\"Ada\"").await.0, 201, "what was lost on the way back is asked for again");
    let (status, body) = open("\"Grace\"").await;
    assert_eq!((status, &body["detail"]), (409, &json!("the account has an owner")));
    assert_eq!(ask(&app, "GET", "/accounts/1", "").await.0, 200);
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Guest, unique(email), tags(room))]
struct CheckedIn {
    email: String,
    room: String,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(CheckedIn))]
struct Guest;

impl Apply for Guest {
    fn apply(&mut self, _event: &GuestEvent) {}
}

#[tokio::test]
async fn a_text_of_the_request_that_no_store_can_keep_is_named_to_the_client() {
    let guests = AggregateRepository::<Guest>::new(InMemoryEventStore::new());
    let long = "x".repeat(2_000);
    for (email, room, detail) in [
        (long.as_str(), "1", "unique value `email` has 2000 bytes, more than 1000"),
        ("a@b.c", &long, "tag `room` has 2005 bytes, more than 1000"),
        ("a\0@b.c", "1", "field `email` holds a null character"),
    ] {
        let check_in = |_: &Guest| Ok::<_, Never>(CheckedIn { email: email.into(), room: room.into() });
        let problem = Problem::from(guests.upsert(&AggregateId::new(), check_in).await.unwrap_err());
        let (status, body) = read(problem.into_response()).await;
        assert_eq!((status, &body["detail"]), (400, &json!(detail)));
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Party, tags(guests))]
struct Seated {
    guests: Vec<String>,
    wishes: Value,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Seated))]
struct Party;

impl Apply for Party {
    fn apply(&mut self, _event: &PartyEvent) {}
}

#[tokio::test]
async fn too_many_tags_and_too_deep_a_value_of_the_request_are_named_to_the_client() {
    let parties = AggregateRepository::<Party>::new(InMemoryEventStore::new());
    let many: Vec<_> = (0..65).map(|guest| guest.to_string()).collect();
    let deep = (0..127).fold(Value::Null, |inner, _| json!([inner]));
    for (guests, wishes, begin, end) in [
        (many, Value::Null, "it has 65 tags", ", more than 64"),
        (Vec::new(), deep, "field `wishes[0]", "more than 127 objects and arrays within each other"),
    ] {
        let seat = |_: &Party| Ok::<_, Never>(Seated { guests: guests.clone(), wishes: wishes.clone() });
        let problem = Problem::from(parties.upsert(&AggregateId::new(), seat).await.unwrap_err());
        let (status, body) = read(problem.into_response()).await;
        let detail = body["detail"].as_str().unwrap();
        assert!(status == 400 && detail.starts_with(begin) && detail.ends_with(end), "{status}: {detail}");
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Form)]
struct Filled {
    answers: Box<RawValue>,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Filled))]
struct Form;

impl Apply for Form {
    fn apply(&mut self, _event: &FormEvent) {}
}

#[tokio::test]
async fn half_a_surrogate_pair_of_the_request_is_named_to_the_client() {
    let forms = AggregateRepository::<Form>::new(InMemoryEventStore::new());
    let answers: Box<RawValue> = serde_json::from_str(r#"["\ud800"]"#).unwrap();
    let fill = |_: &Form| Ok::<_, Never>(Filled { answers: answers.clone() });
    let problem = Problem::from(forms.upsert(&AggregateId::new(), fill).await.unwrap_err());
    let (status, body) = read(problem.into_response()).await;
    let detail = "field `answers[0]`: half a surrogate pair, which is no text";
    assert_eq!((status, &body["detail"]), (400, &json!(detail)));
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Survey)]
struct Answered {
    #[serde(flatten)]
    answers: serde_json::Map<String, Value>,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Answered))]
struct Survey;

impl Apply for Survey {
    fn apply(&mut self, _event: &SurveyEvent) {}
}

#[tokio::test]
async fn a_reserved_name_in_a_map_of_the_request_is_named_to_the_client() {
    let surveys = AggregateRepository::<Survey>::new(InMemoryEventStore::new());
    let answers: serde_json::Map<_, _> = [("metadata".to_owned(), json!("secret"))].into_iter().collect();
    let answer = |_: &Survey| Ok::<_, Never>(Answered { answers: answers.clone() });
    let problem = Problem::from(surveys.upsert(&AggregateId::new(), answer).await.unwrap_err());
    let (status, body) = read(problem.into_response()).await;
    assert_eq!((status, &body["detail"]), (400, &json!("field `metadata` has a name that is reserved")));
}

/// Counts the events of an account, as a route does whose ids are texts.
async fn count_events(accounts: &AggregateRepository<Account>, id: &str) -> Result<usize, Problem> {
    Ok(accounts.history(&id.parse()?).await?.len())
}

/// Makes the key of a command that is of one user.
fn key_of(user: &str, key: &str) -> Result<IdempotencyKey, Problem> {
    Ok(format!("{user}:{key}").parse()?)
}

#[tokio::test]
async fn a_text_that_is_no_id_and_the_history_of_nothing_are_told_to_the_client() {
    let accounts = AggregateRepository::<Account>::new(InMemoryEventStore::new());
    let too_long = key_of("ada", &"k".repeat(252)).unwrap_err();
    for (problem, status, detail) in [
        (count_events(&accounts, "").await.unwrap_err(), 400, "invalid aggregate id ``: it is empty"),
        (too_long, 400, "it has 256 bytes, at most 255 are allowed"),
        (count_events(&accounts, "1").await.unwrap_err(), 404, "there is nothing with this id"),
    ] {
        let (found, body) = read(problem.into_response()).await;
        let shown = body["detail"].as_str().unwrap();
        assert!(found == status && shown.ends_with(detail), "{found}: {shown}");
    }
    assert_eq!(key_of("ada", "k").unwrap().as_str(), "ada:k");
}

#[tokio::test]
async fn what_exists_and_another_writer_who_was_first_are_conflicts() {
    let app = App::builder().start().await.unwrap();
    let accounts = app.repository::<Account>();
    let id = "1".parse().unwrap();
    let open = |_: &Account| Ok::<_, Never>(Opened { owner: "Ada".into() });
    accounts.create(&id, open).await.unwrap();
    let exists = Problem::from(accounts.create(&id, open).await.unwrap_err());
    let (stream, expected) = (StreamId::parse("Account", "1").unwrap(), ExpectedVersion::Exact(2.into()));
    let late = Problem::from(SaveError::from(AppendError::Conflict { stream, expected, actual: 3.into() }));
    for (problem, detail) in [
        (exists, "it exists already, perhaps by a concurrent change"),
        (late, "a concurrent change was first, try again"),
    ] {
        let (status, body) = read(problem.into_response()).await;
        assert_eq!((status, &body["detail"]), (409, &json!(detail)));
    }
}

#[tokio::test]
async fn what_is_not_found_or_taken_is_told_without_words_of_the_inside() {
    let stream = StreamId::parse("SecretAccount", "secret-1").unwrap();
    let (wanted, actual) = (3.into(), 2.into());
    let taken = AppendError::Taken { stream: stream.clone(), name: Name::from_static("email") };
    for (problem, status, detail) in [
        (LoadError::NotFound { stream: stream.clone() }.into(), 404, "there is nothing with this id"),
        (LoadError::VersionNotReached { stream, wanted, actual }.into(), 404, "version 3 is not there yet"),
        (Problem::from(SaveError::from(taken)), 409, "`email` is taken already"),
    ] {
        let (found, body) = read(problem.into_response()).await;
        assert_eq!((found, &body["detail"]), (status, &json!(detail)));
    }
}

#[handler(manual, retries = 0)]
async fn refuse(event: &Opened) -> Result<(), String> {
    Err(format!("`{}` is on the list", event.owner))
}

#[tokio::test]
async fn the_words_of_handlers_are_told_to_operators_only() {
    let app = App::builder().handler::<refuse>().start().await.unwrap();
    assert_eq!(ask(&app, "PUT", "/accounts/1", "\"Mallory\"").await.0, 201);
    app.settled().await.unwrap_err();
    let (status, told) = ask(&app, "GET", "/status", "").await;
    assert_eq!((status, &told[0]["relay"]), (200, &json!(null)));
    assert!(told[0]["failures"][0].as_str().unwrap().ends_with("`Mallory` is on the list"), "{told}");
    let (_, ready) = ask(&app, "GET", "/health/ready", "").await;
    assert!(!ready.to_string().contains("Mallory"), "{ready}");
}

#[tokio::test]
async fn the_words_of_a_bus_that_refuses_events_are_told_to_operators_only() {
    const WORDS: &str = "fault made by the test";
    for (refused, told) in [
        (Position::START, "refuses all events: the log says why"),
        (Position::new(1), "of type `Opened` at position 1: the log says why"),
    ] {
        let bus = FaultyBus::new(InMemoryEventBus::new());
        bus.refused.set(Some(refused));
        let app = App::builder().store(InMemoryEventStore::new()).bus(bus).start().await.unwrap();
        let opened = |_: &Account| Ok::<_, Never>(Opened { owner: "Ada".into() });
        app.repository::<Account>().upsert(&"1".parse().unwrap(), opened).await.unwrap();
        until(async || app.relay_status().await.is_some_and(|relay| relay.stopped.is_some())).await;
        let (_, ready) = ask(&app, "GET", "/health/ready", "").await;
        assert!(ready.to_string().contains(told) && !ready.to_string().contains(WORDS), "{ready}");
        let (_, status) = ask(&app, "GET", "/status", "").await;
        assert!(status.to_string().contains(WORDS), "{status}");
    }
}

#[handler(manual, name = "refuse-for-long")]
async fn refuse_for_long(_: &Opened) -> Result<(), String> {
    Err("not yet".into())
}

#[tokio::test]
async fn an_event_that_fails_for_five_minutes_is_an_alert_and_the_app_stays_ready() {
    let clock = ManualClock::default();
    let app = App::builder().clock(clock.clone()).handler::<refuse_for_long>().start().await.unwrap();
    assert_eq!(ask(&app, "PUT", "/accounts/1", "\"Ada\"").await.0, 201);
    until(async || !app.health().await.unfinished.is_empty()).await;
    clock.advance(Duration::from_secs(299));
    let ready = json!({ "status": "ready", "alerts": [] });
    assert_eq!(ask(&app, "GET", "/health/ready", "").await, (200, ready), "not yet five minutes");
    clock.advance(Duration::from_secs(2));
    let (status, ready) = ask(&app, "GET", "/health/ready", "").await;
    assert_eq!((status, &ready["status"]), (200, &json!("ready")), "{ready}");
    let alerts = ready["alerts"].to_string();
    assert!(alerts.contains("`refuse-for-long` of `") && alerts.contains("fails with an event since "), "{ready}");
}

async fn until(holds: impl AsyncFn() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap();
}

/// A stored value, which no report and no log may hold.
const SECRET: &str = "secret-4711";

#[derive(Debug, Default)]
struct Owners(Vec<String>);

#[projection(name = "owners", manual)]
impl Owners {
    fn opened(&mut self, event: &Opened) {
        self.0.push(event.owner.clone());
    }
}

#[tokio::test]
async fn a_stored_value_is_in_no_report_and_no_log() {
    let lines = Lines::default();
    let _here = lines.capture("trace");
    let store = InMemoryEventStore::new();
    let bus = InMemoryEventBus::new();
    // each does not decode, in its own way
    let wrong = [
        json!({ "owner": { SECRET: SECRET } }),
        json!({ "owner": [SECRET] }),
        json!({ "owner": 4711.25, "other": SECRET }),
        json!([SECRET]),
        json!(SECRET),
    ];
    for (number, payload) in wrong.iter().enumerate() {
        let stream = StreamId::parse("Account", &number.to_string()).unwrap();
        let event = NewEvent::new(Name::from_static("Opened"), 1, payload.to_string());
        let stored = store.append(&stream, ExpectedVersion::Any, vec![event]).await;
        assert!(stored.is_ok() || number > 2, "{stored:?}");
        if let Err(error) = stored {
            assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
        }
    }
    let app = App::builder().store(store).bus(bus).handler::<greet>().projection(Owners::default());
    let app = app.start().await.unwrap();
    let error = app.projected::<Owners>(Position::new(1)).await.unwrap_err();
    let settled = app.settled().await.unwrap_err();
    let loaded = app.repository::<Account>().load(&"0".parse().unwrap()).await.unwrap_err();
    let letters = async {
        loop {
            let letters = app
                .bus()
                .dead_letters()
                .unwrap()
                .list_dead_letters(&DeadLetterFilter::default(), None, 10)
                .await
                .unwrap()
                .letters;
            let letters: Vec<_> = letters.into_iter().filter_map(|letter| letter.error).collect();
            if letters.len() > 2 {
                return letters;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let letters = tokio::time::timeout(Duration::from_secs(20), letters).await.unwrap();
    let (_, ready) = ask(&app, "GET", "/health/ready", "").await;
    let (_, status) = ask(&app, "GET", "/status", "").await;
    assert!(ready.to_string().contains("stopped at position 1"), "{ready}");
    let health = serde_json::to_string(&app.health().await).unwrap();
    let log = lines.text();
    assert!(log.contains("handler failed") && log.contains("projection stopped before an event"), "{log}");
    for told in [
        ready.to_string(),
        status.to_string(),
        health,
        format!("{error} {error:?} {settled} {settled:?} {loaded} {loaded:?} {letters:?}"),
        log,
    ] {
        assert!(!told.contains(SECRET) && !told.contains("4711.25"), "{told}");
    }
}

#[tokio::test]
async fn without_a_store_the_bus_says_whether_an_app_is_ready() {
    let app = App::builder().bus(InMemoryEventBus::new()).handler::<greet>().start().await.unwrap();
    assert_eq!(ask(&app, "GET", "/health/ready", "").await, (200, json!({ "status": "ready", "alerts": [] })));
    app.bus().stop_consuming().await;
    let not_ready = json!({ "status": "not ready", "alerts": ["not consuming"] });
    assert_eq!(ask(&app, "GET", "/health/ready", "").await, (503, not_ready));
}

/// A store that does not answer its readers while it is silent.
struct SilentStore {
    store: InMemoryEventStore,
    is_silent: Arc<AtomicBool>,
}

impl SilentStore {
    async fn answer(&self) {
        if self.is_silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

delegate!(SilentStore, self => self.store; AppendEvents, ReadStream, Checkpoints, Leases, EventStore);

#[async_trait]
impl ReadFeed for SilentStore {
    fn read_feed(&self, after: Position, through: Position, filter: &FeedFilter) -> RecordStream<'_> {
        self.store.read_feed(after, through, filter)
    }

    async fn head(&self) -> Result<Position, ReadError> {
        self.answer().await;
        self.store.head().await
    }

    async fn count_events(&self, after: Position, through: Position, filter: &FeedFilter) -> Result<u64, ReadError> {
        self.store.count_events(after, through, filter).await
    }

    async fn first_recorded_after(&self, after: Position) -> Result<Option<time::OffsetDateTime>, ReadError> {
        self.answer().await;
        self.store.first_recorded_after(after).await
    }

    async fn find_missing_event(&self, stream: Option<&StreamId>) -> Result<Option<MissingEvent>, ReadError> {
        self.store.find_missing_event(stream).await
    }

    async fn store_id(&self) -> Result<eventbus::Uuid, ReadError> {
        self.store.store_id().await
    }

    fn appended(&self) -> &AppendSignal {
        self.store.appended()
    }
}

#[tokio::test]
async fn operators_get_the_status_while_the_store_does_not_answer() {
    let is_silent = Arc::new(AtomicBool::new(false));
    let store = SilentStore { store: InMemoryEventStore::new(), is_silent: Arc::clone(&is_silent) };
    let app = App::builder().store(store).bus(InMemoryEventBus::new()).handler::<greet>();
    let app = app.projection(Owners::default()).start().await.unwrap();
    let status = async || {
        let asked = ask(&app, "GET", "/status", "");
        tokio::time::timeout(Duration::from_secs(30), asked).await.expect("it answers within seconds").1
    };
    let known = status().await;
    assert_eq!((&known[0]["relay"]["position"], &known[0]["projections"][0]["name"]), (&json!(0), &json!("owners")));
    is_silent.store(true, Ordering::SeqCst);
    let silent = status().await;
    let error = silent[0]["health"]["store"].to_string();
    assert!(error.contains("does not answer"), "{silent}");
    assert_eq!((&silent[0]["relay"], &silent[0]["projections"]), (&Value::Null, &json!([])));
}

#[tokio::test]
async fn probes_are_told_how_the_app_is() {
    let app = App::builder().handler::<greet>().start().await.unwrap();
    assert_eq!(ask(&app, "GET", "/health/live", "").await, (200, json!({ "status": "alive", "alerts": [] })));
    assert_eq!(ask(&app, "GET", "/health/ready", "").await, (200, json!({ "status": "ready", "alerts": [] })));
    app.bus().stop_consuming().await;
    let ready = json!({ "status": "ready", "alerts": ["not consuming"] });
    assert_eq!(ask(&app, "GET", "/health/ready", "").await, (200, ready), "it has a store, and saves");
    assert_eq!(ask(&app, "GET", "/health/live", "").await.0, 200, "it need not be started anew");
}

/// Opens an account, as a route does.
async fn open_account(accounts: Repository<Account>, Path(id): Path<AggregateId>) -> Result<Json<Value>, Problem> {
    let saved = accounts.upsert(&id, |_| Ok::<_, Never>(Opened { owner: "ada".into() })).await?;
    let event = saved.events[0].metadata();
    Ok(Json(json!({
        "correlation": event.correlation_id(), "actor": event.actor_id(), "tenant": event.tenant_id(),
        "attributes": event.attributes().to_map(),
    })))
}

#[tokio::test]
async fn what_a_request_saves_continues_the_conversation_of_its_caller() {
    let app = App::builder().start().await.unwrap();
    let user = |parts: &axum::http::request::Parts| {
        let user = parts.headers.get("x-user").and_then(|user| user.to_str().ok()).unwrap_or("nobody");
        EventContext::default().with_actor(user).with_tenant(eventbus::Uuid::from_u128(7))
    };
    let mut router: Router = Router::new()
        .route("/accounts/{id}", put(open_account))
        .layer(eventbus::axum::context(user))
        .with_state(app.clone());
    let mut send = async |id: &str, headers: &[(&str, &str)]| {
        let mut request = Request::put(format!("/accounts/{id}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = router.call(request.body(Body::empty()).unwrap()).await.unwrap();
        let answered = response.headers()["x-correlation-id"].to_str().unwrap().to_owned();
        let (status, body) = read(response).await;
        assert_eq!((status, &body["correlation"]), (200, &json!(answered)));
        (answered, body)
    };
    let id = "01a1f85f-1b76-73fd-9432-86542dd2f87b";
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [("x-user", "ada"), ("x-correlation-id", id), ("traceparent", trace), ("tracestate", "a=1")];
    let (answered, body) = send("1", &headers).await;
    assert_eq!(answered, id);
    assert_eq!((&body["actor"], &body["tenant"]), (&json!("ada"), &json!(eventbus::Uuid::from_u128(7))));
    assert_eq!(body["attributes"], json!({ "traceparent": trace, "tracestate": "a=1" }));
    let (one, body) = send("2", &[("traceparent", "00-0-0-00"), ("tracestate", "a=1")]).await;
    assert_eq!((&body["actor"], &body["attributes"]), (&json!("nobody"), &json!({})));
    let (two, _) = send("3", &[]).await;
    assert_ne!(one, two, "each request begins a conversation");
    let (text, _) = send("4", &[("x-correlation-id", "order 66")]).await;
    let (again, _) = send("5", &[("x-correlation-id", "order 66")]).await;
    assert_eq!(text, again, "one text is one conversation");
    let accounts = app.repository::<Account>();
    assert!(accounts.find(&"1".parse().unwrap()).await.unwrap().is_none(), "it belongs to the tenant");
}

#[tokio::test]
async fn of_two_layers_the_inner_one_starts_from_the_context_of_the_outer_one() {
    let tenant = eventbus::Uuid::from_u128(7);
    let mut router: Router = Router::new()
        .route("/accounts/{id}", put(open_account))
        .layer(eventbus::axum::context(|_| EventContext::default().with_actor("ada")))
        .layer(eventbus::axum::context(move |_| EventContext::default().with_tenant(tenant)))
        .with_state(App::builder().start().await.unwrap());
    let response = router.call(Request::put("/accounts/1").body(Body::empty()).unwrap()).await.unwrap();
    let answered = response.headers()["x-correlation-id"].to_str().unwrap().to_owned();
    let (status, body) = read(response).await;
    assert_eq!((status, &body["correlation"]), (200, &json!(answered)), "{body}");
    assert_eq!((&body["actor"], &body["tenant"]), (&json!("ada"), &json!(tenant)));
}

#[tokio::test]
async fn of_two_layers_the_inner_one_names_the_conversation_of_the_response() {
    let of = |id| eventbus::axum::context(move |_| EventContext { correlation_id: Some(id), ..Default::default() });
    let (inner, outer) = (eventbus::Uuid::from_u128(7), eventbus::Uuid::from_u128(8));
    let mut router: Router = Router::new()
        .route("/accounts/{id}", put(open_account))
        .layer(of(inner))
        .layer(of(outer))
        .with_state(App::builder().start().await.unwrap());
    let response = router.call(Request::put("/accounts/1").body(Body::empty()).unwrap()).await.unwrap();
    let answered: Vec<_> = response.headers().get_all("x-correlation-id").iter().cloned().collect();
    assert_eq!(answered, [inner.to_string().as_str()]);
    assert_eq!(
        read(response).await.1["correlation"],
        json!(inner),
        "the event is of the conversation that the header names"
    );
}

async fn rename(
    accounts: Repository<Account>,
    key: IdempotencyKey,
    Path(id): Path<AggregateId>,
    Json(owner): Json<String>,
) -> Result<Json<u64>, Problem> {
    let saved = accounts.once(key, &owner).upsert(&id, |_| Ok::<_, Never>(Opened { owner: owner.clone() })).await?;
    Ok(Json(saved.version.get()))
}

async fn has_key(key: Option<IdempotencyKey>) -> Json<Option<String>> {
    Json(key.map(|key| key.to_string()))
}

#[tokio::test]
async fn the_key_of_a_request_is_read_from_its_header() {
    let app = App::builder().start().await.unwrap();
    let router = Router::new().route("/accounts/{id}", post(rename)).route("/key", get(has_key)).with_state(app);
    let send = async |method: &str, path: &str, keys: &[&[u8]], body: &str| {
        let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        for key in keys {
            request = request.header("Idempotency-Key", HeaderValue::from_bytes(key).unwrap());
        }
        read(router.clone().call(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap()).await
    };
    for key in [&b"k-1"[..], b"\"k-1\"", b" k-1 "] {
        assert_eq!(send("POST", "/accounts/ada", &[key], r#""Ada""#).await, (200, json!(1)));
        assert_eq!(send("GET", "/key", &[key], "").await, (200, json!("k-1")));
    }
    assert_eq!(send("POST", "/accounts/ada", &[b"k-2"], r#""Ada""#).await, (200, json!(2)));
    let (status, problem) = send("POST", "/accounts/ada", &[b"k-1"], r#""Bob""#).await;
    assert_eq!((status, &problem["detail"]), (422, &json!("the idempotency key `k-1` was used for another request")));
    assert_eq!(send("GET", "/key", &[], "").await, (200, json!(null)));
    let missing = send("POST", "/accounts/ada", &[], r#""Ada""#).await;
    assert_eq!((missing.0, &missing.1["detail"]), (400, &json!("the header Idempotency-Key is missing")));
    let long = "x".repeat(256);
    for keys in [&[&b""[..]][..], &[b"a", b"b"], &[b"\xff"], &[long.as_bytes()]] {
        let (status, problem) = send("GET", "/key", keys, "").await;
        let detail = problem["detail"].as_str().unwrap();
        assert!(status == 400 && detail.starts_with("the header Idempotency-Key: "), "{detail}");
    }
}
