//! The chapters of the guide as documentation, so that `cargo test --doc -p guide` compiles their blocks of Rust, and
//! the [bank] that the blocks share.
//!
//! A block that starts an app and runs is a `standalone_crate`: an app looks at all events, aggregates and handlers that
//! are linked, and the other blocks of all chapters are linked into one program.

pub mod bank;

macro_rules! chapters {
    ($($name:ident $file:literal)*) => {
        /// The names of the chapters' files.
        pub const CHAPTERS: &[&str] = &[$($file),*];

        $(#[doc = include_str!(concat!("src/", $file))] mod $name {})*
    };
}

chapters! {
    introduction "introduction.md"
    first_aggregate "first-aggregate.md"
    handlers "handlers.md"
    projections "projections.md"
    tests "tests.md"
    http "http.md"
    postgres_and_redis "postgres-and-redis.md"
    sqlite "sqlite.md"
    file_queue "file-queue.md"
    deploying "deploying.md"
    changing_events "changing-events.md"
    decisions "decisions.md"
    tenants "tenants.md"
    operating "operating.md"
    backup_and_restore "backup-and-restore.md"
    server_versions "server-versions.md"
    sizing "sizing.md"
    erasing_a_person "erasing-a-person.md"
    security "security.md"
    troubleshooting "troubleshooting.md"
    moving "moving/overview.md"
    moving_from_eventsource_py "moving/eventsource-py.md"
    moving_from_cqrs_es "moving/cqrs-es.md"
    moving_from_evento "moving/evento.md"
    moving_from_disintegrate "moving/disintegrate.md"
    calls "calls.md"
    how_it_works "how-it-works.md"
    backends "backends.md"
    promises "promises.md"
}
