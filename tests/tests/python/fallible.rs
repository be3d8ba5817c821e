//! A handler on this side that fails on demand, and records its deliveries.

use std::sync::{Arc, Mutex};

use eventbus::{port::EventBus, prelude::*};
use eventbus_redis::RedisEventBus;
use tokio::task::JoinHandle;

/// The ids of handled and failed events, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fallible(Arc<Mutex<Log>>);

#[derive(Debug, Default)]
struct Log {
    failed: Vec<String>,
    handled: Vec<String>,
}

impl Fallible {
    /// Subscribes to all events. Fails with each as many times as its metadata ask for, else `failures` times. Hangs
    /// after `hold_after` events, if given.
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

    /// Returns the ids of failed events, once for each failure.
    pub(crate) fn failed(&self) -> Vec<String> {
        self.0.lock().unwrap().failed.clone()
    }

    /// Returns the ids of handled events.
    pub(crate) fn handled(&self) -> Vec<String> {
        self.0.lock().unwrap().handled.clone()
    }
}

impl Log {
    /// `None`: the handler hangs.
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
