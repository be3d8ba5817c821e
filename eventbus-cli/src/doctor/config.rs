//! The thresholds of the checks.

use std::{net::IpAddr, time::Duration};

use eventbus::clock::SharedClock;
use ipnet::IpNet;

use crate::query::RETIRED;

/// Thresholds and limits of the checks; the defaults suit most deployments.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use eventbus_cli::doctor::DoctorConfig;
/// let config = DoctorConfig { long_transaction: Duration::from_secs(60), ..Default::default() };
/// assert_eq!(config.connections_share, 0.8);
/// ```
#[derive(Debug, Clone)]
pub struct DoctorConfig {
    /// The time limit of each statement on PostgreSQL. Default 5 s.
    pub statement_timeout: Duration,
    /// The time limit of each statement of a check that reads whole tables, see [`deep`](super::Doctor::deep). Default
    /// 10 min.
    pub deep_timeout: Duration,
    /// The age from which on an open transaction is a finding. Default 5 min.
    pub long_transaction: Duration,
    /// The age from which on an open append is a finding: it holds up every reader of the feed. Default 30 s.
    pub open_append: Duration,
    /// The age from which on a prepared transaction is a finding. Default 5 min.
    pub prepared_transaction: Duration,
    /// The number of dead rows from which on a table is a finding, if their share is also above
    /// [`dead_rows_share`](Self::dead_rows_share). Default 10,000.
    pub dead_rows: u32,
    /// The ratio of dead rows to live ones above which a table is a finding. Default 0.2.
    pub dead_rows_share: f64,
    /// The share of a server's connections that may be in use without a finding, for PostgreSQL and Redis. Default 0.8.
    pub connections_share: f64,
    /// The age, in transactions, that a database's oldest unfrozen row may have. The server refuses all writes at about
    /// 2,100,000,000. Default 1,000,000,000.
    pub transaction_id_age: u32,
    /// The maximum difference between two clocks, and the maximum time by which an event may have occurred after it was
    /// recorded. Default 2 s.
    pub clock_skew: Duration,
    /// The share of free disk space below which the doctor warns; below a quarter of it, it reports a fault. Default
    /// 0.1.
    pub free_disk_share: f64,
    /// The networks over which a connection without TLS is no finding. Default: loopback and private ones.
    pub trusted_networks: Vec<IpNet>,
    /// The application's role on PostgreSQL, whose rights are checked. Default: the role of the connection.
    pub app_role: Option<String>,
    /// The retention of the inbox: the `inbox_retention` of the app. Default 30 days.
    pub inbox_retention: Duration,
    /// The time for which a checkpoint or a lease of a reader may stand still while events are added. Default 1 day.
    pub abandoned: Duration,
    /// The time for which the relay may leave an event unpublished. Default 5 min.
    pub relay_lag: Duration,
    /// The time for which an entry may wait in a group without a live consumer, or at a dead one. Default 5 min.
    pub idle_group: Duration,
    /// The time for which a group may leave its oldest entry unfinished, so that trimming stops there. Default 1 day.
    pub held_trim: Duration,
    /// The share of Redis's `maxmemory` that may be in use without a finding. Default 0.8.
    pub redis_memory_share: f64,
    /// The size of SQLite's write-ahead log above which it is a finding. Usually the log has about 16 MiB; a large
    /// transaction or a long query makes it longer, and one of the next appends truncates it to 64 MiB. Default 256
    /// MiB.
    pub sqlite_wal_bytes: u64,
    /// The number of newest streams in which the doctor searches missing events without [`deep`](super::Doctor::deep).
    /// Default 200.
    pub sampled_streams: u32,
    /// The clock of this process, with which the doctor compares the servers' clocks. Default: the machine's.
    pub clock: SharedClock,
}

impl DoctorConfig {
    /// Returns `true` for an address of a trusted network.
    pub(crate) fn is_trusted(&self, address: IpAddr) -> bool {
        self.trusted_networks.iter().any(|network| network.contains(&address))
    }

    /// Returns a threshold for a statement, by its name: a duration in seconds.
    pub(crate) fn sql_value(&self, name: &str) -> Option<String> {
        let seconds = |time: Duration| format!("{:?}", time.as_secs_f64());
        Some(match name {
            "long_transaction" => seconds(self.long_transaction),
            "prepared_transaction" => seconds(self.prepared_transaction),
            "clock_skew" => seconds(self.clock_skew),
            "abandoned" => seconds(self.abandoned),
            "dead_rows" => self.dead_rows.to_string(),
            "dead_rows_share" => format!("{:?}", self.dead_rows_share),
            "connections_share" => format!("{:?}", self.connections_share),
            "transaction_id_age" => self.transaction_id_age.to_string(),
            "sampled_streams" => self.sampled_streams.to_string(),
            // a long stream takes long
            "sampled_versions" => "1000".into(),
            "retired" => format!("'{RETIRED}'"),
            "app_role" => match &self.app_role {
                Some(role) => format!("'{}'::text", role.replace('\'', "''")),
                None => "NULL::text".into(),
            },
            _ => return None,
        })
    }
}

impl Default for DoctorConfig {
    fn default() -> Self {
        const MINUTE: Duration = Duration::from_secs(60);
        const DAY: Duration = Duration::from_secs(24 * 3_600);
        let network = |text: &str| text.parse().ok();
        Self {
            statement_timeout: Duration::from_secs(5),
            deep_timeout: 10 * MINUTE,
            long_transaction: 5 * MINUTE,
            open_append: Duration::from_secs(30),
            prepared_transaction: 5 * MINUTE,
            dead_rows: 10_000,
            dead_rows_share: 0.2,
            connections_share: 0.8,
            transaction_id_age: 1_000_000_000,
            clock_skew: Duration::from_secs(2),
            free_disk_share: 0.1,
            trusted_networks: TRUSTED_NETWORKS.iter().copied().filter_map(network).collect(),
            app_role: None,
            inbox_retention: 30 * DAY,
            abandoned: DAY,
            relay_lag: 5 * MINUTE,
            idle_group: 5 * MINUTE,
            held_trim: DAY,
            redis_memory_share: 0.8,
            sqlite_wal_bytes: 256 << 20,
            sampled_streams: 200,
            clock: SharedClock::SYSTEM,
        }
    }
}

/// Loopback, private, link-local and unique local addresses.
const TRUSTED_NETWORKS: [&str; 9] = [
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "::1/128",
    "::ffff:127.0.0.0/104",
    "fc00::/7",
    "fe80::/10",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// As the documentation of the fields says it: the tests of the checks set most of them.
    #[test]
    fn the_defaults_are_those_of_the_documentation() {
        let source = include_str!("config.rs");
        let config = format!("{:?}", DoctorConfig::default());
        let fields = source.split_once("pub struct DoctorConfig {").unwrap().1.split_once("\n}\n").unwrap().0;
        let (mut text, mut compared) = (String::new(), 0);
        for line in fields.lines().map(str::trim) {
            match line.strip_prefix("pub ").and_then(|field| field.split_once(':')) {
                None => text.push_str(&line.replace("///", "")),
                Some((name, _)) => {
                    let documented = std::mem::take(&mut text);
                    let default = documented.rsplit_once("Default").unwrap().1;
                    let default =
                        default.trim_matches(|c: char| c.is_whitespace() || ".:".contains(c)).replace(',', "");
                    let (number, unit) = default.split_once(' ').unwrap_or((&default, ""));
                    let Ok(number) = number.parse::<f64>() else { continue };
                    let factor = match unit {
                        "" | "s" => 1.0,
                        "min" => 60.0,
                        "h" => 3_600.0,
                        "day" | "days" => 86_400.0,
                        "MiB" => f64::from(1 << 20),
                        unit => panic!("{name}: {unit}"),
                    };
                    let found = config.split_once(&format!(" {name}: ")).unwrap().1;
                    let found = found.split([',', ' ']).next().unwrap();
                    let found: f64 = found.trim_end_matches('s').parse().unwrap();
                    assert!((found - number * factor).abs() < 1e-9, "{name} is {found}, documented is {default}");
                    compared += 1;
                }
            }
        }
        assert_eq!(compared, 19, "{fields}");
    }

    #[test]
    fn every_trusted_network_is_one() {
        let networks = DoctorConfig::default().trusted_networks;
        assert_eq!(networks.len(), TRUSTED_NETWORKS.len());
        let is_trusted = |address: &str| {
            let address: std::net::IpAddr = address.parse().unwrap();
            networks.iter().any(|network| network.contains(&address))
        };
        assert!(is_trusted("172.31.255.1") && is_trusted("::1") && !is_trusted("203.0.113.9"));
    }
}
