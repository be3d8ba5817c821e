//! The schema lock: a file that lists the events a program has stored or may have stored, and a test that fails when a
//! change of the code would no longer read them. For tests; needs the cargo feature `testkit`.
//!
//! ```standalone_crate
//! # mod shop {
//! # use eventbus::prelude::*;
//! # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
//! # #[event(aggregate_type = "Order")]
//! # pub struct OrderCreated { pub customer_id: String }
//! # }
//! # fn main() -> eventbus::Result<()> {
//! # let folder = std::env::temp_dir().join(format!("lock-{}", eventbus::AggregateId::new()));
//! # std::fs::create_dir(&folder)?;
//! # let path = folder.join("events.lock");
//! # eventbus::lock::Lock::at(&path).write()?;
//! # std::env::set_current_dir(&folder)?;
//! // in a test, for all events that are linked; `EVENTBUS_BLESS=1 cargo test` writes the file, which you commit
//! eventbus::lock::check("events.lock");
//! # assert!(std::fs::read_to_string(&path)?.contains("event OrderCreated"));
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok(())
//! # }
//! ```
//!
//! For each event and version the file holds the shape of the fields, nested types included, and payloads as a program
//! of that time stored them. The shape is traced through `Deserialize`, so that nested types need no attribute. The
//! check decodes every payload as today's event, by the program's own codec and upcasters, and compares:
//!
//! | change of an event | the check |
//! |---|---|
//! | a stored payload of any version no longer decodes | fails with the field, the versions and the repair |
//! | a value of a stored payload is lost or changed, with the same `version` | fails likewise |
//! | an upcaster makes a different value of a payload than before | fails |
//! | the event is gone, and neither `was` nor `retired` names it; its aggregate type or its version went back | fails |
//! | a new field with a default, a new variant, a wider type, a new version, a new event | asks to write the file again |
//!
//! Writing only adds to the file, and refuses what the check refuses. If a version was never stored outside of a
//! developer's machine, delete its lines by hand.
//!
//! # What it cannot see
//! - The fields of a struct with `#[serde(flatten)]`, the variants of an enum that is untagged or internally tagged, and
//!   the values that a validating type accepts beyond the [usual ones](Lock::sample): such an event needs
//!   [samples](Lock::sample), and what no sample has is not checked.
//! - A change of meaning that leaves fields and types as they are, such as euros to cents.
//! - Two fields of one type that swap their names.
//! - What was before the file: versions and names that no version of the file had. Write it with the first release.
//! - What a type of a field accepts beyond the sample: a `String` that is now limited to 50 characters.

mod compare;
mod error;
mod fault;
mod file;
mod finding;
mod json;
mod known_event;
mod lock_check;

use std::path::Path;

pub use error::LockError;
pub use finding::Finding;
pub use lock_check::Lock;

/// Checks all linked events against the lock file at `path`, which is relative to the folder of the package, as tests run
/// there. With `EVENTBUS_BLESS=1` in the environment it writes the file instead.
///
/// See the [module](self) for what it finds.
///
/// # Panics
/// If the check fails; the message names each event, field and version, and the repair to make.
#[track_caller]
pub fn check(path: impl AsRef<Path>) {
    Lock::at(path).check();
}
