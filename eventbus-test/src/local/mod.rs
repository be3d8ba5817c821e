//! Servers on this machine, from installed binaries.
//!
//! Files on disk, all below `<temp>/eventbus-test-<uid>/`, which the account that runs PostgreSQL must be able to walk
//! to (so not below `target/` or a home folder):
//! `install.lock`, and per workspace a folder with, per server, `<server>.lock`, `<server>.current` (the name of the
//! folder to join), `<server>.failed.log` (of the last server that did not start) and the folders themselves, see
//! [`run_folder`].

mod account;
mod binaries;
mod install;
mod postgres;
mod private_postgres;
mod private_redis;
mod process;
mod redis;
mod run_folder;
mod shared;
mod workspace;

pub(crate) use self::{binaries::find_chromium, shared::url as shared_url};
pub use self::{private_postgres::PrivatePostgres, private_redis::PrivateRedis};
