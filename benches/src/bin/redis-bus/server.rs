//! The server that both sides use, and measurements of it.

use std::time::Duration;

use eventbus::Result;
use redis::{Client, aio::MultiplexedConnection, cmd};
use test_servers::{PrivateRedis, private_redis};

/// A private Redis server that keeps its data in memory; gone when dropped.
pub struct Server {
    redis: PrivateRedis,
    connection: MultiplexedConnection,
}

impl Server {
    pub async fn start() -> Result<Self> {
        let redis = private_redis();
        let connection = Client::open(redis.url())?.get_multiplexed_async_connection().await?;
        let server = Self { redis, connection };
        // the comparison excludes the disk
        cmd("CONFIG").arg("SET").arg("appendonly").arg("no").exec_async(&mut server.connection()).await?;
        Ok(server)
    }

    pub fn url(&self) -> &str {
        self.redis.url()
    }

    pub async fn version(&self) -> Result<String> {
        self.info("server", "redis_version").await
    }

    /// Returns the processor time of the server so far.
    pub async fn cpu(&self) -> Result<Duration> {
        let mut seconds = 0.0;
        for part in ["used_cpu_user", "used_cpu_sys"] {
            seconds += self.info("cpu", part).await?.parse::<f64>()?;
        }
        Ok(Duration::from_secs_f64(seconds))
    }

    /// Waits until all entries of a group are acknowledged.
    pub async fn until_acknowledged(&self, stream: &str, group: &str) -> Result<()> {
        loop {
            let (pending, ..): (u64, redis::Value, redis::Value, redis::Value) =
                cmd("XPENDING").arg(stream).arg(group).query_async(&mut self.connection()).await?;
            if pending == 0 {
                return Ok(());
            }
        }
    }

    pub async fn destroy_group(&self, stream: &str, group: &str) -> Result<()> {
        Ok(cmd("XGROUP").arg("DESTROY").arg(stream).arg(group).exec_async(&mut self.connection()).await?)
    }

    pub async fn delete(&self, stream: &str) -> Result<()> {
        Ok(cmd("DEL").arg(stream).exec_async(&mut self.connection()).await?)
    }

    pub fn connection(&self) -> MultiplexedConnection {
        self.connection.clone()
    }

    async fn info(&self, section: &str, key: &str) -> Result<String> {
        let info: String = cmd("INFO").arg(section).query_async(&mut self.connection()).await?;
        let value = info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        Ok(value.ok_or_else(|| format!("the server's INFO lacks {key}"))?.trim().to_owned())
    }
}
