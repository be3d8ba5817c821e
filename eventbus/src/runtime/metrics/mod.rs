//! Metrics of an app: what the runtime counts, and the form in which it is read.
//!
//! The runtime counts appends and loads here, the delivery engine the runs of handlers in each
//! [`Subscriber`](crate::port::Subscriber); status of relay, projections and bus is read when metrics are.
//!
//! Invariant: labels hold names that the application declares, never an id, so that the number of series does not grow with
//! the data.

mod aggregate_meters;
mod append_meter;
pub(crate) mod catalog;
#[cfg(feature = "opentelemetry")]
mod counter_export;
#[cfg(feature = "opentelemetry")]
mod exporter;
#[cfg(not(feature = "opentelemetry"))]
#[path = "no_exporter.rs"]
mod exporter;
mod families;
mod family;
mod meters;
mod prometheus_text;

pub(crate) use aggregate_meters::{AggregateMeter, LoadSource};
pub(crate) use append_meter::AppendOutcome;
pub use catalog::MetricKind;
#[cfg(feature = "opentelemetry")]
pub(crate) use counter_export::CounterExport;
pub(crate) use exporter::Exporter;
pub(crate) use families::FamilyBuilder;
pub use families::Metrics;
pub use family::{Distribution, MetricFamily, Sample, SampleValue};
pub(crate) use meters::Meters;
