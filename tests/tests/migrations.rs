//! A released migration is never edited: databases have its effect, and no process runs it again.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;

use workspace_tests::source::files;

/// Each file of migrations, with the hash of its text.
const PINNED: &[(&str, u64)] = &[
    ("eventstore-postgres/migrations/0001_initial.sql", 0xa481a22ca1cf4dbc),
    ("eventstore-postgres/migrations/0002_snapshots.sql", 0x12955b314f01961f),
    ("eventstore-postgres/migrations/0003_unique_values.sql", 0x80be7e7c142dd6f5),
    ("eventstore-postgres/migrations/0004_commands.sql", 0x3649f260f3a412d3),
    ("eventstore-postgres/migrations/0005_tags.sql", 0xa5cb8816d9bc433d),
    ("eventstore-postgres/migrations/0006_handlers.sql", 0x072ecaed2cde36e1),
    ("eventstore-sqlite/migrations/0001_initial.sql", 0x3626177eea6a3fe4),
    ("eventstore-sqlite/migrations/0002_snapshots.sql", 0xba29ed483ccb5b8b),
    ("eventstore-sqlite/migrations/0003_unique_values.sql", 0x0e169080b63bd655),
    ("eventstore-sqlite/migrations/0004_commands.sql", 0xeb11a7ab1b2478e3),
    ("eventstore-sqlite/migrations/0005_tags.sql", 0xa17bfa604a9ac55f),
    ("eventstore-sqlite/migrations/0006_handlers.sql", 0x4ced13217a886f9a),
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
