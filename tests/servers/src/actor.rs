//! Processes that are killed in tests: the running test binary again, in which one of its tests plays a role.

use std::{
    env,
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Stdio},
};

/// A process of the running test binary, in which one of its tests plays a role: one that is to die, or to sleep.
///
/// The test finds its role in the environment, and without one it does nothing. Dropped, the process is killed as by
/// `kill -9`.
#[derive(Debug)]
pub struct Actor(Child);

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
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        Self(command.spawn().expect("the test binary starts again"))
    }

    /// Gives each line that the process prints from now on to `hear`, in a thread of its own, until it has ended. One
    /// that prints much and is not heard comes to a stop.
    ///
    /// # Panics
    /// If it is heard already.
    pub fn on_line(&mut self, hear: impl FnMut(String) + Send + 'static) -> std::thread::JoinHandle<()> {
        let output = self.0.stdout.take().expect("it is heard once");
        let lines = BufReader::new(output).lines().map_while(Result::ok);
        std::thread::spawn(move || lines.for_each(hear))
    }

    /// Sends it a signal by its name, as `STOP`.
    ///
    /// # Panics
    /// If it has ended.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.0.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "the process takes no signal {name}");
    }

    /// Kills it, and waits until it is gone.
    ///
    /// # Panics
    /// If it ended before by itself.
    pub fn kill(mut self) {
        let ended = self.0.try_wait().expect("it is a child of this process");
        assert_eq!(ended, None, "it ended by itself");
    }

    /// Called by the process itself: it ends when the one that started it does, also if that is killed.
    pub fn end_with_parent() {
        std::thread::spawn(|| {
            // nothing is ever written to it
            drop(std::io::stdin().read(&mut [0]));
            std::process::exit(1);
        });
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
