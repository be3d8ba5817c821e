//! Processes that are killed in tests: the running test binary again, in which one of its tests plays a role.

use std::{
    env,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

/// Longest silence of a process while a test reads its output.
const MAX_SILENCE: Duration = Duration::from_secs(60);
/// Longest time that a process may print only unexpected output.
const LONGEST: Duration = Duration::from_secs(180);

/// A process of the running test binary, in which one of its tests plays a role: to die, or to sleep.
///
/// The test finds its role in the environment, and returns at once without one. Dropping the value kills the process as
/// by `kill -9`. The value buffers the output until a test reads it.
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

    /// Reads until each of `texts` was printed, in any order; returns the rest of the last one's line.
    ///
    /// # Panics
    /// If the process ends before, prints no line for a minute, or none of `texts` for three.
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

    /// Returns the output so far, without the part already read.
    #[must_use]
    pub fn printed(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// Lets the process continue after [`hear`](Self::hear).
    ///
    /// # Panics
    /// If it has ended.
    pub fn resume(&mut self) {
        let written = self.child.stdin.as_mut().map(|input| input.write_all(b"\n"));
        assert!(matches!(written, Some(Ok(()))), "the process does not read its input");
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

    /// Returns `true` if the process has ended by itself.
    ///
    /// # Panics
    /// If the system does not know.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it is a child of this process").is_some()
    }

    /// Kills the process, and waits until it has ended; returns the output, without the part already read.
    ///
    /// # Panics
    /// If it ended before by itself.
    pub fn kill(mut self) -> Vec<String> {
        assert!(!self.has_ended(), "it ended by itself");
        self.child.kill().expect("it is not gone before it is waited for");
        self.wait().1
    }

    /// Waits until the process has ended; returns its status, and the output, without the part already read.
    ///
    /// # Panics
    /// If the process prints no line for a minute without ending, or runs for three.
    pub fn wait(mut self) -> (ExitStatus, Vec<String>) {
        let (mut printed, began) = (Vec::new(), Instant::now());
        while let Some(line) = self.next_line() {
            assert!(began.elapsed() < LONGEST, "it did not end, and printed: {line}");
            printed.push(line);
        }
        (self.child.wait().expect("it is a child of this process"), printed)
    }

    fn next_line(&self) -> Option<String> {
        let line = self.lines.recv_timeout(MAX_SILENCE);
        assert_ne!(line, Err(RecvTimeoutError::Timeout), "the process is silent");
        line.ok()
    }

    /// For the process itself: waits for [`resume`](Self::resume). Ends the process when its parent ends, also if the
    /// parent is killed.
    pub fn hear() {
        if !std::io::stdin().read(&mut [0]).is_ok_and(|bytes| bytes > 0) {
            std::process::exit(1);
        }
    }

    /// For a process that does not call [`hear`](Self::hear): ends it when its parent ends, also if the parent is
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
