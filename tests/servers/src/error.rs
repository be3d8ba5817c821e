//! The reasons why a server is unavailable, for the reader of a failed test.

use std::{fmt, io};

use crate::server::Server;

/// A failure; every message names a remedy, or where to look for the cause.
#[derive(Debug)]
#[cfg_attr(not(unix), allow(dead_code))]
pub(crate) enum Error {
    /// The binaries are neither found nor installed.
    Missing { server: Server, because: String },
    /// This system cannot run private servers.
    #[cfg_attr(unix, allow(dead_code))]
    Unsupported { server: Server },
    /// The value of a variable cannot be used as a URL.
    NotAUrl { variable: &'static str },
    /// A program that prepares a server failed.
    Failed { program: String, output: String },
    /// A server ended or did not answer in time.
    NotReady { server: Server, log: String },
    /// Every port tried was taken.
    NoFreePort,
    /// The state folder belongs to a different user.
    ForeignFolder { folder: String },
    /// The operating system refused a call.
    Io { doing: String, source: io::Error },
}

#[cfg_attr(not(unix), allow(dead_code))]
impl Error {
    /// Turns an [`io::Error`] into ours; `doing` completes the sentence "cannot …".
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { server, because } => write!(
                f,
                "{server} is not installed ({because}): set {variable} to the URL of a running server, or install it \
                 (Debian, Ubuntu: apt-get install {package}; macOS: brew install {formula})",
                variable = server.variable(),
                package = server.package(),
                formula = server.formula(),
            ),
            Self::Unsupported { server } => write!(
                f,
                "private {server} servers are started on Unix only: set {} to the URL of a running server",
                server.variable()
            ),
            Self::NotAUrl { variable } => {
                write!(f, "{variable} is not a URL (expected scheme://host/…)")
            }
            Self::Failed { program, output } => write!(f, "{program} failed:\n{output}"),
            Self::NotReady { server, log } => {
                write!(f, "{server} did not start; the end of its log:\n{log}")
            }
            Self::NoFreePort => f.write_str("found no free port"),
            Self::ForeignFolder { folder } => write!(f, "{folder} belongs to another user: remove it or set TMPDIR"),
            Self::Io { doing, source } => write!(f, "cannot {doing}: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
