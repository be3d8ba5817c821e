//! Measures the time from a fault until readers make progress again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sqlx::PgConnection;
use tokio::task::AbortHandle;

use crate::fire::run_summary::RunSummary;

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The readers: a handler of relayed events, and a projection.
const READERS: [&str; 2] = ["inbox", "ledger"];

const LAST_EFFECTS_SQL: &str = "
    SELECT coalesce((SELECT max(id) FROM fire.effects WHERE reader = $1), 0),
           coalesce((SELECT max(id) FROM fire.effects WHERE reader = $2), 0)";

/// Measures how long each reader has no effect after a fault. If a second fault comes earlier, the time counts for
/// both. Clones share the probe; dropping the last one ends it.
#[derive(Debug, Clone)]
pub(super) struct LatencyProbe {
    faults: Arc<Mutex<PendingFaults>>,
    _task: Arc<AbortOnDrop>,
}

#[derive(Debug, Default)]
struct PendingFaults {
    /// By reader: the time of each open fault, and the reader's last effect soon after it.
    since_faults: [Vec<(Instant, Option<i64>)>; READERS.len()],
    slowest: [Option<Duration>; READERS.len()],
}

#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl LatencyProbe {
    pub(super) fn start(connection: PgConnection) -> Self {
        let faults = Arc::default();
        let task = tokio::spawn(watch(connection, Arc::clone(&faults)));
        Self { faults, _task: Arc::new(AbortOnDrop(task.abort_handle())) }
    }

    /// Records a fault that happened just now.
    pub(super) fn record_fault(&self) {
        self.faults.lock().since_faults.iter_mut().for_each(|open| open.push((Instant::now(), None)));
    }

    /// Reports the longest times, of faults after which readers had events to handle.
    pub(super) fn report_to(&self, figures: &mut RunSummary) {
        for (reader, slowest) in READERS.iter().zip(self.faults.lock().slowest) {
            figures.slowest_recovery = figures.slowest_recovery.max(slowest);
            figures.description +=
                &format!("; {reader} went on within {:.2} s", slowest.unwrap_or_default().as_secs_f64());
        }
    }
}

impl PendingFaults {
    fn update(&mut self, last: [i64; READERS.len()]) {
        for ((open, slowest), last) in self.since_faults.iter_mut().zip(&mut self.slowest).zip(last) {
            open.retain_mut(|(since, then)| {
                let goes_on = last > *then.get_or_insert(last);
                if goes_on {
                    *slowest = (*slowest).max(Some(since.elapsed()));
                }
                !goes_on
            });
        }
    }
}

async fn watch(mut connection: PgConnection, faults: Arc<Mutex<PendingFaults>>) {
    loop {
        let last = sqlx::query_as(LAST_EFFECTS_SQL).bind(READERS[0]).bind(READERS[1]).fetch_one(&mut connection).await;
        let Ok((inbox, ledger)) = last else { return };
        faults.lock().update([inbox, ledger]);
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
