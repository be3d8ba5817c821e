//! A PostgreSQL server for tests: a new cluster that trusts every user of this machine.
//!
//! The shared server syncs no writes.
//!
//! Invariant: `synchronous_commit` stays on, because the store refuses to run without it; with `fsync` off it costs no
//! time.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use super::{account::Account, process, run_folder::RunFolder};
use crate::{error::Error, server::Server};

const INIT: &str = "-U postgres -A trust -E UTF8 --locale=C --no-sync --no-instructions";
const SETTINGS: [&str; 4] = ["fsync=off", "full_page_writes=off", "max_connections=500", "shared_buffers=64MB"];
const DURABLE_SETTINGS: [&str; 4] = ["fsync=on", "full_page_writes=on", "max_connections=100", "shared_buffers=16MB"];

/// A cluster that can be started.
#[derive(Debug)]
pub(crate) struct PostgresServer<'a> {
    programs: &'a Path,
    run: &'a RunFolder,
    account: Option<Account>,
    settings: [&'static str; 4],
    further: &'a [String],
}

impl<'a> PostgresServer<'a> {
    /// Makes a cluster in the run's data folder, with the programs in the folder `programs`.
    pub(crate) fn prepare(programs: &'a Path, run: &'a RunFolder) -> Result<Self, Error> {
        let postgres = Self { programs, run, account: Account::instead_of_root()?, settings: SETTINGS, further: &[] };
        if let Some(account) = postgres.account {
            account.own(&run.data())?;
        }
        postgres.init()?;
        Ok(postgres)
    }

    /// Describes a server on an existing cluster that syncs its writes, as in production.
    pub(crate) fn durable(programs: &'a Path, run: &'a RunFolder, further: &'a [String]) -> Result<Self, Error> {
        Ok(Self { programs, run, account: Account::instead_of_root()?, settings: DURABLE_SETTINGS, further })
    }

    /// Starts the server and waits until it takes connections.
    pub(crate) fn start(&self, port: u16) -> Result<Child, Error> {
        self.set_standby(false)?;
        self.start_as(port, "ready", &[])
    }

    /// Starts the server as a standby that answers no queries, and waits until it refuses connections.
    pub(crate) fn start_refusing(&self, port: u16) -> Result<Child, Error> {
        self.set_standby(true)?;
        self.start_as(port, "standby", &["-c", "hot_standby=off"])
    }

    fn start_as(&self, port: u16, state: &str, mode: &[&str]) -> Result<Child, Error> {
        self.run.note_port(port)?;
        let program = self.programs.join("postgres");
        let mut command = self.in_data_folder(self.run.server_command(&program));
        command.args(["-h", "127.0.0.1", "-k", "", "-p", &port.to_string()]);
        command.args(self.settings.iter().flat_map(|setting| ["-c", setting])).args(self.further).args(mode);
        process::start(Server::Postgres, &mut command, self.run, |pid| self.is_in(state, pid))
    }

    /// Makes or removes the file with which the server starts as a standby.
    fn set_standby(&self, is_standby: bool) -> Result<(), Error> {
        let file = self.run.data().join("standby.signal");
        let result = match is_standby {
            true => fs::write(&file, ""),
            false if file.exists() => fs::remove_file(&file),
            false => Ok(()),
        };
        result.map_err(Error::io("make or end a standby"))
    }

    fn init(&self) -> Result<(), Error> {
        let mut command = self.in_data_folder(Command::new(self.programs.join("initdb")));
        command.args(INIT.split(' '));
        let output = command.stdin(Stdio::null()).output().map_err(Error::io("run initdb"))?;
        if output.status.success() {
            return Ok(());
        }
        let output = process::tail(&String::from_utf8_lossy(&output.stderr));
        Err(Error::Failed { program: "initdb".to_owned(), output })
    }

    /// Returns `true` if the server with this process id is in `state`: it writes its id into the first line of the
    /// file, and its state into the eighth.
    fn is_in(&self, state: &str, pid: u32) -> bool {
        let text = fs::read_to_string(self.run.data().join("postmaster.pid")).unwrap_or_default();
        let line = |number: usize| text.lines().nth(number - 1).unwrap_or_default().trim();
        line(1) == pid.to_string() && line(8) == state
    }

    fn in_data_folder(&self, mut command: Command) -> Command {
        // the account may not be allowed to enter the folder we are in
        command.arg("-D").arg(self.run.data()).current_dir("/");
        if let Some(account) = self.account {
            account.run(&mut command);
        }
        command
    }
}
