//! A disk that is full after a few megabytes.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use crate::fire::HarnessError;

/// A file system of a few megabytes in memory, unmounted when it is dropped.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts it; `None` if this process may not mount file systems.
    ///
    /// # Errors
    /// If its folder cannot be created.
    pub fn mount(megabytes: u32) -> io::Result<Option<Self>> {
        let folder = env::temp_dir().join(eventbus_test::unique_name("small-disk"));
        fs::create_dir_all(&folder)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"]).arg(&folder);
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Ok(Some(Self(folder)));
        }
        fs::remove_dir(&folder)?;
        Ok(None)
    }

    /// Returns its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Gives it to the owner of a second folder, for a server that writes only to files of its own.
    ///
    /// # Errors
    /// If this process may not change the owner.
    pub fn give_to_owner_of(&self, folder: &str) -> Result<(), HarnessError> {
        let given = Command::new("chown").arg(format!("--reference={folder}")).arg(&self.0).status()?;
        if given.success() { Ok(()) } else { Err(format!("the owner of {folder} was not given a disk").into()) }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // lazily: after a failure the server may still have open files there
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
        drop(fs::remove_dir(&self.0));
    }
}
