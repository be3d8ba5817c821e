//! The cost of an event on the server: commands and bytes.

#![allow(clippy::unwrap_used, reason = "as in any test")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{config_on, until};
use eventbus::{AggregateId, EventBusExt as _, Name, NewEvent, RecordedEvent, StreamId, Version, port::EventBus as _};
use eventbus_redis::RedisEventBus;
use redis::aio::MultiplexedConnection;
use test_servers::{private_redis, redis_connection};

/// The counters of a server.
#[derive(Debug, Clone, Copy)]
struct Cost {
    commands: u64,
    bytes_received: u64,
    bytes_sent: u64,
}

impl Cost {
    /// Fails if the work since `before` cost more than `bound`, which is what was measured when it was written.
    fn assert_at_most(self, before: Self, bound: Self) {
        let (commands, received) = (self.commands - before.commands, self.bytes_received - before.bytes_received);
        let sent = self.bytes_sent - before.bytes_sent;
        let is_within = commands <= bound.commands
            && received <= bound.bytes_received * 21 / 20
            && sent <= bound.bytes_sent * 21 / 20;
        assert!(is_within, "{commands} commands, {received} bytes received, {sent} bytes sent, bound {bound:?}");
    }
}

async fn counters(connection: &mut MultiplexedConnection) -> Cost {
    let info: String = redis::cmd("INFO").arg("stats").query_async(connection).await.unwrap();
    let counter = |name: &str| {
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap().trim().parse().unwrap()
    };
    Cost {
        commands: counter("total_commands_processed"),
        bytes_received: counter("total_net_input_bytes"),
        bytes_sent: counter("total_net_output_bytes"),
    }
}

fn recorded(count: u64) -> Vec<RecordedEvent> {
    let event = || NewEvent::new(Name::from_static("Deposited"), 1, r#"{"cents":120}"#);
    let stream = || StreamId::new(Name::from_static("Account"), AggregateId::new());
    (0..count).map(|_| event().recorded_as(stream(), Version::FIRST, None)).collect()
}

#[tokio::test]
async fn a_published_event_is_one_command_and_a_consumed_one_is_sent_once() {
    const EVENTS: u64 = 10_000;
    let server = private_redis();
    let mut admin = redis_connection(server.url()).await;
    let bus = RedisEventBus::connect(config_on(server.url())).await.unwrap();
    let before = counters(&mut admin).await;
    for event in recorded(200) {
        bus.publish(&[event]).await.unwrap();
    }
    let singles = counters(&mut admin).await;
    // the request for the counters is a command, too
    singles.assert_at_most(before, Cost { commands: 201, bytes_received: 200 * 711, bytes_sent: 6_000 });
    for _ in 0..EVENTS / 100 {
        bus.publish(&recorded(100)).await.unwrap();
    }
    let batches = counters(&mut admin).await;
    let bound = Cost { commands: EVENTS / 100 * 102 + 1, bytes_received: EVENTS * 711, bytes_sent: EVENTS * 33 };
    batches.assert_at_most(singles, bound);

    let handled = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&handled);
    let _subscription = bus.subscribe(move |_: RecordedEvent| {
        counter.fetch_add(1, Ordering::Relaxed);
        async {}
    });
    let consumer = bus.clone();
    let consuming = tokio::spawn(async move { consumer.start_consuming().await });
    until("all events are handled", async || handled.load(Ordering::Relaxed) == 200 + EVENTS).await;
    bus.shutdown(Duration::from_secs(60)).await.unwrap();
    consuming.await.unwrap().unwrap();
    // how many acknowledgements go together depends on the load of the machine
    let bound = Cost { commands: EVENTS * 12 / 10, bytes_received: EVENTS * 100, bytes_sent: EVENTS * 710 };
    counters(&mut admin).await.assert_at_most(batches, bound);
}
