//! Measures the time of a piece of work, and the processor time of this process and of the server.

use std::{
    fs,
    time::{Duration, Instant},
};

use cpu_time::ProcessTime;
use eventbus::Result;

/// The processes of a server: one main process, and its children.
pub struct Server {
    main: u32,
}

/// The cost of appends.
pub struct Cost {
    /// Appends in a second.
    pub rate: f64,
    /// Microseconds of processor time per append, of this process and of the server together.
    pub cpu: f64,
}

impl Server {
    /// Finds the server whose child is `backend`.
    pub fn of(backend: i32) -> Result<Self> {
        Ok(Self { main: Process::read(u32::try_from(backend)?).ok_or("the server is not on this machine")?.parent })
    }

    /// Measures work that makes a number of appends.
    pub async fn measure(&self, work: impl Future<Output = Result<usize>>) -> Result<Cost> {
        let (server, client, start) = (self.cpu()?, ProcessTime::try_now()?, Instant::now());
        let appends = work.await? as f64;
        let (time, client) = (start.elapsed(), client.try_elapsed()?);
        let cpu = client + self.cpu()?.saturating_sub(server);
        Ok(Cost { rate: appends / time.as_secs_f64(), cpu: cpu.as_secs_f64() * 1e6 / appends })
    }

    /// Returns the processor time of the server so far, in steps of 10 ms.
    fn cpu(&self) -> Result<Duration> {
        let mut ticks = 0;
        for entry in fs::read_dir("/proc")? {
            let Some(process) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if let Some(found) = Process::read(process) {
                ticks += match (process == self.main, found.parent == self.main) {
                    (true, _) => found.ticks + found.ticks_of_children,
                    (_, true) => found.ticks,
                    _ => 0,
                };
            }
        }
        Ok(Duration::from_millis(10 * ticks))
    }
}

struct Process {
    parent: u32,
    ticks: u64,
    /// Ticks of ended children.
    ticks_of_children: u64,
}

impl Process {
    fn read(process: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // the name, in parentheses, may contain any character
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let sum =
            |from: usize| Some(fields.get(from)?.parse::<u64>().ok()? + fields.get(from + 1)?.parse::<u64>().ok()?);
        Some(Self { parent: fields.get(1)?.parse().ok()?, ticks: sum(11)?, ticks_of_children: sum(13)? })
    }
}
