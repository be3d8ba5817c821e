//! A trace goes from a save over a Python handler, which has a span of OpenTelemetry for Python, to the next save.

use std::{path::Path, time::Duration};

use eventbus::{Never, prelude::*, support::spans::context_of};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventstore_postgres::PgEventStore;
use tracing::Instrument as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::{
    config,
    exported_spans::{Ended, ended, exporting, paths},
    script::Script,
    tree::services::{Order, OrderPlaced, PaymentTaken, Shipment, ShipmentPrepared},
};

#[handler(group = "traced", stream = "payments", manual)]
async fn ship(event: &PaymentTaken, id: &AggregateId, shipments: Repository<Shipment>) -> eventbus::Result<()> {
    shipments.upsert(id, |_| Ok::<_, Never>(ShipmentPrepared { number: event.number })).await?;
    Ok(())
}

with_each_release!(a_trace_goes_through_a_span_of_python);

async fn a_trace_goes_through_a_span_of_python(python: &Path) {
    // of this thread, on which the whole app runs: events that other tests publish get no `traceparent`
    let _exporting = exporting().set_default();
    let bus = RedisEventBus::connect(RedisEventBusConfig { readable_by_python: true, ..config() }).await.unwrap();
    let database = eventbus_test::postgres();
    let store = PgEventStore::connect(database.url()).await.unwrap();
    let app = App::builder().store(store).bus(bus.clone()).share_stream().consume("payments", bus.clone());
    let app = app.handler::<ship>().start().await.unwrap();
    let mut payments = Script::start(python, "traced.py", &bus, &["--group", "payments"]);

    let request = tracing::info_span!("request");
    let orders = app.repository::<Order>();
    let placed = |_: &Order| Ok::<_, Never>(OrderPlaced { number: 1 });
    orders.upsert(&AggregateId::new(), placed).instrument(request.clone()).await.unwrap();
    let trace = context_of(&request).unwrap().trace_id().to_owned();
    drop(request);
    // that of the order, and that of the shipment
    let is_save = |span: &&Ended| span.name == "append" && span.trace == trace;
    let here = ended("append of both saves", |spans| spans.iter().filter(is_save).count() == 2).await;
    payments.end().await;
    app.shutdown(Duration::from_secs(60)).await.unwrap();

    let there: Vec<Ended> =
        payments.said("span").into_iter().map(|span| serde_json::from_value(span).unwrap()).collect();
    let here = here.iter().map(|span| ("Rust", span));
    let spans: Vec<_> = here.chain(there.iter().map(|span| ("Python", span))).collect();
    let spans: Vec<_> = spans.into_iter().filter(|(_, span)| span.trace == trace).collect();
    let paths = paths(&spans);
    let wanted = [
        "request/append in Rust",
        "request/append/take_payment in Python",
        "request/append/take_payment/process/append in Rust",
    ];
    assert!(wanted.iter().all(|wanted| paths.iter().any(|path| path == wanted)), "{paths:#?}");
}
