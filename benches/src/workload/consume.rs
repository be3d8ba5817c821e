//! Consuming from the bus.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use eventbus::Result;
use redis::cmd;
use test_servers::unique_name;
use tokio::{sync::Notify, task::JoinSet};

use super::{
    publish::{Publisher, items},
    save::QUICK_DIVISOR,
};
use crate::{
    WorkerArgs,
    bench::{Bench, Round, expect},
    by_hand,
    order::{ItemAdded, Order, order_of},
    redis_server,
};

const EVENTS: usize = 100_000;
const EVENTS_PER_PUBLISH: usize = 1_000;

/// The handler of events: trivial, so that the measurement covers the delivery.
pub type Handler = Arc<dyn Fn(ItemAdded) + Send + Sync>;

/// A client of the bus that consumes.
pub trait Consumer: Clone + Send + Sync + 'static {
    /// Connects to the stream of this prefix, and creates the group, which begins with the oldest event.
    fn open(url: &str, prefix: &str, group: &str) -> impl Future<Output = Result<Self>> + Send;

    /// Calls the handler for one event after the other, reads 100 at once, and acknowledges them afterwards; until
    /// stopped.
    fn consume(&self, handler: Handler) -> impl Future<Output = Result<()>> + Send;

    fn stop(&self) -> impl Future<Output = Result<()>> + Send;
}

/// A new group in each round, which reads the whole stream.
pub struct Consume<C> {
    url: String,
    prefix: String,
    events: usize,
    /// The sum of the events.
    due: Order,
    client: std::marker::PhantomData<fn() -> C>,
}

impl<C: Consumer> Consume<C> {
    pub async fn open(args: &WorkerArgs) -> Result<Self> {
        let (url, prefix) = (args.redis.clone(), unique_name("consume"));
        let events = if args.quick { EVENTS / QUICK_DIVISOR } else { EVENTS };
        let publisher = <by_hand::Bus as Publisher>::open(&url, &prefix).await?;
        for _ in 0..events / EVENTS_PER_PUBLISH {
            publisher.publish_all(&items(EVENTS_PER_PUBLISH)).await?;
        }
        let due = order_of((0..events).map(|number| ItemAdded::new((number % EVENTS_PER_PUBLISH) as u64)));
        Ok(Self { url, prefix, events, due, client: std::marker::PhantomData })
    }

    fn stream(&self) -> String {
        format!("{}:stream", self.prefix)
    }

    /// Returns the sum of the items that the handler has seen.
    async fn consume(&self) -> Result<Order> {
        let group = unique_name("group");
        let client = C::open(&self.url, &self.prefix, &group).await?;
        let (count, cents, all) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
        let due = self.events as u64;
        let handler: Handler = {
            let (count, cents, all) = (Arc::clone(&count), Arc::clone(&cents), Arc::clone(&all));
            Arc::new(move |item| {
                cents.fetch_add(item.cents(), Ordering::Relaxed);
                if count.fetch_add(1, Ordering::Relaxed) + 1 == due {
                    all.notify_one();
                }
            })
        };
        let mut consumers = JoinSet::new();
        let consumer = client.clone();
        consumers.spawn(async move { consumer.consume(handler).await });
        let mut redis = redis_server::connect(&self.url).await?;
        // a consumer that fails ends the measurement, which would otherwise wait for ever
        tokio::select! {
            () = all.notified() => redis_server::acknowledged(&mut redis, &self.stream(), &group).await,
            Some(ended) = consumers.join_next() => ended?.and(Err("it ended before all were handled".into())),
        }?;
        client.stop().await?;
        consumers.join_all().await.into_iter().collect::<Result<()>>()?;
        cmd("XGROUP").arg("DESTROY").arg(self.stream()).arg(group).exec_async(&mut redis).await?;
        Ok(Order { items: count.load(Ordering::Relaxed), cents: cents.load(Ordering::Relaxed) })
    }
}

#[async_trait]
impl<C: Consumer> Bench for Consume<C> {
    async fn run(&mut self) -> Result<Round> {
        expect("the handled events", &self.consume().await?, &self.due)?;
        Ok(Round { operations: self.events as u64, times: Vec::new() })
    }

    async fn check(&mut self) -> Result<()> {
        let mut redis = redis_server::connect(&self.url).await?;
        Ok(cmd("DEL").arg(self.stream()).exec_async(&mut redis).await?)
    }
}
