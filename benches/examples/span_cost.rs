//! What one span costs without any of the framework: of OpenTelemetry's SDK alone, and of `tracing` with `tracing-opentelemetry`.
//!
//! Each has the five attributes of an append, and goes to a batch exporter that drops it. A figure is the median of fifteen rounds.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use opentelemetry::{
    KeyValue,
    trace::{Span as _, Tracer as _, TracerProvider as _},
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Sampler, SdkTracer, SdkTracerProvider, SpanData, SpanExporter},
};
use tracing::{info_span, subscriber};
use tracing_subscriber::{Layer as _, filter::LevelFilter, layer::SubscriberExt as _};

const ROUNDS: usize = 15;
const SPANS: u32 = 100_000;

fn main() {
    println!("{:<26} {:>8} {:>8}", "microseconds per span", "exported", "not");
    type Work = fn(&SdkTracer) -> Duration;
    for (name, work) in [("SDK of OpenTelemetry", of_sdk as Work), ("with tracing-opentelemetry", of_tracing as Work)] {
        let [exported, dropped] = [Sampler::AlwaysOn, Sampler::AlwaysOff].map(|sampler| median(sampler, work));
        println!("{name:<26} {exported:>8.2} {dropped:>8.2}");
    }
}

/// Returns the median of the microseconds that a span takes.
fn median(sampler: Sampler, work: fn(&SdkTracer) -> Duration) -> f64 {
    let provider = SdkTracerProvider::builder().with_sampler(sampler).with_batch_exporter(Dropped).build();
    let tracer = provider.tracer("span_cost");
    work(&tracer);
    let mut rounds: Vec<_> = (0..ROUNDS).map(|_| work(&tracer)).collect();
    rounds.sort();
    rounds[ROUNDS / 2].as_secs_f64() * 1e6 / f64::from(SPANS)
}

fn of_sdk(tracer: &SdkTracer) -> Duration {
    let begun = Instant::now();
    for number in 0..SPANS {
        let mut span = tracer.start("append");
        span.set_attributes([
            KeyValue::new("db.system.name", "postgresql"),
            KeyValue::new("aggregate.type", "Order"),
            KeyValue::new("aggregate.id", "o-1"),
            KeyValue::new("events", 1),
            KeyValue::new("version", i64::from(number)),
        ]);
        black_box(&mut span).end();
    }
    begun.elapsed()
}

fn of_tracing(tracer: &SdkTracer) -> Duration {
    let layer = tracing_opentelemetry::layer()
        .with_tracer(tracer.clone())
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false);
    let registry = tracing_subscriber::registry().with(layer.with_filter(LevelFilter::INFO));
    subscriber::with_default(registry, || {
        let begun = Instant::now();
        for number in 0..SPANS {
            let span = info_span!(
                "append",
                "db.system.name" = "postgresql",
                "aggregate.type" = "Order",
                "aggregate.id" = "o-1",
                events = 1,
                version = number,
            );
            black_box(&span).in_scope(|| ());
        }
        begun.elapsed()
    })
}

/// An exporter that drops what it gets.
#[derive(Debug)]
struct Dropped;

impl SpanExporter for Dropped {
    async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
        Ok(())
    }
}
