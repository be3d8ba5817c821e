//! What an app at rest costs: the command `idle`.

mod app;
mod counters;

use std::{env, process::Command, thread, time::Duration};

use eventbus::Result;
use tokio::runtime::Runtime;

pub use self::app::run as run_app;
use self::counters::{Calls, Counted, Counters, calls_since};
use crate::{
    IdleArgs,
    driver::{Servers, Worker},
    postgres_server::new_database,
};

const PROJECTIONS: [usize; 2] = [2, 20];
const WINDOW: Duration = Duration::from_secs(30);
const QUICK_WINDOW: Duration = Duration::from_secs(5);
/// After the start: what is due once is done then.
const SETTLING: Duration = Duration::from_secs(3);

pub fn run(args: &IdleArgs) -> Result<()> {
    let runtime = Runtime::new()?;
    let servers = Servers::start_with(&["shared_preload_libraries=pg_stat_statements"]);
    let window = if args.quick { QUICK_WINDOW } else { WINDOW };
    println!("{} s\n", window.as_secs());
    println!(
        "| projections | PostgreSQL statements/s | Redis commands/s | connections, PostgreSQL + Redis | memory MiB | CPU \
         ms/s, app | PostgreSQL | Redis |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|");
    let mut details = Vec::new();
    for projections in PROJECTIONS {
        let (before, after) = runtime.block_on(measure(&servers, projections, window))?;
        let statements = calls_since(&before.statements, &after.statements);
        let commands = calls_since(&before.commands, &after.commands);
        let seconds = window.as_secs_f64();
        let rate = |calls: &Calls| calls.values().sum::<u64>() as f64 / seconds;
        let cpu = |of: fn(&Counted) -> Duration| of(&after).saturating_sub(of(&before)).as_secs_f64() * 1e3 / seconds;
        println!(
            "| {projections} | {:.2} | {:.2} | {} + {} | {:.1} | {:.2} | {:.2} | {:.2} |",
            rate(&statements),
            rate(&commands),
            after.postgres_connections,
            after.redis_connections,
            after.memory as f64 / f64::from(1 << 20),
            cpu(|counted| counted.app_cpu),
            cpu(|counted| counted.postgres_cpu),
            cpu(|counted| counted.redis_cpu),
        );
        details.push((projections, statements, commands));
    }
    for (projections, statements, commands) in details {
        println!("\n{projections} projections, by statement and command:\n");
        for calls in [statements, commands] {
            print_calls(calls, window.as_secs_f64());
        }
    }
    Ok(())
}

/// Starts an app, and returns the counters before and after the time.
async fn measure(servers: &Servers, projections: usize, window: Duration) -> Result<(Counted, Counted)> {
    let database = new_database(servers.postgres_url()).await?;
    let mut command = Command::new(env::current_exe()?);
    command.args(["idle-app", "--database", &database, "--redis", servers.redis_url()]);
    command.args(["--projections", &projections.to_string()]);
    let app = Worker::start(command)?;
    let mut counters = Counters::open(servers.postgres_url(), servers.redis_url(), &database, app.process_id()).await?;
    thread::sleep(SETTLING);
    let before = counters.read().await?;
    thread::sleep(window);
    let after = counters.read().await?;
    app.finish()?;
    Ok((before, after))
}

/// Prints the calls per second, the most frequent first.
fn print_calls(calls: Calls, seconds: f64) {
    const WIDTH: usize = 100;
    let mut calls: Vec<_> = calls.into_iter().collect();
    calls.sort_by_key(|(_, calls)| std::cmp::Reverse(*calls));
    for (name, calls) in calls {
        println!("    {:6.2}/s  {}", calls as f64 / seconds, name.chars().take(WIDTH).collect::<String>());
    }
}
