//! A released migration is never edited: databases have its effect, and no process runs it again.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;

use workspace_tests::source::files;

/// Each file of migrations, with the hash of its text.
const PINNED: &[(&str, u64)] = &[
    ("eventstore-postgres/migrations/0001_initial.sql", 0xdb087e9cf1c8d446),
    ("eventstore-sqlite/migrations/0001_initial.sql", 0x13512a86e10a7ea1),
];

/// FNV-1a.
fn hash(text: &str) -> u64 {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

#[test]
fn no_migration_is_edited() {
    let mut pinned: BTreeMap<_, _> = PINNED.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in ["eventstore-postgres", "eventstore-sqlite"] {
        for file in files(&format!("{package}/migrations"), &[".sql"]).unwrap() {
            let found = hash(&file.text);
            if pinned.remove(&*file.path) != Some(found) {
                wrong.push(format!("    (\"{}\", {found:#018x}),", file.path));
            }
        }
    }
    let wrong = wrong.join("\n");
    assert!(
        wrong.is_empty(),
        "the text of a migration is new or was edited. Databases have its former text: undo the edit, and make the \
         change by a new step in a new file (`STEPS` in src/migrate.rs), additive if older releases can live with it. \
         Only for a new file, or before the first release, pin the text in this test:\n{wrong}"
    );
    assert!(pinned.is_empty(), "migrations that were removed: {pinned:?}");
}
