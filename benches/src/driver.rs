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
    TableArgs, WorkerArgs,
    bench::Implementation,
    meter::Measured,
    plot,
    round_table::{Column, RoundTable},
    scale::Scale,
    worker::{self, read_reply},
    workload::{self, Workload},
};

const ROUNDS: usize = 15;
const QUICK_ROUNDS: usize = 5;

pub fn run(args: &TableArgs) -> Result<()> {
    for name in &args.only {
        workload::find(name)?;
    }
    let rounds = args.rounds.unwrap_or(if args.quick { QUICK_ROUNDS } else { ROUNDS });
    let driver = Driver { servers: Servers::start(), quick: args.quick, rounds };
    // another target folder may have been chosen for the build
    fs::create_dir_all(target_folder())?;
    let contenders = contenders(args.against.as_deref())?;
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
    Ok(())
}

pub fn target_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target")
}

/// An implementation in a build of this program.
struct Contender {
    label: &'static str,
    program: PathBuf,
    implementation: Implementation,
}

/// Returns the implementations to compare; the first one is compared with all others.
fn contenders(against: Option<&Path>) -> Result<Vec<Contender>> {
    let program = env::current_exe()?;
    let mut contenders = vec![
        Contender { label: "ours", program: program.clone(), implementation: Implementation::Ours },
        Contender { label: "by hand", program, implementation: Implementation::ByHand },
    ];
    if let Some(other) = against {
        let other = Contender { label: "other build", program: other.into(), implementation: Implementation::Ours };
        contenders.insert(1, other);
    }
    Ok(contenders)
}

/// Private servers; gone when dropped. Redis keeps its data in memory: the comparison excludes its disk.
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
        // autovacuum would work in some rounds and not in others
        let settings = [&["shared_buffers=256MB", "autovacuum=off"], settings].concat();
        let postgres = private_postgres_with(&settings.iter().flat_map(|setting| ["-c", setting]).collect::<Vec<_>>());
        Self { postgres, redis: private_redis_with(&["--appendonly", "no", "--save", ""]) }
    }

    pub fn postgres_url(&self) -> &str {
        self.postgres.url()
    }

    pub fn redis_url(&self) -> &str {
        self.redis.url()
    }

    /// Returns the arguments of a worker that uses these servers.
    pub fn worker_args(&self, workload: &str, callers: usize, implementation: Implementation) -> WorkerArgs {
        WorkerArgs {
            workload: workload.into(),
            callers,
            implementation,
            quick: false,
            count_allocations: false,
            postgres: self.postgres.url().into(),
            redis: self.redis_url().into(),
            scale: Scale::default(),
        }
    }
}

struct Driver {
    servers: Servers,
    quick: bool,
    rounds: usize,
}

impl Driver {
    fn measure(&self, workload: &Workload, callers: usize, contenders: &[Contender]) -> Result<RoundTable> {
        let mut workers = Vec::new();
        for contender in contenders {
            let args = self.worker_args(workload, callers, contender, self.quick);
            workers.push(Worker::start(worker::command(&contender.program, &args))?);
        }
        let results = in_turn(self.rounds, workers.len(), |index| {
            workers[index].send("")?;
            workers[index].receive()
        })?;
        for worker in workers {
            worker.finish()?;
        }
        let mut columns = Vec::new();
        for (contender, rounds) in contenders.iter().zip(results) {
            let allocations = self.count_allocations(workload, callers, contender)?;
            columns.push(Column { label: contender.label.into(), rounds, allocations });
        }
        Ok(RoundTable { workload: workload.name.into(), operation: workload.operation.into(), callers, columns })
    }

    fn count_allocations(&self, workload: &Workload, callers: usize, contender: &Contender) -> Result<f64> {
        // the number per operation does not depend on the size
        let args = WorkerArgs { count_allocations: true, ..self.worker_args(workload, callers, contender, true) };
        let output = worker::command(&contender.program, &args).stderr(Stdio::inherit()).output()?;
        let count = read_reply(output.stdout.lines().next());
        if output.status.success() { count } else { Err(format!("the worker ended with {}", output.status).into()) }
    }

    fn worker_args(&self, workload: &Workload, callers: usize, contender: &Contender, quick: bool) -> WorkerArgs {
        let implementation = contender.implementation;
        WorkerArgs { quick, ..self.servers.worker_args(workload.name, callers, implementation) }
    }
}

/// Lets contenders run their rounds in turn; another one begins each round. Returns the rounds of each.
pub fn in_turn(
    rounds: usize,
    contenders: usize,
    mut run: impl FnMut(usize) -> Result<Measured>,
) -> Result<Vec<Vec<Measured>>> {
    let mut results = vec![Vec::new(); contenders];
    for round in 0..rounds {
        for turn in 0..contenders {
            let index = (round + turn) % contenders;
            results[index].push(run(index)?);
        }
    }
    Ok(results)
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

    /// Lets the worker check its result.
    pub fn finish(self) -> Result<()> {
        let Self { mut process, input, .. } = self;
        drop(input);
        let status = process.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the worker ended with {status}").into()) }
    }
}
