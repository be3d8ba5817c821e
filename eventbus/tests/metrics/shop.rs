//! A shop whose handlers, decisions and projections do all that metrics count, and which counts it by itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use eventbus::{
    app::AppBuilder,
    clock::SharedClock,
    prelude::*,
    testkit::{ManualClock, TestApp},
};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order, tags(seat))]
pub(crate) struct Booked {
    pub(crate) seat: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
pub(crate) struct Paid {
    pub(crate) cents: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(events(Booked, Paid), snapshot(every = 4))]
pub(crate) struct Order {
    pub(crate) cents: u64,
}

impl Apply for Order {
    fn apply(&mut self, event: &OrderEvent) {
        if let OrderEvent::Paid(paid) = event {
            self.cents += paid.cents;
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Receipt)]
pub(crate) struct Printed {
    pub(crate) cents: u64,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Printed))]
pub(crate) struct Receipt {
    pub(crate) printed: u64,
}

impl Apply for Receipt {
    fn apply(&mut self, _event: &ReceiptEvent) {
        self.printed += 1;
    }
}

/// Whether a seat is taken.
#[derive(Debug, Default, Decision)]
#[decision(events(Booked))]
pub(crate) struct Seat {
    pub(crate) is_taken: bool,
}

impl Apply for Seat {
    fn apply(&mut self, _event: &SeatEvent) {
        self.is_taken = true;
    }
}

/// What the handlers and projections of the shop have counted by themselves.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    pub(crate) printed: AtomicU64,
    pub(crate) retried: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) succeeded_later: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) hung: AtomicU64,
    pub(crate) panicked: AtomicU64,
    pub(crate) projected: AtomicU64,
}

pub(crate) type SharedCounts = Arc<Counted>;

pub(crate) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Saves a receipt for each payment.
#[handler(group = "receipts")]
async fn print(
    paid: &Paid,
    id: &AggregateId,
    receipts: Repository<Receipt>,
    State(counted): State<SharedCounts>,
) -> eventbus::Result<()> {
    let cents = paid.cents;
    receipts.upsert(id, |_| Ok::<_, eventbus::Never>(Printed { cents })).await?;
    add(&counted.printed);
    Ok(())
}

/// Fails for payments of an even number of cents, at the first two attempts.
#[handler(group = "mail", retries = 5)]
async fn mail(paid: &Paid, attempt: Attempt, State(counted): State<SharedCounts>) -> Result<(), &'static str> {
    if attempt.0 > 1 {
        add(&counted.retried);
    }
    if paid.cents.is_multiple_of(2) && attempt.0 <= 2 {
        add(&counted.failed);
        return Err("no such mailbox");
    }
    add(&counted.succeeded_later);
    Ok(())
}

/// Refuses seats whose name begins with `x`.
#[handler(group = "seats")]
async fn assign(booked: &Booked, State(counted): State<SharedCounts>) -> Result<(), HandlerError> {
    if booked.seat.starts_with('x') {
        add(&counted.refused);
        return Err(HandlerError::permanent("there is no such seat"));
    }
    add(&counted.accepted);
    Ok(())
}

/// Reaches its time limit for payments of 7 cents, and panics for those of 9.
#[handler(group = "slow", retries = 0, timeout_ms = 1000)]
async fn audit(paid: &Paid, State(counted): State<SharedCounts>, State(clock): State<ManualClock>) {
    if paid.cents == 7 {
        add(&counted.hung);
        SharedClock::new(clock).sleep(Duration::from_hours(1)).await;
    }
    if paid.cents == 9 {
        add(&counted.panicked);
        panic!("nine");
    }
}

/// The sum of all payments.
#[derive(Debug, Default)]
pub(crate) struct Sales {
    pub(crate) cents: u64,
}

#[projection(name = "sales")]
impl Sales {
    fn paid(&mut self, paid: &Paid, State(counted): State<SharedCounts>) {
        self.cents += paid.cents;
        add(&counted.projected);
    }
}

/// Starts the shop; `change` may add to its builder.
pub(crate) async fn start(
    counted: &SharedCounts,
    change: impl Fn(AppBuilder) -> AppBuilder + Send + Sync + 'static,
) -> TestApp {
    let (counted, clock) = (Arc::clone(counted), ManualClock::new());
    let of_handlers = clock.clone();
    let build = move || {
        let builder = App::builder().state(Arc::clone(&counted)).state(of_handlers.clone());
        let builder = builder.handler::<print>().handler::<mail>().handler::<assign>().handler::<audit>();
        change(builder.projection_with(Sales::default))
    };
    TestApp::start_on(clock, build).await
}
