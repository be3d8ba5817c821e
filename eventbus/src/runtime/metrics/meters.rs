//! The counters that an app's repositories and handlers share.

use std::{sync::Arc, time::Duration};

use super::{
    aggregate_meters::{AggregateMeter, AggregateMeters},
    append_meter::{AppendMeter, AppendOutcome},
    exporter::Exporter,
};
use crate::{
    domain::{clock::SharedClock, record::RecordedEvent},
    port::{AppendError, SubscriberStatus, multi_stream_append::MultiStreamOutcome},
};

/// The counters of an app. Cloning shares them; a repository without an app has none, and counts nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meters(Option<Arc<MetersInner>>);

#[derive(Debug)]
struct MetersInner {
    appends: AppendMeter,
    aggregates: AggregateMeters,
    exporter: Exporter,
}

impl MetersInner {
    fn record_failure(&self, took: Duration, error: &AppendError) {
        self.appends.record(took, AppendOutcome::of_error(error), 0);
        match error {
            AppendError::Conflict { stream, .. } => {
                self.aggregates.of_type(stream.aggregate_type().as_str()).count_conflict();
            }
            AppendError::BoundaryMoved { .. } => self.appends.count_boundary_conflict(),
            _ => {}
        }
    }
}

/// The result of an append, as far as metrics tell it apart.
pub(crate) trait CountEvents {
    /// Returns how the append ended, and the number of stored events.
    fn count(&self) -> (AppendOutcome, usize);
}

impl CountEvents for MultiStreamOutcome {
    fn count(&self) -> (AppendOutcome, usize) {
        match self {
            Self::Appended(records) => (AppendOutcome::Appended, records.iter().map(Vec::len).sum()),
            Self::AlreadyHandled => (AppendOutcome::Repeated, 0),
        }
    }
}

impl CountEvents for Option<Vec<RecordedEvent>> {
    fn count(&self) -> (AppendOutcome, usize) {
        match self {
            Some(records) => (AppendOutcome::Appended, records.len()),
            None => (AppendOutcome::Repeated, 0),
        }
    }
}

impl Meters {
    /// Creates the counters of an app.
    pub(crate) fn new(exporter: Exporter) -> Self {
        let (appends, aggregates) = (AppendMeter::default(), AggregateMeters::new());
        exporter.export_appends(&appends);
        Self(Some(Arc::new(MetersInner { appends, aggregates, exporter })))
    }

    /// Exports the durations of the app's handlers. Call it before the bus consumes, or the first runs are missing.
    pub(crate) fn export_runs(&self, subscribers: &[Arc<dyn SubscriberStatus>]) {
        if let Some(inner) = &self.0 {
            inner.exporter.export_runs(subscribers);
        }
    }

    /// Makes an append, and records its duration and outcome.
    pub(crate) async fn measure_append<T: CountEvents>(
        &self,
        clock: &SharedClock,
        append: impl Future<Output = Result<T, AppendError>>,
    ) -> Result<T, AppendError> {
        let Some(inner) = &self.0 else {
            return append.await;
        };
        let began = clock.instant();
        let appended = append.await;
        let took = clock.elapsed(began);
        match &appended {
            Ok(appended) => {
                let (outcome, events) = appended.count();
                inner.appends.record(took, outcome, events);
            }
            Err(error) => inner.record_failure(took, error),
        }
        appended
    }

    /// Records an append that was a part of a transaction: the number of its events, or its error. Without an error of the
    /// append, the transaction failed for another reason, and the outcome is unknown.
    pub(crate) fn record_append(&self, took: Duration, stored: Result<usize, Option<&AppendError>>) {
        let Some(inner) = &self.0 else { return };
        match stored {
            Ok(events) => inner.appends.record(took, AppendOutcome::Appended, events),
            Err(Some(error)) => inner.record_failure(took, error),
            Err(None) => inner.appends.record(took, AppendOutcome::Unknown, 0),
        }
    }

    /// Returns the counters of appends; `None` without an app.
    pub(crate) fn appends(&self) -> Option<&AppendMeter> {
        Some(&self.0.as_ref()?.appends)
    }

    /// Returns the counters of a type of aggregate, once for each repository; `None` without an app.
    pub(crate) fn aggregate(&self, aggregate_type: &str) -> Option<Arc<AggregateMeter>> {
        Some(Arc::clone(self.0.as_ref()?.aggregates.of_type(aggregate_type)))
    }

    /// Returns the counters of all types of aggregates, with the value of their label.
    pub(crate) fn aggregates(&self) -> impl Iterator<Item = (&'static str, &AggregateMeter)> {
        self.0.iter().flat_map(|inner| inner.aggregates.iter())
    }
}
