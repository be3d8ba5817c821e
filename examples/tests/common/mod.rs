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
        let folder = std::env::temp_dir().join(test_servers::unique_name("example"));
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

/// A database of its own, dropped at the end.
pub struct Database {
    pub url: String,
    name: String,
}

impl Database {
    pub fn create() -> Self {
        let name = test_servers::unique_name("example");
        execute(&format!("CREATE DATABASE {name}"));
        Self { url: test_servers::database_url_for(&name), name }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
    }
}

/// In a thread of its own, as the test's may be busy with a runtime.
fn execute(statement: &str) {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            use sqlx::{AssertSqlSafe, Connection, Executor};
            let mut admin = sqlx::PgConnection::connect(test_servers::postgres_url()).await.unwrap();
            admin.execute(sqlx::raw_sql(AssertSqlSafe(statement))).await.unwrap();
        });
    };
    std::thread::scope(|scope| scope.spawn(run).join()).unwrap();
}
