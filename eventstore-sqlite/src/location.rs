//! The location of a store.
//!
//! Real time, not the given clock: the name of a database in memory is unique in the process.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use eventbus::support::redacted;
use uuid::Uuid;

use crate::error::SqliteConnectError;

/// Location of a store: a file, or a database in memory that lasts as long as a connection to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DatabaseLocation {
    Memory(Uuid),
    File(PathBuf),
}

/// Returns the file that a URL of a store names, as [`SqliteEventStore::connect`](crate::SqliteEventStore::connect)
/// reads it; `None` for a database in memory. The file need not exist.
///
/// # Errors
/// [`SqliteConnectError::InvalidUrl`] if the URL names no store.
///
/// # Examples
/// ```
/// use eventstore_sqlite::file_of_url;
///
/// assert!(file_of_url("sqlite:bank.db")?.is_some_and(|file| file.ends_with("bank.db")));
/// assert_eq!(file_of_url("sqlite::memory:")?, None);
/// assert!(file_of_url("sqlite:bank.db?mode=ro").is_err());
/// # Ok::<(), eventstore_sqlite::SqliteConnectError>(())
/// ```
pub fn file_of_url(url: &str) -> Result<Option<PathBuf>, SqliteConnectError> {
    Ok(match DatabaseLocation::from_url(url)? {
        DatabaseLocation::Memory(_) => None,
        DatabaseLocation::File(file) => Some(file),
    })
}

impl DatabaseLocation {
    pub(crate) fn new_memory() -> Self {
        Self::Memory(Uuid::now_v7())
    }

    /// Returns the location of a file. Makes the path absolute: SQLite gives a special meaning to `:memory:` and to the
    /// empty path, and readers open the path later, perhaps in a different working directory. Refuses a URL, which
    /// SQLite would take as the name of a file.
    pub(crate) fn from_path(path: &Path) -> Result<Self, SqliteConnectError> {
        if let Some(url) = path.to_str().filter(|path| path.starts_with("sqlite:") || path.contains("://")) {
            let reason = "`open` takes a path, `connect` a URL";
            return Err(SqliteConnectError::InvalidUrl { url: redacted_url(url), reason });
        }
        match std::path::absolute(path) {
            Ok(path) => Ok(Self::File(path)),
            Err(source) => Err(SqliteConnectError::Unavailable { path: path.to_owned(), source: source.into() }),
        }
    }

    pub(crate) fn from_url(url: &str) -> Result<Self, SqliteConnectError> {
        let refuse = |reason| Err(SqliteConnectError::InvalidUrl { url: redacted_url(url), reason });
        let Some(rest) = url.strip_prefix("sqlite:") else {
            return refuse("it does not begin with `sqlite:`");
        };
        match rest.strip_prefix("//").unwrap_or(rest) {
            ":memory:" => Ok(Self::new_memory()),
            "" => refuse("the path is missing"),
            path if path.starts_with(':') => {
                refuse("a path that begins with a colon is no file, and `:memory:` has nothing after it")
            }
            path if path.contains('?') => refuse("parameters are not understood, use `SqliteEventStoreConfig`"),
            path => Self::from_path(Path::new(path)),
        }
    }

    /// Returns the name that SQLite opens; several connections of a process may share a database in memory.
    pub(crate) fn database(&self) -> Cow<'_, Path> {
        match self {
            Self::Memory(id) => Cow::Owned(format!("file:eventbus-{id}?mode=memory&cache=shared").into()),
            Self::File(path) => Cow::Borrowed(path),
        }
    }

    pub(crate) const fn is_memory(&self) -> bool {
        matches!(self, Self::Memory(_))
    }

    /// Returns the path that errors name.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Memory(_) => Path::new(":memory:"),
            Self::File(path) => path,
        }
    }
}

/// Redacts a URL of another kind, which may hold a password.
fn redacted_url(url: &str) -> String {
    if url.starts_with("sqlite:") { url.into() } else { redacted(url) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_file_or_memory() {
        for memory in ["sqlite::memory:", "sqlite://:memory:"] {
            assert!(matches!(DatabaseLocation::from_url(memory).unwrap(), DatabaseLocation::Memory(_)));
        }
        let absolute = DatabaseLocation::File("/var/lib/app/events.db".into());
        assert_eq!(DatabaseLocation::from_url("sqlite:/var/lib/app/events.db").unwrap(), absolute);
        assert_eq!(DatabaseLocation::from_url("sqlite:///var/lib/app/events.db").unwrap(), absolute);
        let relative = DatabaseLocation::File(std::env::current_dir().unwrap().join("a b/events.db"));
        assert_eq!(DatabaseLocation::from_url("sqlite:a b/events.db").unwrap(), relative);
    }

    #[test]
    fn wrong_urls_are_refused_without_their_password() {
        let error = DatabaseLocation::from_url("postgres://app:secret@db/orders").unwrap_err();
        assert_eq!(
            error.to_string(),
            "`postgres://app@db/orders` opens no SQLite event store: it does not begin with `sqlite:`; \
             write `sqlite:path/to/file` or `sqlite::memory:`"
        );
        for (url, part) in [
            ("sqlite:", "path is missing"),
            ("sqlite://", "path is missing"),
            ("sqlite::memory:x", "`:memory:` has nothing after it"),
            ("sqlite://:memory", "begins with a colon"),
            ("sqlite:a.db?mode=ro", "SqliteEventStoreConfig"),
            ("events.db", "does not begin"),
        ] {
            let error = DatabaseLocation::from_url(url).unwrap_err().to_string();
            assert!(error.contains(part), "{url}: {error}");
        }
    }
}
