//! An app whose clock the test advances: hours pass in an instant.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use eventbus::{HandlerError, clock::Clock, prelude::*, testkit::ManualClock};
use time::{OffsetDateTime, macros::datetime};

use crate::{
    orders::{Order, OrderCreated, created},
    wait::until,
};

const HOUR: Duration = Duration::from_secs(3_600);
/// Twice this time is within the four hours of the default.
const LATER: Duration = Duration::from_secs(100 * 60);
const BEGIN: OffsetDateTime = datetime!(2031-05-01 12:00 UTC);

/// The times of the handler's runs.
#[derive(Clone)]
struct Ran(ManualClock, Arc<Mutex<Vec<OffsetDateTime>>>);

#[handler(group = "patient", manual)]
async fn later(_event: &OrderCreated, State(ran): State<Ran>, attempt: Attempt) -> Result<(), HandlerError> {
    ran.1.lock().unwrap().push(ran.0.now());
    match attempt.0 {
        3 => Ok(()),
        _ => Err(HandlerError::retry_after(LATER, "not yet")),
    }
}

#[handler(group = "endless", manual, timeout_ms = 3_600_000)]
async fn endless(_event: &OrderCreated, State(ran): State<Ran>, attempt: Attempt) {
    ran.1.lock().unwrap().push(ran.0.now());
    if attempt.0 == 1 {
        std::future::pending::<()>().await;
    }
}

async fn start<H: eventbus::handler::Handler>() -> (App, ManualClock, Ran) {
    let clock = ManualClock::at(BEGIN);
    let ran = Ran(clock.clone(), Arc::default());
    let app = App::builder().clock(clock.clone()).state(ran.clone()).handler::<H>().start().await.unwrap();
    (app, clock, ran)
}

async fn order(app: &App) -> eventbus::Saved {
    let orders = app.repository::<Order>();
    let mut order = orders.create_new("1".parse().unwrap());
    order.record(created("ada", 9.0));
    orders.save(&mut order).await.unwrap()
}

#[tokio::test]
async fn delays_of_hours_pass_in_an_instant() {
    let (app, clock, ran) = start::<later>().await;
    order(&app).await;
    for _ in 0..2 {
        assert_eq!(clock.wait_for_sleeper(HOUR).await, LATER);
        clock.advance(LATER);
    }
    app.settled().await.unwrap();
    assert_eq!(*ran.1.lock().unwrap(), [BEGIN, BEGIN + LATER, BEGIN + 2 * LATER]);
    app.shutdown(HOUR).await.unwrap();
}

#[tokio::test]
async fn a_handler_times_out_by_the_clock_of_the_app() {
    let (app, clock, ran) = start::<endless>().await;
    order(&app).await;
    assert_eq!(clock.wait_for_sleeper(HOUR).await, HOUR);
    clock.advance(HOUR);
    until("it runs again", async || {
        clock.advance(Duration::from_millis(1));
        ran.1.lock().unwrap().len() == 2
    })
    .await;
    app.settled().await.unwrap();
}

#[tokio::test]
async fn ids_and_times_of_events_are_those_of_the_clock_of_the_app() {
    let (app, clock, _) = start::<later>().await;
    clock.advance(HOUR);
    let saved = order(&app).await;
    let metadata = saved.events[0].metadata();
    assert_eq!(metadata.occurred_at(), BEGIN + HOUR);
    let (seconds, _) = metadata.event_id().as_uuid().get_timestamp().unwrap().to_unix();
    assert_eq!(i64::try_from(seconds).unwrap(), (BEGIN + HOUR).unix_timestamp());
}
