//! The doctor: checks of PostgreSQL, Redis, SQLite, and of the data that the project stores there.
//!
//! A [`Check`] has a stable name and reports [findings](Finding): each with its consequence and its repair. If a server
//! does not allow a check, or does not answer, the check is reported as not made; it never passes silently. No check
//! changes a server or its data. `checks.sql` describes all checks.
//!
//! A [`Doctor`] makes the checks and returns a [`Report`].

mod bus_and_store;
mod bus_target;
mod catalog;
mod check;
mod code;
mod config;
mod disk;
mod finding;
mod known_types;
mod migrations;
mod outcome;
mod postgres_access;
mod postgres_server;
mod postgres_session;
mod postgres_target;
mod redis_access;
mod redis_contents;
mod redis_groups;
mod redis_server;
mod redis_store_target;
mod redis_target;
mod report;
mod run;
mod sqlite_file;
mod sqlite_target;
mod statement;
mod store_beside;
mod store_contents;
mod subjects;

pub use catalog::{UnknownCheck, checks};
pub use check::Check;
pub use config::DoctorConfig;
pub use finding::{Finding, Severity};
pub use report::{CheckFinding, NotChecked, Report};
pub use run::Doctor;
pub use subjects::Subject;
