//! Free space of a disk.

use std::path::Path;

use serde_json::json;

use super::{
    config::DoctorConfig,
    finding::{Finding, Severity},
    outcome::{CheckError, Outcome},
};

/// Checks the free space of the disk that holds a folder of this machine.
pub(crate) fn check_free_space(folder: &Path, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let (free, size) = free_space(folder)?;
    let share = if size == 0 { 1.0 } else { free as f64 / size as f64 };
    if share >= config.free_disk_share {
        return Ok(Outcome::healthy());
    }
    let severity = if share < config.free_disk_share / 4.0 { Severity::Fault } else { Severity::Warning };
    let found = format!(
        "{:.1} % of the disk of `{}` are free: {} of {} MiB",
        share * 100.0,
        folder.display(),
        free >> 20,
        size >> 20
    );
    let finding = Finding::new(
        severity,
        found,
        "on a full disk every append fails, and a server may stop",
        "enlarge the disk, or remove what is not needed: archived events, old logs, replication slots without a reader",
    );
    Ok(Some(finding.observed(json!({ "free_bytes": free, "size_bytes": size }))).into())
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
