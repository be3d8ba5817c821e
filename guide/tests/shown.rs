//! What the chapters show of a failed decision and of a lock file is what a program writes.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use eventbus::{lock::Lock, testkit::given};
use guide::bank::{Account, Deposited, Opened, Withdrawn};

/// Returns the first block of text in a chapter.
fn shown(chapter: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(chapter);
    let text = fs::read_to_string(path).unwrap();
    text.split("```text\n").nth(1).unwrap().split("```").next().unwrap().to_owned()
}

#[test]
fn a_failed_decision_shows_its_differences() {
    let decided = given::<Account>((Opened { owner: "Ada".into() }, Deposited { cents: 120 }))
        .when(|account| account.withdraw(99));
    let failed = catch_unwind(AssertUnwindSafe(|| decided.then([Withdrawn { cents: 100 }]))).unwrap_err();
    assert_eq!(format!("{}\n", failed.downcast_ref::<String>().unwrap()), shown("tests.md"));
}

#[test]
fn a_lock_file_holds_shapes_and_payloads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.lock");
    Lock::at(&path).event::<Deposited>().write().unwrap();
    let written = fs::read_to_string(path).unwrap();
    assert!(written.ends_with(&shown("changing-events.md")), "{written}");
}
