//! Checks of the contents of a store on PostgreSQL: events, checkpoints, leases, dead letters.

use super::{
    check::Check,
    statement::warning,
    store_contents::{
        ABANDONED_ROLES, ALL_STREAMS, CHECKPOINTS_AHEAD, DEAD_LETTERS, EVENT_TYPES, NEWEST_STREAMS,
        ORPHANED_CHECKPOINTS,
    },
    subjects::Subject::{PostgresStore, PostgresTypes},
};

pub(crate) const CHECKS: &[Check] = &[
    Check::sql(PostgresStore, "pg-missing-events", "missing events of the newest streams", NEWEST_STREAMS),
    Check::sql(PostgresStore, "pg-missing-events-all", "missing events of all streams", ALL_STREAMS).deep(),
    Check::sql(PostgresStore, "pg-checkpoint-ahead", "readers that are ahead of the store", CHECKPOINTS_AHEAD),
    Check::sql(PostgresStore, "pg-orphaned-checkpoint", "checkpoints that no process moves", ORPHANED_CHECKPOINTS),
    Check::sql(
        PostgresStore,
        "pg-abandoned-role",
        "roles without an owner: a relay or projection that does not run",
        ABANDONED_ROLES,
    ),
    Check::sql(
        PostgresTypes,
        "pg-event-types",
        "stored event types and versions that this program does not know",
        EVENT_TYPES,
    ),
    Check::sql(
        PostgresStore,
        "pg-dead-letter-age",
        "dead letters that are older than the inbox remembers",
        DEAD_LETTERS,
    ),
    Check::sql(
        PostgresStore,
        "pg-event-times",
        "events that occurred after they were recorded",
        &[warning(
            "SELECT * FROM (
                SELECT position::text, {seconds occurred_at - recorded_at} AS seconds
                FROM (SELECT * FROM {table events} ORDER BY position DESC LIMIT 1000) e) e
             WHERE seconds > {clock_skew} ORDER BY seconds DESC LIMIT 1",
            "the event at position {position} occurred {seconds:.1} s after it was recorded",
            "the clock of the process that saved it is ahead: its times are wrong for people and reports",
            "let NTP set the clocks of all machines; if the application sets `occurred_at`, correct it there",
        )],
    ),
];
