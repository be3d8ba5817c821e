//! The export of traces, with the feature `traces`: a build with it beside one with `metrics` alone shows what they cost.

/// Exports each span of this process, as an application does that samples none away, to an exporter that drops them.
#[cfg(feature = "traces")]
pub fn export_traces() -> eventbus::Result<()> {
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing_subscriber::{
        Layer as _, filter::LevelFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _,
    };

    let provider = SdkTracerProvider::builder().with_batch_exporter(dropped::Dropped).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("eventbus"));
    tracing_subscriber::registry().with(layer.with_filter(LevelFilter::INFO)).try_init()?;
    Ok(())
}

/// Exports none.
#[cfg(not(feature = "traces"))]
#[allow(clippy::unnecessary_wraps, reason = "the export may fail")]
pub fn export_traces() -> eventbus::Result<()> {
    Ok(())
}

#[cfg(feature = "traces")]
mod dropped {
    use opentelemetry_sdk::{
        error::OTelSdkResult,
        trace::{SpanData, SpanExporter},
    };

    /// An exporter that drops what it gets.
    #[derive(Debug)]
    pub struct Dropped;

    impl SpanExporter for Dropped {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            Ok(())
        }
    }
}
