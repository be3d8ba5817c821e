//! Requests of the workloads to the Redis server.

use redis::{Client, aio::MultiplexedConnection, cmd};

use crate::Result;

pub async fn connect(url: &str) -> Result<MultiplexedConnection> {
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    Ok(Client::open(url)?.get_multiplexed_async_connection_with_config(&config).await?)
}

/// Returns the id of the server's process.
pub async fn process_id(connection: &mut MultiplexedConnection) -> Result<u32> {
    let info: String = cmd("INFO").arg("server").query_async(connection).await?;
    let process = info.lines().find_map(|line| line.strip_prefix("process_id:")?.trim().parse().ok());
    Ok(process.ok_or("the server's INFO lacks process_id")?)
}

/// Waits until all entries of a group are acknowledged.
pub async fn acknowledged(connection: &mut MultiplexedConnection, stream: &str, group: &str) -> Result<()> {
    loop {
        let (pending, ..): (u64, redis::Value, redis::Value, redis::Value) =
            cmd("XPENDING").arg(stream).arg(group).query_async(connection).await?;
        if pending == 0 {
            return Ok(());
        }
    }
}
