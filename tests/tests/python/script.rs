//! A script that works on the stream of a bus, and prints JSON, one text a line.

use std::{
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use eventbus_redis::RedisEventBus;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    task::JoinHandle,
};

use super::environment;

/// A running script. It ends when its input is closed, and is killed when this value is dropped.
pub(crate) struct Script {
    child: Child,
    lines: Arc<Mutex<Vec<Value>>>,
    listening: JoinHandle<()>,
}

impl Script {
    /// Starts a script of `tests/python` on the stream of `bus`.
    pub(crate) fn start(python: &Path, name: &str, bus: &RedisEventBus, arguments: &[&str]) -> Self {
        let mut child = Command::new(python)
            .arg(environment::scripts().join(name))
            .args([&bus.config().redis_url, &bus.config().stream_prefix])
            .args(arguments)
            .env("PYTHONDONTWRITEBYTECODE", "1") // the folder of the scripts stays clean
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        let lines: Arc<Mutex<Vec<Value>>> = Arc::default();
        let said = Arc::clone(&lines);
        let listening = tokio::spawn(async move {
            while let Some(line) = output.next_line().await.unwrap() {
                said.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        Self { child, lines, listening }
    }

    /// Returns the values printed so far under a key.
    pub(crate) fn said(&self, key: &str) -> Vec<Value> {
        self.lines.lock().unwrap().iter().filter_map(|line| line.get(key).cloned()).collect()
    }

    /// Kills the script, and reads its remaining output.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap(); // SIGKILL
        (&mut self.listening).await.unwrap();
    }

    /// Closes the input, and waits until the script has ended.
    pub(crate) async fn end(&mut self) {
        drop(self.child.stdin.take());
        let ended = tokio::time::timeout(Duration::from_secs(60), self.child.wait()).await;
        let status = ended.expect("a script ends in time").unwrap();
        assert!(status.success(), "{status}");
        (&mut self.listening).await.unwrap();
    }
}

/// Runs a script to its end.
pub(crate) async fn run(python: &Path, name: &str, bus: &RedisEventBus) -> Script {
    let mut script = Script::start(python, name, bus, &[]);
    script.end().await;
    script
}
