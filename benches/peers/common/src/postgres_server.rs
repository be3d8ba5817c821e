//! Requests of the workloads to the PostgreSQL server.

use std::fs;

use tokio_postgres::{Client, NoTls};

use crate::{Result, unique_name};

async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // it ends with the client, whose requests fail if it fails
    tokio::spawn(connection);
    Ok(client)
}

/// Creates a database, and returns its URL.
pub async fn new_database(server: &str) -> Result<String> {
    let name = unique_name("bench");
    connect(server).await?.batch_execute(&format!("CREATE DATABASE \"{name}\"")).await?;
    let (server, _) = server.rsplit_once('/').ok_or("the server's URL names no database")?;
    Ok(format!("{server}/{name}"))
}

/// Collects statistics of a database, as autovacuum does some time after its tables were filled.
pub async fn analyze(database: &str) -> Result<()> {
    Ok(connect(database).await?.batch_execute("ANALYZE").await?)
}

/// Returns the id of the server's main process, which is the parent of each backend.
pub async fn process_id(server: &str) -> Result<u32> {
    let client = connect(server).await?;
    let backend: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await?.try_get(0)?;
    let stat = fs::read_to_string(format!("/proc/{backend}/stat"))?;
    // the name, in parentheses, may contain any character
    let parent = stat.rsplit_once(") ").and_then(|(_, fields)| fields.split(' ').nth(1)?.parse().ok());
    Ok(parent.ok_or("the server is not on this machine")?)
}
