//! What the servers have counted so far for an app, and what its process uses.

use std::{collections::BTreeMap, fs, time::Duration};

use eventbus::Result;
use redis::{aio::MultiplexedConnection, cmd};
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::{
    meter::{Meter, cpu_time},
    redis_server,
};

const STATEMENTS: &str = "
    SELECT regexp_replace(btrim(query), '\\s+', ' ', 'g'), sum(calls)::bigint FROM pg_stat_statements
    WHERE dbid = (SELECT oid FROM pg_database WHERE datname = $1) GROUP BY 1";

/// Calls by statement or command.
pub type Calls = BTreeMap<String, u64>;

/// Reads the counters of an app's database, of Redis and of the app's process.
pub struct Counters {
    postgres: PgConnection,
    redis: MultiplexedConnection,
    postgres_meter: Meter,
    redis_meter: Meter,
    database: String,
    process: u32,
}

/// The counters at one time.
#[derive(Debug, Clone)]
pub struct Counted {
    pub statements: Calls,
    /// With those that scripts call, without those that read the counters.
    pub commands: Calls,
    pub postgres_connections: u64,
    pub redis_connections: u64,
    /// Bytes of memory that the process uses.
    pub memory: u64,
    pub app_cpu: Duration,
    pub postgres_cpu: Duration,
    pub redis_cpu: Duration,
}

impl Counters {
    /// Connects to a database whose statements do not count: `server` names one that is not `database`.
    pub async fn open(server: &str, redis: &str, database: &str, process: u32) -> Result<Self> {
        let mut postgres = PgConnection::connect(server).await?;
        postgres.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements").await?;
        let postgres_meter = Meter::default().with_postgres(server).await?;
        let redis_meter = Meter::default().with_redis(redis).await?;
        let redis = redis_server::connect(redis).await?;
        let database = database.rsplit_once('/').map_or(database, |(_, name)| name).into();
        Ok(Self { postgres, redis, postgres_meter, redis_meter, database, process })
    }

    pub async fn read(&mut self) -> Result<Counted> {
        let statements: Vec<(String, i64)> =
            sqlx::query_as(STATEMENTS).bind(&self.database).fetch_all(&mut self.postgres).await?;
        let connections = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1";
        let connections: i64 =
            sqlx::query_scalar(connections).bind(&self.database).fetch_one(&mut self.postgres).await?;
        let commands: String = cmd("INFO").arg("commandstats").query_async(&mut self.redis).await?;
        let clients: String = cmd("INFO").arg("clients").query_async(&mut self.redis).await?;
        let status = fs::read_to_string(format!("/proc/{}/status", self.process))?;
        let own = 1;
        Ok(Counted {
            statements: statements.into_iter().map(|(text, calls)| (text, calls.cast_unsigned())).collect(),
            commands: parse_commands(&commands),
            postgres_connections: connections.cast_unsigned(),
            redis_connections: number_after(&clients, "connected_clients:")?.saturating_sub(own),
            memory: number_after(&status, "VmRSS:")? * 1024,
            app_cpu: cpu_time(self.process).ok_or("the app has ended")?,
            postgres_cpu: self.postgres_meter.server_cpu()?,
            redis_cpu: self.redis_meter.server_cpu()?,
        })
    }
}

/// Returns the calls since an earlier time.
pub fn calls_since(before: &Calls, now: &Calls) -> Calls {
    let since = |(name, calls): (&String, &u64)| {
        (name.clone(), calls.saturating_sub(before.get(name).copied().unwrap_or_default()))
    };
    now.iter().map(since).filter(|(_, calls)| *calls > 0).collect()
}

/// Reads `INFO commandstats`: a line `cmdstat_xadd:calls=3,usec=..` for each command.
fn parse_commands(info: &str) -> Calls {
    let command = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let calls = rest.split(',').next()?.parse().ok()?;
        (name != "info").then(|| (name.to_owned(), calls))
    };
    info.lines().filter_map(command).collect()
}

/// Returns the number that stands behind a name in a text of lines.
fn number_after(text: &str, name: &str) -> Result<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name));
    let number = rest.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    Ok(number.ok_or_else(|| format!("no number behind `{name}`"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_without_those_that_read_the_counters() {
        let info = "# Commandstats\r\ncmdstat_xadd:calls=3,usec=10,usec_per_call=3.3\r\n\
                    cmdstat_client|setinfo:calls=2,usec=1\r\ncmdstat_info:calls=7,usec=90\r\n";
        let commands = parse_commands(info);
        assert_eq!(commands.into_iter().collect::<Vec<_>>(), [("client|setinfo".into(), 2), ("xadd".into(), 3)]);
    }

    #[test]
    fn only_new_calls_count() {
        let calls = |calls: &[(&str, u64)]| calls.iter().map(|&(name, calls)| (name.into(), calls)).collect::<Calls>();
        let since = calls_since(&calls(&[("a", 1), ("b", 2)]), &calls(&[("a", 1), ("b", 5), ("c", 4)]));
        assert_eq!(since, calls(&[("b", 3), ("c", 4)]));
    }

    #[test]
    fn numbers_are_found_by_their_names() -> Result<()> {
        assert_eq!(number_after("Name:\tx\nVmRSS:\t   1234 kB\n", "VmRSS:")?, 1234);
        assert_eq!(number_after("connected_clients:5\r\n", "connected_clients:")?, 5);
        assert!(number_after("", "VmRSS:").is_err());
        Ok(())
    }
}
