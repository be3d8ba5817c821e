//! The reasons why a server is unavailable, for the reader of a failed test.

use std::{fmt, io, path::PathBuf};

use crate::server::Server;

/// A failure; every message names a remedy, or where to look for the cause.
#[derive(Debug)]
#[cfg_attr(not(unix), allow(dead_code))]
pub(crate) enum Error {
    /// The binaries are neither found nor installed.
    Missing { server: Server, because: String },
    /// The browser is neither found nor installed.
    NoBrowser { because: String },
    /// This system cannot run private servers.
    #[cfg_attr(unix, allow(dead_code))]
    Unsupported { server: Server },
    /// The value of a variable cannot be used as a URL.
    NotAUrl { variable: &'static str },
    /// A program that prepares a server failed.
    Failed { program: String, output: String },
    /// A server ended or did not answer in time.
    NotReady { server: Server, log: PathBuf, end: String },
    /// A server refused a request.
    Refused { server: Server, doing: String, source: Box<dyn std::error::Error + Send + Sync> },
    /// Every port tried was taken.
    NoFreePort,
    /// The folder of all servers belongs to a different user, or is a link.
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
            Self::NoBrowser { because } => {
                write!(f, "Chromium is not installed ({because}): install it (Debian: apt-get install chromium)")
            }
            Self::Unsupported { server } => write!(
                f,
                "private {server} servers are started on Unix only: set {} to the URL of a running server",
                server.variable()
            ),
            Self::NotAUrl { variable } => {
                write!(f, "{variable} is not a URL (expected scheme://host/…)")
            }
            Self::Failed { program, output } => write!(f, "{program} failed:\n{output}"),
            Self::NotReady { server, log, end } => {
                write!(f, "{server} did not start; its log {} ends with:\n{end}", log.display())
            }
            Self::Refused { server, doing, source } => match server.given_url() {
                Some(_) => write!(f, "cannot {doing} on the server of {}: {source}", server.variable()),
                None => write!(f, "cannot {doing}: {source}"),
            },
            Self::NoFreePort => f.write_str("found no free port"),
            Self::ForeignFolder { folder } => {
                write!(f, "{folder} is not a folder of this user: remove it or set TMPDIR")
            }
            Self::Io { doing, source } => write!(f, "cannot {doing}: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Refused { source, .. } => Some(&**source),
            _ => None,
        }
    }
}

/// Returns the value, or fails the test at the line of the caller.
#[track_caller]
pub(crate) fn expect<T>(result: Result<T, Error>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => refuse(&error),
    }
}

/// The only function that panics: a test that gets no server cannot go on.
#[track_caller]
pub(crate) fn refuse(error: &Error) -> ! {
    panic!("eventbus-test: {error}")
}
