//! What an app says in the log when it starts.

use std::{
    io,
    sync::{Arc, Mutex},
};

use eventbus::prelude::*;

use crate::orders::{OrderCreated, OrderStatistics};

#[handler(manual, retries = 5, timeout_ms = 100)]
async fn patient(_event: &OrderCreated) {}

#[handler(manual, group = "audit")]
async fn audit(_event: &RecordedEvent) {}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn start_shows_the_routes_and_says_which_options_do_nothing_yet() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter("eventbus=debug")
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _here = tracing::subscriber::set_default(subscriber);
    let app = App::builder()
        .handler::<patient>()
        .handler::<audit>()
        .projection(OrderStatistics::default());
    app.start().await.unwrap();
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let line = |parts: &[&str]| {
        let matching = text
            .lines()
            .filter(|line| parts.iter().all(|part| line.contains(part)));
        assert_eq!(matching.count(), 1, "{parts:?} in\n{text}");
    };
    line(&[
        "DEBUG",
        "route",
        "\"patient\"",
        "group=default",
        "events=OrderCreated",
        "tests/runtime/logs.rs:",
    ]);
    line(&["DEBUG", "route", "\"audit\"", "group=audit", "events=all"]);
    line(&[
        "DEBUG",
        "route",
        "\"order-statistics\"",
        "kind=InMemory",
        "events=OrderCreated, OrderShipped",
    ]);
    line(&["WARN", "\"patient\"", "do nothing yet"]);
}
