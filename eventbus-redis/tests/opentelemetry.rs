//! One trace from publisher to handler, as exported by the SDK of OpenTelemetry.
#![cfg(feature = "opentelemetry")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::time::Duration;

use common::{
    another, fresh_bus,
    seen::{Seen, command, event, settled, start},
};
use eventbus::port::EventBus;
use opentelemetry::trace::{SpanId, SpanKind, Status, TracerProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tracing::Instrument;
use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};

fn find<'a>(spans: &'a [SpanData], name: &str) -> &'a SpanData {
    let names: Vec<_> = spans.iter().map(|span| &span.name).collect();
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name} in {names:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_on_from_one_bus_to_another() {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    tracing_subscriber::registry().with(layer).init();

    let publisher = fresh_bus().await;
    let consumer = another(&publisher).await;
    Seen::default().join(&consumer);
    let stream = publisher.config().stream_name();
    let request = tracing::info_span!("request");
    publisher.publish(&[event("one")]).instrument(request.clone()).await.unwrap();
    drop(request);
    start(&consumer).await;
    assert_eq!(settled(&consumer).await, 0);
    consumer.shutdown(Duration::from_secs(5)).await.unwrap();

    let spans = exporter.get_finished_spans().unwrap();
    let [request, publish, process] =
        ["request".into(), format!("publish {stream}"), format!("process {stream}")].map(|name| find(&spans, &name));
    assert_eq!((&publish.span_kind, &process.span_kind), (&SpanKind::Producer, &SpanKind::Consumer));
    assert_eq!((request.parent_span_id, &process.status), (SpanId::INVALID, &Status::Unset));
    assert_eq!(publish.parent_span_id, request.span_context.span_id());
    assert_eq!(process.parent_span_id, publish.span_context.span_id());
    assert!(process.parent_span_is_remote);
    let trace = request.span_context.trace_id();
    assert_eq!([publish, process].map(|span| span.span_context.trace_id()), [trace; 2]);

    let entries: Vec<(String, Vec<(String, String)>)> = command(&publisher, "XRANGE", &[&stream, "-", "+"]).await;
    let parent = format!("00-{trace}-{}-01", publish.span_context.span_id());
    assert_eq!(entries[0].1[7..], [("traceparent".to_owned(), parent)]);
}
