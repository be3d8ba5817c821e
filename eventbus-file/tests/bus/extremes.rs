//! Every setting at the ends of its range: it works, or an error names it.
//!
//! Invariant: the test destructures the settings, so that a new one does not compile before its ends are listed here.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::common::{config, folder, until};
use eventbus::{
    HandlerError, Name, NewEvent, StreamId, Version,
    delivery::RetryPolicy,
    event::EventFilter,
    port::{EventBus, Subscriber},
};
use eventbus_file::{FileQueue, FileQueueConfig, FileQueueError, RedisCoordination};

const NONE: Duration = Duration::ZERO;
const LEAST: Duration = Duration::from_millis(1);
const CENTURY: Duration = Duration::from_secs(100 * 366 * 86_400);

fn settings() -> Vec<(&'static str, FileQueueConfig, bool)> {
    let FileQueueConfig {
        root_dir: _,   // any
        queue_name: _, // a name, or an error
        worker_id: _,  // a name, or an error
        clock: _,      // any
        sync: _,       // both
        claim_expiration: _,
        gap_timeout: _,
        poll_interval: _,
        compress_from: _,
        retry: _,
        concurrency: _,
    } = config("queue");
    let config = || config(folder());
    let mut all = Vec::new();
    for (time, works) in [(NONE, false), (CENTURY, true), (Duration::MAX, false)] {
        all.push(("claim_expiration", FileQueueConfig { claim_expiration: time, ..config() }, works));
        all.push(("poll_interval", FileQueueConfig { poll_interval: time.min(CENTURY), ..config() }, time > NONE));
    }
    all.push(("poll_interval", FileQueueConfig { poll_interval: Duration::MAX, ..config() }, false));
    for time in [NONE, LEAST, Duration::MAX] {
        all.push(("gap_timeout", FileQueueConfig { gap_timeout: time, ..config() }, true));
        let most = Some(u32::MAX);
        let retry =
            RetryPolicy { retry_for: Duration::MAX, max_retries: most, first_delay: time.min(LEAST), max_delay: time };
        all.push(("retry", FileQueueConfig { retry, ..config() }, true));
    }
    for number in [0, 1, usize::MAX] {
        all.push(("compress_from", FileQueueConfig { compress_from: Some(number), ..config() }, true));
        all.push(("concurrency", FileQueueConfig { concurrency: number, ..config() }, true));
    }
    all
}

/// Publishes, and delivers at the second attempt.
async fn works(queue: &FileQueue) {
    let tries = Arc::new(AtomicUsize::new(0));
    let tried = Arc::clone(&tries);
    let second = Subscriber::new(Name::from_static("second"), EventFilter::All, move |_| {
        let is_first = tried.fetch_add(1, Ordering::SeqCst) == 0;
        Box::pin(async move { if is_first { Err(HandlerError::from("once")) } else { Ok(()) } })
    });
    queue.add_subscriber(queue.default_group().clone(), second);
    let consuming = queue.clone();
    let consumer = tokio::spawn(async move { consuming.start_consuming().await.unwrap() });
    let event = NewEvent::new(Name::from_static("Deposited"), 1, r#"{"cents":1}"#);
    let event = event.recorded_as(StreamId::parse("Account", "ada").unwrap(), Version::FIRST, None);
    EventBus::publish(queue, &[event]).await.unwrap();
    until("it is delivered again", async || tries.load(Ordering::SeqCst) == 2).await;
    EventBus::shutdown(queue, Duration::MAX).await.unwrap();
    consumer.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_setting_works_or_is_named() {
    for (setting, config, is_possible) in settings() {
        let shown = format!("{config:?}");
        match FileQueue::open(config).await {
            Ok(queue) if is_possible => works(&queue).await,
            Err(FileQueueError::InvalidConfig { setting: named, .. }) if !is_possible => assert_eq!(named, setting),
            other => panic!("{setting}: {other:?}\n{shown}"),
        }
    }
}

#[tokio::test]
async fn every_time_of_the_coordination_works_or_is_named() {
    let RedisCoordination {
        redis_url: _,
        redis_urls: _,
        redis_db: _,
        tls_ca_file: _,
        tls_cert_file: _,
        tls_key_file: _,
        redis_prefix: _,
        resync: _,
        resync_lock_timeout: _,
        response_timeout: _,
        reconnect_interval: _,
    } = RedisCoordination::default();
    let redis = || RedisCoordination { redis_url: eventbus_test::redis_url().into(), ..RedisCoordination::default() };
    for (time, is_possible) in [(NONE, false), (CENTURY, true), (Duration::MAX, false)] {
        for (setting, redis) in [
            ("resync_lock_timeout", RedisCoordination { resync_lock_timeout: time, resync: true, ..redis() }),
            ("response_timeout", RedisCoordination { response_timeout: time, ..redis() }),
            ("reconnect_interval", RedisCoordination { reconnect_interval: time, ..redis() }),
        ] {
            match FileQueue::open_with_redis(config(folder()), redis).await {
                Ok(queue) if is_possible => works(&queue).await,
                Err(FileQueueError::InvalidConfig { setting: named, .. }) if !is_possible => assert_eq!(named, setting),
                other => panic!("{setting} {time:?}: {other:?}"),
            }
        }
    }
}
