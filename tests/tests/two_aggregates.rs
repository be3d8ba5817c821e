//! Two aggregates with one type would share streams: no app in such a program starts.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::process::Command;

#[test]
fn two_aggregates_with_one_type_keep_every_app_of_a_program_from_starting() {
    for arguments in [&[][..], &["discover"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_two_aggregates")).args(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        let parts = ["`Account`", "bank::Account (", "forum::Member (", "#[aggregate(type = \"..\")]"];
        for part in parts {
            assert!(said.contains(part), "{part} is not in: {said}");
        }
        assert_eq!(said.matches("two_aggregates.rs:").count(), 2, "both places: {said}");
    }
}
