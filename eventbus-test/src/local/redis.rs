//! A Redis (or Valkey) server for tests.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::Path,
    process::Child,
    time::Duration,
};

use super::{process, run_folder::RunFolder};
use crate::{error::Error, server::Server};

/// Every write reaches the file before its reply is sent, and the file outlives the process; the server does not sync.
const DURABLE: [&str; 6] = ["--appendonly", "yes", "--appendfsync", "no", "--auto-aof-rewrite-percentage", "0"];
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// A server that can be started.
#[derive(Debug)]
pub(crate) struct RedisServer<'a> {
    program: &'a Path,
    run: &'a RunFolder,
    arguments: &'static [&'static str],
    further: &'a [String],
}

impl<'a> RedisServer<'a> {
    /// Describes a server that keeps its data in memory only.
    pub(crate) fn new(program: &'a Path, run: &'a RunFolder) -> Self {
        Self { program, run, arguments: &[], further: &[] }
    }

    /// Describes a server that keeps its data when it is killed and started again.
    pub(crate) fn durable(program: &'a Path, run: &'a RunFolder, further: &'a [String]) -> Self {
        Self { program, run, arguments: &DURABLE, further }
    }

    /// Starts the server and waits until it answers.
    pub(crate) fn start(&self, port: u16) -> Result<Child, Error> {
        self.start_until(port, b"+PONG\r\n")
    }

    /// Starts the server and waits until it answers that it loads its data.
    pub(crate) fn start_loading(&self, port: u16) -> Result<Child, Error> {
        self.start_until(port, b"-LOADIN")
    }

    /// Starts the server and waits until its answer to a `PING` begins with `answer`.
    fn start_until(&self, port: u16, answer: &[u8; 7]) -> Result<Child, Error> {
        self.run.note_port(port)?;
        let mut command = self.run.server_command(self.program);
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]);
        command.args(self.arguments).arg("--dir").arg(self.run.data()).args(self.further);
        process::start(Server::Redis, &mut command, self.run, |_| answers(port, answer))
    }
}

/// Returns `true` if the server's answer to a `PING` begins with `expected`; while the server loads its data it accepts
/// connections, but answers with an error.
pub(crate) fn answers(port: u16, expected: &[u8; 7]) -> bool {
    let ping = || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 7];
        stream.read_exact(&mut answer).map(|()| answer)
    };
    ping().is_ok_and(|answer| answer == *expected)
}
