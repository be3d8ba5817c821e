//! Measures the time of a piece of work, and the processor time of this process and of the server.

use std::time::{Duration, Instant};

use cpu_time::ProcessTime;
use eventbus::Result;

use crate::server::Server;

/// The cost of a number of events.
pub struct Throughput {
    pub events: u64,
    pub time: Duration,
    pub client: Duration,
    pub server: Duration,
}

impl Throughput {
    /// Returns the events per second.
    pub fn rate(&self) -> f64 {
        self.events as f64 / self.time.as_secs_f64()
    }

    /// Returns the microseconds of `time` per event.
    pub fn each(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / self.events as f64
    }
}

/// Measures work on a number of events.
pub async fn measure(server: &Server, events: u64, work: impl Future<Output = Result<()>>) -> Result<Throughput> {
    let server_before = server.cpu().await?;
    let (client, start) = (ProcessTime::try_now()?, Instant::now());
    work.await?;
    let (time, client) = (start.elapsed(), client.try_elapsed()?);
    Ok(Throughput { events, time, client, server: server.cpu().await?.saturating_sub(server_before) })
}
