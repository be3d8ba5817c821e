//! One side is killed with `kill -9` in the middle of a batch, the other finishes it.
//!
//! The process that dies on this side is this test binary again, told by its environment what to play.

use std::env;

use eventbus::{
    port::{DeadLetterFilter, DeadLetters, EventBus},
    prelude::*,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use test_servers::Actor;

use super::{
    bus, config, environment,
    fallible::{Fallible, stop},
    pending,
    script::Script,
    settled,
    sharing::{event, ids, sorted, texts},
};

/// How many events a consumer has in hand, and how many of them are handled before it hangs.
const BATCH: usize = 10;
const HANDLED: usize = 3;

fn batch(failures: usize) -> Vec<RecordedEvent> {
    std::iter::repeat_with(|| event(failures)).take(BATCH).collect()
}

/// Waits until a consumer hangs with the rest of the batch.
async fn hanging(bus: &RedisEventBus) {
    pending(bus, bus.default_group(), (BATCH - HANDLED) as u64).await;
}

/// They have used up all attempts but one when Python dies.
#[tokio::test]
async fn what_a_killed_python_had_is_handled_here_with_all_attempts() {
    let Some(python) = environment::interpreter() else { return };
    let config = RedisEventBusConfig { pending_idle_ms: 300, retry_delay_ms: 10, ..config() };
    let bus = RedisEventBus::connect(config).await.unwrap();
    let events = batch(3);
    bus.publish(&events).await.unwrap();
    let mut there = Script::start(python, "consume.py", &bus, &["--recover", "--hold-after", "3"]);
    hanging(&bus).await;
    there.kill().await;

    let here = Fallible::on(&bus, 0, None);
    let consumer = bus.start_consuming_in_background();
    settled(&bus).await;
    stop(&bus, consumer).await;
    let left = (BATCH - HANDLED) as u64;
    assert_eq!(sorted(here.failed()), sorted([here.handled(), here.handled(), here.handled()].concat()));
    assert_eq!(sorted(texts(&there.said("handled")).into_iter().chain(here.handled())), sorted(ids(&events)));
    assert_eq!(bus.stats().messages_recovered, left);
    assert!(bus.dead_letters(&DeadLetterFilter::default(), None, 1).await.unwrap().letters.is_empty());
}

const STREAM: &str = "PYTHON_CRASH_STREAM";

/// What the process that dies plays; does nothing in an ordinary run.
#[tokio::test]
async fn the_process_that_dies() {
    let Ok(stream_prefix) = env::var(STREAM) else { return };
    Actor::end_with_parent();
    let bus = RedisEventBus::connect(RedisEventBusConfig { stream_prefix, ..config() }).await.unwrap();
    Fallible::on(&bus, 0, Some(HANDLED));
    bus.start_consuming().await.unwrap();
}

#[tokio::test]
async fn what_a_killed_process_of_ours_had_is_handled_by_python() {
    let Some(python) = environment::interpreter() else { return };
    let bus = bus().await;
    let events = batch(0);
    bus.publish(&events).await.unwrap();
    let config = bus.config();
    let variables = [(STREAM, &*config.stream_prefix), ("REDIS_URL", &config.redis_url)];
    let dies = Actor::play("crash::the_process_that_dies", &variables);
    hanging(&bus).await;
    dies.kill();

    let mut there = Script::start(python, "consume.py", &bus, &["--recover"]);
    settled(&bus).await;
    there.end().await;
    assert_eq!(texts(&there.said("handled")), ids(&events[HANDLED..]));
}
