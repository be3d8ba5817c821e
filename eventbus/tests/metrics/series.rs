//! The set of series is bounded.

use eventbus::{App, Never};

use crate::{
    page,
    shop::{self, Order, Paid, Receipt, SharedCounts, get},
};

const AGGREGATES: u64 = 1_000;

/// The name and the labels of each series on the page of an app.
async fn series(app: &App) -> Vec<String> {
    let page = app.metrics().await.to_prometheus_text();
    let families = page::parse(&page);
    let samples = families.values().flat_map(|family| &family.samples);
    samples.map(|(name, labels, _)| format!("{name}{labels:?}")).collect()
}

#[tokio::test]
async fn more_aggregates_add_no_series() {
    let counted = SharedCounts::default();
    let app = shop::start(&counted, |builder| builder).await;
    let orders = app.repository::<Order>();
    let pay = async |number: u64| {
        let id = format!("order-{number}").parse().unwrap();
        orders.upsert(&id, |_| Ok::<_, Never>(Paid { cents: 1 })).await.unwrap();
    };
    pay(0).await;
    app.settle().await;
    let before = series(&app).await;
    for number in 1..AGGREGATES {
        pay(number).await;
    }
    app.settle().await;
    assert_eq!(get(&counted.projected), AGGREGATES);
    assert_eq!(app.repository::<Receipt>().load(&"order-999".parse().unwrap()).await.unwrap().printed, 1);
    let after = series(&app).await;
    assert_eq!(after, before);
    assert!(!after.iter().any(|series| series.contains("order-")), "no id is a label");
}
