//! Servers on this machine, from installed binaries.
//!
//! Files on disk, all below `<temp>/test-servers-<uid>/`, which the account that runs PostgreSQL must be able to walk
//! to (so not below `target/` or a home folder):
//! `install.lock`, and per checkout a folder with, per server, `<server>.lock`, `<server>.current` (the name of the
//! folder to join) and the folders themselves, see [`run_folder`].

mod account;
mod binaries;
mod checkout;
mod install;
mod postgres;
mod private_postgres;
mod private_redis;
mod process;
mod redis;
mod run_folder;
mod shared;

pub(crate) use self::shared::url as shared_url;
pub use self::{private_postgres::PrivatePostgres, private_redis::PrivateRedis};
