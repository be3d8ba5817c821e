//! What all requests to a dashboard share.

use std::{sync::Arc, time::Duration};

use eventbus::support::PersonalFields;

use super::{access::Access, config::DashboardConfig, rebuilds::Rebuilds, samples::Samples, source::DashboardSource};
use crate::{error::CommandError, query::FieldChoice};

const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);

/// What all requests to a dashboard share.
pub(crate) struct DashboardInner {
    source: DashboardSource,
    access: Access,
    /// Without the personal fields that are noted in the store.
    fields: FieldChoice,
    samples: Samples,
    rebuilds: Arc<Rebuilds>,
}

impl DashboardInner {
    pub(crate) fn new(source: DashboardSource, config: DashboardConfig) -> Arc<Self> {
        Arc::new(Self {
            source,
            fields: FieldChoice {
                hidden: config.hidden_fields.clone(),
                shown: config.shown_fields.clone(),
                ..FieldChoice::hiding_personal()
            },
            samples: Samples::new(config.sample_interval.unwrap_or(SAMPLE_INTERVAL)),
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

    /// Returns the fields of events whose values are shown. Loads the personal fields that are noted in the store,
    /// because an application may have noted one since the last page.
    pub(crate) async fn fields(&self) -> Result<FieldChoice, CommandError> {
        let noted = match self.source.optional_store() {
            Some(store) => PersonalFields::load(store).await?,
            None => PersonalFields::default(),
        };
        Ok(FieldChoice { noted, ..self.fields.clone() })
    }

    pub(super) const fn samples(&self) -> &Samples {
        &self.samples
    }

    pub(super) const fn rebuilds(&self) -> &Arc<Rebuilds> {
        &self.rebuilds
    }

    /// Starts the task that takes samples, once, if there is a runtime; the task ends with the last holder of `self`.
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
