//! The export of traces, with the feature `traces`: a build with it beside one with `metrics` alone shows what they cost.

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use tracing_subscriber::{Layer as _, filter::LevelFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Exports each span of this process, as an application does that samples none away, to an exporter that drops them.
pub fn export_traces() -> eventbus::Result<()> {
    let provider = SdkTracerProvider::builder().with_batch_exporter(Dropped).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("eventbus"));
    tracing_subscriber::registry().with(layer.with_filter(LevelFilter::INFO)).try_init()?;
    Ok(())
}

/// An exporter that drops what it gets.
#[derive(Debug)]
struct Dropped;

impl SpanExporter for Dropped {
    async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
        Ok(())
    }
}
