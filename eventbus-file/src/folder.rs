//! The folder of a queue, which an operator may remove and make anew while workers use it.

use std::{io::ErrorKind, sync::Arc};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use uuid::Uuid;

use crate::{
    disk::Disk,
    error::{FIND_FOLDER, FileQueueError, Result},
};

/// The folder, and the id of the queue that this worker knows it to hold.
#[derive(Debug)]
pub(crate) struct QueueFolder {
    disk: Arc<Disk>,
    /// The queue that the folder held when this worker last read its id; all state in memory is about that queue.
    queue_id: Mutex<Uuid>,
    /// Shared while a task uses the folder, exclusive while a task resets the state in memory.
    lock: RwLock<()>,
}

impl QueueFolder {
    pub(crate) fn open(disk: Disk) -> Result<Self> {
        let queue_id = Mutex::new(disk.load_queue_id()?);
        Ok(Self { disk: Arc::new(disk), queue_id, lock: RwLock::default() })
    }

    pub(crate) fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// Returns the id of the queue that all state in memory is about.
    pub(crate) fn queue_id(&self) -> Uuid {
        *self.queue_id.lock()
    }

    /// Returns an error unless the folder still holds the queue that all state in memory is about: if the folder is
    /// away, a missing file is not gone.
    pub(crate) fn check_present(&self) -> Result<()> {
        match self.disk.load_identity()? == Some(self.queue_id()) {
            true => Ok(()),
            false => Err(FileQueueError::io(FIND_FOLDER, self.disk.root())(ErrorKind::NotFound.into())),
        }
    }

    /// Calls `forget`, which resets the state in memory, if the folder holds a different queue than before; no reset
    /// happens while the guard lives. Tasks lock the folder before any part of that state.
    pub(crate) fn lock(&self, forget: impl Fn()) -> Result<RwLockReadGuard<'_, ()>> {
        loop {
            let found = self.disk.load_queue_id()?;
            // shared: tasks use the folder at the same time, and no task resets the state under them
            let using = self.lock.read();
            if self.queue_id() == found {
                return Ok(using);
            }
            drop(using);
            let alone = self.lock.write();
            let known = std::mem::replace(&mut *self.queue_id.lock(), found);
            if known != found {
                let root = self.disk.root().display();
                tracing::warn!(folder = %root, "the folder was removed and made anew, it holds a new queue");
                forget();
            }
            drop(alone);
        }
    }
}
