//! Processes that tests kill: the running test binary once more, in which one of its tests plays a role.

use std::{
    env,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

/// Longest silence of a process while a test reads its output.
const MAX_SILENCE: Duration = Duration::from_secs(60);
/// Longest time until a process has printed all awaited output, or has ended.
const LONGEST: Duration = Duration::from_secs(180);

/// A second process of the running test binary, in which one of its tests plays a role, such as a process that dies.
///
/// That test finds its role in the environment, and returns at once without one. Dropping this value kills the process
/// with SIGKILL. The value buffers the output until a test reads it.
#[derive(Debug)]
pub struct Actor {
    child: Child,
    lines: Receiver<String>,
}

impl Actor {
    /// Starts the process, which runs the test of this name (as for `--exact`) with these variables in its environment.
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

    /// Reads the output until it has each of `texts`, in any order; returns the rest of the line after the last one.
    ///
    /// # Panics
    /// If the process ends before, prints no line for a minute, or has not printed all of `texts` after three minutes.
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

    /// Returns the lines that the process has printed and no call has read.
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

    /// Sends the process a signal by its name, such as `STOP`.
    ///
    /// # Panics
    /// If the signal cannot be sent.
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

    /// Kills the process and waits until it has ended; returns the output that no call has read.
    ///
    /// # Panics
    /// If it has ended by itself.
    pub fn kill(mut self) -> Vec<String> {
        assert!(!self.has_ended(), "it ended by itself");
        self.child.kill().expect("it is not gone before it is waited for");
        self.wait().1
    }

    /// Waits until the process has ended; returns its status, and the output that no call has read.
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

    /// For the process itself: waits until its parent calls [`resume`](Self::resume). Ends the process if the parent
    /// ends meanwhile, also by a kill.
    pub fn hear() {
        if !std::io::stdin().read(&mut [0]).is_ok_and(|bytes| bytes > 0) {
            std::process::exit(1);
        }
    }

    /// For a process that does not call [`hear`](Self::hear): ends the process when its parent ends, also by a kill.
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
