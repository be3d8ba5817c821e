//! All checks.

use std::{fs, path::Path};

/// Fails if a check has no test.
#[test]
fn each_check_has_a_test() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/doctor");
    let files = fs::read_dir(folder).unwrap().map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    let tests: String = files.collect();
    let untested: Vec<_> = eventbus_cli::doctor::checks()
        .map(|check| check.name())
        .filter(|name| !tests.contains(&format!("\"{name}\"")))
        .collect();
    assert_eq!(untested, [""; 0]);
}

#[test]
fn there_are_checks_of_every_subject() {
    let subjects: std::collections::HashSet<_> = eventbus_cli::doctor::checks().map(|check| check.subject()).collect();
    assert_eq!(subjects.len(), 9, "{subjects:?}");
    assert!(eventbus_cli::doctor::checks().count() >= 25);
    assert!(eventbus_cli::doctor::checks().all(|check| !check.finds().is_empty() && !check.timeout().is_zero()));
}
