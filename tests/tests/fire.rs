//! Short runs of the fire suite; the program `fire` runs the same for longer.
//!
//! Seeds are fixed, so that a failing run can be repeated; `FIRE_SEED` sets a different one.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests, which report by printing")]

use std::time::Duration;

use workspace_tests::fire::{
    commands, decisions,
    faults::{self, FaultDurations},
    kills::{self, Program, process_role::Settings},
    metered, network_faults,
    place::StoreKind,
    processes, race, reactions, releases, role,
    run_summary::RunSummary,
    sqlite_files, stuck_handlers, unique_values,
};

fn seed() -> u64 {
    std::env::var("FIRE_SEED").map_or(1, |seed| seed.parse().unwrap())
}

#[track_caller]
fn judge(figures: &RunSummary) {
    println!("{}\n{figures}", RunSummary::table_header());
    assert!(figures.is_good(), "{figures}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_feed_neither_skips_nor_repeats_nor_reorders_and_wrong_readers_are_caught() {
    let plan = race::Plan { events: 20_000, time: Duration::from_secs(5), seed: seed() };
    judge(&race::run(plan).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_over_a_failing_network_are_made_once() {
    judge(&network_faults::run(40, seed()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_acknowledged_into_a_file_that_is_gone() {
    judge(&sqlite_files::run(8, seed()).await.unwrap());
}

/// The role of a child process; returns at once in an ordinary run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_process() {
    role::play().await.unwrap();
}

/// Arguments that make this program a child process.
const CHILD: [&str; 3] = ["--exact", "child_process", "--nocapture"];

fn program() -> Program {
    Program::this(&CHILD).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_die_anywhere_lose_and_repeat_nothing() {
    judge(&kills::kill(&program(), Settings::Short, 12, seed()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_of_processes_that_are_killed_equal_an_independent_count() {
    judge(&metered::run(&program(), 8, seed()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_were_paused_write_nothing_any_more() {
    judge(&kills::pause(&program(), Settings::Short, 4, seed()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_crash_and_forget_lose_no_effect() {
    judge(&kills::fail_servers(&program(), Settings::Short, 6, seed()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_databases_cost_no_event_anything() {
    judge(&faults::run(FaultDurations::SHORT, seed()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_never_returns_is_named_and_holds_up_no_other_aggregate() {
    judge(&stuck_handlers::run(&program(), false).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_of_one_store_lose_no_event_and_share_none() {
    let plan = processes::Plan {
        on_sqlite: false,
        processes: 3,
        kills: 6,
        stops: 3,
        pauses: 2,
        crashes: 1,
        lease: Duration::from_secs(2),
        seed: seed(),
    };
    judge(&processes::run(&program(), plan).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_of_one_file_lose_no_event_and_share_none() {
    let plan = processes::Plan {
        on_sqlite: true,
        processes: 2,
        kills: 8,
        stops: 4,
        pauses: 0,
        crashes: 0,
        lease: Duration::from_secs(2),
        seed: seed(),
    };
    judge(&processes::run(&program(), plan).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn releases_that_replace_each_other_miss_no_event_of_a_handler() {
    let plan = releases::Plan { processes: 3, rounds: 1, lease: Duration::from_secs(2), seed: seed() };
    judge(&releases::run(&program(), plan).await.unwrap());
}

/// Makes a test on each of three stores.
macro_rules! on_each_store {
    ($($test:ident),* $(,)?) => {
        on_each_store! { @store postgres Postgres [$($test),*] }
        on_each_store! { @store redis Redis [$($test),*] }
        on_each_store! { @store sqlite Sqlite [$($test),*] }
    };
    (@store $store:ident $kind:ident [$($test:ident),*]) => {
        mod $store {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(super::StoreKind::$kind).await;
            })*
        }
    };
}

on_each_store!(transfers_are_whole_and_reacted_to_once, an_address_has_one_holder, a_command_takes_effect_once);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_decisions_keep_their_rules() {
    decisions_keep_their_rules(StoreKind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite_decisions_keep_their_rules() {
    decisions_keep_their_rules(StoreKind::Sqlite).await;
}

mod model_test {
    //! Seven hundred programs in all: most on the stores where they cost least.

    use std::sync::Arc;

    use eventbus::{InMemoryEventStore, port::EventStore};
    use eventstore_sqlite::SqliteEventStore;
    use tokio::runtime::Runtime;
    use workspace_tests::fire::{database::Database, model};

    fn check(runtime: &Runtime, store: impl EventStore, usually: u32) {
        let (store, cases): (Arc<dyn EventStore>, _) = (Arc::new(store), model::cases(usually).unwrap());
        model::run(runtime, &store, cases, super::seed()).unwrap();
    }

    #[test]
    fn the_store_in_memory_is_the_model() {
        check(&Runtime::new().unwrap(), InMemoryEventStore::new(), 400);
    }

    #[test]
    fn sqlite_is_the_model() {
        let runtime = Runtime::new().unwrap();
        let store = runtime.block_on(SqliteEventStore::in_memory()).unwrap();
        check(&runtime, store, 200);
    }

    #[test]
    fn postgres_is_the_model() {
        let runtime = Runtime::new().unwrap();
        let database = runtime.block_on(Database::create()).unwrap();
        let store = runtime.block_on(database.store("model", 4)).unwrap();
        check(&runtime, store.clone(), 100);
        runtime.block_on(store.close());
        runtime.block_on(database.remove()).unwrap();
    }
}

async fn transfers_are_whole_and_reacted_to_once(store: StoreKind) {
    let plan = reactions::Plan { store, transfers: 90, crashes: 6, over_redis: false, seed: seed() };
    judge(&reactions::run(&program(), plan).await.unwrap());
}

async fn an_address_has_one_holder(store: StoreKind) {
    take_addresses(store, false).await;
}

async fn take_addresses(store: StoreKind, select_then_insert: bool) {
    // those that look first race more seldom
    let attempts = if select_then_insert { 2_000 } else { 1_000 };
    let plan = unique_values::Plan { store, attempts, addresses: 50, select_then_insert, seed: seed() };
    judge(&unique_values::run(&program(), plan).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_look_for_the_holder_first_are_caught() {
    take_addresses(StoreKind::Postgres, true).await;
}

async fn a_command_takes_effect_once(store: StoreKind) {
    commands_are_repeated(store, false).await;
}

async fn commands_are_repeated(store: StoreKind, without_keys: bool) {
    let plan = commands::Plan { store, commands: 30, crashes: 4, without_keys, seed: seed() };
    judge(&commands::run(&program(), plan).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_without_keys_are_caught() {
    commands_are_repeated(StoreKind::Postgres, true).await;
}

async fn decisions_keep_their_rules(store: StoreKind) {
    let plan = decisions::Plan { store, decisions: 400, courses: 10, seed: seed() };
    judge(&decisions::run(&program(), plan).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_statement_of_the_textbook_is_caught() {
    judge(&decisions::run_textbook(4_000, 5, seed()).await.unwrap());
}
