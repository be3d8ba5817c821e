//! Client processes of a test: this test binary again, with an environment of its own.
//!
//! A test file that uses this declares the test `client_process`, which calls [`serve`].

#![allow(dead_code)] // each test file uses its part
#![allow(clippy::unwrap_used, clippy::print_stdout)] // as in any test

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const ASK: &str = "TEST_SERVERS_ASK";

/// An empty temp folder, removed when dropped: processes with it as TMPDIR share servers only with each other.
pub(crate) struct TempFolder(pub(crate) PathBuf);

impl TempFolder {
    pub(crate) fn new() -> Self {
        let folder = env::temp_dir().join(eventbus_test::unique_name("eventbus_test"));
        fs::create_dir(&folder).unwrap();
        // PostgreSQL does not run as root, and must be able to walk through
        fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Self(folder)
    }

    /// Makes a folder in it.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let folder = self.0.join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// The folders of servers that run, start or stop.
    pub(crate) fn run_folders(&self) -> Vec<PathBuf> {
        let users = children(&self.0);
        let workspaces = users.iter().flat_map(|user| children(user));
        let runs = workspaces.flat_map(|workspace| children(&workspace));
        runs.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("run_")).collect()
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        let removed = wait_until(|| self.run_folders().is_empty()) && fs::remove_dir_all(&self.0).is_ok();
        assert!(removed || thread::panicking(), "servers are left in {}", self.0.display());
    }
}

fn children(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// A process that asks for servers and stays until the test ends or kills it.
pub(crate) struct Client {
    pub(crate) process: Child,
    pub(crate) answers: Vec<String>,
}

impl Client {
    /// Starts a process that asks for `what` (see [`serve`]), and waits for the answers.
    pub(crate) fn ask(temp: &TempFolder, what: &[&str]) -> Self {
        let mut client = Self::spawn(command(temp, what));
        client.read_answers(what.len());
        client
    }

    /// Starts a process without waiting for its answers.
    pub(crate) fn spawn(mut command: Command) -> Self {
        Self { process: command.spawn().unwrap(), answers: Vec::new() }
    }

    pub(crate) fn read_answers(&mut self, count: usize) {
        let lines = BufReader::new(self.process.stdout.as_mut().unwrap()).lines().map_while(Result::ok);
        self.answers = lines.filter_map(|l| l.strip_prefix("answer ").map(str::to_owned)).take(count).collect();
        assert_eq!(self.answers.len(), count, "the client got no server");
    }

    pub(crate) fn port(&self, answer: usize) -> u16 {
        let authority = self.answers[answer].split("127.0.0.1:").nth(1).unwrap();
        authority.split('/').next().unwrap().parse().unwrap()
    }

    /// Kills it without reaping it, which leaves a zombie.
    pub(crate) fn kill(&self) {
        kill("KILL", &self.process.id().to_string());
    }

    /// Lets it end by itself.
    pub(crate) fn leave(mut self) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A client process in a group of its own, with no variable that names servers.
pub(crate) fn command(temp: &TempFolder, what: &[&str]) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["client_process", "--exact", "--ignored", "--nocapture"]);
    command.env("TMPDIR", &temp.0).env(ASK, what.join(",")).env("TEST_SERVERS_GRACE_SECONDS", "1");
    command.env_remove("DATABASE_URL").env_remove("REDIS_URL").process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// The role of the client process: asks, answers, stays until its input ends.
pub(crate) fn serve() {
    let Ok(what) = env::var(ASK) else { return };
    let mut private = Vec::new();
    for what in what.split(',') {
        let url = match what {
            "postgres" => eventbus_test::postgres_url().to_owned(),
            "redis" => eventbus_test::redis_url().to_owned(),
            "database" => eventbus_test::database_url_for("other"),
            "name" => eventbus_test::unique_name("name"),
            _ => {
                private.push(eventbus_test::private_redis());
                if what == "paused" {
                    private.last().unwrap().pause();
                }
                private.last().unwrap().url().to_owned()
            }
        };
        println!("\nanswer {url}");
    }
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

pub(crate) fn kill(signal: &str, target: &str) {
    let script = format!("kill -{signal} {target}");
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success(), "{script}");
}

pub(crate) fn accepts(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Polls until `condition` holds; returns `false` if it does not before the deadline.
pub(crate) fn wait_until(condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(90);
    while Instant::now() < deadline {
        if condition() {
            return true;
        }
        thread::sleep(Duration::from_millis(50));
    }
    false
}
