//! What all requests to a dashboard share.

use std::sync::Arc;

use super::{access::Access, config::DashboardConfig, rebuilds::Rebuilds, samples::Samples, source::DashboardSource};

/// What all requests to a dashboard share.
pub(crate) struct DashboardInner {
    source: DashboardSource,
    access: Access,
    hidden_fields: Vec<String>,
    samples: Samples,
    rebuilds: Arc<Rebuilds>,
}

impl DashboardInner {
    pub(crate) fn new(source: DashboardSource, config: DashboardConfig) -> Arc<Self> {
        Arc::new(Self {
            source,
            hidden_fields: config.hidden_fields.clone(),
            samples: Samples::new(config.sample_interval),
            access: Access::new(config),
            rebuilds: Arc::default(),
        })
    }

    pub(super) const fn source(&self) -> &DashboardSource {
        &self.source
    }

    pub(super) const fn access(&self) -> &Access {
        &self.access
    }

    pub(super) fn hidden_fields(&self) -> &[String] {
        &self.hidden_fields
    }

    pub(super) const fn samples(&self) -> &Samples {
        &self.samples
    }

    pub(super) const fn rebuilds(&self) -> &Arc<Rebuilds> {
        &self.rebuilds
    }

    /// Starts the task that takes samples, once, if there is a runtime; it ends with the last holder of `self`.
    pub(super) fn start_samples(self: &Arc<Self>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !self.samples.begin() {
            return;
        }
        let (weak, clock) = (Arc::downgrade(self), self.source.clock().clone());
        let interval = self.samples.interval();
        runtime.spawn(async move {
            while let Some(inner) = weak.upgrade() {
                inner.samples.take(&inner.source).await;
                drop(inner);
                clock.sleep(interval).await;
            }
        });
    }
}
