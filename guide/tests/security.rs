//! The rights in the chapter on security are those of `SECURITY.md`, which the tests of store, bus and doctor use.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{fs, path::Path};

/// Returns the blocks of a language in a file.
fn blocks(file: &str, language: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    let begin = format!("```{language}\n");
    text.split(&begin).skip(1).map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_rights_are_those_that_are_tested() {
    for (language, begins_with) in [("sql", "GRANT"), ("text", "ACL SETUSER")] {
        let shown = blocks("src/security.md", language);
        assert!(shown.len() == 2 && shown.iter().all(|block| block.starts_with(begins_with)), "{shown:?}");
        assert_eq!(shown, blocks("../SECURITY.md", language));
    }
}
