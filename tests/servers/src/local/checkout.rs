//! The folder that all test processes of one checkout (and one user) meet in.

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
    let folder = make(env::temp_dir().join(format!("test-servers-{user}")))?;
    let owner = fs::metadata(&folder).map_err(Error::io(format!("read {}", folder.display())))?.uid();
    if owner != user {
        return Err(Error::ForeignFolder { folder: folder.display().to_string() });
    }
    Ok(folder)
}

/// Returns the folder of this checkout, made if it is missing.
pub(crate) fn folder() -> Result<PathBuf, Error> {
    let mut hasher = DefaultHasher::new();
    env!("CARGO_MANIFEST_DIR").hash(&mut hasher);
    make(user_folder()?.join(format!("{:016x}", hasher.finish())))
}

/// Takes the lock of that path, waiting for it; the system frees it when the file or the process is gone.
pub(crate) fn lock(path: &Path) -> Result<File, Error> {
    let doing = format!("lock {}", path.display());
    File::create(path).and_then(|file| file.lock().map(|()| file)).map_err(Error::io(doing))
}

/// Other users may enter: PostgreSQL does not run as root, and gets a folder of its own inside.
fn make(folder: PathBuf) -> Result<PathBuf, Error> {
    let made = fs::create_dir_all(&folder).and_then(|()| fs::set_permissions(&folder, Permissions::from_mode(0o755)));
    made.map_err(Error::io(format!("make {}", folder.display())))?;
    Ok(folder)
}
