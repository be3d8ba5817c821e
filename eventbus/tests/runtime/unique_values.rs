//! Unique values of aggregates: taken, given back, found, and taken for events that were stored before.

use eventbus::{
    ExpectedVersion, InMemoryEventStore, Name, Never, NewEvent, Position, StreamId, Uuid,
    event::UniqueChange,
    port::{AppendEvents as _, EventStore, FeedFilter, ReadFeed as _},
    prelude::*,
    repository::FindByError,
    testkit::{TableStore, Tables, delegate},
};
use futures_util::TryStreamExt as _;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = User, unique(email, normalize = str::to_lowercase, number))]
struct Registered {
    email: String,
    number: Option<u32>,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = User, unique(email = address, normalize = str::to_lowercase))]
struct Moved {
    address: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = User, releases(email, number))]
struct Left;

#[derive(Debug, Default, Aggregate)]
#[aggregate(type = "UniqueUser", events(Registered, Moved, Left))]
struct User {
    email: Option<String>,
}

impl Apply for User {
    fn apply(&mut self, event: &UserEvent) {
        self.email = match event {
            UserEvent::Registered(event) => Some(event.email.clone()),
            UserEvent::Moved(event) => Some(event.address.clone()),
            UserEvent::Left(_) => None,
        };
    }
}

fn registered(email: &str, number: Option<u32>) -> impl Fn(&User) -> Result<Registered, Never> {
    let event = Registered { email: email.into(), number };
    move |_| Ok(event.clone())
}

fn id(id: &str) -> AggregateId {
    id.parse().unwrap()
}

async fn found(users: &AggregateRepository<User>, email: &str) -> Option<String> {
    users.find_by("email", email).await.unwrap().map(|user| user.id().to_string())
}

#[tokio::test]
async fn a_value_is_taken_given_back_and_found() {
    let users = AggregateRepository::<User>::new(InMemoryEventStore::new());
    users.create(&id("ada"), registered("Ada@x", Some(1))).await.unwrap();
    assert_eq!(found(&users, "ADA@x").await.as_deref(), Some("ada"));

    let error = users.create(&id("eve"), registered("ada@X", Some(2))).await.unwrap_err();
    assert!(error.is_taken("email") && !error.is_taken("number"), "{error}");
    assert_eq!(error.to_string(), "`email` of `UniqueUser/eve` is taken by another stream");
    assert!(!format!("{error:?}").to_lowercase().contains("ada@x"), "no value in an error: {error:?}");
    assert!(!users.exists(&id("eve")).await.unwrap());
    let error = users.create(&id("eve"), registered("eve@x", Some(1))).await.unwrap_err();
    assert!(error.is_taken("number"), "{error}");
    users.create(&id("eve"), registered("eve@x", None)).await.unwrap();

    users.update(&id("ada"), |_| Ok::<_, Never>(Moved { address: "new@x".into() })).await.unwrap();
    assert_eq!((found(&users, "ada@x").await, found(&users, "New@x").await.as_deref()), (None, Some("ada")));
    let number = users.find_by("number", 1_u32).await.unwrap().unwrap();
    assert_eq!((number.id().as_str(), number.email.as_deref()), ("ada", Some("new@x")));
    users.update(&id("ada"), |_| Ok::<_, Never>(Left)).await.unwrap();
    assert!(users.find_by("number", 1_u32).await.unwrap().is_none() && found(&users, "new@x").await.is_none());
    users.update(&id("eve"), registered("new@x", Some(1))).await.unwrap();
    assert!(users.find_by("number", None::<u32>).await.unwrap().is_none());
}

#[tokio::test]
async fn values_of_two_tenants_are_two() {
    let users = AggregateRepository::<User>::new(InMemoryEventStore::new());
    let (one, two) = (users.for_tenant(Uuid::from_u128(1)), users.for_tenant(Uuid::from_u128(2)));
    for (users, name) in [(&users, "ada"), (&one, "bob"), (&two, "eve")] {
        users.create(&id(name), registered("a@x", None)).await.unwrap();
        assert_eq!(found(users, "a@x").await.as_deref(), Some(name));
    }
}

#[tokio::test]
async fn a_name_that_no_event_takes_is_named() {
    let users = AggregateRepository::<User>::new(InMemoryEventStore::new());
    let error = users.find_by("mail", "a@x").await.unwrap_err();
    assert_eq!(error.to_string(), "no event of the aggregate has `unique(mail)` (known: email, number)");
    assert!(matches!(error, FindByError::UnknownName { .. }));
}

#[tokio::test]
async fn aggregates_that_exchange_values_are_saved_together() {
    let app = App::builder().start().await.unwrap();
    let users = app.repository::<User>();
    let mut ada = users.create_new(id("ada"));
    ada.record(Registered { email: "a@x".into(), number: None });
    users.save(&mut ada).await.unwrap();
    let mut bob = users.create_new(id("bob"));
    bob.record(Registered { email: "b@x".into(), number: None });
    users.save(&mut bob).await.unwrap();
    ada.record(Moved { address: "b@x".into() });
    bob.record(Moved { address: "a@x".into() });
    assert!(users.save(&mut ada).await.unwrap_err().is_taken("email"));
    app.together().save(&mut ada).save(&mut bob).commit().await.unwrap();
    assert_eq!(found(&users, "a@x").await.as_deref(), Some("bob"));
    app.shutdown(std::time::Duration::from_secs(30)).await.unwrap();
}

/// A request to give users new addresses, or none any more.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Request)]
struct MovesRequested {
    moves: Vec<(String, Option<String>)>,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(type = "UniqueRequest", events(MovesRequested))]
struct Request;

impl Apply for Request {
    fn apply(&mut self, _event: &RequestEvent) {}
}

#[handler(manual, retries = 0)]
async fn move_users(event: &MovesRequested, users: Repository<User>) -> eventbus::Result<()> {
    for (user, address) in &event.moves {
        match address {
            Some(address) => users.update(&id(user), |_| Ok::<_, Never>(Moved { address: address.clone() })).await?,
            None => users.update(&id(user), |_| Ok::<_, Never>(Left)).await?,
        };
    }
    Ok(())
}

#[handler(manual, retries = 0)]
async fn move_in_transaction(
    event: &MovesRequested,
    users: Repository<User>,
    _tables: &mut Tables,
) -> eventbus::Result<()> {
    move_users(event, users).await
}

/// Requests moves, waits until they are handled, and returns the error if they failed.
async fn request(app: &App, moves: &[(&str, Option<&str>)]) -> Option<String> {
    let moves = moves.iter().map(|(user, address)| ((*user).to_owned(), address.map(str::to_owned))).collect();
    let requested = MovesRequested { moves };
    app.repository::<Request>().create(&AggregateId::new(), |_| Ok::<_, Never>(requested.clone())).await.unwrap();
    app.settled().await.err().map(|error| error.to_string())
}

#[tokio::test]
async fn a_handler_may_exchange_values_and_fails_if_one_is_taken() {
    let app = App::builder().handler::<move_users>().start().await.unwrap();
    let users = app.repository::<User>();
    for (name, email) in [("ada", "a@x"), ("bob", "b@x")] {
        users.create(&id(name), registered(email, None)).await.unwrap();
    }
    assert_eq!(request(&app, &[("ada", Some("b@x")), ("bob", Some("a@x"))]).await, None);
    assert_eq!(found(&users, "a@x").await.as_deref(), Some("bob"));
    let error = request(&app, &[("ada", Some("a@x"))]).await.unwrap();
    assert!(error.contains("`email` of `UniqueUser/ada` is taken"), "{error}");
    assert_eq!(found(&users, "a@x").await.as_deref(), Some("bob"));
    app.shutdown(std::time::Duration::from_secs(30)).await.unwrap();
}

/// Fails if the order is that of the names: then the value that `zoe` gives back is still taken when `ada` takes it.
#[tokio::test]
async fn a_transaction_gives_values_back_before_it_takes_any() {
    let store = TableStore::new();
    let app = App::builder().store(store.clone()).handler::<move_in_transaction>().start().await.unwrap();
    let users = app.repository::<User>();
    for (name, email) in [("ada", "a@x"), ("zoe", "z@x")] {
        users.create(&id(name), registered(email, None)).await.unwrap();
    }
    assert_eq!(request(&app, &[("ada", Some("new@x")), ("zoe", None)]).await, None);
    let head = store.head().await.unwrap();
    let stored: Vec<_> = store.read_feed(Position::START, head, &FeedFilter::all()).try_collect().await.unwrap();
    let types: Vec<_> = stored.iter().map(|event| event.event_type().as_str()).collect();
    assert!(types.ends_with(&["Left", "Moved"]), "{types:?}");
    app.shutdown(std::time::Duration::from_secs(30)).await.unwrap();
}

/// A store of a crate that knows no unique values.
#[derive(Debug, Clone)]
struct WithoutValues(InMemoryEventStore);

delegate!(WithoutValues, self => self.0; AppendEvents, ReadStream, ReadFeed, Checkpoints, Leases);

impl EventStore for WithoutValues {}

#[tokio::test]
async fn a_store_without_unique_values_refuses_them() {
    let users = AggregateRepository::<User>::new(WithoutValues(InMemoryEventStore::new()));
    let error = users.create(&id("ada"), registered("a@x", None)).await.unwrap_err();
    let error = format!("{:?}", eventbus::Error::from(error));
    assert!(error.contains("WithoutValues has no unique values"), "{error}");
    assert!(!users.exists(&id("ada")).await.unwrap());
    assert!(matches!(users.find_by("email", "a@x").await, Err(FindByError::Unsupported { .. })));
}

/// Events as a release stored them that did not know that an address is unique.
async fn stored_before(store: &InMemoryEventStore, id: &str, emails: &[&str]) {
    for email in emails {
        let event = NewEvent::from_event(&Registered { email: (*email).into(), number: None }).unwrap();
        let stream = StreamId::parse("UniqueUser", id).unwrap();
        store.append(&stream, ExpectedVersion::Any, vec![event.with_unique(Vec::new())]).await.unwrap();
    }
}

#[tokio::test]
async fn stored_events_take_their_values_once_and_duplicates_are_named() {
    let store = InMemoryEventStore::new();
    let users = AggregateRepository::<User>::new(store.clone());
    stored_before(&store, "ada", &["old@x", "Ada@x"]).await;
    stored_before(&store, "eve", &["ADA@x"]).await;
    stored_before(&store, "bob", &["old@x"]).await;
    users.create(&id("new"), registered("new@x", None)).await.unwrap();
    stored_before(&store, "old", &["new@x"]).await;
    assert_eq!(found(&users, "ada@x").await, None);

    for _ in 0..2 {
        let mut seen = Vec::new();
        let taken = users.take_unique_values(|progress| seen.push(progress.aggregates)).await.unwrap();
        assert_eq!((taken.events, taken.aggregates, seen), (6, 5, vec![1, 2, 3, 4, 5, 5]));
        let duplicate = |at: usize| {
            let duplicate = &taken.duplicates[at];
            let holder = duplicate.holder.as_ref().unwrap().to_string();
            (duplicate.name.to_string(), duplicate.stream.to_string(), holder)
        };
        let named =
            |of: &str, holder: &str| ("email".into(), format!("UniqueUser/{of}"), format!("UniqueUser/{holder}"));
        assert_eq!((duplicate(0), duplicate(1)), (named("eve", "ada"), named("old", "new")));
        assert_eq!(taken.duplicates.len(), 2);
    }
    for (email, holder) in [("ada@x", Some("ada")), ("old@x", Some("bob")), ("new@x", Some("new"))] {
        assert_eq!(found(&users, email).await.as_deref(), holder, "{email}");
    }
    let error = users.update(&id("eve"), registered("ada@x", None)).await.unwrap_err();
    assert!(error.is_taken("email"), "{error}");
}

#[tokio::test]
async fn values_are_taken_anew_by_another_normalization() {
    let store = InMemoryEventStore::new();
    let users = AggregateRepository::<User>::new(store.clone());
    // as a release without `normalize` took them
    let raw = UniqueChange::new(Name::from_static("email"), Some("Ada@x".into())).unwrap();
    let event = NewEvent::from_event(&Registered { email: "Ada@x".into(), number: None }).unwrap();
    let stream = StreamId::parse("UniqueUser", "ada").unwrap();
    store.append(&stream, ExpectedVersion::Any, vec![event.with_unique(vec![raw])]).await.unwrap();
    assert_eq!(found(&users, "ada@x").await, None);
    users.take_unique_values(|_| {}).await.unwrap();
    assert_eq!(found(&users, "ada@x").await.as_deref(), Some("ada"));
}
