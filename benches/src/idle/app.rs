//! The app at rest, in a process of its own.

use std::{
    io::{self, Read as _},
    time::Duration,
};

use eventbus::{prelude::*, *};
use eventbus_redis::RedisEventBus;
use eventbus_test::unique_name;
use eventstore_postgres::PgEventStore;
use tokio::runtime::Builder;

use crate::{
    IdleAppArgs,
    order::{ItemAdded, Order},
    ours::{Kind, add_projections, bus_config},
    worker::reply,
};

#[handler(name = "idle", manual)]
async fn handled(_event: &ItemAdded) {}

/// Starts an app with a handler and projections, half of them in memory, half with rows. Replies when all have handled
/// a few events; ends at the end of its input.
pub fn run(args: &IdleAppArgs) -> Result<()> {
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    let app = runtime.block_on(start(args))?;
    reply(&())?;
    io::stdin().lock().read_to_end(&mut Vec::new())?;
    Ok(runtime.block_on(app.shutdown(Duration::from_secs(10)))?)
}

async fn start(args: &IdleAppArgs) -> Result<App> {
    let store = PgEventStore::connect(&args.database).await?;
    let bus = RedisEventBus::connect(bus_config(&args.redis, &unique_name("idle"), "idle")).await?;
    let app = App::builder().store(store).bus(bus).handler::<handled>();
    let app = add_projections(app, Kind::Memory, args.projections / 2);
    let app = add_projections(app, Kind::Rows, args.projections - args.projections / 2).start().await?;
    let orders: AggregateRepository<Order> = app.repository();
    for number in 0..10 {
        let mut order = orders.create_new(AggregateId::new());
        order.record(ItemAdded::new(number));
        orders.save(&mut order).await?;
    }
    app.settled().await?;
    Ok(app)
}
