//! The export of metrics, with the feature `metrics`: a build with it beside one without shows what it costs.

use eventbus::app::AppBuilder;

/// Exports the metrics of an app, ten times as often as is usual, to an exporter that drops them.
#[cfg(feature = "metrics")]
pub fn export_metrics(app: AppBuilder) -> AppBuilder {
    use std::{sync::OnceLock, time::Duration};

    use opentelemetry::metrics::MeterProvider as _;
    use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};

    static PROVIDER: OnceLock<SdkMeterProvider> = OnceLock::new();
    let provider = PROVIDER.get_or_init(|| {
        let reader = PeriodicReader::builder(dropped::Dropped).with_interval(Duration::from_secs(6)).build();
        SdkMeterProvider::builder().with_reader(reader).build()
    });
    app.export_metrics(provider.meter("eventbus"))
}

/// Exports none.
#[cfg(not(feature = "metrics"))]
pub fn export_metrics(app: AppBuilder) -> AppBuilder {
    app
}

#[cfg(feature = "metrics")]
mod dropped {
    use std::time::Duration;

    use opentelemetry_sdk::{
        error::OTelSdkResult,
        metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
    };

    /// An exporter that drops what it gets.
    #[derive(Debug)]
    pub struct Dropped;

    impl PushMetricExporter for Dropped {
        async fn export(&self, _: &ResourceMetrics) -> OTelSdkResult {
            Ok(())
        }

        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }

        fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
            Ok(())
        }

        fn temporality(&self) -> Temporality {
            Temporality::Cumulative
        }
    }
}
