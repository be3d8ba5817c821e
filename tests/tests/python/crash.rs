//! One side is killed with `kill -9` in the middle of a batch; the other finishes the batch.
//!
//! The killed process of this side is a second run of this test binary, with its role in environment variables.

use std::{collections::BTreeSet, env, path::Path};

use eventbus::{
    port::{DeadLetterFilter, DeadLetters, EventBus},
    prelude::*,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventbus_test::internal::Actor;

use super::{
    bus, config,
    fallible::{Fallible, stop},
    script::Script,
    settled,
    sharing::{event, ids, sorted, texts},
    until,
};

/// Number of events that a consumer has in flight, and how many of them it handles before it hangs.
const BATCH: usize = 10;
const HANDLED: usize = 3;

fn batch(failures: usize) -> Vec<RecordedEvent> {
    std::iter::repeat_with(|| event(failures)).take(BATCH).collect()
}

/// Waits until a consumer hangs, with at least the next event unread.
async fn hanging(bus: &RedisEventBus) {
    let group = bus.default_group();
    until("it hangs", async || {
        let progress = bus.progress(group).await;
        progress.is_ok_and(|now| now.pending > 0 && now.unread + now.pending == (BATCH - HANDLED) as u64)
    })
    .await;
}

with_each_release!(what_a_killed_python_had_goes_on_here_with_the_attempts_that_are_left);

/// The server has counted three or four deliveries of each event when Python dies.
async fn what_a_killed_python_had_goes_on_here_with_the_attempts_that_are_left(python: &Path) {
    // the retry budget of the Python library is a number too
    let config = RedisEventBusConfig { pending_idle_ms: 300, retry_delay_ms: 10, max_retries: Some(3), ..config() };
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
    let handled = texts(&there.said("handled"));
    let rest = ids(&events).into_iter().filter(|id| !handled.contains(id));
    let failed: BTreeSet<_> = here.failed().into_iter().collect();
    assert_eq!(failed, rest.collect(), "each is attempted here too");
    assert!(here.failed().len() <= 2 * failed.len() && here.handled().is_empty(), "{:?}", here.failed());
    assert_eq!(bus.stats().messages_recovered, left);
    let dead_letters = bus.list_dead_letters(&DeadLetterFilter::default(), None, 10).await.unwrap().letters;
    let attempts: Vec<_> = dead_letters.iter().map(|dead_letter| dead_letter.attempts).collect();
    assert_eq!(attempts, vec![Some(4); failed.len()], "as if one side alone had made the attempts");
}

const STREAM: &str = "PYTHON_CRASH_STREAM";

/// The role of the process that dies; returns at once in an ordinary run.
#[tokio::test]
async fn the_process_that_dies() {
    let Ok(stream_prefix) = env::var(STREAM) else { return };
    Actor::end_with_parent();
    let bus = RedisEventBus::connect(RedisEventBusConfig { stream_prefix, ..config() }).await.unwrap();
    Fallible::on(&bus, 0, Some(HANDLED));
    bus.start_consuming().await.unwrap();
}

with_each_release!(what_a_killed_process_of_ours_had_is_handled_by_python);

async fn what_a_killed_process_of_ours_had_is_handled_by_python(python: &Path) {
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
    assert_eq!(
        sorted(texts(&there.said("handled"))),
        sorted(ids(&events[HANDLED..])),
        "new ones before what it recovers"
    );
}
