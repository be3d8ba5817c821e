//! The spans of the Redis bus, and the trace context that entries carry.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex, Once},
    time::Duration,
};

use common::{
    config, fresh_bus,
    seen::{command, event, settled, start},
};
use eventbus::{
    Attributes, EventFilter, Name, RecordedEvent,
    port::{EventBus, PublishError, Subscriber},
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use tracing::{
    Subscriber as Collector,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
    util::SubscriberInitExt,
};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const STATE: &str = "rojo=00f067aa0ba902b7";

type Fields = BTreeMap<&'static str, String>;

/// The fields of all spans of this test binary, by span.
static SPANS: Mutex<BTreeMap<u64, Fields>> = Mutex::new(BTreeMap::new());

struct Keep;

struct Noting<'a>(&'a mut Fields);

impl Visit for Noting<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}").trim_matches('"').into());
    }
}

impl<C: Collector + for<'a> LookupSpan<'a>> Layer<C> for Keep {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, _: Context<'_, C>) {
        let mut fields = Fields::new();
        fields.insert("", attributes.metadata().name().into());
        attributes.record(&mut Noting(&mut fields));
        // ids are used again, so each gets a place that is not
        let mut spans = SPANS.lock().unwrap();
        if let Some(before) = spans.remove(&id.into_u64()) {
            let place = u64::MAX - spans.len() as u64;
            spans.insert(place, before);
        }
        spans.insert(id.into_u64(), fields);
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, _: Context<'_, C>) {
        values.record(&mut Noting(SPANS.lock().unwrap().entry(id.into_u64()).or_default()));
    }
}

fn keep_spans() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing_subscriber::registry().with(Keep).init());
}

/// The spans of a kind on the stream of a bus.
fn spans(bus: &RedisEventBus, name: &str) -> Vec<Fields> {
    let stream = bus.config().stream_name();
    let is_it = |fields: &&Fields| fields[""] == name && fields.get("messaging.destination.name") == Some(&stream);
    SPANS.lock().unwrap().values().filter(is_it).cloned().collect()
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

/// Consumes all there is, and returns what the handler found attached to the events.
async fn attached(bus: &RedisEventBus) -> Vec<Attributes> {
    let found = Arc::new(Mutex::new(Vec::new()));
    let finding = Arc::clone(&found);
    let find = Subscriber::new(Name::from_static("find"), EventFilter::All, move |delivery| {
        finding.lock().unwrap().push(delivery.metadata().attributes().clone());
        Box::pin(async { Ok(()) })
    });
    bus.subscribers().add(bus.default_group().clone(), find);
    start(bus).await;
    assert_eq!(settled(bus).await, 0);
    bus.shutdown(Duration::from_secs(5)).await.unwrap();
    found.lock().unwrap().clone()
}

async fn quiet_bus() -> RedisEventBus {
    RedisEventBus::connect(RedisEventBusConfig { enable_tracing: false, ..config() }).await.unwrap()
}

/// Writes an entry again, as another publisher would, with other fields behind it.
async fn publish_again(bus: &RedisEventBus, more: &[(&str, &str)]) {
    let entry = entries(bus).await.remove(0);
    let fields: Vec<_> = entry.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let stream = bus.config().stream_name();
    let fields = fields[..7].iter().chain(more).flat_map(|(name, value)| [*name, *value]);
    let arguments: Vec<_> = [stream.as_str(), "*"].into_iter().chain(fields).collect();
    let _: String = command(bus, "XADD", &arguments).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_receiving_and_processing_are_spans_in_the_words_of_opentelemetry() {
    keep_spans();
    let bus = fresh_bus().await;
    let one = event("one");
    let id = bus.publish(std::slice::from_ref(&one)).await.unwrap().remove(0);
    attached(&bus).await;

    let stream = bus.config().stream_name();
    for (name, kind, operation) in
        [("publish", "producer", "send"), ("receive", "client", "receive"), ("process", "consumer", "process")]
    {
        let span = only(&bus, name);
        assert_eq!(span["otel.name"], format!("{name} {stream}"));
        assert_eq!(span["otel.kind"], kind);
        assert_eq!(span["messaging.system"], "redis");
        assert_eq!(span["messaging.operation.name"], name);
        assert_eq!(span["messaging.operation.type"], operation);
        assert_eq!(&span["messaging.client.id"], bus.config().consumer_name.as_ref().unwrap());
        assert!(bus.config().redis_url.contains(&span["server.address"]), "{span:?}");
        assert!(bus.config().redis_url.contains(&span["server.port"]), "{span:?}");
        assert!(!span.contains_key("error.type"));
        if name != "receive" {
            assert_eq!(span["messaging.message.id"], id.as_str());
            assert_eq!(span["messaging.message.conversation_id"], one.metadata().correlation_id().to_string());
        }
        if name != "publish" {
            assert_eq!(span["messaging.consumer.group.name"], "default");
        }
    }
    assert_eq!(only(&bus, "receive")["messaging.batch.message_count"], "1");
    assert!(!only(&bus, "publish").contains_key("messaging.batch.message_count"), "it was no batch");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_said_in_the_span() {
    keep_spans();
    let config = RedisEventBusConfig { readable_by_python: true, max_retries: 0, ..config() };
    let bus = RedisEventBus::connect(config).await.unwrap();
    assert!(matches!(bus.publish(&[event("no-uuid")]).await, Err(PublishError::Refused { .. })));
    let refused = only(&bus, "publish");
    assert_eq!((&*refused["error.type"], &*refused["otel.status_code"]), ("refused", "ERROR"));

    let fail = Subscriber::new(Name::from_static("fail"), EventFilter::All, |_| Box::pin(async { Err("no".into()) }));
    bus.subscribers().add(bus.default_group().clone(), fail);
    start(&bus).await;
    bus.publish(&[event("6f1cb6c5-6b9e-4b8a-9a53-0d0f7f0a5a11")]).await.unwrap();
    settled(&bus).await;
    let failed = only(&bus, "process");
    assert_eq!((&*failed["error.type"], &*failed["otel.status_code"]), ("handler_failed", "ERROR"));
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
    assert_eq!(only(&bus, "process")["traceparent"], PARENT);
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
    let mut parents: Vec<_> = spans(&bus, "process").iter().map(|span| span.get("traceparent").cloned()).collect();
    parents.sort();
    assert_eq!(parents, [None, None, Some(PARENT.into())]);
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
    for name in ["publish", "receive", "process"] {
        assert_eq!(spans(&bus, name), Vec::<Fields>::new());
    }
}
