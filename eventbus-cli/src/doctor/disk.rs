//! Free space of a disk.

use std::path::Path;

use serde_json::json;

use super::{
    config::DoctorConfig,
    outcome::{CheckError, Outcome},
};

/// Checks the free space of the disk that holds a folder of this machine.
pub(crate) fn check_free_space(folder: &Path, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let (free, size) = free_space(folder)?;
    let share = if size == 0 { 1.0 } else { free as f64 / size as f64 };
    Ok(Outcome::of_row(json!({
        "_is_low": share < config.free_disk_share && share >= config.free_disk_share / 4.0,
        "_is_full": share < config.free_disk_share / 4.0, "_percent": share * 100.0, "_folder": folder.display().to_string(),
        "_free": free >> 20, "_size": size >> 20, "free_bytes": free, "size_bytes": size,
    })))
}

/// Returns the free bytes of a disk, as an unprivileged process may use them, and its size.
#[cfg(unix)]
fn free_space(folder: &Path) -> Result<(u64, u64), CheckError> {
    let disk = rustix::fs::statvfs(folder).map_err(|error| match error {
        // behind a forwarded port a server seems to be on this machine
        rustix::io::Errno::NOENT => CheckError::NotHere(
            "this machine has no such folder: if the server runs in a container, monitor its disk there",
        ),
        error => CheckError::Other(format!("the disk of `{}` cannot be read: {error}", folder.display())),
    })?;
    Ok((disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize)))
}

#[cfg(not(unix))]
fn free_space(_: &Path) -> Result<(u64, u64), CheckError> {
    Err(CheckError::Other("free space can only be read on Unix".into()))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// A check that cannot be made lets the doctor end with 1; one that belongs elsewhere does not.
    #[test]
    fn the_disk_of_a_server_in_a_container_is_checked_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let checked = check_free_space(&folder.path().join("missing"), &DoctorConfig::default());
        assert!(matches!(checked, Err(CheckError::NotHere(_))), "{checked:?}");
    }
}
