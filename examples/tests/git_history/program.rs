//! The example as a program, and git repositories for it: in temporary folders, independent of the user's git settings.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

/// The only settings of git: none of the user's, and checkouts of a different owner are trusted.
const SETTINGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/git_history/gitconfig");

/// A folder that is removed at the end.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("git-history-{}-{number}", std::process::id());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A git repository.
#[derive(Debug)]
pub struct Repo {
    pub path: PathBuf,
    folder: Folder,
}

impl Repo {
    /// An empty one, with a branch `main` to come.
    pub fn new() -> Self {
        let repo = Self::at(|_| {});
        repo.git(&["init", "--quiet", "--initial-branch=main"]);
        repo
    }

    /// A clone of `origin`, made by `git clone`.
    pub fn clone_of(origin: &Path, options: &[&str]) -> Self {
        let url = format!("file://{}", origin.display());
        Self::at(|path| {
            let mut clone = git(Path::new("."));
            clone.args(["clone", "--quiet"]).args(options).arg(url).arg(path);
            assert!(clone.status().unwrap().success(), "git clone {options:?}");
        })
    }

    fn at(make: impl FnOnce(&Path)) -> Self {
        let folder = Folder::new();
        let path = folder.join("repo");
        make(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self { path, folder }
    }

    /// A file beside the repository.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn git(&self, arguments: &[&str]) -> String {
        self.git_with(arguments, b"")
    }

    /// The output of git for `input`, without the line end.
    pub fn git_with(&self, arguments: &[&str], input: &[u8]) -> String {
        let mut child = git(&self.path).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "git {arguments:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Commits one file by the ordinary commands.
    pub fn commit(&self, path: &str, content: &str) {
        std::fs::write(self.path.join(path), content).unwrap();
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "-m", path]);
    }

    /// Runs the example to its end, into a store beside the repository.
    pub fn import(&self, store: &str, options: &[&str]) -> Run {
        Run::of(self.importing(store, options).output().unwrap())
    }

    pub fn importing(&self, store: &str, options: &[&str]) -> Command {
        let mut command = example();
        command.arg(&self.path).arg("--store").arg(self.beside(store));
        command.args(["--top", "1000000"]).args(options);
        command
    }

    /// Starts the example, and waits until it reports the first progress of its import.
    pub fn import_until_busy(&self, store: &str) -> Busy {
        let mut command = self.importing(store, &[]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        while !said.lines().any(|line| line.starts_with("importing:")) {
            let more = output.read_line(&mut said).unwrap();
            assert!(more > 0, "it ended before it could be stopped:\n{said}");
        }
        Busy { child, output, said }
    }
}

/// The example in the middle of its work.
#[derive(Debug)]
pub struct Busy {
    pub child: Child,
    output: BufReader<std::process::ChildStdout>,
    said: String,
}

impl Busy {
    /// Waits for its end.
    pub fn end(mut self) -> Run {
        let mut stdout = self.said.into_bytes();
        std::io::Read::read_to_end(&mut self.output, &mut stdout).unwrap();
        let output = self.child.wait_with_output().unwrap();
        Run::of(Output { stdout, ..output })
    }
}

/// The output of the example.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Fails the test unless the example succeeded and compared its projections.
    pub fn succeeded(self) -> Self {
        let same = self.stdout.matches("same as live").count();
        assert!(self.code == Some(0) && same == 2, "{self:#?}");
        self
    }

    /// The reported numbers of imported commits and events.
    pub fn imported(&self) -> (u64, u64) {
        let line = self.stdout.lines().find(|line| line.starts_with("imported "));
        let numbers: Vec<u64> =
            line.unwrap_or_else(|| panic!("{self:#?}")).split(' ').filter_map(|word| word.parse().ok()).collect();
        (numbers[0], numbers[1])
    }

    /// The reported number of commits imported before.
    pub fn found(&self) -> u64 {
        let mut lines = self.stdout.lines();
        let line = lines.find(|line| line.contains("were imported before"));
        let number = line.and_then(|line| line.split(' ').next()?.parse().ok());
        number.unwrap_or(0)
    }

    /// The lines of both tables, sorted, blanks collapsed.
    pub fn tables(&self) -> Vec<String> {
        let (_, tables) = self.stdout.split_once("\nAuthors (").unwrap();
        let (tables, _) = tables.split_once("\nauthors: rebuilt").unwrap();
        let numbers = |line: &&str| {
            let words = line.split_whitespace().take(2);
            words.filter(|word| word.parse::<u64>().is_ok()).count() == 2
        };
        let mut lines: Vec<_> =
            tables.lines().filter(numbers).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        lines.sort();
        lines
    }
}

/// The example, with no arguments yet.
pub fn example() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_git-history"));
    command.stdin(Stdio::null());
    isolated(command)
}

fn git(path: &Path) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(path);
    isolated(command)
}

fn isolated(mut command: Command) -> Command {
    let repository = ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"];
    for variable in repository {
        command.env_remove(variable);
    }
    command.env("GIT_CONFIG_GLOBAL", SETTINGS).env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0");
    for role in ["AUTHOR", "COMMITTER"] {
        command
            .env(format!("GIT_{role}_NAME"), "Ada")
            .env(format!("GIT_{role}_EMAIL"), "ada@example.org")
            .env(format!("GIT_{role}_DATE"), "2024-02-29T12:00:00Z");
    }
    command
}

/// Returns `true` if git is installed; prints a reason if it is not.
pub fn git_is_installed() -> bool {
    let there = Command::new("git").arg("--version").output().is_ok();
    if !there {
        println!("not run: git is not installed");
    }
    there
}
