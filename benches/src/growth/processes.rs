//! The processes that run one operation side by side.

use std::{path::Path, time::Instant};

use eventbus::Result;

use crate::{
    driver::Worker,
    meter::{Measured, Meter},
    own_worker::OwnWorkerArgs,
};

/// Processes with the same arguments, which do their rounds at the same time.
pub struct Processes {
    workers: Vec<Worker>,
    /// Of the servers that they use.
    meter: Meter,
}

impl Processes {
    pub fn start(program: &Path, args: &OwnWorkerArgs, number: usize, meter: Meter) -> Result<Self> {
        let workers = (0..number).map(|_| Worker::start(args.command(program))).collect::<Result<_>>()?;
        Ok(Self { workers, meter })
    }

    /// Lets all do a round.
    pub fn run_round(&mut self) -> Result<Measured> {
        let (servers, start) = (self.meter.server_cpu()?, Instant::now());
        self.workers.iter_mut().try_for_each(|worker| worker.send(""))?;
        let rounds = self.workers.iter_mut().map(Worker::receive).collect::<Result<Vec<Measured>>>()?;
        if let [round] = &rounds[..] {
            return Ok(round.clone());
        }
        let servers = self.meter.server_cpu()?.saturating_sub(servers);
        Ok(together(&rounds, start.elapsed().as_secs_f64(), servers.as_secs_f64() * 1e6))
    }

    /// Lets each check its result.
    pub fn finish(self) -> Result<()> {
        self.workers.into_iter().try_for_each(Worker::finish)
    }
}

/// Adds up the rounds of several processes. Percentiles cannot be added up.
fn together(rounds: &[Measured], seconds: f64, server_micros: f64) -> Measured {
    let operations = rounds.iter().map(|round| round.operations).sum::<u64>();
    let client_micros = rounds.iter().map(|round| round.client_cpu * round.operations as f64).sum::<f64>();
    let each = |micros: f64| micros / operations as f64;
    Measured {
        operations,
        seconds,
        client_cpu: each(client_micros),
        server_cpu: each(server_micros),
        p50: None,
        p99: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_several_processes_is_weighted_by_their_operations() {
        let round = |operations, client_cpu| Measured {
            operations,
            seconds: 1.0,
            client_cpu,
            server_cpu: 7.0,
            p50: Some(1.0),
            p99: Some(2.0),
        };
        let all = together(&[round(100, 10.0), round(300, 20.0)], 2.0, 4_000.0);
        assert_eq!((all.operations, all.client_cpu, all.server_cpu), (400, 17.5, 10.0));
        assert_eq!((all.rate(), all.p50), (200.0, None));
    }
}
