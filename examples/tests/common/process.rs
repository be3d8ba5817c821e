//! A program that runs while the test continues.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Time limit for conditions that are certain to hold.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running program and its output so far. It is killed when this is dropped.
pub struct Process {
    child: Child,
    stdout: Lines,
    stderr: Lines,
}

impl Process {
    pub fn start(binary: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(binary)
            .args(arguments)
            .env_remove("RUST_LOG")
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        Self { child, stdout: Lines::of(stdout), stderr: Lines::of(stderr) }
    }

    pub fn stdout(&self) -> Vec<String> {
        self.stdout.lines.lock().unwrap().clone()
    }

    pub fn stderr(&self) -> Vec<String> {
        self.stderr.lines.lock().unwrap().clone()
    }

    /// Waits until a line with each of these texts is printed, on stdout or stderr.
    pub fn until(&self, texts: &[&str]) {
        let has_all = || {
            let said = [self.stdout(), self.stderr()].concat();
            texts.iter().all(|text| said.iter().any(|line| line.contains(text)))
        };
        assert!(until(has_all), "it did not say {texts:?} but {:#?}{:#?}", self.stdout(), self.stderr());
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits until it ends by itself, and reads its remaining output.
    pub fn end(&mut self) -> ExitStatus {
        let mut ended = None;
        let has_ended = || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        };
        assert!(until(has_ended), "it did not end: {:#?}{:#?}", self.stdout(), self.stderr());
        self.stdout.finish();
        self.stderr.finish();
        ended.unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until the condition holds; returns `false` after the time limit.
pub fn until(mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// The lines read from a pipe so far.
struct Lines {
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Lines {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let read = Arc::clone(&lines);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                read.lock().unwrap().push(line);
            }
        });
        Self { lines, reader: Some(reader) }
    }

    fn finish(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
    }
}
