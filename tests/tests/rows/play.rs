//! The processes that die.

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use eventbus::App;

use crate::{
    kinds::{Kind, Postgres, Sqlite},
    orders::Pace,
};

/// What such a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Feeds the projection.
    Project,
    /// Rebuilds it, and says how far it has come.
    Rebuild,
    /// Runs the handler.
    Handle,
}

/// What a process plays that dies; does nothing in an ordinary run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_that_dies() {
    let (Ok(kind), Ok(place), Ok(part), Ok(pace)) =
        (env::var("ROWS_KIND"), env::var("ROWS_PLACE"), env::var("ROWS_PART"), env::var("ROWS_PACE"))
    else {
        return;
    };
    let pace = Pace(Duration::from_micros(pace.parse().unwrap()));
    match &*kind {
        Sqlite::NAME => play(Sqlite::open(&place).await, &part, pace).await,
        _ => play(Postgres::open(&place).await, &part, pace).await,
    }
}

async fn play<K: Kind>(kind: K, part: &str, pace: Pace) {
    let app = match part {
        "Handle" => {
            let builder = App::builder().store(kind.store()).state(pace);
            K::with_effects(builder).start().await.unwrap()
        }
        _ => kind.app(pace).await,
    };
    println!("\nbegun");
    if part == "Rebuild" {
        let rebuild = app.rebuild::<K::Rows>().on_progress(|now| println!("\nat {}", now.events));
        rebuild.await.unwrap();
        println!("\nrebuilt");
    }
    std::future::pending().await
}

/// A process that is killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    pub(crate) fn spawn<K: Kind>(place: &str, part: Part, pace: Duration) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "play::the_process_that_dies", "--nocapture"])
            .env("ROWS_KIND", K::NAME)
            .env("ROWS_PLACE", place)
            .env("ROWS_PART", format!("{part:?}"))
            .env("ROWS_PACE", pace.as_micros().to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    /// Waits for a line that begins like this; returns the rest of it.
    pub(crate) fn until(&self, begin: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(30)).expect("the process says so");
            if let Some(rest) = line.strip_prefix(begin) {
                return rest.trim().to_owned();
            }
        }
    }

    pub(crate) fn signal(&self, signal: &str) {
        let told = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(told.success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill(); // SIGKILL
        let _ = self.child.wait();
    }
}
