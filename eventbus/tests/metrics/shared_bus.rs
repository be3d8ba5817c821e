//! Metrics of apps that share a bus.

use std::time::Duration;

use eventbus::{App, InMemoryEventBus, InMemoryEventStore, Never, bus::EventBus as _, metrics::Metrics, prelude::*};
use futures_util::StreamExt as _;
use tokio::time::timeout;

use crate::shop::{Order, Paid};

#[handler(group = "invoices", stream = "orders", manual)]
async fn invoice(_: &Paid) {}

#[handler(group = "parcels", manual)]
async fn pack(_: &Paid) -> Result<(), HandlerError> {
    Err(HandlerError::permanent("there is no parcel"))
}

const MINUTE: Duration = Duration::from_secs(60);

const COUNTERS: [(&str, &[(&str, &str)]); 3] = [
    ("eventbus_deliveries_total", &[("outcome", "succeeded")]),
    ("eventbus_deliveries_total", &[("outcome", "failed")]),
    ("eventbus_dead_letters_total", &[]),
];

/// The sums over the apps.
fn sums(pages: &[Metrics]) -> [u64; 3] {
    COUNTERS.map(|(name, labels)| pages.iter().map(|page| page.number(name, labels).unwrap() as u64).sum())
}

async fn pay(app: &App, id: &str) {
    let paid = |_: &Order| Ok::<_, Never>(Paid { cents: 1 });
    app.repository::<Order>().upsert(&id.parse().unwrap(), paid).await.unwrap();
}

#[tokio::test]
async fn the_sum_over_two_apps_counts_each_delivery_of_their_bus_once() {
    let bus = InMemoryEventBus::new();
    let shop = App::builder().store(InMemoryEventStore::new()).bus(bus.clone()).consume("orders", bus.clone());
    let shop = shop.handler::<invoice>().start().await;
    let warehouse = App::builder().bus(bus.clone()).handler::<pack>().start().await;
    let (shop, warehouse) = (shop.unwrap(), warehouse.unwrap());
    let pages = async || [shop.metrics().await, warehouse.metrics().await];
    pay(&shop, "o-1").await;
    let counted = async {
        while sums(&pages().await) != [1, 1, 1] {
            tokio::task::yield_now().await;
        }
    };
    timeout(MINUTE, counted).await.expect("two groups get the event");
    let (pages, stats) = (pages().await, bus.stats());
    let of_bus = [stats.events_processed_success, stats.events_processed_failed, stats.messages_sent_to_dlq];
    assert_eq!((sums(&pages), of_bus), ([1; 3], [1; 3]));
    let runs = |page: &Metrics, group, handler, outcome| {
        let labels = [("group", group), ("handler", handler), ("outcome", outcome)];
        page.distribution("eventbus_handler_seconds", &labels).map(|runs| runs.count)
    };
    for (page, counts) in pages.iter().zip([[Some(1), None], [None, Some(1)]]) {
        let shown = [runs(page, "invoices", "invoice", "succeeded"), runs(page, "parcels", "pack", "permanent")];
        assert_eq!(shown, counts, "each app shows its own handlers");
    }
    warehouse.shutdown(MINUTE).await.unwrap();
    drop(shop);
}

#[tokio::test]
async fn the_next_app_on_a_bus_counts_from_0_and_takes_over_when_the_first_one_stops() {
    let publisher = App::builder().store(InMemoryEventStore::new()).start().await.unwrap();
    pay(&publisher, "o-1").await;
    let published = publisher.follow().start().next().await.unwrap().unwrap();
    let bus = InMemoryEventBus::new();
    let start = async || App::builder().consume("orders", bus.clone()).handler::<invoice>().start().await.unwrap();
    let counts_one = async |app: &App| {
        bus.publish(std::slice::from_ref(&published)).await.unwrap();
        while sums(&[app.metrics().await]) != [1, 0, 0] {
            tokio::task::yield_now().await;
        }
    };
    let first = start().await;
    timeout(MINUTE, counts_one(&first)).await.unwrap();
    let second = start().await;
    assert_eq!(sums(&[second.metrics().await]), [0; 3]);
    drop(first);
    let is_alone = async {
        while bus.subscribers().len() > 1 {
            tokio::task::yield_now().await;
        }
    };
    timeout(MINUTE, is_alone).await.expect("the first app cancels its subscriptions");
    timeout(MINUTE, counts_one(&second)).await.expect("it is the only app on the bus");
    second.shutdown(MINUTE).await.unwrap();
}
