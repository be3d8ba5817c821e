//! Helpers to run the examples as their users do.
#![allow(dead_code, unused_imports, reason = "not every test uses everything")]

mod process;
mod stream;

use std::{
    path::PathBuf,
    process::{Command, Output},
};

pub use process::{Process, until};
pub use stream::Stream;

/// Runs a binary to its end.
pub fn run(binary: &str, arguments: &[&str]) -> Output {
    Command::new(binary).args(arguments).env_remove("RUST_LOG").output().unwrap()
}

/// A file in a folder of its own, removed at the end.
pub struct File(PathBuf);

impl File {
    pub fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(eventbus_test::unique_name("example"));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder.join(name))
    }

    pub fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0.parent().unwrap());
    }
}

/// The output of a program that succeeded.
pub fn printed(output: &Output) -> String {
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}{errors}");
    text.into_owned()
}
