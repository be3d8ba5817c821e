//! Publishing to the bus.

use std::time::Instant;

use async_trait::async_trait;
use redis::cmd;
use uuid::Uuid;

use super::save::QUICK_DIVISOR;
use crate::{
    Result,
    bench::{Bench, Round, expect},
    items::Items,
    order::ItemAdded,
    redis_server, unique_name,
    worker::WorkerArgs,
};

const EVENTS_PER_ROUND: usize = 64_000;
const LONE_EVENTS_PER_ROUND: usize = 40_000;
const BATCHES_PER_ROUND: usize = 800;
pub const BATCH: usize = 100;

/// A client of the bus that publishes.
pub trait Publisher: Clone + Send + Sync + 'static {
    /// Returns the key of the stream of a prefix.
    fn stream(prefix: &str) -> String {
        format!("{prefix}:stream")
    }

    /// Connects to the stream of this prefix.
    fn open(url: &str, prefix: &str) -> impl Future<Output = Result<Self>> + Send;

    /// Publishes the first event of an order, and waits until the server has it.
    fn publish(&self, order: Uuid, item: &ItemAdded) -> impl Future<Output = Result<()>> + Send;

    /// Publishes the first events of several orders.
    fn publish_all(&self, items: &[(Uuid, ItemAdded)]) -> impl Future<Output = Result<()>> + Send;
}

pub fn items(items: &Items, count: usize) -> Vec<(Uuid, ItemAdded)> {
    (0..count as u64).map(|number| (Uuid::now_v7(), items.item(number))).collect()
}

/// The stream, and the number of events that it should have.
struct Stream {
    url: String,
    prefix: String,
    key: String,
    published: u64,
}

impl Stream {
    fn new<P: Publisher>(args: &WorkerArgs) -> Self {
        let prefix = unique_name("publish");
        Self { url: args.redis.clone(), key: P::stream(&prefix), prefix, published: 0 }
    }

    /// Checks the stream, and deletes it: later workloads should find an empty server.
    async fn check(&self) -> Result<()> {
        let mut redis = redis_server::connect(&self.url).await?;
        expect("entries", &cmd("XLEN").arg(&self.key).query_async(&mut redis).await?, &self.published)?;
        Ok(cmd("DEL").arg(&self.key).exec_async(&mut redis).await?)
    }
}

/// Callers that each publish one event after the other over one connection.
pub struct Singles<P> {
    publisher: P,
    stream: Stream,
    /// The events of each caller.
    items: Vec<Vec<(Uuid, ItemAdded)>>,
}

impl<P: Publisher> Singles<P> {
    pub async fn open(sized: &Items, args: &WorkerArgs) -> Result<Self> {
        let stream = Stream::new::<P>(args);
        let events = if args.callers == 1 { LONE_EVENTS_PER_ROUND } else { EVENTS_PER_ROUND };
        let events = sized.operations(if args.quick { events / QUICK_DIVISOR } else { events });
        let items = (0..args.callers).map(|_| items(sized, events / args.callers)).collect();
        Ok(Self { publisher: P::open(&stream.url, &stream.prefix).await?, stream, items })
    }
}

#[async_trait]
impl<P: Publisher> Bench for Singles<P> {
    async fn run(&mut self) -> Result<Round> {
        let callers = self.items.iter().map(|items| publish(self.publisher.clone(), items.clone()));
        let round = Round::of(callers).await?;
        self.stream.published += round.operations;
        Ok(round)
    }

    async fn check(&mut self) -> Result<()> {
        self.stream.check().await
    }
}

async fn publish<P: Publisher>(publisher: P, items: Vec<(Uuid, ItemAdded)>) -> Result<Round> {
    let mut round = Round::default();
    for (order, item) in &items {
        let start = Instant::now();
        publisher.publish(*order, item).await?;
        round.add(start.elapsed());
    }
    Ok(round)
}

/// One caller that publishes one batch after the other.
pub struct Batches<P> {
    publisher: P,
    stream: Stream,
    batches: usize,
    items: Vec<(Uuid, ItemAdded)>,
}

impl<P: Publisher> Batches<P> {
    pub async fn open(sized: &Items, args: &WorkerArgs) -> Result<Self> {
        let stream = Stream::new::<P>(args);
        let batches = if args.quick { BATCHES_PER_ROUND / QUICK_DIVISOR } else { BATCHES_PER_ROUND };
        let items = items(sized, BATCH);
        Ok(Self { publisher: P::open(&stream.url, &stream.prefix).await?, stream, batches, items })
    }
}

#[async_trait]
impl<P: Publisher> Bench for Batches<P> {
    async fn run(&mut self) -> Result<Round> {
        for _ in 0..self.batches {
            self.publisher.publish_all(&self.items).await?;
        }
        let operations = (self.batches * BATCH) as u64;
        self.stream.published += operations;
        Ok(Round { operations, times: Vec::new() })
    }

    async fn check(&mut self) -> Result<()> {
        self.stream.check().await
    }
}
