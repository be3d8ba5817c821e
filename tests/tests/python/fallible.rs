//! A handler on this side that fails as often as it is told, and remembers.

use std::sync::{Arc, Mutex};

use eventbus::{port::EventBus, prelude::*};
use eventbus_redis::RedisEventBus;
use tokio::task::JoinHandle;

/// What a handler has done: the ids of events, each time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fallible(Arc<Mutex<Log>>);

#[derive(Debug, Default)]
struct Log {
    failed: Vec<String>,
    handled: Vec<String>,
}

impl Fallible {
    /// Subscribes to every event, and fails with each as often as its metadata say or else `failures`. After so many
    /// events the handler never ends, if that is told.
    pub(crate) fn on(bus: &RedisEventBus, failures: usize, hold_after: Option<usize>) -> Self {
        let handler = Self::default();
        let note = handler.clone();
        bus.subscribe_to_all(move |event: RecordedEvent| {
            let ends = note.0.lock().unwrap().handle(&event, failures, hold_after);
            async move {
                match ends {
                    Some(result) => result,
                    None => std::future::pending().await,
                }
            }
        });
        handler
    }

    /// With what it has failed, once for each time.
    pub(crate) fn failed(&self) -> Vec<String> {
        self.0.lock().unwrap().failed.clone()
    }

    /// What it has handled.
    pub(crate) fn handled(&self) -> Vec<String> {
        self.0.lock().unwrap().handled.clone()
    }
}

impl Log {
    /// `None`: it never ends.
    fn handle(
        &mut self,
        event: &RecordedEvent,
        failures: usize,
        hold_after: Option<usize>,
    ) -> Option<Result<(), HandlerError>> {
        let id = id(event);
        let own = event.metadata().attributes().get("failures").and_then(|own| own.as_u64());
        let failures = own.map_or(failures, |own| usize::try_from(own).unwrap());
        if self.failed.iter().filter(|failed| **failed == id).count() < failures {
            self.failed.push(id);
            return Some(Err(format!("fails {failures} times").into()));
        }
        if hold_after == Some(self.handled.len()) {
            return None;
        }
        self.handled.push(id);
        Some(Ok(()))
    }
}

pub(crate) fn id(event: &RecordedEvent) -> String {
    event.metadata().event_id().to_string()
}

/// Stops a consumer in the background.
pub(crate) async fn stop<E: std::fmt::Debug>(bus: &RedisEventBus, consumer: JoinHandle<Result<(), E>>) {
    bus.stop_consuming().await;
    consumer.await.unwrap().unwrap();
}
