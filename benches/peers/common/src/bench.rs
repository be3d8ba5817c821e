//! The interface of a workload in one implementation.

use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinSet;

use crate::Result;

/// A workload in one implementation, with its data.
#[async_trait]
pub trait Bench: Send {
    /// Does the work of a round.
    async fn run(&mut self) -> Result<Round>;

    /// Cleans up after a round; its time does not count.
    async fn clean_up(&mut self) -> Result<()> {
        Ok(())
    }

    /// Compares the result of all rounds with the one that is due.
    async fn check(&mut self) -> Result<()>;
}

/// The work of a round.
#[derive(Debug, Default)]
pub struct Round {
    pub operations: u64,
    /// The times of single operations; empty if the workload times none.
    pub times: Vec<Duration>,
}

impl Round {
    /// Runs callers beside each other, and adds up what they did.
    pub async fn of<F>(callers: impl IntoIterator<Item = F>) -> Result<Self>
    where
        F: Future<Output = Result<Self>> + Send + 'static,
    {
        let mut tasks: JoinSet<_> = callers.into_iter().collect();
        let mut all = Self::default();
        while let Some(done) = tasks.join_next().await {
            let Self { operations, times } = done??;
            all.operations += operations;
            all.times.extend(times);
        }
        Ok(all)
    }

    pub fn add(&mut self, time: Duration) {
        self.operations += 1;
        self.times.push(time);
    }
}

/// Fails unless a result is the one that is due.
pub fn expect<T: PartialEq + std::fmt::Debug>(what: &str, result: &T, due: &T) -> Result<()> {
    if result == due { Ok(()) } else { Err(format!("{what}: {result:?} instead of {due:?}").into()) }
}
