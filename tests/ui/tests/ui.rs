//! Programs that must not compile, with the messages their authors see.
//!
//! Each file in `fail/` is one family of mistakes; its `.stderr` is the promise that one mistake is one error, on the
//! token to change. `TRYBUILD=overwrite` writes them anew: read the difference before you commit it. The programs in `pass/`
//! are test programs of this crate: `trybuild` would build them one by one, and with them their dependencies once more.

use std::{collections::BTreeSet, fs};

#[test]
fn each_program_in_pass_is_a_test_program() {
    let files = fs::read_dir("tests/pass").unwrap();
    let files: BTreeSet<_> = files.map(|file| format!("tests/pass/{}", file.unwrap().file_name().display())).collect();
    let paths = include_str!("../Cargo.toml").lines().filter_map(|line| line.strip_prefix("path = \""));
    let listed: BTreeSet<_> = paths.map(|path| path.trim_end_matches('"').to_owned()).collect();
    assert_eq!(files, listed);
}

#[test]
fn mistakes_are_named_with_the_token_to_change() {
    trybuild::TestCases::new().compile_fail("tests/fail/*.rs");
}
