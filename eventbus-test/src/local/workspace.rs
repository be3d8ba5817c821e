//! The folder that all test processes of one workspace (and one user) meet in.
//!
//! Each version of this crate has folders of its own: a later one may lay them out in a different way.

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
    // of the link itself, if any user has made one there
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
/// Cargo names the package to a process that it runs; one that was started by hand begins at its current folder.
fn root() -> Result<PathBuf, Error> {
    let start = match env::var_os("CARGO_MANIFEST_DIR") {
        Some(package) => PathBuf::from(package),
        None => env::current_dir().map_err(Error::io("read the current folder"))?,
    };
    let start = fs::canonicalize(&start).unwrap_or(start);
    let root = start.ancestors().find(|folder| folder.join("Cargo.lock").is_file()).map(Path::to_owned);
    Ok(root.unwrap_or(start))
}

/// Takes the lock of that path, waiting for it; the system frees it when the file or the process is gone.
pub(crate) fn lock(path: &Path) -> Result<File, Error> {
    let doing = format!("lock {}", path.display());
    File::create(path).and_then(|file| file.lock().map(|()| file)).map_err(Error::io(doing))
}

/// Other users may enter: PostgreSQL does not run as root, and gets a folder of its own inside.
pub(super) fn make(folder: PathBuf) -> Result<PathBuf, Error> {
    let made = fs::create_dir_all(&folder).and_then(|()| fs::set_permissions(&folder, Permissions::from_mode(0o755)));
    made.map_err(Error::io(format!("make {}", folder.display())))?;
    Ok(folder)
}
