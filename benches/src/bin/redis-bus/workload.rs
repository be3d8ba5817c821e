//! The workloads of both sides.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use eventbus::Result;
use test_servers::unique_name;
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::{
    by_hand::ByHand,
    meter::{Throughput, measure},
    order::{Order, OrderCreated},
    ours::Ours,
    server::Server,
    side::{Pair, Side},
};

const TASKS: u64 = 32;
const PER_TASK: u64 = 500;
const BATCH: u64 = 100;
const BATCHES: u64 = 100;
const CONSUMED: u64 = 100_000;
const SLOWLY: u64 = 1_000;
/// 200 events a second.
const PERIOD: Duration = Duration::from_millis(5);

fn orders(count: u64) -> Vec<Order> {
    (0..count).map(Order::new).collect()
}

fn stream(prefix: &str) -> String {
    format!("{prefix}:stream")
}

/// Measures tasks that each publish one event after the other, over one connection.
pub async fn singles<S: Side>(server: &Server) -> Result<Throughput> {
    let prefix = unique_name("singles");
    let side = S::open(server.url(), &prefix, "group").await?;
    let of_tasks: Vec<_> = (0..TASKS).map(|_| orders(PER_TASK)).collect();
    let mut tasks = JoinSet::new();
    let work = async {
        for orders in of_tasks {
            let side = side.clone();
            tasks.spawn(async move {
                for order in &orders {
                    side.publish(order).await?;
                }
                Ok(())
            });
        }
        tasks.join_all().await.into_iter().collect()
    };
    let measured = measure(server, TASKS * PER_TASK, work).await?;
    server.delete(&stream(&prefix)).await?;
    Ok(measured)
}

/// Measures one task that publishes one batch after the other.
pub async fn batches<S: Side>(server: &Server) -> Result<Throughput> {
    let prefix = unique_name("batches");
    let side = S::open(server.url(), &prefix, "group").await?;
    let orders = orders(BATCH);
    let work = async {
        for _ in 0..BATCHES {
            side.publish_all(&orders).await?;
        }
        Ok(())
    };
    let measured = measure(server, BATCHES * BATCH, work).await?;
    server.delete(&stream(&prefix)).await?;
    Ok(measured)
}

/// Fills the stream that [`consuming`] reads, and returns its prefix.
pub async fn stock(server: &Server) -> Result<String> {
    let prefix = unique_name("stock");
    let side = ByHand::open(server.url(), &prefix, "stock").await?;
    for _ in 0..CONSUMED / 1_000 {
        side.publish_all(&orders(1_000)).await?;
    }
    Ok(prefix)
}

/// Measures a new group that reads the stock until all events are handled and acknowledged.
pub async fn consuming<S: Side>(server: &Server, stock: &str) -> Result<Throughput> {
    let group = unique_name("group");
    let side = S::open(server.url(), stock, &group).await?;
    let (left, cents, all) = (AtomicU64::new(CONSUMED), AtomicU64::new(0), Arc::new(Notify::new()));
    let handled = Arc::clone(&all);
    let consumer = side.clone();
    let handler = Arc::new(move |created: OrderCreated| {
        cents.fetch_add(created.total_cents, Ordering::Relaxed);
        if left.fetch_sub(1, Ordering::Relaxed) == 1 {
            handled.notify_one();
        }
    });
    let mut consumers = JoinSet::new();
    let work = async {
        consumers.spawn(async move { consumer.consume(handler).await });
        // a consumer that fails ends the measurement, which would otherwise wait for ever
        tokio::select! {
            () = all.notified() => server.until_acknowledged(&stream(stock), &group).await,
            Some(ended) = consumers.join_next() => ended?.and(Err("it ended before all were handled".into())),
        }
    };
    let measured = measure(server, CONSUMED, work).await?;
    side.stop().await?;
    consumers.join_all().await.into_iter().collect::<Result<()>>()?;
    server.destroy_group(&stream(stock), &group).await?;
    Ok(measured)
}

/// Returns the sorted times from before publishing to within the handler. Both sides run concurrently and alternate
/// event by event, so that other load on the machine affects both.
pub async fn latencies(server: &Server) -> Result<Pair<Vec<Duration>>> {
    let (mut ours, mut by_hand) = (Followed::<Ours>::open(server).await?, Followed::<ByHand>::open(server).await?);
    let mut ticks = interval(PERIOD / 2);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for order in orders(SLOWLY) {
        ticks.tick().await;
        ours.publish(&order).await?;
        ticks.tick().await;
        by_hand.publish(&order).await?;
    }
    Ok(Pair { ours: ours.finish(server).await?, by_hand: by_hand.finish(server).await? })
}

/// A side that publishes and consumes, and the times of both.
struct Followed<S> {
    prefix: String,
    side: S,
    consumers: JoinSet<Result<()>>,
    sent: Vec<Instant>,
    arrivals: mpsc::UnboundedReceiver<(u64, Instant)>,
}

impl<S: Side> Followed<S> {
    async fn open(server: &Server) -> Result<Self> {
        let prefix = unique_name("latency");
        let side = S::open(server.url(), &prefix, "group").await?;
        let (seen, arrivals) = mpsc::unbounded_channel();
        let handler = move |created: OrderCreated| {
            let _ = seen.send((created.number, Instant::now()));
        };
        let consumer = side.clone();
        let mut consumers = JoinSet::new();
        consumers.spawn(async move { consumer.consume(Arc::new(handler)).await });
        Ok(Self { prefix, side, consumers, sent: Vec::new(), arrivals })
    }

    async fn publish(&mut self, order: &Order) -> Result<()> {
        self.sent.push(Instant::now());
        self.side.publish(order).await
    }

    async fn finish(mut self, server: &Server) -> Result<Vec<Duration>> {
        let mut latencies = Vec::new();
        while latencies.len() < self.sent.len() {
            let (number, at) = self.arrivals.recv().await.ok_or("it ended before all were handled")?;
            latencies.push(at.duration_since(self.sent[usize::try_from(number)?]));
        }
        self.side.stop().await?;
        self.consumers.join_all().await.into_iter().collect::<Result<()>>()?;
        server.delete(&stream(&self.prefix)).await?;
        latencies.sort_unstable();
        Ok(latencies)
    }
}
