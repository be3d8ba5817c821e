//! The order story: create, ship, refuse, resolve a conflict, send receipts, count, rebuild.
//!
//! `cargo run -p examples` plays it on SQLite and the in-process bus; `--store postgres://…` and `--bus redis://…` on
//! servers. A second run continues where the first one ended.

mod orders;

use eventbus::prelude::*;
use examples::{act, show};
use orders::{Order, OrderCreated, ParcelShipped};

#[handler]
async fn send_receipt(event: &OrderCreated, id: &AggregateId) {
    let total = examples::money(event.total_cents);
    println!("  receipt    {total} from {} for order {id}", event.customer_id);
}

#[derive(Debug, Default, PartialEq, Clone)]
struct OrderStatistics {
    orders: u64,
    revenue_cents: u64,
    parcels: u64,
}

#[projection(name = "order-statistics")]
impl OrderStatistics {
    fn created(&mut self, event: &OrderCreated) {
        self.orders += 1;
        self.revenue_cents += event.total_cents;
    }

    fn shipped(&mut self, _event: &ParcelShipped) {
        self.parcels += 1;
    }
}

#[tokio::main]
async fn main() -> eventbus::Result<()> {
    let (store, bus) = examples::backends("order-story").await?;
    let app = App::builder().store(store).bus(bus).discover().start().await?;
    println!("so far: {:?}", app.projected::<OrderStatistics>(app.store().head().await?).await?);
    let orders = app.repository::<Order>();

    act("A customer orders");
    let mut order = orders.create_new(AggregateId::new());
    order.record(order.create("cust-123", 9_999)?);
    show(&app, &orders.save(&mut order).await?).await?;
    app.settled().await?; // the receipt is sent

    act("The first parcel leaves");
    show(&app, &orders.update_with(order.id(), "TRACK-1", Order::ship).await?).await?;

    act("A command that is refused");
    let refused = orders.update_with(order.id(), "TRACK-1", Order::ship).await.unwrap_err();
    println!("  refused    {refused}");

    act("A second clerk has not seen the first parcel leave");
    order.record(order.ship("TRACK-2")?);
    println!("  conflict   {}", orders.save(&mut order).await.unwrap_err());
    let saved = orders.update_with(order.id(), "TRACK-2", Order::ship).await?;
    println!("  resolved   by deciding anew");
    show(&app, &saved).await?;

    act("Statistics, live and rebuilt from zero");
    let live = app.projected::<OrderStatistics>(saved.position).await?.clone();
    println!("  live       {live:?}");
    let rebuilt = app.rebuild::<OrderStatistics>().await?;
    let again = app.projection::<OrderStatistics>()?.read().await.clone();
    println!("  rebuilt    {again:?} from {} events", rebuilt.events);
    println!("  equal      {}", again == live);

    app.settled().await?;
    Ok(app.shutdown(std::time::Duration::from_secs(10)).await?)
}
