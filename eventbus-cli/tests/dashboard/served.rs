//! The dashboard as the command serves it.

use crate::{
    common::Running,
    http::{Site, between},
};

/// A dashboard that the command serves; it ends with the value.
pub(crate) struct Served {
    running: Running,
    pub(crate) site: Site,
    /// The token, if the command made one.
    pub(crate) token: Option<String>,
}

impl Served {
    /// Starts it with these arguments, and waits until it listens.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let listen = if arguments.contains(&"--listen") { &[][..] } else { &["--listen", "127.0.0.1:0"] };
        let running = Running::start(&[&["dashboard"], listen, arguments].concat());
        let line = running.line();
        let site = Site::new(between(&line, "dashboard  ", "\n")[0]);
        let makes_token = ["--allow-changes", "--host", "0.0.0.0:0"].iter().any(|cause| arguments.contains(cause));
        let token = (makes_token && !arguments.contains(&"--token"))
            .then(|| running.line().trim_start_matches("token").trim().to_owned());
        Self { running, site, token }
    }

    /// Ends it, and returns the lines of standard error.
    pub(crate) fn end(self) -> Vec<String> {
        self.running.end()
    }

    /// Sends the signal of Ctrl-C, and returns the exit code and the lines of standard error.
    pub(crate) fn interrupt(mut self) -> (Option<i32>, Vec<String>) {
        self.running.interrupt();
        let code = self.running.child.wait().unwrap().code();
        (code, self.end())
    }

    /// Starts it with `--allow-changes`, and logs in.
    pub(crate) async fn start_logged_in(arguments: &[&str]) -> Self {
        let mut served = Self::start(&[arguments, &["--allow-changes"]].concat());
        served.site.log_in(&served.token.clone().unwrap()).await;
        served
    }
}
