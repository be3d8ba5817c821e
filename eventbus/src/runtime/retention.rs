//! Deletes the notes of deliveries or of commands that took effect, once they are older than their retention.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    domain::{clock::SharedClock, error::BoxError},
    port::{EventStore, MultiStreamAppends},
    support::Outage,
};

const HOUR: Duration = Duration::from_secs(3_600);

/// The pause before the first deletion: shorter, as a process may end before the hour is over.
const FIRST_PAUSE: Duration = Duration::from_secs(5 * 60);

/// How long the store remembers what took effect.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retention {
    pub(crate) deliveries: Duration,
    pub(crate) commands: Duration,
}

/// What the store has noted.
#[derive(Debug, Clone, Copy, derive_more::Display)]
pub(crate) enum Notes {
    #[display("deliveries")]
    Deliveries,
    #[display("commands")]
    Commands,
}

impl Retention {
    /// Deletes older notes of one kind, soon after the start and then about once an hour, until cancelled.
    ///
    /// Only an app that makes such notes deletes them: its author has chosen the retention.
    pub(crate) async fn purge(
        self,
        notes: Notes,
        store: Arc<dyn EventStore>,
        clock: SharedClock,
        cancel: CancellationToken,
    ) {
        let mut outage = Outage::new(clock.clone());
        // jitter: processes that started together do not all purge at once
        let jittered = |pause: Duration| pause.mul_f64(0.75 + fastrand::f64() / 2.0);
        let mut pause = jittered(FIRST_PAUSE);
        loop {
            if cancel.run_until_cancelled(clock.sleep(pause)).await.is_none() {
                return;
            }
            pause = jittered(HOUR);
            let Some(multi_stream) = store.multi_stream_appends() else { return };
            match cancel.run_until_cancelled(self.forget(notes, multi_stream)).await {
                Some(Ok(forgotten)) => {
                    tracing::debug!(forgotten, retention = ?self, "forgot {notes} that took effect");
                    if let Some(lasted) = outage.ends() {
                        tracing::info!(?lasted, "{notes} that took effect are forgotten again");
                    }
                }
                Some(Err(error)) if outage.begins() => {
                    tracing::warn!(%error, "cannot forget {notes} that took effect, trying again later");
                }
                Some(Err(_)) => {}
                None => return,
            }
        }
    }

    async fn forget(self, notes: Notes, store: &dyn MultiStreamAppends) -> Result<u64, BoxError> {
        match notes {
            Notes::Deliveries => store.forget_deliveries(self.deliveries).await,
            Notes::Commands => store.forget_commands(self.commands).await,
        }
    }
}
