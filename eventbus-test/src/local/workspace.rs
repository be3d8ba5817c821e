//! The folder that all test processes of one user and one workspace share.
//!
//! Each version of this crate has its own folder: a later version may have a different layout.

use std::{
    env,
    fs::{self, File, Permissions},
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::account;
use crate::error::Error;

/// Returns the folder of this user, made if it is missing.
pub(crate) fn user_folder() -> Result<PathBuf, Error> {
    let user = account::current_user()?;
    let folder = env::temp_dir().join(format!("eventbus-test-{user}"));
    fs::create_dir_all(&folder).map_err(Error::io(format!("make {}", folder.display())))?;
    // does not follow a link, which a different user may have made
    let metadata = fs::symlink_metadata(&folder).map_err(Error::io(format!("read {}", folder.display())))?;
    if !metadata.is_dir() || metadata.uid() != user {
        return Err(Error::ForeignFolder { folder: folder.display().to_string() });
    }
    make(folder)
}

/// Returns the folder of the workspace whose tests this process runs, made if it is missing.
pub(crate) fn folder() -> Result<PathBuf, Error> {
    let mut hasher = DefaultHasher::new();
    root()?.hash(&mut hasher);
    make(user_folder()?.join(format!("{}-{:016x}", env!("CARGO_PKG_VERSION"), hasher.finish())))
}

/// Returns the root of the workspace, which has the lock file of cargo.
///
/// The search begins at the package that cargo names to a process which it runs, or else at the current folder.
fn root() -> Result<PathBuf, Error> {
    let start = match env::var_os("CARGO_MANIFEST_DIR") {
        Some(package) => PathBuf::from(package),
        None => env::current_dir().map_err(Error::io("read the current folder"))?,
    };
    let start = fs::canonicalize(&start).unwrap_or(start);
    let root = start.ancestors().find(|folder| folder.join("Cargo.lock").is_file()).map(Path::to_owned);
    Ok(root.unwrap_or(start))
}

/// Locks the file at `path`, and waits for the lock; the system frees it when the file is closed or the process ends.
pub(crate) fn lock(path: &Path) -> Result<File, Error> {
    let doing = format!("lock {}", path.display());
    File::create(path).and_then(|file| file.lock().map(|()| file)).map_err(Error::io(doing))
}

/// Makes a folder that other users may enter: PostgreSQL does not run as root, and its data folder is inside.
pub(super) fn make(folder: PathBuf) -> Result<PathBuf, Error> {
    let made = fs::create_dir_all(&folder).and_then(|()| fs::set_permissions(&folder, Permissions::from_mode(0o755)));
    made.map_err(Error::io(format!("make {}", folder.display())))?;
    Ok(folder)
}
