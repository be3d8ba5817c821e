//! How long it takes after a fault until everything goes on.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sqlx::PgConnection;
use tokio::task::AbortHandle;

use crate::fire::figures::Figures;

const LOOK: Duration = Duration::from_millis(20);

/// A handler of what is relayed, and a projection.
const READERS: [&str; 2] = ["inbox", "ledger"];

const LAST: &str = "
    SELECT coalesce((SELECT max(id) FROM fire.effects WHERE reader = $1), 0),
           coalesce((SELECT max(id) FROM fire.effects WHERE reader = $2), 0)";

/// Looks for how long a reader has no effect after a fault. Where the next fault comes before, it counts in. Cloning shares
/// it; the last one to go ends it.
#[derive(Debug, Clone)]
pub(super) struct Gauge {
    faults: Arc<Mutex<Faults>>,
    _task: Arc<Task>,
}

#[derive(Debug, Default)]
struct Faults {
    /// By reader: when, and what its last effect was soon after.
    open: [Vec<(Instant, Option<i64>)>; READERS.len()],
    slowest: [Option<Duration>; READERS.len()],
}

#[derive(Debug)]
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Gauge {
    pub(super) fn start(connection: PgConnection) -> Self {
        let faults = Arc::default();
        let task = tokio::spawn(watch(connection, Arc::clone(&faults)));
        Self { faults, _task: Arc::new(Task(task.abort_handle())) }
    }

    /// Something failed just now.
    pub(super) fn fault(&self) {
        lock(&self.faults).open.iter_mut().for_each(|open| open.push((Instant::now(), None)));
    }

    /// Tells the longest times, of those faults after which there was something to do.
    pub(super) fn tell(&self, figures: &mut Figures) {
        for (reader, slowest) in READERS.iter().zip(lock(&self.faults).slowest) {
            figures.slowest_recovery = figures.slowest_recovery.max(slowest);
            figures.what += &format!("; {reader} went on within {:.2} s", slowest.unwrap_or_default().as_secs_f64());
        }
    }
}

fn lock(faults: &Mutex<Faults>) -> MutexGuard<'_, Faults> {
    faults.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Faults {
    fn look(&mut self, last: [i64; READERS.len()]) {
        for ((open, slowest), last) in self.open.iter_mut().zip(&mut self.slowest).zip(last) {
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

async fn watch(mut connection: PgConnection, faults: Arc<Mutex<Faults>>) {
    loop {
        let last = sqlx::query_as(LAST).bind(READERS[0]).bind(READERS[1]).fetch_one(&mut connection).await;
        let Ok((inbox, ledger)) = last else { return };
        lock(&faults).look([inbox, ledger]);
        tokio::time::sleep(LOOK).await;
    }
}
