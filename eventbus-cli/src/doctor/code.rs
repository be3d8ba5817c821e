//! The functions of checks, by the names of the checks in `checks.sql`.

use eventstore_postgres::PgEventStore;

use super::{
    bus_and_store, check::Code, migrations, postgres_access, postgres_server, redis_access, redis_contents,
    redis_groups, redis_server, sqlite_file, statement::Comparison, store_contents,
};

/// Returns the function of a check without statements.
pub(crate) fn code_of(check: &str) -> Option<Code> {
    let code: Code = match check {
        "pg-open-append" => |on| Box::pin(postgres_server::check_open_append(on)),
        "pg-clock" => |on| Box::pin(postgres_server::check_clock(on)),
        "pg-disk" => |on| Box::pin(postgres_server::check_disk(on)),
        "pg-pooler" => |on| Box::pin(postgres_access::check_pooler(on)),
        "redis-server" => |on| Box::pin(redis_server::check_server(on)),
        "redis-eviction" => |on| Box::pin(redis_server::check_eviction(on)),
        "redis-memory" => |on| Box::pin(redis_server::check_memory(on)),
        "redis-aof" => |on| Box::pin(redis_server::check_append_only_file(on)),
        "redis-snapshot" => |on| Box::pin(redis_server::check_snapshot(on)),
        "redis-replica" => |on| Box::pin(redis_server::check_replicas(on)),
        "redis-connections" => |on| Box::pin(redis_server::check_connections(on)),
        "redis-clock" => |on| Box::pin(redis_server::check_clock(on)),
        "redis-disk" => |on| Box::pin(redis_server::check_disk(on)),
        "redis-tls" => |on| Box::pin(redis_access::check_tls(on)),
        "redis-exposed" => |on| Box::pin(redis_access::check_exposed(on)),
        "redis-rights-few" => |on| Box::pin(redis_access::check_missing_rights(on)),
        "redis-store-rights-few" => |on| Box::pin(redis_access::check_missing_store_rights(on)),
        "redis-rights-many" => |on| Box::pin(redis_access::check_excess_rights(on)),
        "redis-format" => |on| Box::pin(redis_groups::check_format(on)),
        "redis-store-format" => |on| Box::pin(redis_groups::check_store_format(on)),
        "group-unattended" => |on| Box::pin(redis_groups::check_unattended(on)),
        "group-holds-trim" => |on| Box::pin(redis_groups::check_held_trimming(on)),
        "group-lost-entries" => |on| Box::pin(redis_groups::check_lost_entries(on)),
        "bus-missing" => |on| Box::pin(redis_groups::check_missing_bus(on)),
        "redis-dead-letters" => |on| Box::pin(redis_groups::check_dead_letters(on)),
        "redis-dead-letter-age" => |on| Box::pin(redis_groups::check_dead_letter_age(on)),
        "redis-store-missing-events-all" => |on| Box::pin(redis_contents::check_all_streams(on)),
        "redis-store-checkpoint-ahead" => |on| Box::pin(redis_contents::check_checkpoints_ahead(on)),
        "redis-store-abandoned-role" => |on| Box::pin(redis_contents::check_abandoned_roles(on)),
        "redis-store-event-types" => |on| Box::pin(redis_contents::check_event_types(on)),
        "redis-store-dead-letter-age" => |on| Box::pin(redis_contents::check_dead_letters(on)),
        "relay-ahead" => |on| Box::pin(bus_and_store::check_relay_ahead(on)),
        "relay-stalled" => |on| Box::pin(bus_and_store::check_relay_stalled(on)),
        "relay-other-store" => |on| Box::pin(bus_and_store::check_other_stores(on)),
        "sqlite-store" => |on| Box::pin(sqlite_file::check_release(on)),
        "sqlite-wal-size" => |on| Box::pin(sqlite_file::check_log_size(on)),
        "sqlite-disk" => |on| Box::pin(sqlite_file::check_disk(on)),
        "sqlite-integrity" => |on| Box::pin(sqlite_file::check_integrity(on)),
        _ => return None,
    };
    Some(code)
}

/// Returns the function that makes the rows of a check from those of its statement.
pub(crate) fn comparison_of(check: &str) -> Option<Comparison> {
    let comparison: Comparison = match check {
        "pg-sync-standby" => postgres_server::compare_standbys,
        "pg-tls" => postgres_access::compare_connection,
        "pg-release" => |rows, _| migrations::compare_migrations(rows, PgEventStore::NEWEST_MIGRATION),
        "pg-missing-events" => store_contents::compare_streams,
        "pg-event-types" => store_contents::compare_event_types,
        "pg-dead-letter-age" => store_contents::compare_dead_letters,
        "sqlite-journal" => sqlite_file::compare_journal,
        "sqlite-index" => sqlite_file::compare_parts,
        _ => return None,
    };
    Some(comparison)
}
