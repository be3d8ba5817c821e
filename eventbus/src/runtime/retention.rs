//! Deletes the notes of deliveries and commands that took effect, once they are older than their retention.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    domain::{clock::SharedClock, error::BoxError},
    port::{EventStore, MultiStreamAppends},
    support::Outage,
};

const HOUR: Duration = Duration::from_secs(3_600);

/// How long the store remembers what took effect.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retention {
    pub(crate) deliveries: Duration,
    pub(crate) commands: Duration,
}

impl Retention {
    /// Deletes older notes, about once an hour, until cancelled.
    pub(crate) async fn purge(self, store: Arc<dyn EventStore>, clock: SharedClock, cancel: CancellationToken) {
        let mut outage = Outage::new(clock.clone());
        loop {
            // jitter: processes that started together do not all purge at once
            let pause = HOUR.mul_f64(0.75 + fastrand::f64() / 2.0);
            if cancel.run_until_cancelled(clock.sleep(pause)).await.is_none() {
                return;
            }
            let Some(notes) = store.multi_stream_appends() else { return };
            match cancel.run_until_cancelled(self.forget(notes)).await {
                Some(Ok((deliveries, commands))) => {
                    tracing::debug!(deliveries, commands, retention = ?self, "forgot what took effect");
                    if let Some(lasted) = outage.ends() {
                        tracing::info!(?lasted, "deliveries and commands that took effect are forgotten again");
                    }
                }
                Some(Err(error)) if outage.begins() => {
                    tracing::warn!(%error, "cannot forget deliveries and commands that took effect, trying again later");
                }
                Some(Err(_)) => {}
                None => return,
            }
        }
    }

    async fn forget(self, notes: &dyn MultiStreamAppends) -> Result<(u64, u64), BoxError> {
        Ok((notes.forget_deliveries(self.deliveries).await?, notes.forget_commands(self.commands).await?))
    }
}
