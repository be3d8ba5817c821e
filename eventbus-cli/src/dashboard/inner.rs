//! What all requests to a dashboard share.

use std::{sync::Arc, time::Duration};

use super::{access::Access, config::DashboardConfig, rebuilds::Rebuilds, samples::Samples, source::DashboardSource};
use crate::query::FieldChoice;

/// The interval of the samples of a store that scans all keys for each.
const SCAN_INTERVAL: Duration = Duration::from_secs(60);
const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);

/// What all requests to a dashboard share.
pub(crate) struct DashboardInner {
    source: DashboardSource,
    access: Access,
    fields: FieldChoice,
    samples: Samples,
    rebuilds: Arc<Rebuilds>,
}

impl DashboardInner {
    pub(crate) fn new(source: DashboardSource, config: DashboardConfig) -> Arc<Self> {
        let by_default = if source.scans_all_keys() { SCAN_INTERVAL } else { SAMPLE_INTERVAL };
        Arc::new(Self {
            source,
            fields: FieldChoice { hidden: config.hidden_fields.clone(), shown: config.shown_fields.clone() },
            samples: Samples::new(config.sample_interval.unwrap_or(by_default)),
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

    /// Returns the fields of events whose values are shown.
    pub(super) const fn fields(&self) -> &FieldChoice {
        &self.fields
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

#[cfg(test)]
mod tests {
    use eventbus::{InMemoryEventBus, InMemoryEventStore, store::EventStore};
    use eventstore_redis::{RedisEventStore, RedisEventStoreConfig};

    use super::*;
    use crate::connection::OpenBus;

    fn interval_of(store: Arc<dyn EventStore>, config: DashboardConfig) -> Duration {
        let source = DashboardSource::new(Some(store), OpenBus::InProcess(InMemoryEventBus::new()));
        DashboardInner::new(source, config).samples().interval()
    }

    #[tokio::test]
    async fn a_store_that_scans_all_keys_is_sampled_less_often() {
        let redis = eventbus_test::redis();
        let config = RedisEventStoreConfig {
            redis_url: redis.url().into(),
            key_prefix: redis.prefix().into(),
            ..RedisEventStoreConfig::default()
        };
        let scanned = Arc::new(RedisEventStore::connect(config).await.unwrap());
        let listed = Arc::new(InMemoryEventStore::new());
        assert_eq!(interval_of(listed, DashboardConfig::default()), Duration::from_secs(5));
        assert_eq!(interval_of(scanned.clone(), DashboardConfig::default()), Duration::from_secs(60));
        let given = DashboardConfig { sample_interval: Some(Duration::from_secs(1)), ..DashboardConfig::default() };
        assert_eq!(interval_of(scanned, given), Duration::from_secs(1));
    }
}
