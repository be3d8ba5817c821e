//! The files that an open store writes to, compared with those that their paths name now.
//!
//! A file that was removed or replaced still exists for a process that has it open: SQLite commits to it without an
//! error, and the data is gone when the process ends. So the store acknowledges a commit only while the paths still
//! name the files that it opened.
//!
//! Invariant: this module inspects the files by path and never opens them. Closing one would release the locks that
//! SQLite holds on it in this process.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

/// Error of a store that acknowledges no more writes, because a path names a different file than when the store opened
/// it, or none.
///
/// It is the source of the errors of appends, reads, checkpoints and leases. Earlier acknowledged writes are in the
/// file that the store opened. The store goes on if that file comes back to its place; otherwise open the store again.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SqliteFileError {
    /// The path names no file.
    #[error("`{}` was removed while the store had it open; open the store again", path.display())]
    Removed {
        /// The database, its write-ahead log (`-wal`) or the index of the log (`-shm`).
        path: PathBuf,
    },
    /// The path names a different file.
    #[error("`{}` was replaced by a different file while the store had it open; open the store again", path.display())]
    Replaced {
        /// The database, its write-ahead log (`-wal`) or the index of the log (`-shm`).
        path: PathBuf,
    },
    /// The operating system does not report which file the path names.
    #[error("`{}` cannot be inspected, so the store cannot tell whether it still writes to it", path.display())]
    Unknown {
        /// The database, its write-ahead log (`-wal`) or the index of the log (`-shm`).
        path: PathBuf,
        /// The error of the operating system.
        source: Arc<io::Error>,
    },
}

/// The files of an open database; none for one in memory.
#[derive(Debug, Default)]
pub(crate) struct OpenFiles {
    files: Vec<(PathBuf, FileId)>,
    /// Set if the last check failed.
    is_lost: AtomicBool,
}

impl OpenFiles {
    /// Records the files of a database; call it while SQLite has them open.
    ///
    /// # Errors
    /// If the operating system cannot inspect the database. The log and its index may be missing: not every system
    /// keeps them as files.
    pub(crate) fn from_database(database: &Path) -> io::Result<Self> {
        let mut files = vec![(database.to_owned(), FileId::of(database)?)];
        // SQLite follows symbolic links before it names the other two
        let real = fs::canonicalize(database)?;
        for suffix in ["-wal", "-shm"] {
            let mut path = real.clone().into_os_string();
            path.push(suffix);
            let path = PathBuf::from(path);
            if let Ok(id) = FileId::of(&path) {
                files.push((path, id));
            }
        }
        Ok(Self { files, is_lost: AtomicBool::new(false) })
    }

    /// Compares device and inode of each file with what its path names now.
    ///
    /// Windows refuses to remove or replace a file that SQLite has open, so there is no file to compare.
    pub(crate) fn check(&self) -> Result<(), SqliteFileError> {
        let compared = self.files.iter().try_for_each(|(path, opened)| match FileId::of(path) {
            Ok(found) if found == *opened => Ok(()),
            Ok(_) => Err(SqliteFileError::Replaced { path: path.clone() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(SqliteFileError::Removed { path: path.clone() })
            }
            Err(source) => Err(SqliteFileError::Unknown { path: path.clone(), source: Arc::new(source) }),
        });
        if self.is_lost.swap(compared.is_err(), Relaxed) != compared.is_err() {
            match &compared {
                Err(error) => tracing::error!(%error, "the event store lost its file, it acknowledges no more writes"),
                Ok(()) => tracing::warn!("the event store has its file again"),
            }
        }
        compared
    }

    /// Checks before a transaction begins, if the last check failed: so the store need not write to find out that the
    /// write would be lost.
    pub(crate) fn check_if_lost(&self) -> Result<(), SqliteFileError> {
        if self.is_lost.load(Relaxed) { self.check() } else { Ok(()) }
    }
}

/// Identity of the file that a path names; the system does not reuse an inode while SQLite has its file open.
#[derive(Debug, PartialEq, Eq)]
struct FileId {
    #[cfg(unix)]
    device: u64,
    #[cfg(unix)]
    inode: u64,
}

impl FileId {
    #[cfg(unix)]
    fn of(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let found = fs::metadata(path)?;
        Ok(Self { device: found.dev(), inode: found.ino() })
    }

    #[cfg(not(unix))]
    #[expect(clippy::unnecessary_wraps, reason = "on unix it can fail")]
    fn of(_: &Path) -> io::Result<Self> {
        Ok(Self {})
    }
}
