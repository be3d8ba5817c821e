//! How long it takes after a fault until everything goes on.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sqlx::PgConnection;
use tokio::task::AbortHandle;

const LOOK: Duration = Duration::from_millis(20);

/// The last effects of the handler and of the projection that write in the store's transaction.
const LAST: &str = "
    SELECT coalesce((SELECT max(id) FROM fire.effects WHERE reader = 'inbox'), 0),
           coalesce((SELECT max(id) FROM fire.effects WHERE reader = 'ledger'), 0)";

type Last = (i64, i64);

/// Looks for how long nothing happens after a fault: until both the relayed and the projected go on. Where the next fault
/// comes before, it counts in. Cloning shares it; the last one to go ends it.
#[derive(Debug, Clone)]
pub(super) struct Gauge {
    faults: Arc<Mutex<Faults>>,
    _task: Arc<Task>,
}

#[derive(Debug, Default)]
struct Faults {
    /// When, and what there was soon after.
    open: Vec<(Instant, Option<Last>)>,
    slowest: Option<Duration>,
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
        lock(&self.faults).open.push((Instant::now(), None));
    }

    /// The longest time until everything went on, of those faults after which there was something to do.
    pub(super) fn slowest(&self) -> Option<Duration> {
        lock(&self.faults).slowest
    }
}

fn lock(faults: &Mutex<Faults>) -> MutexGuard<'_, Faults> {
    faults.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Faults {
    fn look(&mut self, last: Last) {
        let Self { open, slowest } = self;
        open.retain_mut(|(since, then)| {
            let then = *then.get_or_insert(last);
            let goes_on = last.0 > then.0 && last.1 > then.1;
            if goes_on {
                *slowest = (*slowest).max(Some(since.elapsed()));
            }
            !goes_on
        });
    }
}

async fn watch(mut connection: PgConnection, faults: Arc<Mutex<Faults>>) {
    while let Ok(last) = sqlx::query_as(LAST).fetch_one(&mut connection).await {
        lock(&faults).look(last);
        tokio::time::sleep(LOOK).await;
    }
}
