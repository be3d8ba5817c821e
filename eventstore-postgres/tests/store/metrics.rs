//! Metrics that only a store on a server has: how long an append holds the feed, and the sizes of batches.

use std::time::Duration;

use crate::common::{TestSchema, event, run, stream, within};
use eventbus::{
    App, ExpectedVersion, InMemoryEventBus, StreamId, metrics::Metrics, port::AppendEvents as _, store::Append,
};

fn number(metrics: &Metrics, name: &str) -> f64 {
    metrics.number(name, &[]).unwrap_or_else(|| panic!("no {name}"))
}

#[tokio::test]
async fn an_open_append_holds_the_feed_and_the_lag_grows_meanwhile() {
    let schema = TestSchema::new();
    let store = schema.store().await;
    let app = App::builder().store(store.clone()).bus(InMemoryEventBus::new()).start().await.unwrap();
    assert_eq!(number(&app.metrics().await, "eventbus_feed_held_seconds"), 0.0);
    let mut connection = schema.connection().await;
    run(&mut connection, "BEGIN").await;
    store.append_in(&mut connection, &stream(), ExpectedVersion::Any, vec![event()]).await.unwrap();
    // behind the open append: stored, and not yet readable
    let behind = StreamId::parse("Order", "behind").unwrap();
    store.append(&behind, ExpectedVersion::NoStream, vec![event()]).await.unwrap();
    let grows = async {
        let mut last = Duration::ZERO;
        while last < Duration::from_millis(200) {
            let metrics = app.metrics().await;
            let held = Duration::from_secs_f64(number(&metrics, "eventbus_feed_held_seconds"));
            assert!(held > last);
            assert!(number(&metrics, "eventbus_relay_lag_seconds") >= last.as_secs_f64() - 0.1);
            last = held;
        }
    };
    within(grows).await;
    assert_eq!(number(&app.metrics().await, "eventbus_relay_published_total"), 0.0);
    run(&mut connection, "COMMIT").await;
    let published = async { while number(&app.metrics().await, "eventbus_relay_published_total") < 2.0 {} };
    within(published).await;
    let metrics = app.metrics().await;
    assert_eq!(number(&metrics, "eventbus_feed_held_seconds"), 0.0);
    assert_eq!(number(&metrics, "eventbus_relay_lag_seconds"), 0.0);
}

#[tokio::test]
async fn appends_that_share_a_statement_are_one_batch() {
    let schema = TestSchema::new();
    let store = schema.store().await;
    let app = App::builder().store(store.clone()).start().await.unwrap();
    let append = |number: usize| Append {
        stream: StreamId::parse("Order", &number.to_string()).unwrap(),
        expected: ExpectedVersion::NoStream,
        events: vec![event()],
    };
    for result in store.append_many((0..40).map(append).collect()).await {
        result.unwrap();
    }
    store.append(&stream(), ExpectedVersion::NoStream, vec![event()]).await.unwrap();
    let metrics = app.metrics().await;
    let batches = metrics.distribution("eventbus_commit_appends", &[]).unwrap();
    assert_eq!((batches.count, batches.sum), (2, 41.0));
}
