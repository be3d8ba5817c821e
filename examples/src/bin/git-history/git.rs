//! Reads the repository with the `git` command line.
//!
//! Invariant: no output depends on the user's settings or environment; otherwise a second import could see a different
//! history.

use std::{
    collections::HashSet,
    io::{BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
    thread::JoinHandle,
};

/// The format of a commit before its changes: fields that end in NUL.
const HEADER: &str = "--format=tformat:%H%x00%P%x00%an%x00%ae%x00%ct%x00%s";

/// Variables that would direct git to a different repository, as they do within a hook.
const MISLEADING: [&str; 7] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
];

/// An error of reading the repository.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    #[error("git is not installed, or not in PATH: the history is read by the `git` command")]
    NotInstalled,
    #[error("`{}` is not a folder", path.display())]
    NoFolder { path: PathBuf },
    #[error("`{}` is not a git repository that git can read: {said}", path.display())]
    NoRepository { path: PathBuf, said: String },
    #[error("`{}` has no commits yet: there is nothing to import", path.display())]
    NoCommits { path: PathBuf },
    #[error("`git {command}` failed: {said}")]
    Failed { command: String, said: String },
    #[error("`git {command}` printed unexpected output: {said}")]
    Unreadable { command: String, said: String },
    #[error("cannot run git")]
    Io(#[from] std::io::Error),
}

/// A repository with at least one commit.
#[derive(Debug)]
pub struct Repository {
    path: PathBuf,
    /// The commit that HEAD named at the start: all later calls use it, even if HEAD moves.
    pub head: String,
    /// Commits beyond a boundary are missing; those at the boundary look like the first ones.
    pub is_shallow: bool,
}

impl Repository {
    pub fn open(path: &Path) -> Result<Self, GitError> {
        let path = path.to_owned();
        let repository = Self { path, head: String::new(), is_shallow: false };
        repository.output(&["--version"], "")?;
        if !repository.path.is_dir() {
            return Err(GitError::NoFolder { path: repository.path });
        }
        let shallow = repository.output(&["rev-parse", "--is-shallow-repository"], "")?;
        if !shallow.status.success() {
            return Err(GitError::NoRepository { path: repository.path, said: text(&shallow.stderr) });
        }
        let head = ["rev-parse", "--verify", "--quiet", "HEAD^{commit}"];
        let head = repository.output(&head, "")?;
        if !head.status.success() {
            return Err(GitError::NoCommits { path: repository.path });
        }
        Ok(Self { head: text(&head.stdout), is_shallow: text(&shallow.stdout) == "true", ..repository })
    }

    /// Splits commits into those that the repository has and those that it does not have.
    pub fn known(&self, commits: Vec<String>) -> Result<(Vec<String>, Vec<String>), GitError> {
        if commits.is_empty() {
            return Ok((commits, Vec::new()));
        }
        let asked = lines("", &commits);
        let answer = self.answer(&["cat-file", "--batch-check=%(objecttype)"], &asked)?;
        let found: Vec<bool> = answer.lines().map(|line| line == "commit").collect();
        if found.len() != commits.len() {
            return Err(GitError::Unreadable { command: "cat-file".into(), said: answer });
        }
        let (mut present, mut missing) = (Vec::new(), Vec::new());
        for (commit, found) in commits.into_iter().zip(found) {
            if found { &mut present } else { &mut missing }.push(commit);
        }
        Ok((present, missing))
    }

    /// Returns the number of commits reachable from `from` and not from `without`.
    pub fn count(&self, from: &[String], without: &[String]) -> Result<u64, GitError> {
        if from.is_empty() {
            return Ok(0);
        }
        let asked = lines("", from) + &lines("^", without);
        let answer = self.answer(&["rev-list", "--count", "--stdin"], &asked)?;
        answer.parse().map_err(|_| GitError::Unreadable { command: "rev-list".into(), said: answer })
    }

    /// As [`count`](Self::count), without the commits of `except`, which git itself cannot exclude.
    pub fn count_except(&self, from: &[String], without: &[String], except: &HashSet<String>) -> Result<u64, GitError> {
        let asked = lines("", from) + &lines("^", without);
        let answer = self.answer(&["rev-list", "--stdin"], &asked)?;
        let new = answer.lines().filter(|commit| !except.contains(*commit));
        Ok(new.count() as u64)
    }

    /// Returns the commits reachable from HEAD and not from `without`, parents before children: one process, read as it
    /// prints.
    ///
    /// A merge lists only the files that differ from all of its parents: the rest came with the commits that it merges.
    pub fn log(&self, without: &[String]) -> Result<LogProcess, GitError> {
        let mut command = self.git();
        command.args(["-c", "log.showRoot=true", "-c", "log.showSignature=false"]);
        command.args(["log", "--stdin", "--reverse", "--topo-order", "-z"]);
        command.args(["--raw", "--no-abbrev", "-M50%", "-l1000"]);
        command.args(["-c", "--combined-all-paths", "--no-relative", "--no-notes"]);
        command.args(["--ignore-submodules=none", "--encoding=UTF-8", "--no-color"]);
        command.arg(HEADER);
        let asked = format!("{}\n{}", self.head, lines("^", without));
        LogProcess::start(command, &asked)
    }

    /// Runs git and returns its output without the final line end; an exit status other than 0 is an error.
    fn answer(&self, arguments: &[&str], input: &str) -> Result<String, GitError> {
        let output = self.output(arguments, input)?;
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        Err(GitError::Failed {
            command: arguments.first().copied().unwrap_or_default().into(),
            said: text(&output.stderr),
        })
    }

    fn output(&self, arguments: &[&str], input: &str) -> Result<Output, GitError> {
        let mut child = self
            .git()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(not_installed)?;
        let Some(mut stdin) = child.stdin.take() else {
            return Ok(child.wait_with_output()?);
        };
        std::thread::scope(|scope| {
            // in a thread, because git writes before it has read all of its input
            scope.spawn(move || {
                let _ = stdin.write_all(input.as_bytes());
            });
            Ok(child.wait_with_output()?)
        })
    }

    fn git(&self) -> Command {
        let mut git = Command::new("git");
        for variable in MISLEADING {
            git.env_remove(variable);
        }
        git.env("LC_ALL", "C").env("GIT_OPTIONAL_LOCKS", "0");
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut git, 0); // Ctrl-C reaches only the importer, not git
        if self.path.is_dir() {
            git.arg("-C").arg(&self.path);
        }
        git
    }
}

/// A running `git log`; killed when dropped.
#[derive(Debug)]
pub struct LogProcess {
    child: Child,
    said: Option<JoinHandle<Vec<u8>>>,
}

impl LogProcess {
    /// Starts the process, and writes its input.
    pub fn start(mut command: Command, asked: &str) -> Result<Self, GitError> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(not_installed)?;
        let said = child.stderr.take().map(read_aside);
        if let Some(mut stdin) = child.stdin.take() {
            // if git ends early, its exit status tells why
            let _ = stdin.write_all(asked.as_bytes());
        }
        Ok(Self { child, said })
    }

    /// Takes its output; there is one reader.
    pub fn stdout(&mut self) -> Option<BufReader<ChildStdout>> {
        let stdout = self.child.stdout.take()?;
        Some(BufReader::with_capacity(1 << 16, stdout))
    }

    /// Waits for its end: after a failure the output is incomplete.
    pub fn finish(mut self) -> Result<(), GitError> {
        let status = self.child.wait()?;
        if status.success() {
            return Ok(());
        }
        let said = self.said.take().and_then(|said| said.join().ok());
        Err(GitError::Failed { command: "log".into(), said: format!("{} ({status})", text(&said.unwrap_or_default())) })
    }
}

impl Drop for LogProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_aside(mut stderr: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut said = Vec::new();
        let _ = stderr.read_to_end(&mut said);
        said
    })
}

fn not_installed(error: std::io::Error) -> GitError {
    match error.kind() {
        std::io::ErrorKind::NotFound => GitError::NotInstalled,
        _ => GitError::Io(error),
    }
}

fn lines(prefix: &str, commits: &[String]) -> String {
    commits.iter().map(|commit| format!("{prefix}{commit}\n")).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}
