//! Without the feature `opentelemetry` metrics are only read.

use super::append_meter::AppendMeter;
use crate::port::{EventBus, EventStore};

/// Exports no metrics.
#[derive(Debug, Clone, Default)]
pub(crate) struct Exporter(());

impl Exporter {
    pub(super) const fn export_appends(&self, _: &AppendMeter) {}

    pub(super) const fn export_runs(&self, _: &dyn EventBus) {}

    pub(super) const fn export_batches(&self, _: &dyn EventStore) {}
}
