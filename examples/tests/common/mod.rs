//! Running the examples as their users do.
#![allow(dead_code, reason = "not every test uses everything")]

use std::process::{Command, Output};

/// Runs a binary to its end.
pub fn run(binary: &str, arguments: &[&str]) -> Output {
    Command::new(binary).args(arguments).env_remove("RUST_LOG").output().unwrap()
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

fn execute(statement: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        use sqlx::{AssertSqlSafe, Connection, Executor};
        let mut admin = sqlx::PgConnection::connect(test_servers::postgres_url()).await.unwrap();
        admin.execute(sqlx::raw_sql(AssertSqlSafe(statement))).await.unwrap();
    });
}
