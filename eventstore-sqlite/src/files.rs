//! The files that an open store writes to, compared with what their paths name now.
//!
//! A file that was removed or replaced goes on existing for whoever has it open: SQLite commits to it without an error,
//! and all of it is gone with the process. So what was committed is acknowledged only while the paths still name the
//! files that were opened.
//!
//! Keep: the files are looked at by path and never opened here. Closing one would release the locks that SQLite holds
//! on it in this process.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

/// Why nothing is acknowledged any more: a file of the store is no longer the one that was opened.
///
/// It is the source of what appends, reads, checkpoints and leases return. What was acknowledged before is in the file
/// that was opened. The store goes on if that file comes back to its place; otherwise open it again.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SqliteFileError {
    /// No file is there.
    #[error("`{}` was removed while the store had it open; open the store again", path.display())]
    Removed {
        /// The database, its write-ahead log (`-wal`) or the index of the log (`-shm`).
        path: PathBuf,
    },
    /// Another file is there.
    #[error("`{}` was replaced by another file while the store had it open; open the store again", path.display())]
    Replaced {
        /// The database, its write-ahead log (`-wal`) or the index of the log (`-shm`).
        path: PathBuf,
    },
    /// The operating system does not say which file is there.
    #[error("`{}` cannot be looked at, so that nothing is known to be stored in it", path.display())]
    Unknown {
        /// The database, its write-ahead log (`-wal`) or the index of the log (`-shm`).
        path: PathBuf,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
}

/// The files of one open database; none for one in memory.
#[derive(Debug, Default)]
pub(crate) struct OpenFiles {
    files: Vec<(PathBuf, FileId)>,
    /// Whether the last check failed.
    is_lost: AtomicBool,
}

impl OpenFiles {
    /// Notes which files are there; call it while SQLite has them open.
    ///
    /// # Errors
    /// What the operating system said about the database. The log and its index may be missing: not every system keeps
    /// them as files.
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
    /// Windows lets nobody remove or replace a file that SQLite has open, so there is nothing to compare.
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
                Err(error) => tracing::error!(%error, "the event store lost its file, nothing more is acknowledged"),
                Ok(()) => tracing::warn!("the event store has its file again"),
            }
        }
        compared
    }

    /// Checks before a transaction begins, if the last check failed: then nothing need be written to know that it would
    /// be lost.
    pub(crate) fn check_if_lost(&self) -> Result<(), SqliteFileError> {
        if self.is_lost.load(Relaxed) { self.check() } else { Ok(()) }
    }
}

/// Which file a path names; an inode is not used again while SQLite has its file open.
#[cfg(unix)]
#[derive(Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

#[cfg(unix)]
impl FileId {
    fn of(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let found = fs::metadata(path)?;
        Ok(Self { device: found.dev(), inode: found.ino() })
    }
}

#[cfg(not(unix))]
#[derive(Debug, PartialEq, Eq)]
struct FileId;

#[cfg(not(unix))]
impl FileId {
    #[expect(clippy::unnecessary_wraps, reason = "on unix it can fail")]
    fn of(_: &Path) -> io::Result<Self> {
        Ok(Self)
    }
}
