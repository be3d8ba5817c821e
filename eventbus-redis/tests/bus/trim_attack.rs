//! Trims without a pause, beside a publisher, three groups of which one is slow, and groups that are made meanwhile.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::common::fresh_bus;
use eventbus::Name;
use eventbus_redis::{GroupStart, RedisEventBus, Trim};
use redis::{Value, aio::MultiplexedConnection, cmd};
use tokio::task::yield_now;

/// Number of published entries.
const ENTRIES: usize = 20_000;
/// Number of entries that may stay.
const KEPT: u64 = 50;
/// Number of entries in the stream at which the publisher waits.
const AHEAD: usize = 1_000;
const GROUPS: [&str; 3] = ["fast", "faster", "slow"];

/// The ids that a group read, and the number of entries without fields among them.
type Given = (BTreeSet<String>, usize);
/// An entry; its fields until it is removed.
type Entry = (String, Option<Vec<Value>>);

/// The result of an attack.
#[derive(Debug)]
struct Outcome {
    removed: u64,
    /// Entries that one of the three groups never read, or had pending when they vanished.
    lost: usize,
    /// Groups made meanwhile.
    came: usize,
    /// Groups among them that missed an entry after their first one.
    with_holes: usize,
}

struct Stage {
    bus: RedisEventBus,
    stream: String,
    published: AtomicBool,
    done: AtomicBool,
}

impl Stage {
    async fn connection(&self) -> MultiplexedConnection {
        eventbus_test::internal::redis_connection(&self.bus.config().redis_url).await
    }

    async fn publish(&self) -> Vec<String> {
        let mut connection = self.connection().await;
        let mut ids = Vec::new();
        while ids.len() < ENTRIES {
            let mut add = redis::pipe();
            for n in 0..40 {
                add.cmd("XADD").arg(&self.stream).arg("*").arg("n").arg(n);
            }
            ids.extend(add.query_async::<Vec<String>>(&mut connection).await.unwrap());
            // the readers stay near, so that there is always an entry to trim
            while cmd("XLEN").arg(&self.stream).query_async::<usize>(&mut connection).await.unwrap() > AHEAD {
                yield_now().await;
            }
        }
        self.published.store(true, Ordering::SeqCst);
        ids
    }

    async fn read(&self, connection: &mut MultiplexedConnection, group: &str, from: &str, count: usize) -> Vec<Entry> {
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(group).arg("reader").arg("COUNT").arg(count);
        read.arg("STREAMS").arg(&self.stream).arg(from);
        let reply: Option<Vec<(String, Vec<Entry>)>> = read.query_async(connection).await.unwrap();
        reply.into_iter().flatten().flat_map(|(_, entries)| entries).collect()
    }

    async fn acknowledge(&self, connection: &mut MultiplexedConnection, group: &str, ids: &[String]) {
        if !ids.is_empty() {
            let mut acknowledge = cmd("XACK");
            acknowledge.arg(&self.stream).arg(group).arg(ids);
            acknowledge.query_async::<i64>(connection).await.unwrap();
        }
    }

    /// Reads to the end. The slow group leaves some entries of each batch pending for three batches, and checks that
    /// they still exist before it acknowledges them.
    async fn consume(&self, group: &str) -> Given {
        let mut connection = self.connection().await;
        let is_slow = group == "slow";
        let (mut given, mut vanished, mut left, mut batches) = (BTreeSet::new(), 0, Vec::new(), 0);
        loop {
            let is_last = self.published.load(Ordering::SeqCst);
            let entries = self.read(&mut connection, group, ">", if is_slow { 25 } else { 100 }).await;
            let is_end = is_last && entries.is_empty();
            batches += 1;
            if is_slow && (is_end || batches % 3 == 0) {
                let pending = self.read(&mut connection, group, "0", ENTRIES).await;
                vanished += pending.iter().filter(|(_, fields)| fields.is_none()).count();
                self.acknowledge(&mut connection, group, &std::mem::take(&mut left)).await;
            }
            let mut handled = Vec::new();
            for (n, (id, _)) in entries.into_iter().enumerate() {
                given.insert(id.clone());
                if is_slow && n % 5 == 0 { left.push(id) } else { handled.push(id) }
            }
            self.acknowledge(&mut connection, group, &handled).await;
            if is_end && left.is_empty() {
                return (given, vanished);
            }
            yield_now().await;
        }
    }

    /// Makes groups, every second one through the bus, that read some batches and go; returns the ids that each read.
    async fn come(&self) -> Vec<BTreeSet<String>> {
        let mut connection = self.connection().await;
        let mut all = Vec::new();
        while !self.published.load(Ordering::SeqCst) {
            let group = format!("new-{}", all.len());
            if all.len() % 2 == 0 {
                let name = Name::new("group", &group).unwrap();
                assert!(self.bus.create_group(&name, GroupStart::Beginning).await.unwrap());
            } else {
                let mut create = cmd("XGROUP");
                create.arg("CREATE").arg(&self.stream).arg(&group).arg("0");
                create.query_async::<()>(&mut connection).await.unwrap();
            }
            let mut given = BTreeSet::new();
            for _ in 0..5 {
                let entries = self.read(&mut connection, &group, ">", 100).await;
                let ids: Vec<_> = entries.into_iter().map(|(id, _)| id).collect();
                self.acknowledge(&mut connection, &group, &ids).await;
                given.extend(ids);
                yield_now().await;
            }
            // the group would hold all later entries
            let _ = self.bus.retire_group(&Name::new("group", &group).unwrap()).await.unwrap();
            all.push(given);
        }
        all
    }

    async fn trim(&self, may_lose: bool) -> u64 {
        let mut removed = 0;
        while !self.done.load(Ordering::SeqCst) {
            removed += if may_lose {
                self.bus.trim_may_lose(KEPT).await.unwrap()
            } else {
                let limits = Trim { max_length: Some(KEPT), ..Trim::default() };
                self.bus.trim(limits).await.unwrap().removed
            };
            yield_now().await;
        }
        removed
    }
}

async fn attack(may_lose: bool) -> Outcome {
    let bus = fresh_bus().await;
    let stream = bus.config().stream_name();
    let stage = Arc::new(Stage { bus, stream, published: AtomicBool::new(false), done: AtomicBool::new(false) });
    let mut connection = stage.connection().await;
    for group in GROUPS {
        let mut create = cmd("XGROUP");
        create.arg("CREATE").arg(&stage.stream).arg(group).arg("0").arg("MKSTREAM");
        create.query_async::<()>(&mut connection).await.unwrap();
        let mut join = cmd("XGROUP");
        join.arg("CREATECONSUMER").arg(&stage.stream).arg(group).arg("reader");
        join.query_async::<i64>(&mut connection).await.unwrap();
    }
    let run = |stage: &Arc<Stage>| Arc::clone(stage);
    let publisher = tokio::spawn({
        let stage = run(&stage);
        async move { stage.publish().await }
    });
    let consumers = GROUPS.map(|group| {
        let stage = run(&stage);
        tokio::spawn(async move { stage.consume(group).await })
    });
    let coming = tokio::spawn({
        let stage = run(&stage);
        async move { stage.come().await }
    });
    let trimming = tokio::spawn({
        let stage = run(&stage);
        async move { stage.trim(may_lose).await }
    });

    let published = publisher.await.unwrap();
    let mut lost = 0;
    for consumer in consumers {
        let (given, vanished) = consumer.await.unwrap();
        lost += published.iter().filter(|id| !given.contains(*id)).count() + vanished;
    }
    let came = coming.await.unwrap();
    stage.done.store(true, Ordering::SeqCst);
    let removed = trimming.await.unwrap();
    let place: HashMap<_, _> = published.iter().enumerate().map(|(place, id)| (id, place)).collect();
    let has_hole = |given: &&BTreeSet<String>| {
        let places: BTreeSet<_> = given.iter().map(|id| place[id]).collect();
        places.first().zip(places.last()).is_some_and(|(first, last)| last - first + 1 != places.len())
    };
    Outcome { removed, lost, came: came.len(), with_holes: came.iter().filter(has_hole).count() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trimming_as_fast_as_possible_loses_nothing() {
    let outcome = attack(false).await;
    assert_eq!((outcome.lost, outcome.with_holes), (0, 0), "{outcome:?}");
    assert!(outcome.removed as usize > ENTRIES / 2, "{outcome:?}");
    assert!(outcome.came > 10, "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_attack_shows_what_plain_trimming_loses() {
    let outcome = attack(true).await;
    assert!(outcome.lost > 0, "{outcome:?}");
}
