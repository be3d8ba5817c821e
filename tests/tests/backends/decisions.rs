//! The examples of <https://dcb.events>, each on every store that has tags, with callers that compete.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use eventbus::{InMemoryEventStore, Never, UpdateError, port::EventStore, prelude::*};
use eventstore_sqlite::SqliteEventStore;
use futures_util::future::join_all;
use workspace_tests::stores;

/// Makes a module of the same tests for each store.
macro_rules! on_every_store {
    ($($test:ident),* $(,)?) => {
        on_every_store! { @each memory, postgres, sqlite; [$($test),*] }
    };
    (@each $($store:ident),*; $tests:tt) => {
        $(on_every_store! { @store $store; $tests })*
    };
    (@store $store:ident; [$($test:ident),*]) => {
        mod $store {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let opened = super::Opened::$store().await;
                super::$test(&opened.apps().await).await;
            })*
        }
    };
}

on_every_store!(
    course_subscriptions,
    unique_usernames,
    invoice_numbers,
    opt_in_tokens,
    product_prices,
    one_aggregate,
    double_submits,
);

/// An open store of one kind.
struct Opened(Arc<dyn EventStore>);

impl Opened {
    async fn memory() -> Self {
        std::future::ready(Self(Arc::new(InMemoryEventStore::new()))).await
    }

    async fn postgres() -> Self {
        Self(Arc::new(stores::postgres(&eventbus_test::unique_name("decisions")).await))
    }

    async fn sqlite() -> Self {
        Self(Arc::new(SqliteEventStore::in_memory().await.unwrap()))
    }

    /// Starts two apps, whose decisions do not line up for each other, as those of two processes.
    async fn apps(&self) -> [App; 2] {
        let start = || App::builder().store(Arc::clone(&self.0)).start();
        [start().await.unwrap(), start().await.unwrap()]
    }
}

/// Lets `callers` decide at once, half of them in each app, and returns the decisions that took effect.
async fn at_once<'a, T, X, F>(apps: &'a [App; 2], callers: usize, decide: impl Fn(&'a App, usize) -> F) -> Vec<T>
where
    F: Future<Output = Result<T, UpdateError<X>>>,
    X: std::fmt::Debug,
{
    let outcomes = join_all((0..callers).map(|n| decide(&apps[n % 2], n))).await;
    let mut made = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(decided) => made.push(decided),
            Err(UpdateError::Refused(_)) => {}
            Err(error) => panic!("neither made nor refused: {error:?}"),
        }
    }
    made
}

// --- Course subscriptions: a course has a capacity, and a student takes part in five courses at most.

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Course", tags(course))]
struct CourseDefined {
    course: String,
    capacity: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Course", tags(course))]
struct CapacityChanged {
    course: String,
    capacity: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Subscription", tags(course, student))]
struct Subscribed {
    course: String,
    student: String,
}

#[derive(Debug, Default, Decision)]
#[decision(events(CourseDefined, CapacityChanged, Subscribed))]
struct Subscriptions {
    capacities: BTreeMap<String, usize>,
    made: BTreeSet<(String, String)>,
}

impl Apply for Subscriptions {
    fn apply(&mut self, event: &SubscriptionsEvent) {
        match event {
            SubscriptionsEvent::CourseDefined(CourseDefined { course, capacity })
            | SubscriptionsEvent::CapacityChanged(CapacityChanged { course, capacity }) => {
                self.capacities.insert(course.clone(), *capacity);
            }
            SubscriptionsEvent::Subscribed(event) => {
                self.made.insert((event.course.clone(), event.student.clone()));
            }
        }
    }
}

impl Subscriptions {
    fn subscribe(&self, course: &str, student: &str) -> Result<Subscribed, &'static str> {
        let capacity = *self.capacities.get(course).ok_or("there is no such course")?;
        let of_course = self.made.iter().filter(|(of, _)| of == course).count();
        let of_student = self.made.iter().filter(|(_, of)| of == student).count();
        match () {
            () if self.made.contains(&(course.into(), student.into())) => Err("the student takes part already"),
            () if of_course >= capacity => Err("the course is full"),
            () if of_student >= 5 => Err("the student takes part in five courses"),
            () => Ok(Subscribed { course: course.into(), student: student.into() }),
        }
    }
}

async fn course_subscriptions(apps: &[App; 2]) {
    let courses: Vec<_> = (0..7).map(|n| format!("c{n}")).collect();
    for course in &courses {
        let defined = CourseDefined { course: course.clone(), capacity: 2 };
        let decision = apps[0].decision::<Subscriptions>().about("course", course);
        decision.decide(|_| Ok::<_, Never>(defined.clone())).await.unwrap();
    }
    let grown = CapacityChanged { course: "c0".into(), capacity: 3 };
    let decision = apps[0].decision::<Subscriptions>().about("course", "c0");
    decision.decide(|_| Ok::<_, Never>(grown.clone())).await.unwrap();
    let subscribe = async |app: &App, course: &str, student: &str| {
        let decision = app.decision::<Subscriptions>().about("course", course).about("student", student);
        decision.decide(|known| known.subscribe(course, student)).await
    };
    let made = at_once(apps, 56, |app, n| {
        let (course, student) = (&courses[n / 8], format!("s{}", n % 8));
        async move { subscribe(app, course, &student).await }
    });
    let made: BTreeSet<_> = made
        .await
        .iter()
        .map(|saved| saved.events[0].decode::<Subscribed>().unwrap())
        .map(|event| (event.course, event.student))
        .collect();
    // each course is full: eight students want it, and take five each at most
    for course in &courses {
        let capacity = if course == "c0" { 3 } else { 2 };
        assert_eq!(made.iter().filter(|(of, _)| of == course).count(), capacity, "{course}: {made:?}");
    }
    for student in 0..8 {
        assert!(made.iter().filter(|(_, of)| *of == format!("s{student}")).count() <= 5);
    }
    let refused = subscribe(&apps[1], "c9", "s0").await.unwrap_err();
    assert_eq!(refused.refused(), Some(&"there is no such course"));
}

// --- Unique usernames: a name is free again three days after its account was closed.

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Login", tags(username))]
struct AccountRegistered {
    username: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Login", tags(username))]
struct AccountClosed {
    username: String,
    day: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Login", tags(username = former, username_now = username))]
struct UsernameChanged {
    former: String,
    username: String,
    day: u32,
}

#[derive(Debug, Default, Decision)]
#[decision(events(AccountRegistered, AccountClosed, UsernameChanged))]
struct Username {
    is_held: bool,
    free_from: u32,
}

impl Apply for Username {
    fn apply(&mut self, event: &UsernameEvent) {
        match event {
            UsernameEvent::AccountRegistered(_) => self.is_held = true,
            UsernameEvent::AccountClosed(AccountClosed { day, .. })
            | UsernameEvent::UsernameChanged(UsernameChanged { day, .. }) => {
                (self.is_held, self.free_from) = (false, day + 3);
            }
        }
    }
}

impl Username {
    fn register(&self, username: &str, day: u32) -> Result<AccountRegistered, &'static str> {
        match () {
            () if self.is_held => Err("the name is taken"),
            () if day < self.free_from => Err("the name is not free yet"),
            () => Ok(AccountRegistered { username: username.into() }),
        }
    }
}

async fn unique_usernames(apps: &[App; 2]) {
    let about = |app: &App, name: &str| app.decision::<Username>().about("username", name);
    let register = async |app: &App, day| about(app, "ada").decide(|name| name.register("ada", day)).await;
    assert_eq!(at_once(apps, 16, |app, _| register(app, 1)).await.len(), 1);
    let closed = AccountClosed { username: "ada".into(), day: 10 };
    about(&apps[0], "ada").decide(|_| Ok::<_, Never>(closed.clone())).await.unwrap();
    assert_eq!(register(&apps[0], 12).await.unwrap_err().refused(), Some(&"the name is not free yet"));
    assert_eq!(at_once(apps, 16, |app, _| register(app, 13)).await.len(), 1);
    // a change gives one name back and takes another one, in one decision about both
    let changed = UsernameChanged { former: "ada".into(), username: "lovelace".into(), day: 20 };
    let taken = AccountRegistered { username: "lovelace".into() };
    let both = apps[1].decision::<Username>().about("username", "ada").about("username", "lovelace");
    both.decide(|_| Ok::<_, Never>((changed.clone(), taken.clone()))).await.unwrap();
    assert!(!about(&apps[0], "ada").load().await.unwrap().is_held);
    assert!(about(&apps[0], "lovelace").load().await.unwrap().is_held);
}

// --- Invoice numbers: without a gap, in the order of the invoices.

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Invoice", tags(event_type, invoice = number))]
struct InvoiceIssued {
    number: u32,
}

#[derive(Debug, Default, Decision)]
#[decision(events(InvoiceIssued))]
struct Invoices {
    last: u32,
}

impl Apply for Invoices {
    fn apply(&mut self, InvoicesEvent::InvoiceIssued(event): &InvoicesEvent) {
        self.last = event.number;
    }
}

async fn invoice_numbers(apps: &[App; 2]) {
    let issue = async |app: &App, _: usize| {
        let decision = app.decision::<Invoices>().about_types();
        decision.decide(|invoices| Ok::<_, Never>(InvoiceIssued { number: invoices.last + 1 })).await
    };
    let issued = at_once(apps, 24, issue).await;
    let mut numbers: Vec<_> = issued
        .iter()
        .map(|saved| (saved.position, saved.events[0].decode::<InvoiceIssued>().unwrap().number))
        .collect();
    numbers.sort_unstable();
    assert!(numbers.iter().map(|(_, number)| *number).eq(1..=24), "{numbers:?}");
    let third = apps[0].decision::<Invoices>().about("invoice", &3_u32).load().await.unwrap();
    assert_eq!(third.last, 3);
}

// --- Opt-in tokens: a token is used once, by the address that it was made for.

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "SignUp", tags(address, token))]
struct SignUpBegun {
    address: String,
    token: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "SignUp", tags(address, token))]
struct SignUpConfirmed {
    address: String,
    token: String,
}

#[derive(Debug, Default, Decision)]
#[decision(events(SignUpBegun, SignUpConfirmed))]
struct SignUp {
    is_begun: bool,
    is_confirmed: bool,
}

impl Apply for SignUp {
    fn apply(&mut self, event: &SignUpEvent) {
        match event {
            SignUpEvent::SignUpBegun(_) => self.is_begun = true,
            SignUpEvent::SignUpConfirmed(_) => self.is_confirmed = true,
        }
    }
}

async fn opt_in_tokens(apps: &[App; 2]) {
    let about =
        |app: &App, address: &str| app.decision::<SignUp>().about_all([("address", &address), ("token", &"1234")]);
    let begun = SignUpBegun { address: "ada".into(), token: "1234".into() };
    about(&apps[0], "ada").decide(|_| Ok::<_, Never>(begun.clone())).await.unwrap();
    let confirm = async |app: &App, address: &str| {
        let confirmed = SignUpConfirmed { address: address.into(), token: "1234".into() };
        about(app, address)
            .decide(|sign_up| match (sign_up.is_begun, sign_up.is_confirmed) {
                (false, _) => Err("there is no such token"),
                (true, true) => Err("the token is used"),
                (true, false) => Ok(confirmed.clone()),
            })
            .await
    };
    assert_eq!(confirm(&apps[1], "eve").await.unwrap_err().refused(), Some(&"there is no such token"));
    assert_eq!(at_once(apps, 16, |app, _| confirm(app, "ada")).await.len(), 1);
}

// --- Product prices: an order takes effect at the prices that the customer saw.

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Product", tags(product))]
struct PriceChanged {
    product: String,
    cents: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "PriceOrder", tags(product = products))]
struct ProductsOrdered {
    products: Vec<String>,
    cents: u32,
}

#[derive(Debug, Default, Decision)]
#[decision(events(PriceChanged))]
struct Prices(BTreeMap<String, u32>);

impl Apply for Prices {
    fn apply(&mut self, PricesEvent::PriceChanged(event): &PricesEvent) {
        self.0.insert(event.product.clone(), event.cents);
    }
}

async fn product_prices(apps: &[App; 2]) {
    let change = async |product: &str, cents| {
        let changed = PriceChanged { product: product.into(), cents };
        let decision = apps[0].decision::<Prices>().about("product", product);
        decision.decide(|_| Ok::<_, Never>(changed.clone())).await.unwrap();
    };
    change("tea", 200).await;
    change("cake", 300).await;
    // an event that the decision appends and does not read: orders do not make each other decide again
    let order = async |app: &App, seen: u32| {
        let ordered = ProductsOrdered { products: vec!["tea".into(), "cake".into()], cents: seen };
        let decision = app.decision::<Prices>().about("product", "tea").about("product", "cake");
        decision
            .decide(|prices| match prices.0.values().sum::<u32>() == seen {
                true => Ok(ordered.clone()),
                false => Err("a price has changed"),
            })
            .await
    };
    assert_eq!(at_once(apps, 16, |app, _| order(app, 500)).await.len(), 16);
    change("tea", 250).await;
    assert_eq!(order(&apps[1], 500).await.unwrap_err().refused(), Some(&"a price has changed"));
    order(&apps[1], 550).await.unwrap();
}

// --- One aggregate: a boundary of one tag is what a stream is.

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Purse", tags(purse))]
struct PurseChanged {
    purse: String,
    by: i64,
}

#[derive(Debug, Default, Decision)]
#[decision(events(PurseChanged))]
struct Purse {
    balance: i64,
}

impl Apply for Purse {
    fn apply(&mut self, PurseEvent::PurseChanged(event): &PurseEvent) {
        self.balance += event.by;
    }
}

async fn one_aggregate(apps: &[App; 2]) {
    let change = async |app: &App, by: i64| {
        let changed = PurseChanged { purse: "ada".into(), by };
        let decision = app.decision::<Purse>().about("purse", "ada");
        decision.decide(|purse| if purse.balance + by < 0 { Err("too little") } else { Ok(changed.clone()) }).await
    };
    change(&apps[0], 100).await.unwrap();
    assert_eq!(at_once(apps, 24, |app, _| change(app, -15)).await.len(), 6);
    assert_eq!(apps[1].decision::<Purse>().about("purse", "ada").load().await.unwrap().balance, 10);
}

// --- Double submits: an order with the client's token is recorded once.

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "TokenOrder", tags(submit))]
struct OrderPlaced {
    submit: String,
    number: usize,
}

#[derive(Debug, Default, Decision)]
#[decision(events(OrderPlaced))]
struct Submits {
    is_used: bool,
}

impl Apply for Submits {
    fn apply(&mut self, _: &SubmitsEvent) {
        self.is_used = true;
    }
}

async fn double_submits(apps: &[App; 2]) {
    let place = async |app: &App, submit: &str, number: usize| {
        let placed = OrderPlaced { submit: submit.into(), number };
        let decision = app.decision::<Submits>().about("submit", submit);
        decision.decide(|submits| if submits.is_used { Err("placed already") } else { Ok(placed.clone()) }).await
    };
    assert_eq!(at_once(apps, 32, |app, n| place(app, ["a", "b", "c", "d"][n % 4], n)).await.len(), 4);
}
