//! Why a check against a lock file failed.

use std::path::PathBuf;

use super::finding::Finding;

/// A failed check.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Stored events would not be read any more, or not as before.
    #[error(
        "{}: {} would break stored events\n{}", path.display(),
        if findings.len() == 1 { "a change".into() } else { format!("{} changes", findings.len()) },
        join(findings)
    )]
    Unreadable {
        /// The lock file.
        path: PathBuf,
        /// The changes, each with its repair.
        findings: Vec<Finding>,
    },
    /// Stored events stay readable, but the file lacks something that the code has.
    #[error(
        "{}: stored events stay readable, but the file does not have everything; write it with EVENTBUS_BLESS=1 and commit it\n  {}",
        path.display(), news.join("\n  ")
    )]
    OutOfDate {
        /// The lock file.
        path: PathBuf,
        /// What the file lacks.
        news: Vec<String>,
    },
    /// There is no lock file yet.
    #[error("{}: there is no such file yet; write it with EVENTBUS_BLESS=1 and commit it", path.display())]
    Missing {
        /// The lock file.
        path: PathBuf,
    },
    /// The file is not a lock file.
    #[error("{}, line {line}: {reason}", path.display())]
    Malformed {
        /// The lock file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The reason.
        reason: String,
    },
    /// The lock file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// The error of the file system.
        source: std::io::Error,
    },
}

fn join(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("  {finding}")).collect::<Vec<_>>().join("\n")
}
