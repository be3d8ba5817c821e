//! Starts the servers and the workers, lets the workers run in turn, and collects their results.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Lines, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use eventbus::Result;
use eventbus_test::{PrivatePostgres, PrivateRedis, private_postgres_with, private_redis_with};
use serde::de::DeserializeOwned;

use crate::{
    TableArgs,
    implementation::Implementation,
    meter::Measured,
    peers, plot,
    round_table::{Column, RoundTable},
    worker::{WorkerArgs, read_reply},
    workload::{self, Workload},
};

const ROUNDS: usize = 15;
const QUICK_ROUNDS: usize = 5;
const OTHER_BUILD: &str = "other build";

pub fn run(args: &TableArgs) -> Result<()> {
    for name in &args.only {
        workload::find(name)?;
    }
    let rounds = args.rounds.unwrap_or(if args.quick { QUICK_ROUNDS } else { ROUNDS });
    let driver = Driver { servers: Servers::start(), quick: args.quick, rounds };
    // another target folder may have been chosen for the build
    fs::create_dir_all(target_folder())?;
    let contenders = contenders(args)?;
    let json = args.json.clone().unwrap_or_else(|| target_folder().join("table.json"));
    println!("{rounds} rounds{}\n\n{}", if args.quick { ", quick" } else { "" }, RoundTable::HEADER);
    let mut tables = Vec::new();
    for workload in
        workload::ALL.iter().filter(|workload| args.only.is_empty() || args.only.contains(&workload.name.into()))
    {
        for &callers in workload.callers {
            let table = driver.measure(workload, callers, &contenders)?;
            print!("{table}");
            tables.push(table);
        }
    }
    fs::write(&json, serde_json::to_vec_pretty(&tables)?)?;
    if let Some(folder) = &args.plots {
        plot::write_tables(&tables, folder)?;
    }
    println!("\nall rounds: {}", json.display());
    args.cpu_at_most.map_or(Ok(()), |limit| check_cpu(&tables, limit))
}

/// Fails if our processor time is more than `limit` times that of the other build, in the median of a line.
fn check_cpu(tables: &[RoundTable], limit: f64) -> Result<()> {
    let above = tables.iter().filter_map(|table| {
        let ratio = table.cpu_ratio(OTHER_BUILD)?.median;
        (ratio > limit).then(|| format!("{}, callers: {}: {ratio:.3}", table.workload, table.callers))
    });
    let above: Vec<_> = above.collect();
    if above.is_empty() {
        return Ok(());
    }
    Err(format!("`ours ÷ this`, CPU, of the {OTHER_BUILD} is above {limit} in {}", above.join("; ")).into())
}

pub fn target_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target")
}

/// A program that has a line in the table.
pub struct Contender {
    pub label: &'static str,
    pub program: PathBuf,
    /// The arguments before those of the workload.
    pub arguments: Vec<String>,
    /// The workloads that it has; `None` if it has all of them.
    pub workloads: Option<&'static [&'static str]>,
    /// Set if it may fail, unlike this program.
    pub is_peer: bool,
}

impl Contender {
    /// An implementation in a build of this program.
    fn of_ours(label: &'static str, program: PathBuf, implementation: Implementation) -> Self {
        Self {
            label,
            program,
            arguments: implementation.worker_arguments().into(),
            workloads: implementation.workloads(),
            is_peer: false,
        }
    }

    fn has(&self, workload: &Workload) -> bool {
        self.workloads.is_none_or(|workloads| workloads.contains(&workload.name))
    }

    fn command(&self, args: &WorkerArgs) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        args.add_to(&mut command);
        command
    }

    /// Reports the failure of a peer and returns `None`; that of another one ends the table.
    fn tolerate<T>(&self, args: &WorkerArgs, result: Result<T>) -> Result<Option<T>> {
        match result {
            Err(error) if self.is_peer => {
                eprintln!("the peer `{}` fails in {}, callers: {}: {error:?}", self.label, args.workload, args.callers);
                Ok(None)
            }
            result => result.map(Some),
        }
    }
}

/// Returns the implementations to compare; the first one is compared with all others.
fn contenders(args: &TableArgs) -> Result<Vec<Contender>> {
    let program = env::current_exe()?;
    let mut contenders = vec![
        Contender::of_ours("ours", program.clone(), Implementation::Ours),
        Contender::of_ours("by hand", program.clone(), Implementation::ByHand),
        Contender::of_ours("grouped by hand", program.clone(), Implementation::GroupedByHand),
        Contender::of_ours("compact by hand", program.clone(), Implementation::CompactByHand),
        Contender::of_ours("ours, not analyzed", program, Implementation::NotAnalyzed),
    ];
    if let Some(other) = &args.against {
        contenders.insert(1, Contender::of_ours(OTHER_BUILD, other.clone(), Implementation::Ours));
    }
    contenders.extend(peers::build(&args.peers, &args.only)?);
    Ok(contenders)
}

/// Private servers; gone when dropped. PostgreSQL syncs each commit, Redis its log each second.
pub struct Servers {
    postgres: PrivatePostgres,
    redis: PrivateRedis,
}

impl Servers {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts PostgreSQL with further settings, such as `commit_delay=2000`.
    pub fn start_with(settings: &[&str]) -> Self {
        // autovacuum would work in some rounds and not in others; eight workers with a pool each have more than 100
        // connections
        let settings = [&["shared_buffers=256MB", "autovacuum=off", "max_connections=300"], settings].concat();
        let postgres = private_postgres_with(&settings.iter().flat_map(|setting| ["-c", setting]).collect::<Vec<_>>());
        Self { postgres, redis: private_redis_with(&["--appendfsync", "everysec"]) }
    }

    pub fn postgres_url(&self) -> &str {
        self.postgres.url()
    }

    pub fn redis_url(&self) -> &str {
        self.redis.url()
    }

    /// Returns the arguments of a worker that uses these servers.
    pub fn worker_args(&self, workload: &str, callers: usize, quick: bool) -> WorkerArgs {
        let (postgres, redis) = (self.postgres.url().into(), self.redis_url().into());
        WorkerArgs { workload: workload.into(), callers, quick, count_allocations: false, postgres, redis }
    }
}

struct Driver {
    servers: Servers,
    quick: bool,
    rounds: usize,
}

impl Driver {
    fn measure(&self, workload: &Workload, callers: usize, contenders: &[Contender]) -> Result<RoundTable> {
        let args = self.servers.worker_args(workload.name, callers, self.quick);
        let mut runs = Vec::new();
        for contender in contenders.iter().filter(|contender| contender.has(workload)) {
            let worker = contender.tolerate(&args, Worker::start(contender.command(&args)))?;
            runs.push((contender, worker, Vec::new()));
        }
        for index in turns(self.rounds, runs.len()) {
            let (contender, worker, rounds) = &mut runs[index];
            // a peer that has failed is left out
            let Some(running) = worker else { continue };
            match contender.tolerate(&args, running.measure_round())? {
                Some(measured) => rounds.push(measured),
                None => *worker = None,
            }
        }
        let mut columns = Vec::new();
        for (contender, worker, rounds) in runs {
            let Some(worker) = worker else { continue };
            let allocations = worker.finish().and_then(|()| self.count_allocations(&args, contender));
            if let Some(allocations) = contender.tolerate(&args, allocations)? {
                columns.push(Column { label: contender.label.into(), rounds, allocations });
            }
        }
        Ok(RoundTable {
            workload: workload.name.into(),
            operation: workload.operation.into(),
            is_paced: workload.is_paced(),
            callers,
            columns,
        })
    }

    fn count_allocations(&self, args: &WorkerArgs, contender: &Contender) -> Result<Option<f64>> {
        // the number per operation does not depend on the size
        let args = WorkerArgs { count_allocations: true, quick: true, ..args.clone() };
        let output = contender.command(&args).stderr(Stdio::inherit()).output()?;
        let count = read_reply(output.stdout.lines().next());
        if output.status.success() { count } else { Err(format!("the worker ended with {}", output.status).into()) }
    }
}

/// Returns whose turn it is, round by round; another contender begins each round.
pub fn turns(rounds: usize, contenders: usize) -> impl Iterator<Item = usize> {
    (0..rounds).flat_map(move |round| (0..contenders).map(move |turn| (round + turn) % contenders))
}

/// A process that does a round for each line that it gets, and replies to each.
pub struct Worker {
    process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    pub fn start(mut command: Command) -> Result<Self> {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = process.stdin.take().ok_or("the worker has no input")?;
        let output = process.stdout.take().ok_or("the worker has no output")?;
        let mut worker = Self { process, input, output: BufReader::new(output).lines() };
        let () = worker.receive()?;
        Ok(worker)
    }

    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    pub fn send(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.input, "{line}")?)
    }

    pub fn receive<T: DeserializeOwned>(&mut self) -> Result<T> {
        read_reply(self.output.next())
    }

    pub fn measure_round(&mut self) -> Result<Measured> {
        self.send("")?;
        self.receive()
    }

    /// Lets the worker check its result.
    pub fn finish(self) -> Result<()> {
        let Self { mut process, input, .. } = self;
        drop(input);
        let status = process.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the worker ended with {status}").into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(workload: &str, columns: &[(&str, [f64; 3])]) -> RoundTable {
        let round = |cpu: f64| Measured {
            operations: 1,
            seconds: 1.0,
            client_cpu: cpu / 2.0,
            server_cpu: cpu / 2.0,
            p50: None,
            p99: None,
        };
        let column = |&(label, cpu): &(&str, [f64; 3])| Column {
            label: label.into(),
            rounds: cpu.map(round).into(),
            allocations: None,
        };
        let columns = columns.iter().map(column).collect();
        RoundTable { workload: workload.into(), operation: "a save".into(), is_paced: false, callers: 8, columns }
    }

    #[test]
    fn lines_of_the_other_build_above_the_limit_are_named() {
        let slower = [104.0, 90.0, 105.0];
        let tables = [
            table("same", &[("ours", [103.0, 90.0, 120.0]), (OTHER_BUILD, [100.0; 3])]),
            table("slower", &[("ours", slower), (OTHER_BUILD, [100.0; 3])]),
            table("by-hand", &[("ours", slower), ("by hand", [1.0; 3])]),
        ];
        assert!(check_cpu(&tables, 1.04).is_ok());
        let error = check_cpu(&tables, 1.03).unwrap_err().to_string();
        assert!(error.ends_with("is above 1.03 in slower, callers: 8: 1.040"), "{error}");
    }
}
