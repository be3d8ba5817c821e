//! The locks by which the processes that share a file see which of them live.
//!
//! A member locks a file of its own beside the database, and the kernel releases the lock when the process ends, however
//! it ends. A probe takes a shared lock for a moment, so that two probes do not see each other.
//!
//! Invariant: a member has its lock before its row names the lock, and no lock is used twice. So a lock of a row that is
//! not held never will be.

use std::{
    collections::HashMap,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use eventbus::port::handler_progress::MemberGuard;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::location::DatabaseLocation;

/// The locks of the members of one database.
#[derive(Debug)]
pub(crate) enum MemberLocks {
    /// No other process can open the database: a member lives while its guard does.
    InProcess(Mutex<HashMap<String, Weak<()>>>),
    /// Files beside this one.
    Files(PathBuf),
}

impl MemberLocks {
    /// Returns the locks of a database that exists.
    pub(crate) fn new(location: &DatabaseLocation) -> io::Result<Self> {
        Ok(match location {
            DatabaseLocation::Memory(_) => Self::InProcess(Mutex::default()),
            // processes may name the database by different symbolic links
            DatabaseLocation::File(path) => Self::Files(fs::canonicalize(path)?),
        })
    }

    /// Takes a new lock; returns its id, and the guard that holds it.
    pub(crate) fn lock(&self) -> io::Result<(String, MemberGuard)> {
        // real time, not the given clock: the id is unique among processes
        let id = Uuid::now_v7().simple().to_string();
        match self {
            Self::InProcess(locks) => {
                let guard = Arc::new(());
                let mut locks = locks.lock();
                locks.retain(|_, guard| guard.strong_count() > 0);
                locks.insert(id.clone(), Arc::downgrade(&guard));
                Ok((id, Box::new(guard)))
            }
            Self::Files(database) => {
                let path = lock_file(database, &id);
                let locked = LockedFile { file: File::create_new(&path)?, path };
                locked.file.try_lock()?;
                Ok((id, Box::new(locked)))
            }
        }
    }

    /// Returns `true` if the process that took the lock lives, and has not dropped the guard.
    ///
    /// # Errors
    /// If the system does not say: a process of a different user may have a file that this one may not read.
    pub(crate) fn is_held(&self, id: &str) -> io::Result<bool> {
        match self {
            Self::InProcess(locks) => Ok(locks.lock().get(id).is_some_and(|guard| guard.strong_count() > 0)),
            Self::Files(database) => {
                let path = lock_file(database, id);
                is_locked(&path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
            }
        }
    }

    /// Removes the file of a lock that is not held.
    pub(crate) fn remove(&self, id: &str) {
        if let Self::Files(database) = self {
            // a file that stays does no harm
            let _ = fs::remove_file(lock_file(database, id));
        }
    }
}

fn lock_file(database: &Path, id: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(format!(".{id}.member"));
    path.into()
}

fn is_locked(path: &Path) -> io::Result<bool> {
    match File::open(path).map(|file| file.try_lock_shared()) {
        Ok(Ok(())) => Ok(false),
        Ok(Err(TryLockError::WouldBlock)) => Ok(true),
        Ok(Err(TryLockError::Error(error))) => Err(error),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A file that is locked until this is dropped, and then removed.
struct LockedFile {
    file: File,
    path: PathBuf,
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        // closing is not enough while a fork of this process has the file open
        let _ = self.file.unlock();
    }
}
