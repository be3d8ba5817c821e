//! The consumer of one group: a reader that fetches entries, workers that handle them, and a keeper that writes down
//! what came of them.
//!
//! Keep: an entry stays pending until all its handlers have succeeded or it is a dead letter; whoever it is pending on
//! is the only one who works on it, and shows life often enough. Everything else may be lost at any time.

mod intake;
mod keep;
mod look;
mod paper;
mod read;
mod recover;
mod trim;
mod trouble;

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use eventbus::{
    Name,
    port::{Desk, Hand, Limits, MessageId, RetryPolicy, StopSignal, Subscriber},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{bus::Shared, keys, trace};

pub use recover::{Recovery, RecoveryStats};

/// The consumer of one group.
pub(crate) struct Consumer {
    shared: Arc<Shared>,
    group: Name,
    /// What the server calls it.
    name: String,
    hand: Arc<Hand>,
    /// Entries that used up their attempts and are to stay pending.
    left: Mutex<HashSet<MessageId>>,
    /// Entries that are none of this group's business.
    not_ours: Mutex<Vec<MessageId>>,
    /// Whether what was pending on it when it began is in hand; until then nobody but the reader takes entries in, as
    /// that would mix up their order.
    has_caught_up: AtomicBool,
    /// Tells the keeper that this has happened.
    joined: Notify,
    /// Tells this consumer from another one of its name.
    instance: String,
    /// Whether it has shown itself to the group.
    is_announced: AtomicBool,
    keys: Keys,
}

/// The keys beside the stream that a group has.
struct Keys {
    retry: String,
    members: String,
    floors: String,
    relay: String,
    dead_letters: String,
}

/// Hands the group its events until it is stopped; connects anew as often as it must.
pub(crate) async fn consume(shared: Arc<Shared>, group: Name, stop: StopSignal) {
    let name = shared.consumer.clone();
    let consumer = Consumer::new(shared, group, name);
    let desk = consumer.desk();
    let ended = CancellationToken::new();
    let work = async {
        tokio::join!(consumer.hand.work(&desk, &stop), consumer.read(&stop), consumer.trim(&stop));
        ended.cancel();
    };
    tokio::join!(work, consumer.keep(&ended));
}

impl Consumer {
    fn new(shared: Arc<Shared>, group: Name, name: String) -> Self {
        let config = &shared.config;
        let keys = Keys {
            retry: keys::retry(&shared.stream, &config.retry_key_prefix, &group),
            members: keys::members(&shared.stream, &group),
            floors: keys::floors(&shared.stream),
            relay: keys::relay(&shared.stream),
            dead_letters: config.dlq_stream_name(),
        };
        let batch = config.batch_size;
        let hand = Arc::new(Hand::new(config.in_hand(), batch.div_ceil(2)));
        Self {
            shared,
            group,
            name,
            hand,
            left: Mutex::default(),
            not_ours: Mutex::default(),
            has_caught_up: AtomicBool::new(false),
            joined: Notify::new(),
            instance: uuid::Uuid::now_v7().simple().to_string(),
            is_announced: AtomicBool::new(false),
            keys,
        }
    }

    /// How the entries of the group are handled.
    fn desk(&self) -> Desk {
        let bus = Arc::clone(&self.shared);
        Desk {
            group: self.group.clone(),
            subscribers: bus.subscribers.clone(),
            counters: Arc::clone(&bus.counters),
            retry: self.retry(),
            limits: self.limits(),
            span: Arc::new(move |delivery| trace::process(&bus, delivery)),
        }
    }

    /// How often and when a failed delivery is tried again.
    fn retry(&self) -> RetryPolicy {
        let config = &self.shared.config;
        RetryPolicy {
            max_retries: config.max_retries,
            first_delay: Duration::from_millis(config.retry_delay_ms),
            max_delay: Duration::from_millis(config.retry_max_delay_ms),
        }
    }

    fn limits(&self) -> Limits {
        let config = &self.shared.config;
        Limits { concurrency: config.concurrency, slow: Duration::from_millis(config.slow_handler_ms) }
    }

    /// After which time without a sign of life others take its entries over.
    fn pending_idle(&self) -> Duration {
        Duration::from_millis(self.shared.config.pending_idle_ms)
    }

    /// The types it handles, as others are told: a sorted list, or `"*"` for all.
    fn types(&self) -> String {
        let subscribers = self.shared.subscribers.of_group(&self.group);
        if subscribers.iter().any(Subscriber::is_wildcard) {
            return r#""*""#.into();
        }
        let mut types: Vec<_> = subscribers.iter().flat_map(|subscriber| subscriber.events().event_types()).collect();
        types.sort_unstable();
        types.dedup();
        serde_json::Value::from(types).to_string()
    }

    fn has_caught_up(&self) -> bool {
        self.has_caught_up.load(Ordering::Acquire)
    }

    fn left(&self) -> MutexGuard<'_, HashSet<MessageId>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn not_ours(&self) -> MutexGuard<'_, Vec<MessageId>> {
        self.not_ours.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
