//! The tutorial's "Integration with Repository": orders saved in the store, then published, and projected from Redis.

use std::time::Duration;

use eventbus::{ProjectionHandle, Result, Saved, bus::EventBus, prelude::*, repository::Publication};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};

use crate::{
    Edition, heading,
    orders::{Order, OrderStatistics},
};

/// Runs the integration on a store and a Redis.
pub async fn play(store_url: &str, redis_url: &str, prefix: &str) -> Result<()> {
    heading("Integration with Repository");
    let store = examples::open_store(store_url).await?;
    let config = RedisEventBusConfig {
        redis_url: redis_url.into(),
        stream_prefix: format!("{prefix}5"),
        block_ms: 500,
        ..RedisEventBusConfig::default()
    };
    let bus = RedisEventBus::connect(config).await?;
    let orders = AggregateRepository::<Order>::new(store.clone()).publish_to(bus.clone());
    let statistics =
        || ProjectionHandle::with_factory(|| OrderStatistics { edition: Edition::Silent, ..Default::default() });
    let live = statistics();
    live.rebuild(&*store).await?; // events of earlier runs, or of other programs
    bus.subscribe_all(&live);
    let consumer = bus.start_consuming_in_background();

    let mut order = orders.create_new(AggregateId::new());
    order.record(order.create("cust-123", 99.99)?);
    report("created", &orders.save(&mut order).await?)?;
    let saved = orders.update(order.id(), |order| order.ship("TRACK-1")).await?;
    report("shipped", &saved)?;

    let position = saved.position.ok_or("no event was saved")?;
    let by_redis = format!("{:?}", live.read_at(position, Duration::from_secs(20)).await?);
    println!("  projected through Redis: {by_redis}");
    bus.shutdown(Duration::from_secs(5)).await?;
    consumer.await??;

    let again = statistics();
    again.rebuild(&*store).await?;
    let by_store = format!("{:?}", again.read().await);
    println!("  rebuilt from the store:  {by_store}");
    println!("  equal: {}", by_redis == by_store);
    Ok(())
}

fn report(what: &str, saved: &Saved) -> Result<()> {
    let position = saved.position.ok_or("no event was saved")?;
    match &saved.publication {
        Publication::Published(ids) => {
            let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
            println!("  {what}: version {}, position {position}, published as {}", saved.version, ids.join(", "));
        }
        other => println!("  {what}: version {}, position {position}, not published: {other:?}", saved.version),
    }
    Ok(())
}
