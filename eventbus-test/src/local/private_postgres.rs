//! The PostgreSQL server of one test.
//!
//! Invariant: the server syncs as in production, because its tests check what a crash may lose.

use std::{fs, path::PathBuf, process::Child, time::Duration};

use super::{binaries, postgres::PostgresServer, process, run_folder::RunFolder, workspace};
use crate::{
    error::{Error, expect},
    port::Reservation,
    server::Server,
};

/// Time without its client after which the supervisor ends the server; the client never comes back.
const GRACE: Duration = Duration::from_secs(1);

/// A PostgreSQL server that one test may crash; dropping this value ends the server.
///
/// Port and data stay until the drop, also while the server is stopped. If the test process is killed, a supervisor
/// ends the server some seconds later. A method that fails panics with the reason.
#[derive(Debug)]
pub struct PrivatePostgres {
    programs: PathBuf,
    arguments: Vec<String>,
    run: RunFolder,
    supervisor: Child,
    server: Option<Child>,
    reservation: Reservation,
    url: String,
}

impl PrivatePostgres {
    pub(crate) fn launch_with(arguments: &[&str]) -> Result<Self, Error> {
        let programs = binaries::find(Server::Postgres)?;
        let reservation = Reservation::new()?;
        let (run, supervisor) = RunFolder::create(&workspace::folder()?, "private_postgres", GRACE)?;
        let url = Server::Postgres.url_on(reservation.port());
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let mut postgres = Self { programs, arguments, run, supervisor, server: None, reservation, url };
        PostgresServer::prepare(&postgres.programs, &postgres.run)?;
        postgres.spawn()?;
        Ok(postgres)
    }

    /// Returns the URL, which names a superuser and the database `postgres`; it never changes.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the port; it never changes.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.reservation.port()
    }

    /// Returns what the server has logged since its last start.
    #[must_use]
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.run.log());
        expect(log.map_err(Error::io("read the log of the server")))
    }

    /// Crashes the server (an immediate stop) and waits until it has ended; returns at once if it is stopped already.
    ///
    /// Every backend ends at once, and the server loses what it had not yet written for a commit.
    pub fn stop(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        // both can only fail because it is gone already
        let _ = process::signal(&server, "QUIT");
        process::wait_until(|| process::has_ended(&mut server));
        process::end(&mut server);
        expect(self.run.forget_pid());
    }

    /// Starts a stopped server on the same port and waits until it accepts connections; returns at once if it runs.
    ///
    /// The server has all data committed before [`stop`](Self::stop).
    pub fn start(&mut self) {
        if self.server.as_mut().is_none_or(process::has_ended) {
            expect(self.spawn());
        }
    }

    /// Crashes the server and starts it so that it refuses every connection with SQLSTATE 57P03, until the test
    /// [stops](Self::stop) and [starts](Self::start) it. Returns once the server refuses connections.
    ///
    /// The server stays in recovery, with `hot_standby` off.
    pub fn restart_refusing(&mut self) {
        self.stop();
        let postgres = PostgresServer::durable(&self.programs, &self.run, &self.arguments);
        let server = postgres.and_then(|postgres| postgres.start_refusing(self.port()));
        self.server = Some(expect(server));
    }

    fn spawn(&mut self) -> Result<(), Error> {
        let postgres = PostgresServer::durable(&self.programs, &self.run, &self.arguments)?;
        self.server = Some(postgres.start(self.port())?);
        Ok(())
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            // not a kill: its backends would outlive it
            let _ = process::signal(server, "QUIT");
            process::wait_until(|| process::has_ended(server));
            process::end(server);
        }
        // the supervisor ends last: it does what failed here
        if self.run.remove().is_ok() {
            process::end(&mut self.supervisor);
        }
    }
}
