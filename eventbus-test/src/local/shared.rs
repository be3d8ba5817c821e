//! The server that all tests of a workspace share: a process joins it, or starts it.

use std::{
    env, fs,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::Child,
    time::Duration,
};

use super::{binaries, postgres::PostgresServer, redis::RedisServer, run_folder::RunFolder, workspace};
use crate::{error::Error, port::Reservation, server::Server};

/// Time without clients after which the server stops: longer than the pause between two test binaries.
const GRACE: Duration = Duration::from_secs(5);
const GRACE_VARIABLE: &str = "TEST_SERVERS_GRACE_SECONDS";

/// Number of starts, in case a different process takes the port first.
const MAX_STARTS: u32 = 3;

/// Returns the URL of the workspace's server, which stays up at least as long as this process.
pub(crate) fn url(server: Server) -> Result<String, Error> {
    let workspace = workspace::folder()?;
    let port = match join(&workspace, server) {
        Some(port) => port,
        None => join_or_start(&workspace, server)?,
    };
    Ok(server.url_on(port))
}

fn join_or_start(workspace: &Path, server: Server) -> Result<u16, Error> {
    let _lock = workspace::lock(&workspace.join(format!("{}.lock", server.key())))?;
    match join(workspace, server) {
        Some(port) => Ok(port),
        None => start(workspace, server),
    }
}

fn join(workspace: &Path, server: Server) -> Option<u16> {
    let current = fs::read_to_string(current(workspace, server)).ok()?;
    let run = RunFolder::at(workspace.join(current));
    run.register().ok()?;
    let port = run.ready_port().filter(|port| run.is_supervised() && accepts(*port));
    if port.is_none() {
        run.unregister();
    }
    port
}

fn accepts(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn start(workspace: &Path, server: Server) -> Result<u16, Error> {
    let programs = binaries::find(server)?;
    supervise_abandoned(workspace)?;
    // the supervisor outlives this process, which does not wait for it
    let (run, _supervisor) = RunFolder::create(workspace, server.key(), grace())?;
    let started = match server {
        Server::Postgres => {
            PostgresServer::prepare(&programs, &run).and_then(|postgres| on_free_port(|p| postgres.start(p)))
        }
        Server::Redis => on_free_port(|port| RedisServer::new(&programs, &run).start(port)),
    };
    let announced = started.and_then(|port| announce(workspace, server, &run, port).map(|()| port));
    if announced.is_err() {
        // if this fails, the supervisor does it once this process has ended
        run.unregister();
    }
    announced
}

fn on_free_port(start: impl Fn(u16) -> Result<Child, Error>) -> Result<u16, Error> {
    let mut tried = 0;
    loop {
        let reservation = Reservation::new()?;
        tried += 1;
        match start(reservation.port()) {
            Ok(_server) => return Ok(reservation.port()),
            Err(error) if tried == MAX_STARTS => return Err(error),
            Err(_) => {}
        }
    }
}

fn announce(workspace: &Path, server: Server, run: &RunFolder, port: u16) -> Result<(), Error> {
    run.announce(port)?;
    let new = workspace.join(format!("{}.new", server.key()));
    let written = fs::write(&new, run.name()).and_then(|()| fs::rename(&new, current(workspace, server)));
    written.map_err(Error::io("name the current server"))
}

fn current(workspace: &Path, server: Server) -> PathBuf {
    workspace.join(format!("{}.current", server.key()))
}

fn grace() -> Duration {
    let seconds = env::var(GRACE_VARIABLE).ok().and_then(|text| text.parse().ok());
    seconds.map_or(GRACE, |seconds: u64| Duration::from_secs(seconds.max(1)))
}

/// Starts a new supervisor for each folder whose supervisor is gone (a reboot, a killed container); it removes the
/// folder.
fn supervise_abandoned(workspace: &Path) -> Result<(), Error> {
    for run in RunFolder::all_in(workspace)?.iter().filter(|run| !run.is_supervised()) {
        run.supervise(grace())?;
    }
    Ok(())
}
