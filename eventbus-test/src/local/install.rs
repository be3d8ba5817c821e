//! Installing a missing program with the system's package manager (`apt-get`).

use std::{
    env,
    io::Write,
    process::{Command, Stdio},
};

use super::{account, process, workspace};
use crate::error::Error;

/// If this is not set, tests install no program.
const VARIABLE: &str = "TEST_SERVERS_INSTALL";

/// Installs a Debian package, unless `is_found` returns `true` after this process has taken the lock. The inner error
/// says why the package is not installed.
pub(crate) fn unless_found(package: &str, is_found: impl Fn() -> bool) -> Result<Result<(), String>, Error> {
    if let Some(because) = obstacle()? {
        return Ok(Err(because.to_owned()));
    }
    let _lock = workspace::lock(&workspace::user_folder()?.join("install.lock"))?;
    if is_found() {
        return Ok(Ok(()));
    }
    Ok(install(package))
}

fn obstacle() -> Result<Option<&'static str>, Error> {
    let is_allowed = env::var_os(VARIABLE).is_some_and(|value| !value.is_empty() && value != "0");
    Ok(match () {
        () if !is_allowed => Some("and tests install it only if TEST_SERVERS_INSTALL is 1"),
        () if account::current_user()? != 0 => Some("and only root could install it"),
        () if process::on_path("apt-get").is_none() => Some("and there is no apt-get to install it with"),
        () => None,
    })
}

fn install(package: &str) -> Result<(), String> {
    // not eprintln!, which the test harness keeps to itself
    let _ = writeln!(std::io::stderr(), "eventbus-test: installing {package} (apt-get install {package})");
    apt_get(&["update"])?;
    apt_get(&["install", "-y", "--no-install-recommends", package])
}

fn apt_get(arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new("apt-get");
    command.arg("-q").args(["-o", "DPkg::Lock::Timeout=300"]).args(arguments).stdin(Stdio::null());
    // in run level 1 packages do not start the service they bring
    let output = command.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1").output();
    let output = output.map_err(|error| format!("apt-get cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("apt-get {} failed: {}", arguments[0], process::tail(&String::from_utf8_lossy(&output.stderr))))
}
