//! The load: writers that append while databases fail.

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

use crate::fire::{HarnessError, workload};

const WRITERS: u64 = 2;
const STREAMS: u64 = 40;
/// Interval between two appends of a writer.
const APPEND_INTERVAL: Duration = Duration::from_millis(40);

/// The writers.
pub(super) struct WriteLoad {
    is_over: Arc<AtomicBool>,
    is_paused: Arc<AtomicBool>,
    writers: JoinSet<Result<(), HarnessError>>,
}

impl WriteLoad {
    pub(super) fn start(app: &App, seed: u64) -> Self {
        let (is_over, is_paused) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let mut writers = JoinSet::new();
        for number in 0..WRITERS {
            let random = Rng::with_seed(seed * WRITERS + number);
            writers.spawn(write(app.clone(), Arc::clone(&is_over), Arc::clone(&is_paused), random));
        }
        Self { is_over, is_paused, writers }
    }

    /// Pauses or resumes the writers.
    pub(super) fn pause(&self, is_paused: bool) {
        self.is_paused.store(is_paused, SeqCst);
    }

    /// Stops the writers; returns the errors that no fault explains.
    pub(super) async fn stop(mut self) -> Vec<String> {
        self.is_over.store(true, SeqCst);
        let mut objections = Vec::new();
        while let Some(ended) = self.writers.join_next().await {
            objections.extend(ended.map_err(Into::into).flatten().err().map(|error: HarnessError| error.to_string()));
        }
        objections
    }
}

async fn write(
    app: App,
    is_over: Arc<AtomicBool>,
    is_paused: Arc<AtomicBool>,
    mut random: Rng,
) -> Result<(), HarnessError> {
    while !is_over.load(SeqCst) {
        if is_paused.load(SeqCst) {
            tokio::time::sleep(APPEND_INTERVAL).await;
            continue;
        }
        let stream = workload::stream(random.u64(..STREAMS))?;
        let events = workload::events(&mut random, 1..=3);
        match app.store().append(&stream, ExpectedVersion::Any, events).await {
            Err(error) if !error.is_retryable() => return Err(error.into()),
            _ => tokio::time::sleep(APPEND_INTERVAL).await,
        }
    }
    Ok(())
}
