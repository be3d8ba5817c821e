//! The four demonstrations of the tutorial.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use eventbus::{ProjectionHandle, Result, bus::EventBus, handler::Subscription, prelude::*};
use eventbus_redis::{GroupStart, RedisEventBus, RedisEventBusConfig};

use crate::{
    Edition, heading,
    orders::{AuditLogger, OrderCreated, OrderStatistics, created, shipped},
};

/// The setting of the demonstrations: bus, prefix and edition.
#[derive(Debug, Clone)]
pub struct Stage {
    pub redis_url: String,
    pub prefix: String,
    pub edition: Edition,
}

impl Stage {
    async fn connect(&self, demo: u8, group: &str, consumer: Option<&str>) -> Result<RedisEventBus> {
        let config = RedisEventBusConfig {
            redis_url: self.redis_url.clone(),
            stream_prefix: format!("{}{demo}", self.prefix),
            consumer_group: group.into(),
            consumer_name: consumer.map(Into::into),
            block_ms: 500,
            single_connection_client: true,
            max_retries: Some(3),
            ..RedisEventBusConfig::default()
        };
        let bus = RedisEventBus::connect(config).await?;
        // as `connect` of eventsource-py does
        bus.create_group(bus.default_group(), GroupStart::Beginning).await?;
        Ok(bus)
    }

    fn is_long(&self) -> bool {
        self.edition == Edition::Long
    }

    fn heading(&self, short: &str, long: &str) {
        heading(if self.is_long() { long } else { short });
    }
}

/// Consumes on all of `buses` until `done` returns `true`.
async fn consume_until(buses: &[&RedisEventBus], done: impl Fn() -> bool) -> Result<()> {
    consume_while(buses, async { Ok(()) }, done).await
}

/// Publishes while consuming, and stops when done.
async fn consume_while(
    buses: &[&RedisEventBus],
    publishing: impl Future<Output = Result<()>>,
    done: impl Fn() -> bool,
) -> Result<()> {
    let consumers: Vec<_> = buses.iter().map(|bus| bus.start_consuming_in_background()).collect();
    let finished = async {
        publishing.await?;
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    };
    let in_time = tokio::time::timeout(Duration::from_secs(20), finished).await;
    for (bus, consumer) in buses.iter().zip(consumers) {
        bus.stop_consuming().await;
        consumer.await??;
    }
    in_time.map_err(|_| "the events did not come within 20 s")?
}

pub async fn publish_and_subscribe(stage: &Stage) -> Result<()> {
    heading("Demo 1: Basic Publish/Subscribe");
    let bus = stage.connect(1, "demo-consumers", None).await?;
    println!("Connected to Redis");
    let received = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&received);
    bus.subscribe(move |event: Envelope<OrderCreated>| {
        println!("  Received: {}", event.metadata().event_type());
        counter.fetch_add(1, Ordering::SeqCst);
        async {}
    });
    println!("Subscribed handler to OrderCreated");
    let order = AggregateId::new();
    bus.publish(&[created(&order, "cust-123", 99.99)?]).await?;
    println!("Published OrderCreated for {order}");
    consume_until(&[&bus], || received.load(Ordering::SeqCst) > 0).await?;
    println!("\nReceived {} event(s)", received.load(Ordering::SeqCst));
    if stage.is_long() {
        let stats = bus.stats();
        println!("\nStatistics:\n  Published: {}\n  Consumed: {}", stats.events_published, stats.events_consumed);
    }
    bus.disconnect().await;
    if stage.is_long() {
        println!("\nDisconnected from Redis");
    }
    Ok(())
}

pub async fn consumer_groups(stage: &Stage) -> Result<()> {
    stage.heading("Demo 2: Consumer Groups and Load Balancing", "Demo 2: Consumer Groups");
    let (first, second) = (
        stage.connect(2, "load-balanced-consumers", Some("worker-1")).await?,
        stage.connect(2, "load-balanced-consumers", Some("worker-2")).await?,
    );
    println!("Both workers connected");
    let processed = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
    worker(&first, 1, &processed[0]);
    worker(&second, 2, &processed[1]);
    let publishing = async {
        println!("\nPublishing 6 events...");
        for i in 0..6 {
            // publish one by one: of six orders at once, the first worker to start would handle all
            tokio::time::sleep(Duration::from_millis(50)).await;
            let event = created(&AggregateId::new(), &format!("cust-{i}"), 10.0 * f64::from(i))?;
            first.publish(&[event]).await?;
        }
        Ok(())
    };
    let count = |worker: usize| processed[worker].load(Ordering::SeqCst);
    consume_while(&[&first, &second], publishing, || count(0) + count(1) >= 6).await?;
    println!("\nResults:");
    println!("  Worker 1 processed: {} events", count(0));
    println!("  Worker 2 processed: {} events", count(1));
    let total = if stage.is_long() { "Total processed" } else { "Total" };
    println!("  {total}: {} events", count(0) + count(1));
    first.disconnect().await;
    second.disconnect().await;
    Ok(())
}

fn worker(bus: &RedisEventBus, number: u8, processed: &Arc<AtomicU64>) -> Subscription {
    let processed = Arc::clone(processed);
    bus.subscribe(move |event: Envelope<OrderCreated>| {
        println!("  Worker {number} processed: {}", event.metadata().aggregate_id());
        processed.fetch_add(1, Ordering::SeqCst);
        async {}
    })
}

pub async fn statistics_and_monitoring(stage: &Stage) -> Result<()> {
    heading("Demo 3: Statistics and Monitoring");
    let bus = stage.connect(3, "monitoring-demo", None).await?;
    for i in 0..10 {
        let event = created(&AggregateId::new(), &format!("cust-{i}"), 100.0 + f64::from(i))?;
        bus.publish(&[event]).await?;
    }
    println!("Published 10 events");
    let info = bus.stream_info().await;
    if stage.is_long() {
        println!("\nStream Information:");
        println!("  Connected: {}", if info.connected { "True" } else { "False" });
        println!("  Stream name: {}", info.stream.name);
    }
    println!("  Stream length: {}", info.stream.length);
    println!("  Consumer groups: {}", info.consumer_groups.len());
    println!("  Pending messages: {}", info.pending_messages);
    println!("  DLQ messages: {}", info.dlq_messages);
    let stats = bus.stats();
    if stage.is_long() {
        println!("\nBus Statistics:");
        // the tutorial's counters come first; those of this bus follow
        stats.iter().take(8).for_each(|(name, count)| println!("  {name}: {count}"));
        println!("\nSubscriber Counts:");
    } else {
        println!("\nStatistics:");
        println!("  Published: {}", stats.events_published);
        println!("  Consumed: {}", stats.events_consumed);
        println!("  Success: {}", stats.events_processed_success);
        println!("  Failed: {}", stats.events_processed_failed);
        println!("\nSubscribers:");
    }
    println!("  Total: {}", bus.subscriber_count());
    println!("  Wildcard: {}", bus.wildcard_subscriber_count());
    bus.disconnect().await;
    Ok(())
}

pub async fn projections(stage: &Stage) -> Result<()> {
    heading("Demo 4: Integration with Projections");
    let bus = stage.connect(4, "projection-consumers", None).await?;
    let edition = stage.edition;
    let statistics = ProjectionHandle::new(OrderStatistics { edition, ..OrderStatistics::default() });
    let auditor = AuditLogger { edition, ..AuditLogger::default() };
    bus.subscribe_all(&statistics);
    bus.subscribe_to_all(auditor.clone());
    match edition {
        Edition::Long => {
            println!("Subscribed projection to OrderCreated and OrderShipped");
            println!("Subscribed auditor to all events");
        }
        _ => println!("Subscribed statistics projection\nSubscribed audit logger to all events"),
    }
    let order = AggregateId::new();
    println!("\nProcessing order: {order}");
    bus.publish(&[created(&order, "premium-customer", 499.99)?]).await?;
    bus.publish(&[shipped(&order, "TRACK-12345")?]).await?;
    let audited = || auditor.log.lock().map_or(0, |log| log.len());
    consume_until(&[&bus], || audited() >= 2).await?;
    println!("\nProjection Results:");
    let counted = statistics.read().await;
    if stage.is_long() {
        println!("  Orders created: {}", counted.total_orders);
        println!("  Orders shipped: {}", counted.shipped_count);
        println!("\nAudit Log ({} entries):", audited());
        for entry in auditor.log.lock().map_err(|_| "the log is poisoned")?.iter() {
            let id: String = entry.aggregate_id().as_str().chars().take(8).collect();
            println!("  - {}: {id}...", entry.event_type());
        }
    } else {
        println!("  Total orders: {}", counted.total_orders);
        println!("  Total revenue: ${:.2}", counted.total_revenue);
        println!("  Shipped count: {}", counted.shipped_count);
        println!("\nAudit log entries: {}", audited());
    }
    bus.disconnect().await;
    Ok(())
}
