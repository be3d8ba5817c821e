//! The folder of one running server, and the supervisor that ends both.
//!
//! - `clients/<pid>`: one empty file per process that uses the server; the supervisor removes those of dead processes
//! - `beat`: touched by the supervisor every second
//! - `port`: written before the server starts; the server alone has it in its command line, so the supervisor never
//!   signals a process that has got the id in a stale `server.pid`
//! - `ready`: the notice; holds the port, and exists only while processes may join the server
//! - `data/`, `log`: the data and the output of the server
//! - `data/server.pid`: the server's process id, written by its process before that executes the server's program
//!
//! Invariant: [`register`](RunFolder::register) precedes [`ready_port`](RunFolder::ready_port), and the supervisor
//! starts before any other process, so that a kill at any moment leaves no process or folder behind.

use std::{
    fs, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    time::{Duration, SystemTime},
};

use super::workspace;
use crate::{error::Error, name};

/// A supervisor that has not touched `beat` for this long is gone.
const SILENCE: Duration = Duration::from_secs(15);

/// The folder of one server.
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Makes a folder in `parent` with this process as its first client, and starts its supervisor, which ends the
    /// server once it had no client for `grace`.
    pub(crate) fn create(parent: &Path, key: &str, grace: Duration) -> Result<(Self, Child), Error> {
        let run = Self { path: workspace::make(parent.join(name::unique(&format!("run_{key}"))))? };
        fs::create_dir(run.path.join("clients")).map_err(Error::io("make a server's folder"))?;
        fs::create_dir(run.data()).map_err(Error::io("make a server's data folder"))?;
        run.write("beat", "")?;
        run.register()?;
        let supervisor = run.supervise(grace)?;
        Ok((run, supervisor))
    }

    /// Names a folder that may or may not exist.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Returns all folders in `parent`.
    pub(crate) fn all_in(parent: &Path) -> Result<Vec<Self>, Error> {
        let entries = fs::read_dir(parent).map_err(Error::io(format!("list {}", parent.display())))?;
        let folders = entries.flatten().filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"run_"));
        Ok(folders.map(|entry| Self::at(entry.path())).collect())
    }

    /// Starts the supervisor.
    pub(crate) fn supervise(&self, grace: Duration) -> Result<Child, Error> {
        let mut command = Command::new("sh");
        command.args(["-c", include_str!("supervisor.sh"), "eventbus-test-supervisor"]);
        command.arg(&self.path).arg(grace.as_secs().to_string()).current_dir("/");
        // its own process group and no pipes: Ctrl-C must not end it, and a test runner must not wait for its pipes
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        command.spawn().map_err(Error::io("start the supervisor (sh)"))
    }

    /// Returns `true` if the supervisor touched its file recently.
    pub(crate) fn is_supervised(&self) -> bool {
        let touched = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
        let beat = touched(&self.path.join("beat")).or_else(|_| touched(&self.path));
        // a time in the future means that the clock was set back: the file counts as fresh
        beat.is_ok_and(|beat| SystemTime::now().duration_since(beat).unwrap_or_default() < SILENCE)
    }

    /// Registers this process as a client.
    pub(crate) fn register(&self) -> Result<(), Error> {
        self.write(&client_file(), "")
    }

    /// Removes this process from the clients.
    pub(crate) fn unregister(&self) {
        // it may be gone already
        let _ = fs::remove_file(self.path.join(client_file()));
    }

    /// Writes down the port on which the server is about to start.
    pub(crate) fn note_port(&self, port: u16) -> Result<(), Error> {
        self.write("port", &format!("{port}\n"))
    }

    /// Writes the notice: processes may join the server on `port`.
    pub(crate) fn announce(&self, port: u16) -> Result<(), Error> {
        self.write("ready.new", &format!("{port}\n"))?;
        let (new, ready) = (self.path.join("ready.new"), self.path.join("ready"));
        fs::rename(new, ready).map_err(Error::io("announce a server"))
    }

    /// Returns the port in the notice, if there is a notice.
    pub(crate) fn ready_port(&self) -> Option<u16> {
        fs::read_to_string(self.path.join("ready")).ok()?.trim().parse().ok()
    }

    /// The last component of the path.
    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The server's data.
    pub(crate) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// The file with the server's process id.
    pub(crate) fn pid_file(&self) -> PathBuf {
        self.data().join("server.pid")
    }

    /// Removes the process id of an ended server, so that the supervisor never signals a later process with that id.
    pub(crate) fn forget_pid(&self) -> Result<(), Error> {
        match fs::remove_file(self.pid_file()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(Error::io("remove a process id")),
        }
    }

    /// Returns a command that becomes the server `program`; the caller adds the arguments.
    ///
    /// It first writes its process id, and ends instead if the supervisor has begun to remove the folder: see
    /// `supervisor.sh`.
    pub(crate) fn server_command(&self, program: &Path) -> Command {
        let script = r#"echo $$ >"$0/data/server.pid" && [ -d "$0/clients" ] && exec "$@""#;
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(&self.path).arg(program);
        command
    }

    /// Returns the path of the server's output.
    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Copies the server's output to a path at which it stays when the folder is removed, and returns that path. If the
    /// copy fails, for example on a full disk, returns the path of the output itself: the test shows the end of the log
    /// either way.
    pub(crate) fn keep_log(&self, key: &str) -> PathBuf {
        let kept = self.path.with_file_name(format!("{key}.failed.log"));
        match fs::copy(self.log(), &kept) {
            Ok(_) => kept,
            Err(_) => self.log(),
        }
    }

    /// Removes the folder; its supervisor then ends by itself.
    pub(crate) fn remove(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.path)
    }

    fn write(&self, file: &str, text: &str) -> Result<(), Error> {
        let path = self.path.join(file);
        fs::write(&path, text).map_err(Error::io(format!("write {}", path.display())))
    }
}

fn client_file() -> String {
    format!("clients/{}", process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_cannot_be_copied_is_named_where_it_is() {
        let parent = std::env::temp_dir().join(name::unique("logs"));
        let run = RunFolder::at(parent.join("run_redis_x"));
        fs::create_dir_all(run.path.join("clients")).unwrap();
        fs::write(run.log(), "the cause\n").unwrap();
        let kept = run.keep_log("redis");
        assert_eq!(fs::read_to_string(&kept).unwrap(), "the cause\n");
        assert_eq!(kept, parent.join("redis.failed.log"));
        fs::remove_file(&kept).unwrap();
        // a folder in the way of the copy
        fs::create_dir(&kept).unwrap();
        assert_eq!(run.keep_log("redis"), run.log());
        fs::remove_dir_all(parent).unwrap();
    }
}
