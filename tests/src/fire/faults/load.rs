//! Those who append while databases suffer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use eventbus::{App, ExpectedVersion};
use fastrand::Rng;
use tokio::task::JoinSet;

use crate::fire::{Trouble, workload};

const WRITERS: u64 = 2;
const STREAMS: u64 = 40;
/// Between two appends of a writer.
const PAUSE: Duration = Duration::from_millis(40);

/// Those who append.
pub(super) struct Load {
    is_over: Arc<AtomicBool>,
    writers: JoinSet<Result<(), Trouble>>,
}

impl Load {
    pub(super) fn start(app: &App, seed: u64) -> Self {
        let (is_over, mut writers) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for number in 0..WRITERS {
            writers.spawn(write(app.clone(), Arc::clone(&is_over), Rng::with_seed(seed * WRITERS + number)));
        }
        Self { is_over, writers }
    }

    /// Lets them end; returns what no fault excuses.
    pub(super) async fn stop(mut self) -> Vec<String> {
        self.is_over.store(true, SeqCst);
        let mut objections = Vec::new();
        while let Some(ended) = self.writers.join_next().await {
            objections.extend(ended.map_err(Into::into).flatten().err().map(|error: Trouble| error.to_string()));
        }
        objections
    }
}

async fn write(app: App, is_over: Arc<AtomicBool>, mut random: Rng) -> Result<(), Trouble> {
    while !is_over.load(SeqCst) {
        let stream = workload::stream(random.u64(..STREAMS))?;
        let events = workload::events(&mut random, 1..=3);
        match app.store().append(&stream, ExpectedVersion::Any, events).await {
            Err(error) if !error.is_retryable() => return Err(error.into()),
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
    Ok(())
}
