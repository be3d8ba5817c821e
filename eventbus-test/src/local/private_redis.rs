//! The Redis server of one test.
//!
//! Invariant: `stop` removes the file with the process id, so that the supervisor never signals a later process with
//! that id.

use std::{fs, io, path::PathBuf, process::Child, time::Duration};

use super::{
    binaries, process,
    redis::{RedisServer, answers},
    run_folder::RunFolder,
    workspace,
};
use crate::{
    error::{Error, expect},
    port::Reservation,
    server::Server,
};

/// Time without its client after which the supervisor ends the server; the client never comes back.
const GRACE: Duration = Duration::from_secs(1);

/// The server logs this if it found its file cut off.
const WAS_CUT: &str = "Truncating the AOF";

/// Keys that take minutes to load, at 50 ms each; after each key the server answers clients.
const FILL: &str = "for n = 1, 5000 do redis.call('SET', 'filler:' .. n, string.rep('x', 1100)) end";
const LOAD_SLOWLY: [&str; 4] = ["--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024"];

/// A Redis server that one test may kill, pause and empty; dropping this value ends the server.
///
/// The port stays until the drop, also while the server is stopped. If the test process is killed, a supervisor ends
/// the server some seconds later. A method that fails panics with the reason.
#[derive(Debug)]
pub struct PrivateRedis {
    program: PathBuf,
    arguments: Vec<String>,
    run: RunFolder,
    supervisor: Child,
    server: Option<Child>,
    reservation: Reservation,
    url: String,
}

impl PrivateRedis {
    pub(crate) fn launch_with(arguments: &[&str]) -> Result<Self, Error> {
        let program = binaries::find(Server::Redis)?;
        let reservation = Reservation::new()?;
        let (run, supervisor) = RunFolder::create(&workspace::folder()?, "private_redis", GRACE)?;
        let url = Server::Redis.url_on(reservation.port());
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let mut redis = Self { program, arguments, run, supervisor, server: None, reservation, url };
        redis.spawn()?;
        Ok(redis)
    }

    /// Returns the URL, `redis://127.0.0.1:<port>`; it never changes.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the port; it never changes.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.reservation.port()
    }

    /// Kills the server (SIGKILL) and waits until it has ended; returns at once if it is stopped already.
    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            process::end(&mut server);
        }
        expect(self.run.forget_pid());
    }

    /// Starts a stopped server on the same port and waits until it answers; returns at once if it runs.
    ///
    /// It has all data that it acknowledged before [`stop`](Self::stop).
    pub fn start(&mut self) {
        if !self.is_running() {
            expect(self.spawn());
        }
    }

    /// Starts a server without data on the same port and waits until it answers; stops it first if it runs.
    pub fn start_empty(&mut self) {
        self.stop();
        let data = self.run.data();
        let emptied = absent_is_fine(fs::remove_dir_all(&data)).and_then(|()| fs::create_dir(&data));
        expect(emptied.map_err(Error::io("empty a private Redis")));
        expect(self.spawn());
    }

    /// Kills the server and starts it with so much data to load that it answers every command with `LOADING` until
    /// [`finish_loading`](Self::finish_loading). Returns once the server answers so.
    ///
    /// It has all data that it acknowledged before, and 5,000 keys `filler:<n>`.
    ///
    /// # Panics
    /// If the server is stopped.
    pub fn restart_loading(&mut self) {
        expect(self.fill());
        self.stop();
        let slowly = LOAD_SLOWLY.map(str::to_owned);
        let arguments = [self.arguments.as_slice(), &slowly].concat();
        self.server =
            Some(expect(RedisServer::durable(&self.program, &self.run, &arguments).start_loading(self.port())));
    }

    /// Lets a server load the rest of its data at once, and waits until it takes commands.
    ///
    /// # Panics
    /// If the server is stopped.
    pub fn finish_loading(&mut self) {
        expect(self.run_commands(&[&["CONFIG", "SET", "key-load-delay", "0"]]));
        assert!(process::wait_until(|| answers(self.port(), b"+PONG\r\n")), "Redis did not load its data");
        expect(self.remove_cut_transaction());
    }

    /// Adds keys and makes the server write all data in the form whose loading can be slowed down.
    fn fill(&self) -> Result<(), Error> {
        self.run_commands(&[&["CONFIG", "SET", "rdbcompression", "no"], &["EVAL", FILL, "0"]])?;
        self.rewrite_file()
    }

    /// Removes the part of a transaction that a kill in the middle of a write has left in the file. The server does not
    /// run that part, but keeps its complete commands in the file: after the next restart it would run them together
    /// with those of the next transaction.
    fn remove_cut_transaction(&self) -> Result<(), Error> {
        let log = fs::read_to_string(self.run.log()).map_err(Error::io("read the output of a private Redis"))?;
        if log.contains(WAS_CUT) { self.rewrite_file() } else { Ok(()) }
    }

    /// Makes the server rewrite its file, and waits until the new file is there.
    fn rewrite_file(&self) -> Result<(), Error> {
        self.run_commands(&[&["BGREWRITEAOF"]])?;
        let is_written = || {
            let info: ::redis::RedisResult<String> =
                self.connect().and_then(|mut server| ::redis::cmd("INFO").arg("persistence").query(&mut server));
            let lines = ["aof_rewrite_in_progress:0", "aof_rewrite_scheduled:0", "aof_last_bgrewrite_status:ok"];
            info.is_ok_and(|info| lines.iter().all(|line| info.contains(line)))
        };
        assert!(process::wait_until(is_written), "Redis did not write its data anew");
        Ok(())
    }

    fn run_commands(&self, commands: &[&[&str]]) -> Result<(), Error> {
        let run = |command: &[&str]| {
            ::redis::cmd(command[0]).arg(&command[1..]).query::<::redis::Value>(&mut self.connect()?).map(drop)
        };
        let failed = |error: ::redis::RedisError| Error::Failed { program: "redis".into(), output: error.to_string() };
        commands.iter().try_for_each(|command| run(command)).map_err(failed)
    }

    fn connect(&self) -> ::redis::RedisResult<::redis::Connection> {
        ::redis::Client::open(self.url())?.get_connection()
    }

    /// Suspends the server (SIGSTOP) and waits until it is suspended: connections stay open, and no request is
    /// answered.
    ///
    /// # Panics
    /// If the server is stopped.
    pub fn pause(&self) {
        self.signal("STOP");
        assert!(process::wait_until(|| process::is_paused(self.running())), "Redis did not pause");
    }

    /// Resumes a paused server (SIGCONT).
    ///
    /// # Panics
    /// If the server is stopped.
    pub fn resume(&self) {
        self.signal("CONT");
        assert!(process::wait_until(|| !process::is_paused(self.running())), "Redis did not resume");
    }

    fn spawn(&mut self) -> Result<(), Error> {
        self.server = Some(RedisServer::durable(&self.program, &self.run, &self.arguments).start(self.port())?);
        self.remove_cut_transaction()
    }

    fn is_running(&mut self) -> bool {
        self.server.as_mut().is_some_and(|server| !process::has_ended(server))
    }

    fn running(&self) -> &Child {
        self.server.as_ref().expect("a stopped Redis can be neither paused nor resumed")
    }

    fn signal(&self, signal: &str) {
        expect(process::signal(self.running(), signal));
    }
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            process::end(server);
        }
        // the supervisor ends last: it does what failed here
        if self.run.remove().is_ok() {
            process::end(&mut self.supervisor);
        }
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    /// A kill cuts a write only by chance, so the test cuts the file itself.
    #[test]
    fn nothing_is_left_of_a_transaction_that_a_kill_has_cut() {
        let mut redis = PrivateRedis::launch_with(&[]).unwrap();
        let transaction: &[&[&str]] = &[&["EVAL", "redis.call('INCR', 'a') redis.call('INCR', 'b')", "0"]];
        redis.run_commands(transaction).unwrap();
        redis.stop();
        let mut files = fs::read_dir(redis.run.data().join("appendonlydir")).unwrap().map(|file| file.unwrap().path());
        let file = files.find(|path| path.to_string_lossy().ends_with(".incr.aof")).unwrap();
        let file = OpenOptions::new().write(true).open(file).unwrap();
        let without_exec = file.metadata().unwrap().len() - "*1\r\n$4\r\nEXEC\r\n".len() as u64;
        file.set_len(without_exec - 1).unwrap();

        redis.start();
        redis.run_commands(transaction).unwrap();
        redis.stop();
        redis.start();
        let both: (u64, u64) = ::redis::cmd("MGET").arg(&["a", "b"]).query(&mut redis.connect().unwrap()).unwrap();
        assert_eq!(both, (1, 1));
    }
}
