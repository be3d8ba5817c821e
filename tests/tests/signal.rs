//! SIGTERM and SIGINT stop an app after the delivery in flight.
//!
//! The stopped process is a second run of this test binary, with its role in an environment variable.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests; the process that is stopped reports by printing"
)]

use std::env;

use eventbus::prelude::*;
use eventbus_test::internal::Actor;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Lamp)]
struct Lit {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Lit))]
struct Lamp;

impl Apply for Lamp {
    fn apply(&mut self, _event: &LampEvent) {}
}

/// Ends when the test allows it.
#[handler(manual)]
async fn slow(_event: &Lit) -> Result<(), HandlerError> {
    println!("in flight");
    tokio::task::spawn_blocking(Actor::hear).await?;
    println!("handled");
    Ok(())
}

/// The role of the stopped process; returns at once in an ordinary run.
#[tokio::test]
async fn the_process_that_is_stopped() -> eventbus::Result<()> {
    if env::var_os("SIGNAL_ROLE").is_none() {
        return Ok(());
    }
    tracing_subscriber::fmt().with_ansi(false).init();
    let app = App::builder().handler::<slow>().start().await?;
    let lamps = app.repository::<Lamp>();
    lamps.upsert(&"1".parse()?, |_| Ok::<_, eventbus::Never>(Lit {})).await?;
    app.run_until_signal().await?;
    println!("stopped");
    Ok(())
}

fn stops_after_the_delivery_in_hand(signal: &str) {
    let mut stops = Actor::play("the_process_that_is_stopped", &[("SIGNAL_ROLE", "stopped")]);
    stops.until(&["in flight", "running until a signal"]);
    stops.signal(signal);
    stops.until(&["stopping"]);
    assert!(!stops.has_ended(), "it waits for the handler");
    stops.resume();
    stops.until(&["handled"]);
    stops.until(&["stopped"]);
    assert!(stops.wait().0.success());
}

#[test]
fn sigterm_stops_after_the_delivery_in_hand() {
    stops_after_the_delivery_in_hand("TERM");
}

#[test]
fn sigint_stops_after_the_delivery_in_hand() {
    stops_after_the_delivery_in_hand("INT");
}
