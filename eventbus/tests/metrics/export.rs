//! Export to OpenTelemetry.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use eventbus::{
    App, ExpectedVersion, InMemoryEventBus, InMemoryEventStore, Never, NewEvent, RecordedEvent, StreamId,
    metrics::{MetricKind, SampleValue},
    store::{AppendBatches, AppendError, AppendEvents, EventStore},
    testkit::{TestApp, delegate},
};
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, InMemoryMetricExporterBuilder, SdkMeterProvider, Temporality,
    data::{AggregatedMetrics, MetricData},
};

use crate::shop::{self, Order, Paid, SharedCounts};

/// Series by name and sorted labels, each with its numbers: the value, or count and sum.
type Series = BTreeMap<String, Vec<f64>>;

fn key<'a>(name: &str, labels: impl Iterator<Item = (&'a str, String)>) -> String {
    let labels: BTreeMap<_, _> = labels.collect();
    format!("{name} {labels:?}")
}

fn exported(exporter: &InMemoryMetricExporter) -> Series {
    let mut series = Series::new();
    let collected = exporter.get_finished_metrics().unwrap();
    let Some(last) = collected.last() else { return series };
    for metric in last.scope_metrics().flat_map(|scope| scope.metrics()) {
        let name = metric.name();
        macro_rules! add {
            ($points:expr, $values:expr) => {
                for point in $points {
                    let labels = point.attributes().map(|label| (label.key.as_str(), label.value.to_string()));
                    series.insert(key(name, labels), $values(point));
                }
            };
        }
        match metric.data() {
            AggregatedMetrics::U64(MetricData::Sum(sum)) => {
                assert!(sum.is_monotonic(), "{name}");
                add!(sum.data_points(), |point: &opentelemetry_sdk::metrics::data::SumDataPoint<u64>| vec![
                    point.value() as f64
                ]);
            }
            AggregatedMetrics::F64(MetricData::Gauge(gauge)) => {
                add!(gauge.data_points(), |point: &opentelemetry_sdk::metrics::data::GaugeDataPoint<f64>| vec![
                    point.value()
                ]);
            }
            AggregatedMetrics::F64(MetricData::Histogram(histogram)) => {
                add!(
                    histogram.data_points(),
                    |point: &opentelemetry_sdk::metrics::data::HistogramDataPoint<f64>| vec![
                        point.count() as f64,
                        (point.sum() * 1e6).round()
                    ]
                );
            }
            data => panic!("{name}: {data:?}"),
        }
    }
    series
}

/// The series that the app itself reports, under the names of OpenTelemetry.
async fn reported(app: &App) -> Series {
    let metrics = app.metrics().await;
    let mut series = Series::new();
    for family in metrics.families() {
        let name = family.name.strip_suffix("_total").unwrap_or(family.name);
        assert_eq!(name == family.name, family.kind != MetricKind::Counter);
        for sample in &family.samples {
            let values = match &sample.value {
                SampleValue::Number(number) => vec![*number],
                // a histogram without values is not exported
                SampleValue::Distribution(of) if of.count == 0 => continue,
                SampleValue::Distribution(of) => vec![of.count as f64, (of.sum * 1e6).round()],
                value => panic!("{value:?}"),
            };
            series.insert(key(name, sample.labels.iter().map(|(name, value)| (*name, value.clone()))), values);
        }
    }
    series
}

#[tokio::test]
async fn opentelemetry_gets_what_the_app_reports() {
    let exporter = InMemoryMetricExporter::default();
    let provider = SdkMeterProvider::builder().with_periodic_exporter(exporter.clone()).build();
    let meter = provider.meter("eventbus");
    let app = shop::start(&SharedCounts::default(), move |builder| builder.export_metrics(meter.clone())).await;
    let orders = app.repository::<Order>();
    for number in 1..=20_u64 {
        let id = format!("o-{number}").parse().unwrap();
        orders.upsert(&id, |_| Ok::<_, Never>([Paid { cents: number }, Paid { cents: 1 }])).await.unwrap();
    }
    app.advance(Duration::from_hours(1)).await;
    provider.force_flush().unwrap();
    let (exported, reported) = (exported(&exporter), reported(&app).await);
    assert!(exported.len() > 60);
    assert_eq!(exported, reported);
}

#[tokio::test]
async fn the_age_of_an_event_is_right_between_two_polls() {
    let exporter = InMemoryMetricExporter::default();
    let provider = SdkMeterProvider::builder().with_periodic_exporter(exporter.clone()).build();
    let meter = provider.meter("eventbus");
    let app = TestApp::start(move || App::builder().projection(Stopped).export_metrics(meter.clone())).await;
    app.save("o-1", Paid { cents: 1 }).await;
    let lag = || {
        provider.force_flush().unwrap();
        exported(&exporter)[r#"eventbus_projection_lag_seconds {"projection": "stopped"}"#][0]
    };
    app.advance(Duration::from_secs(30)).await;
    assert_eq!(lag(), 30.0);
    for second in [31.0, 32.0, 33.0, 34.0, 35.0, 36.0] {
        app.advance(Duration::from_secs(1)).await;
        assert_eq!(lag(), second);
    }
}

struct Stopped;

#[eventbus::projection(name = "stopped")]
impl Stopped {
    fn paid(&mut self, _: &Paid) -> Result<(), &'static str> {
        Err("on purpose")
    }
}

#[tokio::test]
async fn an_app_exports_its_status_from_its_first_poll_to_its_end() {
    let exporter = InMemoryMetricExporter::default();
    let provider = SdkMeterProvider::builder().with_periodic_exporter(exporter.clone()).build();
    let app = App::builder().export_metrics(provider.meter("eventbus")).start().await.unwrap();
    let is_exported = || {
        exporter.reset();
        provider.force_flush().unwrap();
        let finished = exporter.get_finished_metrics().unwrap();
        let mut metrics = finished.iter().flat_map(|metrics| metrics.scope_metrics()).flat_map(|scope| scope.metrics());
        metrics.any(|metric| metric.name() == "eventbus_store_up")
    };
    let first = async {
        while !is_exported() {
            tokio::task::yield_now().await; // before the first poll of store and bus there are no numbers
        }
    };
    tokio::time::timeout(Duration::from_secs(60), first).await.unwrap();
    assert_eq!(exported(&exporter)["eventbus_store_up {}"], [1.0]);
    app.shutdown(Duration::from_secs(10)).await.unwrap();
    assert!(!is_exported(), "its store and bus have no status after its end");
    let weak = Arc::downgrade(app.store());
    drop(app);
    while weak.strong_count() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(!is_exported());
}

/// A store that commits each append alone. Cloning shares it.
#[derive(Clone, Default)]
struct CommittingStore {
    store: InMemoryEventStore,
    batches: Arc<AppendBatches>,
}

delegate!(CommittingStore, self => self.store; ReadStream, ReadFeed, Checkpoints, Leases);

#[async_trait]
impl AppendEvents for CommittingStore {
    async fn append(
        &self,
        stream: &StreamId,
        expected: ExpectedVersion,
        events: Vec<NewEvent>,
    ) -> Result<Vec<RecordedEvent>, AppendError> {
        self.batches.record(1);
        self.store.append(stream, expected, events).await
    }
}

impl EventStore for CommittingStore {
    fn append_batches(&self) -> Option<&AppendBatches> {
        Some(&self.batches)
    }
}

/// Each app exports to a meter of its own, as after a change of the provider.
#[tokio::test]
async fn the_commits_of_a_store_are_exported_by_the_app_that_runs() {
    let store = CommittingStore::default();
    let [first, second] = [(); 2].map(|()| InMemoryMetricExporter::default());
    let provider_of = |exporter: &InMemoryMetricExporter| {
        SdkMeterProvider::builder().with_periodic_exporter(exporter.clone()).build()
    };
    let providers = [&first, &second].map(provider_of);
    for (number, provider) in providers.iter().enumerate() {
        let builder = App::builder().store(store.clone()).export_metrics(provider.meter("eventbus"));
        let app = builder.start().await.unwrap();
        for order in 0..=number {
            let id = format!("o-{number}-{order}").parse().unwrap();
            app.repository::<Order>().upsert(&id, |_| Ok::<_, Never>(Paid { cents: 1 })).await.unwrap();
        }
        app.shutdown(Duration::from_secs(60)).await.unwrap();
    }
    let commits = |provider: &SdkMeterProvider, exporter| {
        provider.force_flush().unwrap();
        exported(exporter).get("eventbus_commit_appends {}").cloned()
    };
    let counted = [commits(&providers[0], &first), commits(&providers[1], &second)];
    assert_eq!(counted, [Some(vec![1.0, 1e6]), Some(vec![2.0, 2e6])]);
}

/// The instruments of a meter outlive the app: they must not fall when the next one begins at 0.
#[tokio::test]
async fn counters_of_a_meter_go_on_when_the_app_is_started_again() {
    let exporters = [Temporality::Delta, Temporality::Cumulative]
        .map(|temporality| InMemoryMetricExporterBuilder::new().with_temporality(temporality).build());
    let provider = exporters
        .iter()
        .fold(SdkMeterProvider::builder(), |provider, exporter| provider.with_periodic_exporter(exporter.clone()));
    let provider = provider.build();
    let mut seen = Vec::new();
    // the first app is dropped, the second one shut down
    for saves in [20, 1, 1] {
        let app = App::builder().store(InMemoryEventStore::new()).bus(InMemoryEventBus::new());
        let app = app.export_metrics(provider.meter("eventbus")).start().await.unwrap();
        let collect = || {
            exporters.each_ref().map(|exporter| {
                exporter.reset();
                provider.force_flush().unwrap();
                exported(exporter)
            })
        };
        // once there is a status, a collection counts
        let polled = async {
            while !collect()[1].contains_key("eventbus_store_up {}") {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), polled).await.unwrap();
        for number in 0..saves {
            let id = format!("o-{number}").parse().unwrap();
            app.repository::<Order>().upsert(&id, |_| Ok::<_, Never>(Paid { cents: 1 })).await.unwrap();
        }
        let relayed = async {
            while app.metrics().await.number("eventbus_relay_published_total", &[]) != Some(f64::from(saves)) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), relayed).await.unwrap();
        exporters.iter().for_each(InMemoryMetricExporter::reset);
        if seen.len() == 1 {
            app.shutdown(Duration::from_secs(60)).await.unwrap();
        }
        provider.force_flush().unwrap();
        seen.push(exporters.each_ref().map(|exporter| exported(exporter)["eventbus_relay_published {}"][0]));
        drop(app);
    }
    assert_eq!(seen, [[20.0, 20.0], [1.0, 21.0], [1.0, 22.0]]);
}
