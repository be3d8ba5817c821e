//! The user who runs the servers: that of this process, or a second one for PostgreSQL, which refuses to run as root.

use std::{
    os::unix::{fs::chown, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
    sync::OnceLock,
};

use crate::error::Error;

/// A second user, to run processes as.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account {
    user: u32,
    group: u32,
}

impl Account {
    /// Returns the account for a server that refuses root; `None` if this process does not run as root.
    pub(crate) fn instead_of_root() -> Result<Option<Self>, Error> {
        if current_user()? != 0 {
            return Ok(None);
        }
        let found = ["postgres", "nobody"].into_iter().find_map(Self::named);
        found.map(Some).ok_or_else(|| Error::Failed {
            program: "id".to_owned(),
            output: "PostgreSQL refuses root, and there is no user postgres or nobody".to_owned(),
        })
    }

    /// Makes `command` run as this user.
    pub(crate) fn run(self, command: &mut Command) {
        command.uid(self.user).gid(self.group);
    }

    /// Gives `path` to this user.
    pub(crate) fn own(self, path: &Path) -> Result<(), Error> {
        chown(path, Some(self.user), Some(self.group)).map_err(Error::io(format!("chown {}", path.display())))
    }

    fn named(name: &str) -> Option<Self> {
        Some(Self { user: id(&["-u", name])?, group: id(&["-g", name])? })
    }
}

/// Returns the number of the user this process runs as.
pub(crate) fn current_user() -> Result<u32, Error> {
    static USER: OnceLock<Option<u32>> = OnceLock::new();
    USER.get_or_init(|| id(&["-u"]))
        .ok_or_else(|| Error::Failed { program: "id -u".to_owned(), output: "printed no number".to_owned() })
}

fn id(arguments: &[&str]) -> Option<u32> {
    let output = Command::new("id").args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}
