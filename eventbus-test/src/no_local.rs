//! The stand-in for `local` on systems where private servers cannot be run.

use crate::{error::Error, server::Server};

/// Always fails: on this system tests need the server's variable.
pub(crate) fn shared_url(server: Server) -> Result<String, Error> {
    Err(Error::Unsupported { server })
}

/// Always fails: on this system tests search for no browser.
pub(crate) fn find_chromium() -> Result<std::path::PathBuf, Error> {
    Err(Error::NoBrowser { because: "tests find it on Unix only".to_owned() })
}

/// A Redis server for one test; not available on this system.
#[derive(Debug)]
pub struct PrivateRedis(std::convert::Infallible);

/// The same methods as on Unix, so that tests compile; no value exists to call them on.
#[allow(missing_docs)]
impl PrivateRedis {
    pub(crate) fn launch_with(_arguments: &[&str]) -> Result<Self, Error> {
        Err(Error::Unsupported { server: Server::Redis })
    }

    #[must_use]
    pub fn url(&self) -> &str {
        match self.0 {}
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        match self.0 {}
    }

    pub fn stop(&mut self) {
        match self.0 {}
    }

    pub fn start(&mut self) {
        match self.0 {}
    }

    pub fn start_empty(&mut self) {
        match self.0 {}
    }

    pub fn restart_loading(&mut self) {
        match self.0 {}
    }

    pub fn finish_loading(&mut self) {
        match self.0 {}
    }

    pub fn pause(&self) {
        match self.0 {}
    }

    pub fn resume(&self) {
        match self.0 {}
    }
}

/// A PostgreSQL server for one test; not available on this system.
#[derive(Debug)]
pub struct PrivatePostgres(std::convert::Infallible);

/// The same methods as on Unix, so that tests compile; no value exists to call them on.
#[allow(missing_docs)]
impl PrivatePostgres {
    pub(crate) fn launch_with(_arguments: &[&str]) -> Result<Self, Error> {
        Err(Error::Unsupported { server: Server::Postgres })
    }

    #[must_use]
    pub fn url(&self) -> &str {
        match self.0 {}
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        match self.0 {}
    }

    #[must_use]
    pub fn log(&self) -> String {
        match self.0 {}
    }

    pub fn stop(&mut self) {
        match self.0 {}
    }

    pub fn start(&mut self) {
        match self.0 {}
    }

    pub fn restart_refusing(&mut self) {
        match self.0 {}
    }
}
