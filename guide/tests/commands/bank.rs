//! The servers and files on which a chapter's commands run: a bank after its first day, whose processes have ended.

use std::{
    os::unix::fs::symlink,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use eventbus::{app::SettleError, prelude::*};
use eventbus_test::{Postgres, Redis};
use eventstore_sqlite::SqliteEventStore;
use guide::bank::{Account, Deposited};
use serde_json::Value;
use tempfile::TempDir;

/// The binary that is the bank, and under another name the command.
const BINARY: &str = env!("CARGO_BIN_EXE_bank");

/// The handler of the chapter on handlers, on SQLite.
#[handler(group = "mail", retries = 2, manual)]
async fn thank(event: &Deposited) -> Result<(), String> {
    match event.cents {
        ..=1_000 => Ok(()),
        cents => Err(format!("the form has no room for {cents} cents")),
    }
}

/// A bank after its first day.
pub(crate) struct Bank {
    folder: TempDir,
    database: Postgres,
    /// Empty databases, for copies.
    others: [Postgres; 2],
    redis: Redis,
}

/// What one run of a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Bank {
    /// Spends the day; a deposit of it is a dead letter.
    pub(crate) fn after_a_day() -> Self {
        let (folder, database, redis) =
            (tempfile::tempdir().unwrap(), eventbus_test::postgres(), eventbus_test::redis());
        let others = [eventbus_test::postgres(), eventbus_test::postgres()];
        std::fs::create_dir(folder.path().join("bin")).unwrap();
        for name in ["bank", "eventbus"] {
            symlink(BINARY, folder.path().join("bin").join(name)).unwrap();
        }
        let bank = Self { folder, database, others, redis };
        let day = bank.bank_with(&[], &[("BANK_DAY", "1")]);
        assert_eq!(day.code, 0, "{day:?}");
        assert_eq!(day.out, "thank you, ada, for 120 cents\n");
        bank
    }

    /// Makes the file of the chapter on handlers.
    pub(crate) async fn add_file(&self) {
        let store = SqliteEventStore::open(self.path().join("bank.db")).await.unwrap();
        let app = App::builder().store(store).handler::<thank>().start().await.unwrap();
        let (accounts, ada) = (app.repository::<Account>(), "ada".parse().unwrap());
        accounts.create_with(&ada, "Ada".to_owned(), Account::open).await.unwrap();
        accounts.update_with(&ada, 5_000, Account::deposit).await.unwrap();
        assert!(matches!(app.settled().await, Err(SettleError::DeadLetters { dead: 1, .. })));
        app.shutdown(Duration::from_secs(60)).await.unwrap();
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn database_url(&self) -> &str {
        self.database.url()
    }

    /// Runs the binary of the application, which has its own store and bus.
    pub(crate) fn bank(&self, arguments: &[&str]) -> Ran {
        self.run(Command::new(self.path().join("bin/bank")).args(arguments))
    }

    /// Runs the binary of the application, with variables of the environment.
    pub(crate) fn bank_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
        self.run(Command::new(self.path().join("bin/bank")).args(arguments).envs(variables.iter().copied()))
    }

    /// Starts the binary of the application; the test reads what it shows.
    pub(crate) fn start_read(&self, arguments: &[&str]) -> Child {
        let mut command = Command::new(self.path().join("bin/bank"));
        self.in_environment(command.args(arguments)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Starts the binary of the application, and shows nothing.
    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        let mut command = Command::new(self.path().join("bin/bank"));
        self.in_environment(command.args(arguments)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Runs the command `eventbus`, with the servers in its environment.
    pub(crate) fn eventbus(&self, arguments: &[&str]) -> Ran {
        self.run(self.with_servers(&mut Command::new(self.path().join("bin/eventbus"))).args(arguments))
    }

    /// Runs a line as a shell does, and returns all that it shows, with the names that the guide has for the servers.
    pub(crate) fn shell(&self, line: &str) -> String {
        let mut shell = Command::new("sh");
        let line = &line.replace("redis:bank:stream", &format!("redis:{}:stream", self.redis.prefix()));
        let event = self.dead_event();
        let path = format!("{}:{}", self.path().join("bin").display(), std::env::var("PATH").unwrap_or_default());
        shell.args(["-c", &format!("{line} 2>&1")]).env("PATH", path).env("EVENT", event);
        shell.envs([("NEW", self.others[0].url()), ("OTHER", self.others[1].url())]);
        // the binary of the application has its own store and bus, and a file the bus in the process
        let has_own = line.contains("bank ") || line.contains("sqlite:");
        let ran = self.run(if has_own { &mut shell } else { self.with_servers(&mut shell) });
        self.as_in_the_guide(&ran.out)
    }

    /// Returns the id of the deposit that is a dead letter.
    fn dead_event(&self) -> String {
        let shown = self.eventbus(&["streams", "show", "Account", "ada", "--json"]);
        let events: Vec<Value> = shown.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let deposit = events.iter().find(|event| event["event"]["fields"]["cents"] == 5_000);
        deposit.unwrap_or_else(|| panic!("{shown:?}"))["event"]["event_id"].as_str().unwrap().to_owned()
    }

    /// Returns the variables that name the bus.
    pub(crate) fn bus_variables(&self) -> [(&str, &str); 2] {
        [("EVENTBUS_BUS", self.redis.url()), ("EVENTBUS_STREAM_PREFIX", self.redis.prefix())]
    }

    fn with_servers<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.env("EVENTBUS_STORE", self.database.url()).envs(self.bus_variables())
    }

    /// Sets what the application reads from its environment.
    fn in_environment<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command
            .stdin(Stdio::null())
            .current_dir(self.path())
            .env("DATABASE_URL", self.database.url())
            .env("REDIS_URL", self.redis.url())
            .env("STREAM_PREFIX", self.redis.prefix())
    }

    fn run(&self, command: &mut Command) -> Ran {
        let Output { status, stdout, stderr } = self.in_environment(command).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { code: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) }
    }

    /// Replaces the names and addresses of this test's servers by those that the guide has.
    fn as_in_the_guide(&self, text: &str) -> String {
        let mut shown = renamed(text, self.redis.prefix(), "bank");
        for (url, address, name) in [
            (self.database.url(), "db", "bank"),
            (self.others[0].url(), "db", "new"),
            (self.others[1].url(), "db", "other"),
            (self.redis.url(), "cache", ""),
        ] {
            let (server, path) = address_of(url);
            if !path.is_empty() && !name.is_empty() {
                shown = renamed(&shown, path, name);
            }
            shown = renamed(&shown, server, address);
        }
        shown
    }
}

/// Replaces a name in each line. The columns of a table stay below each other: the next gap is as much wider as the name is
/// shorter.
fn renamed(text: &str, from: &str, to: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let mut rest = line;
        while let Some((before, after)) = rest.split_once(from) {
            shown.push_str(before);
            shown.push_str(to);
            let cell_end = after.find("  ").filter(|end| !after[..*end].contains(from));
            rest = after;
            if let Some(end) = cell_end {
                shown.push_str(&after[..end]);
                shown.push_str(&" ".repeat(from.len().saturating_sub(to.len())));
                rest = &after[end..];
            }
        }
        shown.push_str(rest);
    }
    shown
}

/// Returns host and port of a URL, and its path.
fn address_of(url: &str) -> (&str, &str) {
    let rest = url.split("://").nth(1).unwrap_or(url);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    let (server, path) = rest.split_once('/').unwrap_or((rest, ""));
    (server, path.split('?').next().unwrap_or_default())
}
