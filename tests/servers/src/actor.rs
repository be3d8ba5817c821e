//! Processes that are killed in tests: the running test binary again, in which one of its tests plays a role.

use std::{
    env,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

/// How long a process may print nothing while it is listened to.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may print other things than what it is listened to for.
const LONGEST: Duration = Duration::from_secs(180);

/// A process of the running test binary, in which one of its tests plays a role: one that is to die, or to sleep.
///
/// The test finds its role in the environment, and without one it does nothing. Dropped, the process is killed as by
/// `kill -9`. What it prints is kept until it is asked for.
#[derive(Debug)]
pub struct Actor {
    child: Child,
    lines: Receiver<String>,
}

impl Actor {
    /// Starts the process: the test of this name, as `--exact` takes it, with further variables in its environment.
    ///
    /// # Panics
    /// If the system does not start it.
    #[must_use]
    pub fn play(test: &str, variables: &[(&str, &str)]) -> Self {
        let program = env::current_exe().expect("a test runs from a file");
        let mut command = Command::new(program);
        command.args(["--exact", test, "--nocapture"]).envs(variables.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the test binary starts again");
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    /// Reads on until each of these was printed, in whatever order; returns what follows the last one in its line.
    ///
    /// # Panics
    /// If it ends before, prints nothing for a minute, or only other things for three.
    pub fn until(&self, texts: &[&str]) -> String {
        let (mut awaited, mut rest) = (texts.to_vec(), String::new());
        let began = Instant::now();
        while !awaited.is_empty() {
            assert!(began.elapsed() < LONGEST, "it did not print {awaited:?}");
            let line = self.next_line().unwrap_or_else(|| panic!("it ended without {awaited:?}"));
            awaited.retain(|text| line.split_once(text).map(|(_, after)| rest = after.to_owned()).is_none());
        }
        rest
    }

    /// What it has printed so far, without what was read before.
    #[must_use]
    pub fn printed(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// Tells it to go on: it [hears](Self::hear) that.
    ///
    /// # Panics
    /// If it has ended.
    pub fn tell(&mut self) {
        let told = self.child.stdin.as_mut().map(|input| input.write_all(b"\n"));
        assert!(matches!(told, Some(Ok(()))), "the process does not listen");
    }

    /// The id of the process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal by its name, as `STOP`.
    ///
    /// # Panics
    /// If it has ended.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "the process takes no signal {name}");
    }

    /// Whether it has ended by itself.
    ///
    /// # Panics
    /// If the system does not know.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it is a child of this process").is_some()
    }

    /// Kills it, and waits until it is gone; returns what it printed, without what was read before.
    ///
    /// # Panics
    /// If it ended before by itself.
    pub fn kill(mut self) -> Vec<String> {
        assert!(!self.has_ended(), "it ended by itself");
        self.child.kill().expect("it is not gone before it is waited for");
        self.wait().1
    }

    /// Waits until it has ended; returns how, and what it printed, without what was read before.
    ///
    /// # Panics
    /// If it prints nothing for a minute, and does not end, or prints for three.
    pub fn wait(mut self) -> (ExitStatus, Vec<String>) {
        let (mut printed, began) = (Vec::new(), Instant::now());
        while let Some(line) = self.next_line() {
            assert!(began.elapsed() < LONGEST, "it did not end, and printed: {line}");
            printed.push(line);
        }
        (self.child.wait().expect("it is a child of this process"), printed)
    }

    fn next_line(&self) -> Option<String> {
        let line = self.lines.recv_timeout(PATIENCE);
        assert_ne!(line, Err(RecvTimeoutError::Timeout), "the process is silent");
        line.ok()
    }

    /// Called by the process itself: waits until it is [told](Self::tell) to go on. It ends when the one that started
    /// it does, also if that is killed.
    pub fn hear() {
        if !std::io::stdin().read(&mut [0]).is_ok_and(|bytes| bytes > 0) {
            std::process::exit(1);
        }
    }

    /// Called by the process itself, if it hears nothing: it ends when the one that started it does, also if that is
    /// killed.
    pub fn end_with_parent() {
        std::thread::spawn(|| {
            loop {
                Self::hear();
            }
        });
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
