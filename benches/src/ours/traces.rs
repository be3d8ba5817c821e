//! The export of traces, with the feature `traces`: a build with it beside one with `metrics` alone shows what they cost.

use std::env;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter},
};
use tracing_subscriber::{Layer as _, filter::LevelFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Exports the spans of this process to an exporter that drops them, as the guide shows it: of all traces, or of the share that
/// `TRACES_RATIO` names, such as `0.1`.
pub fn export_traces() -> eventbus::Result<()> {
    let ratio = env::var("TRACES_RATIO").map_or(Ok(1.0), |ratio| ratio.parse())?;
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio)));
    let provider = SdkTracerProvider::builder().with_sampler(sampler).with_batch_exporter(Dropped).build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("eventbus"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false);
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
