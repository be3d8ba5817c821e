//! SIGTERM and SIGINT stop an app after the delivery in hand.
//!
//! The process that is stopped is this test binary again, told by its environment what to play.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests; the process that is stopped reports by printing"
)]

use std::{
    env,
    io::{BufRead, BufReader, Lines, Write},
    process::{Child, ChildStdout, Command, Stdio},
};

use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Lamp)]
struct Lit {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Lit))]
struct Lamp;

impl Apply for Lamp {
    fn apply(&mut self, _event: &LampEvent) {}
}

/// Takes as long as the other process likes.
#[handler(manual)]
async fn slow(_event: &Lit) -> Result<(), HandlerError> {
    println!("in hand");
    tokio::task::spawn_blocking(|| std::io::stdin().lock().read_line(&mut String::new())).await??;
    println!("handled");
    Ok(())
}

/// What the process that is stopped plays; does nothing in an ordinary run.
#[tokio::test]
async fn the_process_that_is_stopped() -> eventbus::Result<()> {
    if env::var_os("SIGNAL_ROLE").is_none() {
        return Ok(());
    }
    tracing_subscriber::fmt().with_ansi(false).init();
    let app = App::builder().handler::<slow>().start().await?;
    let lamps = app.repository::<Lamp>();
    lamps.upsert(&"1".parse()?, |_| Ok::<_, eventbus::Never>(Lit {})).await?;
    app.run_until_signal().await?;
    println!("stopped");
    Ok(())
}

struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start() -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "the_process_that_is_stopped", "--nocapture"])
            .env("SIGNAL_ROLE", "stopped")
            .env_remove("RUST_LOG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Reads on until each of these was printed, in whatever order; returns what was printed.
    fn until(&mut self, texts: &[&str]) -> String {
        let (mut awaited, mut read) = (texts.to_vec(), String::new());
        while !awaited.is_empty() {
            let line = self.lines.next().unwrap_or_else(|| panic!("it ended without {awaited:?}:\n{read}")).unwrap();
            awaited.retain(|text| !line.contains(text));
            read += &(line + "\n");
        }
        read
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }
}

fn stops_after_the_delivery_in_hand(signal: &str) {
    let mut process = Process::start();
    process.until(&["in hand", "running until a signal"]);
    process.signal(signal);
    process.until(&["stopping"]);
    assert!(process.child.try_wait().unwrap().is_none(), "it waits for the handler");
    process.child.stdin.take().unwrap().write_all(b"go on\n").unwrap();
    let after = process.until(&["stopped"]);
    assert!(after.contains("handled"), "{after}");
    assert!(process.child.wait().unwrap().success());
}

#[test]
fn sigterm_stops_after_the_delivery_in_hand() {
    stops_after_the_delivery_in_hand("-TERM");
}

#[test]
fn sigint_stops_after_the_delivery_in_hand() {
    stops_after_the_delivery_in_hand("-INT");
}
