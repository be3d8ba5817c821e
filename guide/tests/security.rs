//! The rights in the chapter on security are those of `SECURITY.md`, which the tests of store and bus use.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{fs, path::Path};

/// Returns the first block of a language in a file.
fn block(file: &str, language: &str) -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    let block = text.split(&format!("```{language}\n")).nth(1).unwrap().split("```").next().unwrap();
    block.to_owned()
}

#[test]
fn the_rights_are_those_that_are_tested() {
    for (language, begins_with) in [("sql", "GRANT"), ("text", "ACL SETUSER")] {
        let shown = block("src/security.md", language);
        assert!(shown.starts_with(begins_with), "{shown}");
        assert_eq!(shown, block("../SECURITY.md", language));
    }
}
