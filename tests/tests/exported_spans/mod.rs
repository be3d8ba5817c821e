//! The spans of the framework that have ended, and how they hang together.

use std::{collections::BTreeMap, sync::LazyLock, time::Duration};

use eventbus::prelude::*;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use tokio::sync::watch;
use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt as _;

const TIMEOUT: Duration = Duration::from_secs(60);

/// An ended span; the scripts of `tests/python` print theirs with the same fields.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) name: String,
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) attributes: BTreeMap<String, String>,
}

impl From<SpanData> for Ended {
    fn from(span: SpanData) -> Self {
        let attributes = span.attributes.iter();
        Self {
            name: span.name.into_owned(),
            trace: span.span_context.trace_id().to_string(),
            id: span.span_context.span_id().to_string(),
            parent: span.parent_span_id.to_string(),
            attributes: attributes.map(|attribute| (attribute.key.to_string(), attribute.value.to_string())).collect(),
        }
    }
}

/// Adds ended spans to [`SPANS`], in their order.
#[derive(Debug)]
struct Exporter;

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        SPANS.send_modify(|spans| spans.extend(batch.into_iter().map(Ended::from)));
        Ok(())
    }
}

static SPANS: LazyLock<watch::Sender<Vec<Ended>>> = LazyLock::new(watch::Sender::default);

/// Returns a subscriber that keeps the spans of the process or thread that it is set for.
pub(crate) fn exporting() -> impl Subscriber + Send + Sync {
    let provider = SdkTracerProvider::builder().with_simple_exporter(Exporter).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    tracing_subscriber::registry().with(layer)
}

/// Waits for ended spans, and returns all of them.
pub(crate) async fn ended(what: &str, is_there: impl FnMut(&Vec<Ended>) -> bool) -> Vec<Ended> {
    let mut spans = SPANS.subscribe();
    match tokio::time::timeout(TIMEOUT, spans.wait_for(is_there)).await {
        Ok(spans) => spans.unwrap().clone(),
        Err(_) => panic!("no {what} in {:#?}", SPANS.borrow()),
    }
}

/// Returns the spans as paths from the root of their trace, with the process of each, in order.
pub(crate) fn paths(spans: &[(&'static str, &Ended)]) -> Vec<String> {
    fn path(spans: &[(&'static str, &Ended)], span: &Ended) -> String {
        // the bus appends the name of its stream
        let name = span.name.split(' ').next().unwrap_or_default();
        match spans.iter().find(|(_, parent)| parent.id == span.parent) {
            Some((_, parent)) => format!("{}/{name}", path(spans, parent)),
            None => name.to_owned(),
        }
    }
    let mut paths: Vec<_> = spans.iter().map(|(process, span)| format!("{} in {process}", path(spans, span))).collect();
    paths.sort();
    paths
}
