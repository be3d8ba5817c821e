//! Servers on this machine, from installed binaries.
//!
//! All files are below `<temp>/eventbus-test-<uid>/`, not below `target/` or a home folder: the account that runs
//! PostgreSQL must be able to enter it. They are `install.lock` and one folder per workspace. That folder has, per kind
//! of server, `<server>.lock`, `<server>.current` (the name of the run folder to join), `<server>.failed.log` (of the
//! last server that did not start) and the run folders, see [`run_folder`].

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
