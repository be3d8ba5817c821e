//! The server that all tests of a checkout share: a process joins it, or starts it.

use std::{
    env, fs,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::Child,
    time::Duration,
};

use super::{binaries, checkout, postgres::Postgres, redis::Redis, run_folder::RunFolder};
use crate::{error::Error, port::Reservation, server::Server};

/// Time without clients after which the server stops: longer than the pause between two test binaries.
const GRACE: Duration = Duration::from_secs(5);
const GRACE_VARIABLE: &str = "TEST_SERVERS_GRACE_SECONDS";

/// Number of starts, in case a different process takes the port first.
const TRIES: u32 = 3;

/// Returns the URL of the checkout's server, which stays up at least as long as this process.
pub(crate) fn url(server: Server) -> Result<String, Error> {
    let checkout = checkout::folder()?;
    let port = match join(&checkout, server) {
        Some(port) => port,
        None => join_or_start(&checkout, server)?,
    };
    Ok(server.url_on(port))
}

fn join_or_start(checkout: &Path, server: Server) -> Result<u16, Error> {
    let _lock = checkout::lock(&checkout.join(format!("{}.lock", server.key())))?;
    match join(checkout, server) {
        Some(port) => Ok(port),
        None => start(checkout, server),
    }
}

fn join(checkout: &Path, server: Server) -> Option<u16> {
    let current = fs::read_to_string(current(checkout, server)).ok()?;
    let run = RunFolder::at(checkout.join(current));
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

fn start(checkout: &Path, server: Server) -> Result<u16, Error> {
    let programs = binaries::find(server)?;
    adopt_abandoned(checkout)?;
    // the supervisor outlives this process: it is not waited for
    let (run, _supervisor) = RunFolder::create(checkout, server.key(), grace())?;
    let started = match server {
        Server::Postgres => Postgres::prepare(&programs, &run).and_then(|postgres| on_free_port(|p| postgres.start(p))),
        Server::Redis => on_free_port(|port| Redis::new(&programs, &run).start(port)),
    };
    let announced = started.and_then(|port| announce(checkout, server, &run, port).map(|()| port));
    if announced.is_err() {
        // the supervisor does it if we cannot
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
            Err(error) if tried == TRIES => return Err(error),
            Err(_) => {}
        }
    }
}

fn announce(checkout: &Path, server: Server, run: &RunFolder, port: u16) -> Result<(), Error> {
    run.announce(port)?;
    let new = checkout.join(format!("{}.new", server.key()));
    let written = fs::write(&new, run.name()).and_then(|()| fs::rename(&new, current(checkout, server)));
    written.map_err(Error::io("name the current server"))
}

fn current(checkout: &Path, server: Server) -> PathBuf {
    checkout.join(format!("{}.current", server.key()))
}

fn grace() -> Duration {
    let seconds = env::var(GRACE_VARIABLE).ok().and_then(|text| text.parse().ok());
    seconds.map_or(GRACE, |seconds: u64| Duration::from_secs(seconds.max(1)))
}

/// Gives folders whose supervisor is gone (a reboot, a killed container) a new one, which clears them away.
fn adopt_abandoned(checkout: &Path) -> Result<(), Error> {
    for run in RunFolder::all_in(checkout)?.iter().filter(|run| !run.is_supervised()) {
        run.supervise(grace())?;
    }
    Ok(())
}
