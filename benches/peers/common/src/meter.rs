//! Measures a round: its time, and the processor time of this process and of the servers.

use std::{
    fs,
    time::{Duration, Instant},
};

use cpu_time::ProcessTime;
use serde::{Deserialize, Serialize};

use crate::{Result, bench::Round, postgres_server, redis_server};

/// A measured round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measured {
    pub operations: u64,
    pub seconds: f64,
    /// Microseconds of processor time per operation, of the process that calls.
    pub client_cpu: f64,
    /// Microseconds of processor time per operation, of all servers together.
    pub server_cpu: f64,
    /// Microseconds that half of the timed operations take at most; `None` if none is timed.
    pub p50: Option<f64>,
    pub p99: Option<f64>,
}

impl Measured {
    /// Returns the operations per second.
    pub fn rate(&self) -> f64 {
        self.operations as f64 / self.seconds
    }

    pub fn cpu(&self) -> f64 {
        self.client_cpu + self.server_cpu
    }
}

/// The servers that a workload uses, each given by its main process.
#[derive(Debug, Default)]
pub struct Meter {
    servers: Vec<u32>,
}

impl Meter {
    /// Adds the PostgreSQL server at this URL.
    pub async fn with_postgres(mut self, url: &str) -> Result<Self> {
        self.servers.push(postgres_server::process_id(url).await?);
        Ok(self)
    }

    /// Adds the Redis server at this URL.
    pub async fn with_redis(mut self, url: &str) -> Result<Self> {
        self.servers.push(redis_server::process_id(&mut redis_server::connect(url).await?).await?);
        Ok(self)
    }

    pub async fn measure(&self, work: impl Future<Output = Result<Round>>) -> Result<Measured> {
        let (servers, client, start) = (self.server_cpu()?, ProcessTime::try_now()?, Instant::now());
        let Round { operations, mut times } = work.await?;
        let (time, client) = (start.elapsed(), client.try_elapsed()?);
        let servers = self.server_cpu()?.saturating_sub(servers);
        let each = |time: Duration| time.as_secs_f64() * 1e6 / operations as f64;
        times.sort_unstable();
        Ok(Measured {
            operations,
            seconds: time.as_secs_f64(),
            client_cpu: each(client),
            server_cpu: each(servers),
            p50: percentile(&times, 50),
            p99: percentile(&times, 99),
        })
    }

    /// Returns the processor time so far, of all threads of the servers and of their children that have not ended.
    pub fn server_cpu(&self) -> Result<Duration> {
        let mut time = Duration::ZERO;
        for &server in &self.servers {
            time += cpu_time(server).ok_or("a server has ended")?;
            let children = fs::read_to_string(format!("/proc/{server}/task/{server}/children"))?;
            time += children.split_whitespace().filter_map(|child| cpu_time(child.parse().ok()?)).sum::<Duration>();
        }
        Ok(time)
    }
}

/// Returns the processor time of a process so far; `None` if it has ended.
pub fn cpu_time(process: u32) -> Option<Duration> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).ok()?;
    let of_thread = |thread: fs::DirEntry| {
        let stat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<u64>().ok()
    };
    Some(Duration::from_nanos(threads.filter_map(|thread| of_thread(thread.ok()?)).sum()))
}

/// Returns the microseconds that so many percent of the times take at most.
pub fn percentile(sorted: &[Duration], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).map(|time| time.as_secs_f64() * 1e6)
}
