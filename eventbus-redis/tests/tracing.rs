//! The spans of the Redis bus, and the trace context that entries carry.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use common::{
    config, fresh_bus,
    seen::{command, event, settled, start},
};
use eventbus::{
    Name, RecordedEvent,
    event::{Attributes, EventFilter},
    port::{EventBus, PublishError, Subscriber},
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use opentelemetry::trace::{Status, TracerProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const STATE: &str = "rojo=00f067aa0ba902b7";

type Fields = BTreeMap<String, String>;

/// The ended spans of this test binary.
static SPANS: LazyLock<InMemorySpanExporter> = LazyLock::new(|| {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    tracing_subscriber::registry().with(layer).init();
    exporter
});

fn keep_spans() {
    LazyLock::force(&SPANS);
}

fn fields(span: SpanData) -> Fields {
    let mut fields: Fields = span.attributes.iter().map(|a| (a.key.to_string(), a.value.to_string())).collect();
    fields.insert("name".into(), span.name.into_owned());
    fields.insert("kind".into(), format!("{:?}", span.span_kind).to_lowercase());
    fields.insert("status".into(), if matches!(span.status, Status::Error { .. }) { "ERROR" } else { "" }.into());
    fields.insert("parent".into(), format!("{}-{}", span.span_context.trace_id(), span.parent_span_id));
    fields
}

/// The spans of an operation on the stream of a bus.
fn spans(bus: &RedisEventBus, operation: &str) -> Vec<Fields> {
    let name = format!("{operation} {}", bus.config().stream_name());
    let spans = SPANS.get_finished_spans().unwrap().into_iter().filter(|span| span.name == name);
    spans.map(fields).collect()
}

fn only(bus: &RedisEventBus, name: &str) -> Fields {
    let mut spans = spans(bus, name);
    assert_eq!(spans.len(), 1, "{name}: {spans:?}");
    spans.remove(0)
}

fn with_attributes(event: &RecordedEvent, json: &str) -> RecordedEvent {
    let metadata = event.metadata().clone().with_attributes(Attributes::parse(json).unwrap());
    RecordedEvent::new(metadata, event.payload())
}

/// The names and values of the entries, in their order.
async fn entries(bus: &RedisEventBus) -> Vec<Vec<(String, String)>> {
    let entries: Vec<(String, Vec<(String, String)>)> =
        command(bus, "XRANGE", &[&bus.config().stream_name(), "-", "+"]).await;
    entries.into_iter().map(|(_, fields)| fields).collect()
}

/// Consumes all events, and returns the attributes that the handler found attached to them.
async fn attached(bus: &RedisEventBus) -> Vec<Attributes> {
    let found = Arc::new(Mutex::new(Vec::new()));
    let finding = Arc::clone(&found);
    let find = Subscriber::new(Name::from_static("find"), EventFilter::All, move |delivery| {
        finding.lock().unwrap().push(delivery.metadata().attributes().clone());
        Box::pin(async { Ok(()) })
    });
    bus.add_subscriber(bus.default_group().clone(), find);
    start(bus).await;
    assert_eq!(settled(bus).await, 0);
    bus.shutdown(Duration::from_secs(5)).await.unwrap();
    found.lock().unwrap().clone()
}

async fn quiet_bus() -> RedisEventBus {
    RedisEventBus::connect(RedisEventBusConfig { enable_tracing: false, ..config() }).await.unwrap()
}

/// Publishes an entry again as a foreign publisher would, with more fields at its end.
async fn publish_again(bus: &RedisEventBus, more: &[(&str, &str)]) {
    let entry = entries(bus).await.remove(0);
    let fields: Vec<_> = entry.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let stream = bus.config().stream_name();
    let fields = fields[..7].iter().chain(more).flat_map(|(name, value)| [*name, *value]);
    let arguments: Vec<_> = [stream.as_str(), "*"].into_iter().chain(fields).collect();
    let _: String = command(bus, "XADD", &arguments).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_and_processing_are_spans_in_the_words_of_opentelemetry() {
    keep_spans();
    let bus = fresh_bus().await;
    let one = event("one");
    let id = bus.publish(std::slice::from_ref(&one)).await.unwrap().remove(0);
    attached(&bus).await;

    let stream = bus.config().stream_name();
    for (name, kind, operation) in [("publish", "producer", "send"), ("process", "consumer", "process")] {
        let span = only(&bus, name);
        assert_eq!(span["name"], format!("{name} {stream}"));
        assert_eq!(span["kind"], kind);
        assert_eq!(span["messaging.destination.name"], stream);
        assert_eq!(span["messaging.system"], "redis");
        assert_eq!(span["messaging.operation.name"], name);
        assert_eq!(span["messaging.operation.type"], operation);
        assert_eq!(&span["messaging.client.id"], bus.config().consumer_name.as_ref().unwrap());
        assert!(bus.config().redis_url.contains(&span["server.address"]), "{span:?}");
        assert!(bus.config().redis_url.contains(&span["server.port"]), "{span:?}");
        assert!(!span.contains_key("error.type"));
        assert_eq!(span["messaging.message.id"], id.as_str());
        assert_eq!(span["messaging.message.conversation_id"], one.metadata().correlation_id().to_string());
    }
    let process = only(&bus, "process");
    assert_eq!(process["messaging.consumer.group.name"], "default");
    assert_eq!([&process["handler"], &process["event"]], ["find", one.event_type().as_str()]);
    assert!(!only(&bus, "publish").contains_key("messaging.batch.message_count"), "it was no batch");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_said_in_the_span() {
    keep_spans();
    let config = RedisEventBusConfig { readable_by_python: true, max_retries: Some(0), ..config() };
    let bus = RedisEventBus::connect(config).await.unwrap();
    assert!(matches!(bus.publish(&[event("no-uuid")]).await, Err(PublishError::Refused { .. })));
    let refused = only(&bus, "publish");
    assert_eq!((&*refused["error.type"], &*refused["status"]), ("refused", "ERROR"));

    let fail = Subscriber::new(Name::from_static("fail"), EventFilter::All, |_| Box::pin(async { Err("no".into()) }));
    bus.add_subscriber(bus.default_group().clone(), fail);
    start(&bus).await;
    bus.publish(&[event("6f1cb6c5-6b9e-4b8a-9a53-0d0f7f0a5a11")]).await.unwrap();
    settled(&bus).await;
    let failed = only(&bus, "process");
    assert_eq!((&*failed["error.type"], &*failed["status"]), ("failed", "ERROR"));
    bus.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_attached_to_an_event_goes_beside_the_payload_and_reaches_span_and_handler() {
    keep_spans();
    let bus = fresh_bus().await;
    let attributes = format!(r#"{{"traceparent":"{PARENT}","tracestate":"{STATE}"}}"#);
    bus.publish(&[with_attributes(&event("one"), &attributes)]).await.unwrap();
    let entry = entries(&bus).await.remove(0);
    let own = [("traceparent".to_owned(), PARENT.to_owned()), ("tracestate".to_owned(), STATE.to_owned())];
    assert_eq!(entry[7..], own, "after the seven fields of the wire");
    assert_eq!(attached(&bus).await[0].as_json(), attributes);
    assert_eq!(only(&bus, "process")["parent"], PARENT[3..52]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_that_only_the_entry_has_reaches_span_and_handler_and_what_is_none_is_ignored() {
    keep_spans();
    let bus = fresh_bus().await;
    let plain = quiet_bus_on(&bus).await;
    plain.publish(&[with_attributes(&event("one"), r#"{"channel":"web"}"#)]).await.unwrap();
    publish_again(&bus, &[("traceparent", PARENT), ("tracestate", "a=\"1\"")]).await;
    publish_again(&bus, &[("traceparent", "00-junk")]).await;
    let found = attached(&bus).await;
    let expected = format!(r#"{{"channel":"web","traceparent":"{PARENT}","tracestate":"a=\"1\""}}"#);
    let found: Vec<_> = found.iter().map(Attributes::as_json).collect();
    assert_eq!(found, [r#"{"channel":"web"}"#, &expected, r#"{"channel":"web"}"#]);
    let spans = spans(&bus, "process");
    assert_eq!(spans.len(), 3);
    assert_eq!(spans.iter().filter(|span| span["parent"] == PARENT[3..52]).count(), 1);
}

/// The same stream without tracing.
async fn quiet_bus_on(bus: &RedisEventBus) -> RedisEventBus {
    let config = RedisEventBusConfig { enable_tracing: false, consumer_name: None, ..bus.config().clone() };
    RedisEventBus::connect(config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tracing_there_are_no_spans_and_nothing_is_carried() {
    keep_spans();
    let bus = quiet_bus().await;
    let attributes = format!(r#"{{"traceparent":"{PARENT}"}}"#);
    bus.publish(&[event("one"), with_attributes(&event("two"), &attributes)]).await.unwrap();
    assert!(entries(&bus).await.iter().all(|entry| entry.len() == 7));
    publish_again(&bus, &[("traceparent", PARENT)]).await;
    let found = attached(&bus).await;
    let found: Vec<_> = found.iter().map(Attributes::as_json).collect();
    assert_eq!(found, ["{}", &attributes, "{}"]);
    for name in ["publish", "process"] {
        assert_eq!(spans(&bus, name), Vec::<Fields>::new());
    }
}
