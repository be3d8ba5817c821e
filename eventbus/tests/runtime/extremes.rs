//! Each option of the app, of the in-memory stores and buses, and of health, at the ends of its range: all work, as the
//! docs define the shortest and the longest value.
//!
//! Invariant: a new option of a builder has an entry in its list here; `every_option_is_tried` reads the source for it.
#![allow(clippy::print_stdout, reason = "which option a failure is about")]

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use eventbus::{
    InMemoryEventBus, InMemoryEventStore, app::AppBuilder, delivery::RetryPolicy, health::HealthThresholds, prelude::*,
};

use crate::orders::{Order, OrderCreated, OrderStatistics, created};

type Handled = Arc<AtomicU32>;

/// Fails once.
#[handler(manual)]
async fn second_time(
    _event: &OrderCreated,
    attempt: Attempt,
    State(handled): State<Handled>,
) -> Result<(), &'static str> {
    if attempt.0 == 1 {
        return Err("once");
    }
    handled.fetch_add(1, Ordering::SeqCst);
    Ok(())
}

#[handler(manual, group = "other", timeout_ms = 18_446_744_073_709_551_615, retries = 4_294_967_295)]
async fn first_time(_event: &OrderCreated, State(handled): State<Handled>) {
    handled.fetch_add(1, Ordering::SeqCst);
}

const NONE: Duration = Duration::ZERO;
const LEAST: Duration = Duration::from_nanos(1);
const MOST: Duration = Duration::MAX;

/// Each option of the app with a range, and whether waiting methods have time to wait.
fn app_options() -> Vec<(&'static str, AppBuilder, bool)> {
    let mut options = Vec::new();
    for time in [NONE, LEAST, MOST] {
        options.push(("lease", App::builder().lease(time), true));
        options.push(("relay_gather", App::builder().relay_gather(time), true));
        options.push(("inbox_retention", App::builder().inbox_retention(time), true));
        options.push(("command_retention", App::builder().command_retention(time), true));
        options.push(("wait_timeout", App::builder().wait_timeout(time), time == MOST));
        options.push(("shutdown_timeout", App::builder().shutdown_timeout(time), true));
    }
    options
}

fn bus_options() -> Vec<(&'static str, InMemoryEventBus)> {
    let quick = RetryPolicy { first_delay: Duration::from_millis(1), ..RetryPolicy::default() };
    let builder = || InMemoryEventBus::builder().retry(quick);
    let mut options = Vec::new();
    for number in [0, 1, usize::MAX] {
        options.push(("capacity", builder().capacity(number).build()));
        options.push(("capacity_bytes", builder().capacity_bytes(number).build()));
        options.push(("concurrency", builder().concurrency(number).build()));
        options.push(("max_in_flight", builder().max_in_flight(number).build()));
        options.push(("max_waiting", builder().max_waiting(number).build()));
    }
    for time in [NONE, LEAST, MOST] {
        options.push(("slow_after", builder().slow_after(time).build()));
        let most = Some(u32::MAX);
        let retry = RetryPolicy { retry_for: MOST, max_retries: most, first_delay: time.min(LEAST), max_delay: time };
        options.push(("retry", builder().retry(retry).build()));
    }
    options
}

/// Saves, handles, projects, waits, reads the status, and shuts down.
async fn works(builder: AppBuilder, can_wait: bool, deadline: Duration) {
    let handled = Handled::default();
    let app = builder
        .state(handled.clone())
        .handler::<second_time>()
        .handler::<first_time>()
        .projection_with(OrderStatistics::default)
        .start()
        .await
        .unwrap();
    let orders = app.repository::<Order>();
    let mut order = orders.create_new(AggregateId::new());
    order.record(created("ada", 1.0));
    let position = orders.save(&mut order).await.unwrap().position.unwrap();
    if can_wait {
        app.settled().await.unwrap();
        app.published(position).await.unwrap();
        app.projected::<OrderStatistics>(position).await.unwrap();
    }
    crate::wait::until("both have handled it", async || handled.load(Ordering::SeqCst) == 2).await;
    let health = app.health().await;
    for time in [NONE, LEAST, MOST] {
        for number in [0, u64::MAX] {
            let thresholds = HealthThresholds {
                pending_messages: number,
                dlq_messages: number,
                in_flight_age: time,
                unfinished_age: time,
                lag_seconds: number,
            };
            let _ = health.alerts(&thresholds);
        }
    }
    app.rebuild::<OrderStatistics>().await.unwrap();
    app.shutdown(deadline).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_works_with_the_least_and_the_most_of_each_option() {
    for (option, builder, can_wait) in app_options() {
        println!("app: {option}");
        let quick = RetryPolicy { first_delay: Duration::from_millis(1), ..RetryPolicy::default() };
        let bus = InMemoryEventBus::builder().retry(quick).build();
        works(builder.bus(bus).store(InMemoryEventStore::new()), can_wait, MOST).await;
    }
    for (option, bus) in bus_options() {
        println!("bus: {option}");
        works(App::builder().bus(bus).store(InMemoryEventStore::new()), true, MOST).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_are_retried_by_any_policy() {
    let store = InMemoryEventStore::new();
    for (max_retries, time) in [(Some(0), NONE), (Some(u32::MAX), NONE), (None, LEAST), (Some(1), MOST)] {
        let policy = RetryPolicy { retry_for: time, max_retries, first_delay: time, max_delay: time };
        let orders = AggregateRepository::<Order>::new(store.clone()).with_conflict_retries(policy);
        orders.upsert(&AggregateId::new(), |_| Ok::<_, eventbus::Never>(created("ada", 1.0))).await.unwrap();
    }
    for (first_delay, max_delay) in [(MOST, MOST), (LEAST, MOST), (MOST, NONE)] {
        let policy = RetryPolicy { retry_for: MOST, max_retries: None, first_delay, max_delay };
        for attempt in [0, 1, 2, 63, u32::MAX] {
            assert!(policy.jittered(attempt) <= policy.delay(attempt) && policy.delay(attempt) <= max_delay);
        }
    }
}

/// Methods of a builder, by its source: the list below names the ends of each.
fn methods(source: &str) -> BTreeSet<String> {
    let public = source.lines().filter_map(|line| line.trim().strip_prefix("pub "));
    let named = public.filter_map(|line| line.trim_start_matches("const ").strip_prefix("fn "));
    named.filter_map(|line| Some(line.split(['(', '<']).next()?.to_owned())).collect()
}

#[test]
fn every_option_is_tried() {
    /// These have no range.
    const OTHERS: [&str; 20] = [
        "store",
        "bus",
        "consume",
        "state",
        "discover",
        "discover_groups",
        "expect_crates",
        "handler",
        "projection",
        "projection_with",
        "without_relay",
        "share_stream",
        "clock",
        "export_metrics",
        "given_bus",
        "given_store",
        "rebuild",
        "replay",
        "standalone",
        "build",
    ];
    let tried = app_options().into_iter().map(|(option, ..)| option);
    let tried: BTreeSet<_> = tried.chain(bus_options().into_iter().map(|(option, _)| option)).chain(OTHERS).collect();
    let sources = [include_str!("../../src/runtime/app/builder.rs"), include_str!("../../src/memory/bus/builder.rs")];
    for method in sources.into_iter().flat_map(methods) {
        assert!(tried.contains(&*method), "`{method}` is not in the lists of this file");
    }
}
