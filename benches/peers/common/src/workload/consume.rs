//! Consuming from the bus.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use redis::cmd;
use tokio::{sync::Notify, task::JoinHandle};

use super::{
    publish::{Publisher, items},
    save::QUICK_DIVISOR,
};
use crate::{
    Result,
    bench::{Bench, Round, expect},
    items::Items,
    order::{ItemAdded, Order, order_of},
    redis_server, unique_name,
    worker::WorkerArgs,
};

const EVENTS: usize = 100_000;
const EVENTS_PER_PUBLISH: usize = 1_000;

/// The handler of events: trivial, so that the measurement covers the delivery.
pub type Handler = Arc<dyn Fn(ItemAdded) + Send + Sync>;

/// A client of the bus that consumes.
pub trait Consumer: Clone + Send + Sync + 'static {
    /// Connects to the stream of this prefix, and creates the groups, which begin with the oldest event.
    fn open(url: &str, prefix: &str, groups: &[String]) -> impl Future<Output = Result<Self>> + Send;

    /// In each group, calls as many handlers for one event after the other, reads 100 at once, and acknowledges them
    /// afterwards; until stopped.
    fn consume(&self, handler: Handler, handlers: usize) -> impl Future<Output = Result<()>> + Send;

    fn stop(&self) -> impl Future<Output = Result<()>> + Send;
}

/// New groups in each round, each of which reads the whole stream.
pub struct Consume<C> {
    url: String,
    prefix: String,
    stream: String,
    groups: usize,
    /// In each group.
    handlers: usize,
    events: usize,
    /// The sum of what all handlers see.
    due: Order,
    /// The consumer of the last round, and its groups.
    consumer: Option<(C, Vec<String>, JoinHandle<Result<()>>)>,
}

/// The sum of the events that all handlers have seen.
struct Handled {
    items: AtomicU64,
    cents: AtomicU64,
    all: Notify,
}

impl<C: Consumer> Consume<C> {
    /// Fills a stream with this publisher, for groups that have as many handlers each.
    pub async fn open<P: Publisher>(groups: usize, handlers: usize, args: &WorkerArgs) -> Result<Self> {
        let (url, prefix) = (args.redis.clone(), unique_name("consume"));
        let events = if args.quick { EVENTS / QUICK_DIVISOR } else { EVENTS };
        let publisher = P::open(&url, &prefix).await?;
        for _ in 0..events / EVENTS_PER_PUBLISH {
            publisher.publish_all(&items(&Items::default(), EVENTS_PER_PUBLISH)).await?;
        }
        let due = order_of((0..events).map(|number| ItemAdded::new((number % EVENTS_PER_PUBLISH) as u64)));
        let calls = (groups * handlers) as u64;
        let due = Order { items: due.items * calls, cents: due.cents * calls };
        Ok(Self { url, stream: P::stream(&prefix), prefix, groups, handlers, events, due, consumer: None })
    }
}

#[async_trait]
impl<C: Consumer> Bench for Consume<C> {
    async fn run(&mut self) -> Result<Round> {
        let groups: Vec<_> = (0..self.groups).map(|_| unique_name("group")).collect();
        let client = C::open(&self.url, &self.prefix, &groups).await?;
        let handled = Arc::new(Handled { items: AtomicU64::new(0), cents: AtomicU64::new(0), all: Notify::new() });
        let handler: Handler = {
            let (handled, due) = (Arc::clone(&handled), self.due.items);
            Arc::new(move |item| {
                handled.cents.fetch_add(item.cents(), Ordering::Relaxed);
                if handled.items.fetch_add(1, Ordering::Relaxed) + 1 == due {
                    handled.all.notify_one();
                }
            })
        };
        let (consumer, handlers) = (client.clone(), self.handlers);
        let mut consuming = tokio::spawn(async move { consumer.consume(handler, handlers).await });
        // a consumer that fails ends the measurement, which would otherwise wait for ever
        tokio::select! {
            () = handled.all.notified() => {}
            ended = &mut consuming => return ended?.and(Err("it ended before all were handled".into())),
        }
        let mut redis = redis_server::connect(&self.url).await?;
        for group in &groups {
            redis_server::acknowledged(&mut redis, &self.stream, group).await?;
        }
        self.consumer = Some((client, groups, consuming));
        let (items, cents) = (handled.items.load(Ordering::Relaxed), handled.cents.load(Ordering::Relaxed));
        expect("the handled events", &Order { items, cents }, &self.due)?;
        Ok(Round { operations: self.events as u64, times: Vec::new() })
    }

    async fn clean_up(&mut self) -> Result<()> {
        if let Some((client, groups, consuming)) = self.consumer.take() {
            client.stop().await?;
            consuming.await??;
            // the next round's groups are alone on the stream
            let mut redis = redis_server::connect(&self.url).await?;
            for group in groups {
                cmd("XGROUP").arg("DESTROY").arg(&self.stream).arg(group).exec_async(&mut redis).await?;
            }
        }
        Ok(())
    }

    async fn check(&mut self) -> Result<()> {
        let mut redis = redis_server::connect(&self.url).await?;
        Ok(cmd("DEL").arg(&self.stream).exec_async(&mut redis).await?)
    }
}
