//! The two kinds of servers, with the names of their variables, files and packages.

use std::{env, ffi::OsString, fmt};

/// A kind of server that tests can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    Postgres,
    Redis,
}

#[cfg_attr(not(unix), allow(dead_code))]
impl Server {
    /// The variable that names a running server.
    pub(crate) fn variable(self) -> &'static str {
        match self {
            Self::Postgres => "DATABASE_URL",
            Self::Redis => "REDIS_URL",
        }
    }

    /// Returns the value of that variable, unless it is empty.
    pub(crate) fn given_url(self) -> Option<OsString> {
        env::var_os(self.variable()).filter(|value| !value.is_empty())
    }

    /// The stem of file names.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Redis => "redis",
        }
    }

    /// The Debian package.
    pub(crate) fn package(self) -> &'static str {
        match self {
            Self::Postgres => "postgresql",
            Self::Redis => "redis-server",
        }
    }

    /// The Homebrew formula.
    pub(crate) fn formula(self) -> &'static str {
        match self {
            Self::Postgres => "postgresql@17",
            Self::Redis => "redis",
        }
    }

    /// The URL of a private server on `port`.
    pub(crate) fn url_on(self, port: u16) -> String {
        match self {
            Self::Postgres => format!("postgres://postgres@127.0.0.1:{port}/postgres"),
            Self::Redis => format!("redis://127.0.0.1:{port}"),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgres => "PostgreSQL",
            Self::Redis => "Redis",
        })
    }
}
