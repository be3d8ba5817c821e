//! The order story: create, ship, refuse, resolve a conflict, send receipts, count, rebuild.
//!
//! `cargo run -p examples` plays it on SQLite and the in-process bus; `--store postgres://…` and `--bus redis://…` on
//! servers. A second run continues where the first one ended.

mod orders;

use clap::Parser;
use eventbus::prelude::*;
use examples::{Backends, act, show};
use orders::{Order, OrderCreated, OrderShipped};

#[handler]
async fn send_receipt(event: &OrderCreated, meta: &Metadata, State(desk): State<&'static str>) {
    println!(
        "  receipt    {desk} to {}: {:.2} for order {}",
        event.customer_id,
        event.total_amount,
        meta.aggregate_id()
    );
}

#[derive(Debug, Default)]
struct OrderStatistics {
    orders: u64,
    revenue: f64,
    shipped: u64,
}

#[projection(name = "order-statistics")]
impl OrderStatistics {
    fn created(&mut self, event: &OrderCreated) {
        self.orders += 1;
        self.revenue += event.total_amount;
    }

    fn shipped(&mut self, _event: &OrderShipped) {
        self.shipped += 1;
    }
}

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    backends: Backends,
}

#[tokio::main]
async fn main() -> eventbus::Result<()> {
    examples::log_warnings();
    let backends = Args::parse().backends;
    println!("{}", backends.describe("order-story.db")?);
    let app = App::builder()
        .store(backends.open_store("order-story.db").await?)
        .bus(backends.open_bus("order-story").await?)
        .state("front desk")
        .discover()
        .start()
        .await?;
    let before = app.store().head().await?;
    println!(
        "{:?} so far",
        app.projected::<OrderStatistics>(before).await?
    );
    let orders = app.repository::<Order>();

    act("A customer orders");
    let mut order = orders.create(AggregateId::new());
    order.record(order.create("cust-123", 99.99)?);
    show(&app, &orders.save(&mut order).await?).await?;
    app.settled().await?;

    act("Two clerks change the order at once");
    orders
        .update(order.id(), |order| order.move_to("12 Harbour Road"))
        .await?;
    order.record(order.ship("TRACK-1")?); // decided on what is no longer true
    println!(
        "  conflict   {}",
        orders.save(&mut order).await.unwrap_err()
    );
    let saved = orders
        .update(order.id(), |order| order.ship("TRACK-1"))
        .await?;
    println!(
        "  resolved   decided anew on version {}",
        saved.version.get() - 1
    );
    show(&app, &saved).await?;

    act("A command that comes too late");
    let refused = orders
        .update(order.id(), |order| order.ship("TRACK-2"))
        .await
        .unwrap_err();
    println!("  refused    {refused}");

    act("What the statistics say");
    let live = format!(
        "{:?}",
        app.projected::<OrderStatistics>(saved.position).await?
    );
    println!("  live       {live}");
    let rebuilt = app.rebuild::<OrderStatistics>().await?;
    let again = format!("{:?}", app.projection::<OrderStatistics>()?.read().await);
    println!(
        "  rebuilt    {again} from {} events in {:?}",
        rebuilt.events, rebuilt.took
    );
    println!("  equal      {}", again == live);

    app.settled().await?;
    Ok(app.shutdown(std::time::Duration::from_secs(10)).await?)
}
