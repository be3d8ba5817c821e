//! Measures the rate, the processor time and the times of a round.

use std::time::{Duration, Instant};

use cpu_time::ProcessTime;
use eventbus::Result;

/// Results of a round.
#[derive(Default)]
pub struct Round {
    pub operations: usize,
    pub times: Vec<Duration>,
}

/// The cost of the operations of a round.
pub struct Cost {
    /// Operations in a second.
    pub rate: f64,
    /// Microseconds of processor time per operation.
    pub cpu: f64,
    /// Microseconds that half of the calls take at most.
    pub p50: f64,
    pub p99: f64,
}

impl Cost {
    pub async fn of(round: impl Future<Output = Result<Round>>) -> Result<Self> {
        let (cpu, start) = (ProcessTime::try_now()?, Instant::now());
        let Round { operations, mut times } = round.await?;
        let (time, cpu, operations) = (start.elapsed(), cpu.try_elapsed()?, operations as f64);
        times.sort_unstable();
        Ok(Self {
            rate: operations / time.as_secs_f64(),
            cpu: cpu.as_secs_f64() * 1e6 / operations,
            p50: percentile(&times, 50),
            p99: percentile(&times, 99),
        })
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1].as_secs_f64() * 1e6
}
