//! The list of all metrics: name, kind, unit, labels and meaning of each.
//!
//! Invariant: the table in `docs/metrics.md` lists the same metrics; a test compares them.

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MetricKind {
    /// A number that only grows, from 0 at the start of the app.
    Counter,
    /// A number that rises and falls.
    Gauge,
    /// The distribution of a value since the start of the app, or since its store was created.
    Histogram,
}

impl MetricKind {
    /// Returns its name in the exposition format of Prometheus.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// The description of a metric.
#[derive(Debug)]
pub(crate) struct Descriptor {
    /// The name in Prometheus.
    pub(crate) name: &'static str,
    pub(crate) kind: MetricKind,
    /// The unit in the words of OpenTelemetry; empty if the value is only 0 or 1.
    pub(crate) unit: &'static str,
    pub(crate) labels: &'static [&'static str],
    pub(crate) help: &'static str,
}

macro_rules! catalog {
    ($($ident:ident: $kind:ident $name:literal [$($label:literal),*] $unit:literal $help:literal;)+) => {
        $(pub(crate) const $ident: Descriptor = Descriptor {
            name: $name,
            kind: MetricKind::$kind,
            unit: $unit,
            labels: &[$($label),*],
            help: $help,
        };)+

        /// All metrics, in the order of the page.
        pub(crate) const ALL: &[&Descriptor] = &[$(&$ident),+];
    };
}

catalog! {
    BUILD_INFO: Gauge "eventbus_build_info" ["version"] ""
        "1, with the version of the library.";
    APPEND_SECONDS: Histogram "eventbus_append_seconds" ["outcome"] "s"
        "Duration of appends by repositories, decisions and handlers of this process.";
    APPEND_EVENTS: Histogram "eventbus_append_events" [] "{event}"
        "Events that one append stored.";
    APPEND_CONFLICTS: Counter "eventbus_append_conflicts_total" ["aggregate"] "{append}"
        "Appends at which another writer was first, by type of aggregate.";
    BOUNDARY_CONFLICTS: Counter "eventbus_boundary_conflicts_total" [] "{append}"
        "Decisions to whose boundary an event was added meanwhile.";
    COMMIT_APPENDS: Histogram "eventbus_commit_appends" [] "{append}"
        "Appends that the store joined into one commit, if the store counts them.";
    LOADS: Counter "eventbus_loads_total" ["aggregate", "source"] "{load}"
        "Loads of aggregates, by where the state was found: cache, snapshot or events.";
    SNAPSHOTS: Counter "eventbus_snapshots_total" ["aggregate", "outcome"] "{snapshot}"
        "Attempts to take a snapshot.";
    STORE_UP: Gauge "eventbus_store_up" [] ""
        "1 if the store can be read.";
    FEED_HEAD: Gauge "eventbus_feed_head" [] "{position}"
        "Last position of the feed that readers may read.";
    FEED_HELD: Gauge "eventbus_feed_held_seconds" [] "s"
        "Age of the oldest open append, which keeps readers from events behind it; 0 if there is none.";
    BUS_UP: Gauge "eventbus_bus_up" [] ""
        "1 if the bus answers.";
    RELAY_LEADER: Gauge "eventbus_relay_leader" [] ""
        "1 in the process that relays, 0 in a standby.";
    RELAY_STOPPED: Gauge "eventbus_relay_stopped" [] ""
        "1 while the relay of this process waits for an operator.";
    RELAY_FAILING: Gauge "eventbus_relay_failing" [] ""
        "1 while the relay of this process cannot publish and tries again.";
    RELAY_LAG_EVENTS: Gauge "eventbus_relay_lag_events" [] "{event}"
        "Positions between the last published event and the end of the feed: at most so many events are not published.";
    RELAY_LAG_SECONDS: Gauge "eventbus_relay_lag_seconds" [] "s"
        "Age of the oldest event that is not published; 0 if all are.";
    RELAY_PUBLISHED: Counter "eventbus_relay_published_total" [] "{event}"
        "Events that the relay of this process has published.";
    HANDLER_SECONDS: Histogram "eventbus_handler_seconds" ["group", "handler", "outcome"] "s"
        "Duration of runs of a handler.";
    HANDLER_RETRIES: Counter "eventbus_handler_retries_total" ["group", "handler"] "{run}"
        "Runs of a handler that were not the first attempt of their delivery.";
    HANDLER_RUNNING: Gauge "eventbus_handler_running" ["group", "handler"] "{run}"
        "Runs of a handler at the moment.";
    DELIVERIES: Counter "eventbus_deliveries_total" ["outcome"] "{delivery}"
        "Deliveries to the groups of this process: succeeded, failed or skipped, retries included.";
    RECLAIMED: Counter "eventbus_deliveries_reclaimed_total" [] "{delivery}"
        "Deliveries that this process reclaimed from dead consumers.";
    RECONNECTIONS: Counter "eventbus_bus_reconnections_total" [] "{connection}"
        "Reconnections of the bus after a lost connection.";
    GROUP_IN_FLIGHT: Gauge "eventbus_group_in_flight" ["group"] "{delivery}"
        "Deliveries in flight in this process: read, and not acknowledged yet.";
    GROUP_WAITING: Gauge "eventbus_group_waiting" ["group"] "{delivery}"
        "Deliveries in flight in this process that wait for a retry.";
    GROUP_BLOCKED: Gauge "eventbus_group_blocked_streams" ["group"] "{stream}"
        "Aggregates whose later events wait in this process for an earlier one.";
    GROUP_UNFINISHED: Gauge "eventbus_group_unfinished_seconds" ["group"] "s"
        "Time for which a delivery has been unfinished since a handler failed: the longest one; 0 if none has failed.";
    GROUP_PAUSED: Gauge "eventbus_group_paused" ["group"] ""
        "1 while an operator has paused the group, whose handlers then get no event.";
    GROUP_PENDING: Gauge "eventbus_group_pending" ["group"] "{delivery}"
        "Deliveries of the group in all processes: read, and not acknowledged yet.";
    GROUP_PENDING_SECONDS: Gauge "eventbus_group_pending_seconds" ["group"] "s"
        "Time since the oldest delivery that the group has read and not acknowledged was published, if the bus knows; 0 if there is none.";
    GROUP_UNREAD: Gauge "eventbus_group_unread" ["group"] "{event}"
        "Events that no consumer of the group has read yet, if the bus knows; of a file queue at most so many.";
    GROUP_UNREAD_SECONDS: Gauge "eventbus_group_unread_seconds" ["group"] "s"
        "Time since the oldest event that no consumer of the group has read was published, if the bus knows; 0 if all are read.";
    GROUP_CONSUMERS: Gauge "eventbus_group_consumers" ["group"] "{consumer}"
        "Live consumers of the group in all processes.";
    DEAD_LETTERS: Gauge "eventbus_dead_letters" [] "{delivery}"
        "Dead letters that store and bus hold; of a store 500 at most.";
    DEAD_LETTERS_TOTAL: Counter "eventbus_dead_letters_total" [] "{delivery}"
        "Deliveries that this process made dead letters.";
    PROJECTION_LAG_EVENTS: Gauge "eventbus_projection_lag_events" ["projection"] "{event}"
        "Positions between a projection and the end of the feed: at most so many events are not included.";
    PROJECTION_LAG_SECONDS: Gauge "eventbus_projection_lag_seconds" ["projection"] "s"
        "Age of the oldest event that a projection does not include; 0 if it includes all.";
    PROJECTION_EVENTS: Counter "eventbus_projection_events_total" ["projection"] "{event}"
        "Events that this process has applied to a projection.";
    PROJECTION_OWNER: Gauge "eventbus_projection_owner" ["projection"] ""
        "1 in the process that feeds a projection.";
    PROJECTION_STOPPED: Gauge "eventbus_projection_stopped" ["projection"] ""
        "1 while a projection of this process is stopped before an event, or by a mistake in its attribute.";
    PROJECTION_FAILING: Gauge "eventbus_projection_failing" ["projection"] ""
        "1 while a projection of this process cannot use its store and tries again.";
    REBUILD_DONE: Gauge "eventbus_rebuild_done_ratio" ["projection"] "1"
        "Share of the feed that the rebuild of a projection in this process has passed; 1 if none runs.";
    REBUILD_EVENTS: Counter "eventbus_rebuild_events_total" ["projection"] "{event}"
        "Events that rebuilds of a projection in this process have handled.";
    REBUILDS: Counter "eventbus_rebuilds_total" ["projection", "outcome"] "{rebuild}"
        "Rebuilds of a projection that ended in this process: done or failed.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        let mut names = BTreeSet::new();
        for Descriptor { name, kind, unit, help, .. } in ALL {
            assert!(names.insert(name), "{name} is there twice");
            assert!(name.starts_with("eventbus_"), "{name}");
            assert!(name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase()), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == MetricKind::Counter, "{name}");
            assert_eq!(name.ends_with("_seconds"), *unit == "s", "{name}");
            assert!(help.ends_with('.'), "{name}");
        }
    }

    /// The table of the documentation.
    #[test]
    fn the_documentation_lists_each_metric_with_kind_unit_and_labels() {
        let docs = include_str!("../../docs/metrics.md");
        let listed: Vec<_> = docs.lines().filter(|line| line.starts_with("| `eventbus_")).collect();
        let described: Vec<_> = ALL
            .iter()
            .map(|Descriptor { name, kind, unit, labels, help }| {
                let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
                let unit = if unit.is_empty() { "0 or 1" } else { unit.trim_matches(['{', '}']) };
                format!("| `{name}` | {} | {unit} | {} | {help} |", kind.label(), labels.join(", "))
            })
            .collect();
        assert_eq!(listed, described, "docs/metrics.md:\n{}", described.join("\n"));
    }
}
