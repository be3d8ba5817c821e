//! Two releases that roll over each other in both directions under load, of which the newer one has changed the meaning
//! of a field and the name of an event: nobody misreads an event, none is lost, none becomes a dead letter.
//!
//! The older release writes amounts in euros, the newer one in cents, in a field of the same name and type: whoever
//! decodes a version that it does not know reads a wrong amount. The number of an event says what its amount is.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use eventbus::{
    LoadError, UpdateError,
    event::DecodeError,
    port::{DeadLetterFilter, DeadLetters as _},
    prelude::*,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventstore_postgres::PgEventStore;
use fastrand::Rng;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::SHUTDOWN_TIMEOUT;
use crate::fire::{HarnessError, database::Database, run_summary::RunSummary};

/// Number of aggregates that all writers share.
const ACCOUNTS: u64 = 50;

/// Returns the euros of the event of a number.
const fn euros_of(number: u64) -> i64 {
    (number % 1_000).cast_signed() + 1
}

/// What the members of all releases did, by the numbers of the events.
#[derive(Debug, Clone, Default)]
struct Ledger(Arc<LedgerInner>);

#[derive(Debug, Default)]
struct LedgerInner {
    next_number: AtomicU64,
    saved: Mutex<Vec<u64>>,
    handled: Mutex<BTreeMap<u64, u64>>,
    /// Amounts that are not those of their numbers.
    misread: AtomicU64,
    /// Saves that the older release refused, as it does not know a version of an event of the aggregate.
    refused: AtomicU64,
}

impl Ledger {
    fn next_number(&self) -> u64 {
        self.0.next_number.fetch_add(1, Ordering::Relaxed)
    }

    /// Compares a decoded amount with that of the event's number.
    fn check(&self, number: u64, cents: i64) {
        if cents != euros_of(number) * 100 {
            self.0.misread.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn record_handled(&self, number: u64, cents: i64) {
        self.check(number, cents);
        *self.0.handled.lock().entry(number).or_default() += 1;
    }

    fn record_save<T>(
        &self,
        numbers: &[u64],
        saved: Result<T, UpdateError<eventbus::Never>>,
    ) -> Result<(), HarnessError> {
        match saved {
            Ok(_) => self.0.saved.lock().extend(numbers),
            Err(UpdateError::Load(LoadError::Decode {
                source: DecodeError::NewerVersion { .. } | DecodeError::UnknownType { .. },
                ..
            })) => drop(self.0.refused.fetch_add(1, Ordering::Relaxed)),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Writes a release: its events, its aggregate, which adds up the amounts in cents, its handlers, its projection.
///
/// The aggregate is written by hand: a program may have one derived aggregate of a type.
macro_rules! release {
    ($module:ident, $paid_in:ident, $taken:ident, $cents_of_unit:literal, $paid_in_options:tt, $taken_options:tt) => {
        mod $module {
            use eventbus::{Aggregate, IntoEvents, Never, app::AppBuilder, prelude::*};

            use super::{ACCOUNTS, HarnessError, Ledger, euros_of};

            #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
            #[event $paid_in_options]
            pub(super) struct $paid_in {
                number: u64,
                amount: i64,
            }

            #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
            #[event $taken_options]
            pub(super) struct $taken {
                number: u64,
                amount: i64,
            }

            #[derive(Debug, Clone, DomainEvent)]
            pub(super) enum AccountEvent {
                PaidIn($paid_in),
                Taken($taken),
            }

            impl AccountEvent {
                fn number_and_cents(&self) -> (u64, i64) {
                    match self {
                        Self::PaidIn(event) => (event.number, event.amount * $cents_of_unit),
                        Self::Taken(event) => (event.number, event.amount * $cents_of_unit),
                    }
                }
            }

            impl IntoEvents<Self> for AccountEvent {
                fn into_events(self, out: &mut Vec<Self>) {
                    out.push(self);
                }
            }

            #[derive(Debug, Default)]
            pub(super) struct Account {
                amounts: Vec<(u64, i64)>,
            }

            impl eventbus::repository::Fold for Account {
                type Event = AccountEvent;
            }

            impl Aggregate for Account {
                const AGGREGATE_TYPE: &'static str = "RollingAccount";
                type Id = AggregateId;
            }

            impl Apply for Account {
                fn apply(&mut self, event: &AccountEvent) {
                    self.amounts.push(event.number_and_cents());
                }
            }

            #[handler(manual, group = "versions")]
            async fn note(event: &AccountEvent, State(ledger): State<Ledger>) {
                let (number, cents) = event.number_and_cents();
                ledger.record_handled(number, cents);
            }

            #[derive(Debug, Default)]
            pub(super) struct Totals(pub(super) Vec<(u64, i64)>);

            #[projection(name = "totals", manual)]
            impl Totals {
                fn add(&mut self, event: &AccountEvent) {
                    self.0.push(event.number_and_cents());
                }
            }

            pub(super) fn parts(builder: AppBuilder) -> AppBuilder {
                builder.handler::<note>().projection_with(Totals::default)
            }

            /// Saves one or two events to a random account, after checking all amounts in it.
            pub(super) async fn save(app: &App, ledger: &Ledger, random: &mut fastrand::Rng) -> Result<(), HarnessError> {
                let accounts = app.repository::<Account>();
                let id = format!("account-{}", random.u64(..ACCOUNTS)).parse()?;
                let number = ledger.next_number();
                let amount = |number| euros_of(number) * (100 / $cents_of_unit);
                let (is_payment, other) = (random.bool(), random.u8(..4) == 0);
                let other = other.then(|| ledger.next_number());
                let saved = accounts
                    .upsert(&id, |account| {
                        account.amounts.iter().for_each(|&(number, cents)| ledger.check(number, cents));
                        let event = match is_payment {
                            true => AccountEvent::PaidIn($paid_in { number, amount: amount(number) }),
                            false => AccountEvent::Taken($taken { number, amount: amount(number) }),
                        };
                        let other = other.map(|number| AccountEvent::PaidIn($paid_in { number, amount: amount(number) }));
                        Ok::<_, Never>((event, other))
                    })
                    .await;
                let numbers: Vec<u64> = [Some(number), other].into_iter().flatten().collect();
                ledger.record_save(&numbers, saved)
            }
        }
    };
}

release!(old, PaidIn, Taken, 100, (aggregate_type = "RollingAccount"), (aggregate_type = "RollingAccount"));
release!(
    new,
    PaidIn,
    Withdrawn,
    1,
    (aggregate_type = "RollingAccount", version = 2, upcast(super::in_cents)),
    (aggregate_type = "RollingAccount", version = 2, was("Taken"), upcast(super::in_cents))
);

/// The newer release counts cents.
fn in_cents(fields: &mut eventbus::event::Fields) -> Result<(), eventbus::event::FieldError> {
    let euros: i64 = fields.take("amount")?;
    fields.insert("amount", euros * 100)
}

/// A running member: its app, and the task that saves by it.
struct Member {
    app: App,
    is_stopped: Arc<AtomicBool>,
    /// `None` once it has ended.
    writing: Option<JoinHandle<Result<(), HarnessError>>>,
}

impl Member {
    async fn stop_writing(&mut self) -> Result<(), HarnessError> {
        self.is_stopped.store(true, Ordering::Relaxed);
        match self.writing.take() {
            Some(writing) => writing.await?,
            None => Ok(()),
        }
    }

    async fn stop(&mut self) -> Result<(), HarnessError> {
        self.stop_writing().await?;
        Ok(self.app.shutdown(SHUTDOWN_TIMEOUT).await?)
    }
}

/// A service of two members on one database and one stream.
struct Service {
    store: PgEventStore,
    bus: RedisEventBusConfig,
    ledger: Ledger,
    random: Rng,
}

impl Service {
    async fn start(&mut self, is_new: bool) -> Result<Member, HarnessError> {
        let bus = RedisEventBus::connect(self.bus.clone()).await?;
        let builder = App::builder().store(self.store.clone()).bus(bus).state(self.ledger.clone());
        let builder = if is_new { new::parts(builder) } else { old::parts(builder) };
        let app = builder.start().await?;
        let is_stopped = Arc::new(AtomicBool::new(false));
        let (writer, ledger, stopped, mut random) =
            (app.clone(), self.ledger.clone(), Arc::clone(&is_stopped), self.random.fork());
        let writing = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                match is_new {
                    true => new::save(&writer, &ledger, &mut random).await?,
                    false => old::save(&writer, &ledger, &mut random).await?,
                }
                tokio::time::sleep(Duration::from_millis(random.u64(..4))).await;
            }
            Ok(())
        });
        Ok(Member { app, is_stopped, writing: Some(writing) })
    }

    /// Rolls the newer release out over both members, and back, until the time is over; ends with the newer release.
    async fn roll(&mut self, time: Duration) -> Result<([Member; 2], u64), HarnessError> {
        let ends = Instant::now() + time;
        let mut members = [self.start(false).await?, self.start(false).await?];
        let mut replaced = 0;
        loop {
            for is_new in [true, false] {
                for member in &mut members {
                    tokio::time::sleep(Duration::from_millis(self.random.u64(200..1_200))).await;
                    // the next one starts before the last one stops, or after it
                    if self.random.bool() {
                        let next = self.start(is_new).await?;
                        std::mem::replace(member, next).stop().await?;
                    } else {
                        member.stop().await?;
                        *member = self.start(is_new).await?;
                    }
                    replaced += 1;
                }
                if is_new && Instant::now() > ends {
                    return Ok((members, replaced));
                }
            }
        }
    }
}

/// Rolls two releases over each other for a time.
///
/// # Errors
/// If the run itself fails; broken promises are in the summary.
pub async fn run_with_versions(time: Duration, seed: u64) -> Result<RunSummary, HarnessError> {
    let (began, database, redis) = (Instant::now(), Database::create().await?, eventbus_test::private_redis());
    let bus = RedisEventBusConfig {
        redis_url: redis.url().into(),
        stream_prefix: eventbus_test::unique_name("versions"),
        ..RedisEventBusConfig::default()
    };
    let (store, ledger) = (database.store("versions", 10).await?, Ledger::default());
    let mut service = Service { store: store.clone(), bus, ledger: ledger.clone(), random: Rng::with_seed(seed) };
    let ([mut one, mut other], replaced) = service.roll(time).await?;
    one.stop_writing().await?;
    other.stop_writing().await?;
    let stopped_at = Instant::now();
    let mut failures = Vec::new();
    for member in [&one, &other] {
        failures.extend(member.app.settled().await.err().map(|error| error.to_string()));
    }
    let recovery = stopped_at.elapsed();

    let saved = ledger.0.saved.lock().clone();
    let handled = ledger.0.handled.lock().clone();
    let lost = saved.iter().filter(|number| !handled.contains_key(number)).count();
    let repeated = handled.values().filter(|times| **times > 1).count();
    if lost + repeated > 0 {
        failures.push(format!("{lost} events never reached their handler, {repeated} did twice"));
    }
    let totals = one.app.projection::<new::Totals>()?.read().await.0.clone();
    totals.iter().for_each(|&(number, cents)| ledger.check(number, cents));
    if totals.len() != saved.len() {
        failures.push(format!("the projection has {} of {} events", totals.len(), saved.len()));
    }
    let misread = ledger.0.misread.load(Ordering::Relaxed);
    if misread > 0 {
        failures.push(format!("{misread} amounts were misread"));
    }
    let bus = RedisEventBus::connect(service.bus.clone()).await?;
    let dead = bus.list_dead_letters(&DeadLetterFilter::default(), None, 9).await?.letters;
    if !dead.is_empty() {
        failures.push(format!("dead letters: {dead:?}"));
    }
    one.stop().await?;
    other.stop().await?;
    store.close().await;
    database.remove().await?;
    let refused = ledger.0.refused.load(Ordering::Relaxed);
    Ok(RunSummary {
        events: saved.len() as u64,
        faults: replaced,
        description: format!("members replaced by the other release; the older one refused {refused} saves"),
        slowest_recovery: Some(recovery),
        took: began.elapsed(),
        failures,
        ..RunSummary::new("versions")
    })
}
