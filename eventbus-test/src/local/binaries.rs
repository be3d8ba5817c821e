//! Finds the programs of installed servers.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use super::{install, process::on_path};
use crate::{error::Error, server::Server};

/// Folders with one folder per PostgreSQL version, each with the text before the version in those folders' names.
const VERSIONED: [(&str, &str); 4] = [
    ("/usr/lib/postgresql", ""),
    ("/usr", "pgsql-"),
    ("/opt/homebrew/opt", "postgresql@"),
    ("/usr/local/opt", "postgresql@"),
];

/// Returns PostgreSQL's folder of programs, or the Redis program; installs a missing server if this process may.
pub(crate) fn find(server: Server) -> Result<PathBuf, Error> {
    match find_installed(server) {
        Found::Here(path) => Ok(path),
        Found::NotInNamedFolder(because) => Err(Error::Missing { server, because }),
        Found::Nowhere => install_and_find(server),
    }
}

enum Found {
    Here(PathBuf),
    /// A variable names the place, and no other place is tried.
    NotInNamedFolder(String),
    Nowhere,
}

fn install_and_find(server: Server) -> Result<PathBuf, Error> {
    let installed = install::unless_found(server.package(), || matches!(find_installed(server), Found::Here(_)))?;
    match (find_installed(server), installed) {
        (Found::Here(path), _) => Ok(path),
        (_, Err(because)) => Err(Error::Missing { server, because }),
        (_, Ok(())) => Err(Error::Missing { server, because: "not found even after installing it".to_owned() }),
    }
}

fn find_installed(server: Server) -> Found {
    match (server, env::var_os("PG_BIN_DIR").filter(|folder| !folder.is_empty())) {
        (Server::Postgres, Some(folder)) => in_named_folder(PathBuf::from(folder)),
        (Server::Postgres, None) => postgres_on_path().or_else(newest_postgres).map_or(Found::Nowhere, Found::Here),
        (Server::Redis, _) => {
            ["redis-server", "valkey-server"].iter().find_map(|name| on_path(name)).map_or(Found::Nowhere, Found::Here)
        }
    }
}

/// Returns the browser; installs a missing one if this process may.
pub(crate) fn find_chromium() -> Result<PathBuf, Error> {
    const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let find = || NAMES.iter().find_map(|name| on_path(name));
    if let Some(program) = find() {
        return Ok(program);
    }
    let installed = install::unless_found("chromium", || find().is_some())?;
    let because = installed.err().unwrap_or_else(|| "not found even after installing it".to_owned());
    find().ok_or(Error::NoBrowser { because })
}

fn in_named_folder(folder: PathBuf) -> Found {
    if has_postgres(&folder) {
        return Found::Here(folder);
    }
    Found::NotInNamedFolder(format!("PG_BIN_DIR is {}, which lacks initdb or postgres", folder.display()))
}

fn postgres_on_path() -> Option<PathBuf> {
    // often a link: the other programs are beside its target
    let initdb = fs::canonicalize(on_path("initdb")?).ok()?;
    initdb.parent().filter(|folder| has_postgres(folder)).map(Path::to_owned)
}

fn newest_postgres() -> Option<PathBuf> {
    let versions = VERSIONED.iter().flat_map(|(folder, prefix)| versions_in(folder, prefix));
    versions.filter(|(_, folder)| has_postgres(folder)).max().map(|(_, folder)| folder)
}

fn versions_in(folder: &str, prefix: &str) -> Vec<(u32, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let version = |name: &str| name.strip_prefix(prefix)?.parse().ok();
    entries.filter_map(|e| Some((version(e.file_name().to_str()?)?, e.path().join("bin")))).collect()
}

fn has_postgres(folder: &Path) -> bool {
    ["initdb", "postgres"].iter().all(|program| folder.join(program).is_file())
}
