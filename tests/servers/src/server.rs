//! The two kinds of servers and what distinguishes them in words.

use std::{env, fmt};

use crate::{error::Error, local};

/// A kind of server that tests can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    Postgres,
    Redis,
}

#[cfg_attr(not(unix), allow(dead_code))]
impl Server {
    /// Returns the URL of the server: from the environment, else of a private one, started on demand.
    pub(crate) fn url(self) -> Result<String, Error> {
        match env::var_os(self.variable()).filter(|value| !value.is_empty()) {
            Some(url) => url.into_string().map_err(|_| Error::NotAUrl { variable: self.variable() }),
            None => local::shared_url(self),
        }
    }

    /// The variable that names a running server.
    pub(crate) fn variable(self) -> &'static str {
        match self {
            Self::Postgres => "DATABASE_URL",
            Self::Redis => "REDIS_URL",
        }
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
