//! The log lines of an app.

use std::time::Duration;

use eventbus::{
    InMemoryEventBus, InMemoryEventStore, Never,
    port::{DeadLetterFilter, EventBus as _, RelayTarget},
    prelude::*,
    relay::PublishedPosition,
    testkit::{Fault, FaultyBus, FaultyStore, LossyBus, ManualClock},
};

use crate::{
    lines::Lines,
    orders::{Order, OrderCreated, OrderStatistics, created},
    wait::until,
};

#[handler(manual, retries = 5, timeout_ms = 100)]
async fn patient(_event: &OrderCreated) {}

#[handler(manual, group = "audit")]
async fn audit(_event: &RecordedEvent) {}

#[tokio::test]
async fn an_own_checkpoint_whose_reply_was_lost_is_no_rival() {
    let lines = Lines::default();
    let _here = lines.capture("eventbus=warn");
    let (store, bus) = (FaultyStore::new(InMemoryEventStore::new()), FaultyBus::new(InMemoryEventBus::new()));
    let app = App::builder().store(store.clone()).bus(bus).handler::<audit>().start().await.unwrap();
    store.checkpoints.fail_next(Fault::LostReply, 1);
    for _ in 0..2 {
        let orders = app.repository::<Order>();
        let mut order = orders.create_new(AggregateId::new());
        order.record(created("ada", 1.0));
        orders.save(&mut order).await.unwrap();
        app.settled().await.unwrap();
    }
    until("it failed", async || store.checkpoints.remaining() == 0).await;
    app.shutdown(Duration::from_secs(5)).await.unwrap();
    assert!(lines.text().contains("trying again"), "{}", lines.text());
    assert!(!lines.text().contains("someone else"), "{}", lines.text());
}

#[handler(manual)]
async fn never_end(_event: &OrderCreated) {
    std::future::pending().await
}

#[tokio::test]
async fn a_shutdown_that_aborts_a_handler_names_it() {
    let lines = Lines::default();
    let _here = lines.capture("eventbus=warn");
    let app = App::builder().wait_timeout(Duration::from_millis(50));
    let app = app.handler::<never_end>().start().await.unwrap();
    let orders = app.repository::<Order>();
    let mut order = orders.create_new("7".parse().unwrap());
    order.record(created("ada", 1.0));
    orders.save(&mut order).await.unwrap();
    app.settled().await.unwrap_err();
    app.shutdown(Duration::from_millis(50)).await.unwrap_err();
    until("it is named", async || lines.text().contains("`never_end` with `OrderCreated` of `Order/7`")).await;
}

#[tokio::test]
async fn a_handler_that_takes_long_is_logged_while_it_runs() {
    let (lines, clock) = (Lines::default(), ManualClock::default());
    let _here = lines.capture("eventbus=warn");
    let app = App::builder().clock(clock.clone()).handler::<never_end>().start().await.unwrap();
    let orders = app.repository::<Order>();
    let mut order = orders.create_new("7".parse().unwrap());
    order.record(created("ada", 1.0));
    orders.save(&mut order).await.unwrap();
    until("it is logged", async || {
        clock.advance(Duration::from_secs(1));
        lines.text().contains("still runs")
    })
    .await;
    assert_eq!(app.bus().stats().handler_errors, 0, "it has not ended");
    let text = lines.text();
    let line = text.lines().find(|line| line.contains("still runs")).unwrap();
    for named_once in ["never_end", "OrderCreated", "Order/7"] {
        assert_eq!(line.matches(named_once).count(), 1, "{line}");
    }
}

#[handler(manual, stream = "orders")]
async fn audit_stream(_event: &OrderCreated) {}

#[tokio::test]
async fn a_slow_handler_is_named() {
    for (slow_after, count) in [(Duration::ZERO, 1), (Duration::from_secs(3_600), 0)] {
        let lines = Lines::default();
        let _here = lines.capture("eventbus=warn");
        let bus = InMemoryEventBus::builder().slow_after(slow_after).build();
        let app = App::builder().bus(bus.clone()).store(InMemoryEventStore::new()).consume("orders", bus);
        let app = app.handler::<audit_stream>().start().await.unwrap();
        let orders = app.repository::<Order>();
        let mut order = orders.create_new(AggregateId::new());
        order.record(created("ada", 1.0));
        orders.save(&mut order).await.unwrap();
        app.settled().await.unwrap();
        let text = lines.text();
        let slow =
            text.lines().filter(|line| line.contains("handler is slow") && line.contains("handler=audit_stream"));
        assert_eq!(slow.count(), count, "{text}");
    }
}

#[handler(manual)]
async fn reserve_stock(event: &OrderCreated) -> Result<(), String> {
    tracing::info!("stock is reserved");
    if event.customer_id == "ada" { Ok(()) } else { Err("the shelf is empty".into()) }
}

#[tokio::test]
async fn a_line_of_a_handler_says_early_what_it_says() {
    let lines = Lines::default();
    let _here = lines.capture("info");
    let app = App::builder().store(InMemoryEventStore::new()).handler::<reserve_stock>().start().await.unwrap();
    let orders = app.repository::<Order>();
    for (id, customer) in [("4711", "ada"), ("4712", "bob")] {
        let mut order = orders.create_new(id.parse().unwrap());
        order.record(created(customer, 1.0));
        orders.save(&mut order).await.unwrap();
    }
    until("one has failed", async || lines.text().contains("handler failed")).await;
    let text = lines.text();
    // OpenTelemetry takes the kind of a span from its fields
    let kind = if cfg!(feature = "opentelemetry") { r#" otel.kind="consumer""# } else { "" };
    let begin = 150 + kind.len();
    for (message, of, whole) in [("stock is reserved", "4711", begin + 20), ("handler failed", "4712", begin + 150)] {
        let of_handler = "handler=reserve_stock event=OrderCreated";
        let span = format!("handle{{{of_handler} aggregate=Order/{of}{kind}}}: ");
        let line = text.lines().find(|line| line.contains(message) && line.contains(&span)).unwrap_or(&text);
        let begins = line.find(message).unwrap();
        assert!(begins < begin && line.len() < whole, "column {begins} of {}: {line}", line.len());
        assert_eq!(line.matches("handler=").count(), 1, "nothing is said twice: {line}");
    }
}

#[handler(manual, name = "report")]
async fn report(_event: &OrderCreated) {}

#[handler(manual, name = "report")]
async fn report_all(_event: &RecordedEvent) {}

#[tokio::test]
async fn the_start_logs_how_many_stored_events_new_handlers_and_new_types_get() {
    let lines = Lines::default();
    let _here = lines.capture("eventbus=info");
    let store = InMemoryEventStore::new();
    let app = App::builder().store(store.clone()).handler::<audit>().start().await.unwrap();
    for customer in ["ada", "bob"] {
        let order = AggregateId::new();
        app.repository::<Order>().upsert(&order, |_| Ok::<_, Never>(created(customer, 1.0))).await.unwrap();
    }
    let logged = async |builder: eventbus::app::AppBuilder, line: &str| {
        let started = builder.store(store.clone()).start().await.unwrap();
        until(line, async || lines.text().contains(line)).await;
        started.shutdown(Duration::from_secs(5)).await.unwrap();
    };
    let new_handler = "a new handler gets the stored events handler=report events=2";
    logged(App::builder().handler::<report>(), new_handler).await;
    let new_types = "a handler gets the stored events of new types handler=report events=2 types=\"*\"";
    logged(App::builder().handler::<report_all>(), new_types).await;
    let count = lines.text().matches("gets the stored events").count();
    assert_eq!(count, 2, "{}", lines.text());
    app.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn the_start_says_how_to_keep_the_progress_of_a_handler_that_was_renamed() {
    let lines = Lines::default();
    let _here = lines.capture("eventbus=warn");
    let store = InMemoryEventStore::new();
    let app = App::builder().store(store.clone()).handler::<patient>().start().await.unwrap();
    let order = AggregateId::new();
    app.repository::<Order>().upsert(&order, |_| Ok::<_, Never>(created("ada", 1.0))).await.unwrap();
    app.settled().await.unwrap();
    app.shutdown(Duration::from_secs(5)).await.unwrap();
    let renamed = App::builder().store(store).handler::<report>().start().await.unwrap();
    let warning =
        "if it was renamed, write `#[handler(name = \"patient\")]` handler=report events=1 unused=\"patient\"";
    until("it is said", async || lines.text().contains(warning)).await;
    renamed.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn an_event_that_is_published_by_hand_beside_a_store_is_logged_once() {
    let event = RecordedEvent::from_event(&created("ada", 1.0), AggregateId::new(), 1.into()).unwrap();
    let builder = || App::builder().bus(InMemoryEventBus::new());
    for (builder, count) in [(builder().store(InMemoryEventStore::new()), 1), (builder(), 0)] {
        let lines = Lines::default();
        let _here = lines.capture("eventbus=warn");
        let app = builder.start().await.unwrap();
        for _ in 0..2 {
            app.bus().publish(std::slice::from_ref(&event)).await.unwrap();
        }
        let said = "an event was published by hand: it is not in the store";
        assert_eq!(lines.text().matches(said).count(), count, "{}", lines.text());
    }
}

#[tokio::test]
async fn an_app_without_handlers_says_so() {
    for (is_empty, count) in [(true, 1), (false, 0)] {
        let lines = Lines::default();
        let _here = lines.capture("eventbus=info");
        let app = App::builder();
        let _app = if is_empty { app } else { app.handler::<patient>() }.start().await.unwrap();
        assert_eq!(lines.text().matches("`.discover()` adds those that are linked").count(), count, "{}", lines.text());
    }
}

#[tokio::test]
async fn a_forgotten_store_is_a_warning_at_the_start() {
    let given = App::builder().store(InMemoryEventStore::new());
    let consumes_only = App::builder().bus(InMemoryEventBus::new());
    for (builder, count) in [(App::builder(), 1), (given, 0), (consumes_only, 0)] {
        let lines = Lines::default();
        let _here = lines.capture("eventbus=warn");
        let _app = builder.start().await.unwrap();
        let warning = "no store was given: events are lost when the process ends; give one by `.store(..)`";
        assert_eq!(lines.text().matches(warning).count(), count, "{}", lines.text());
    }
}

#[tokio::test]
async fn start_shows_the_routes() {
    let lines = Lines::default();
    let _here = lines.capture("eventbus=debug");
    let app = App::builder().store(InMemoryEventStore::new());
    let app = app.handler::<patient>().handler::<audit>().projection(OrderStatistics::default());
    let _app = app.start().await.unwrap();
    let text = lines.text();
    let line = |parts: &[&str]| {
        let matching = text.lines().filter(|line| parts.iter().all(|part| line.contains(part)));
        assert_eq!(matching.count(), 1, "{parts:?} in\n{text}");
    };
    line(&["DEBUG", "route", "\"patient\"", "group=patient", "events=OrderCreated", "tests/runtime/logs.rs:"]);
    line(&["DEBUG", "route", "\"audit\"", "group=audit", "events=all"]);
    line(&["DEBUG", "route", "\"order-statistics\"", "kind=InMemory", "events=OrderCreated, OrderShipped"]);
    let warnings = text.lines().filter(|line| line.contains("WARN") && !line.contains("this app does not run"));
    assert_eq!(warnings.count(), 0, "{text}");
}

#[handler(manual)]
async fn refuse(_event: &OrderCreated) -> Result<(), HandlerError> {
    Err(HandlerError::permanent("no"))
}

#[tokio::test]
async fn the_log_names_a_dead_letter_by_the_id_that_a_replay_takes() {
    let lines = Lines::default();
    let _here = lines.capture("eventbus=error");
    let app = App::builder().handler::<refuse>().start().await.unwrap();
    let order = AggregateId::new();
    app.repository::<Order>().upsert(&order, |_| Ok::<_, Never>(created("ada", 1.0))).await.unwrap();
    app.settled().await.unwrap_err();
    let letters = app
        .bus()
        .dead_letters()
        .unwrap()
        .list_dead_letters(&DeadLetterFilter::default(), None, 1)
        .await
        .unwrap()
        .letters;
    let named = format!("dead_letter={} ", letters[0].id);
    assert!(lines.text().contains(&named), "{named} in\n{}", lines.text());
}

#[tokio::test(start_paused = true)]
async fn what_an_operator_has_to_know_is_said_once() {
    let lines = Lines::default();
    let _here = lines.capture("eventbus=warn");
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    let app = App::builder().store(store.clone()).bus(bus.clone()).start().await.unwrap();
    bus.ranges.fail_next(Fault::Unavailable, 5);
    until("the outage is over", async || bus.ranges.remaining() == 0).await;
    assert_eq!(lines.text().matches("relay cannot publish, trying again").count(), 1, "{}", lines.text());

    bus.flush();
    bus.set_position(eventbus::Uuid::now_v7(), None, PublishedPosition::default()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(lines.text().matches("relay stopped").count(), 1, "{}", lines.text());
    assert!(!app.health().await.is_healthy());
}
