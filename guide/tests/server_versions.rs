//! What the guide says of servers is what the code does: the versions that it refuses, those that it links, the releases with
//! which the tests share streams, and the settings of its connections.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{fs, path::PathBuf};

fn workspace(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn text(path: &str) -> String {
    fs::read_to_string(workspace(path)).unwrap()
}

/// Returns the cells of the row of a server: tested, expected, refused.
fn row(server: &str) -> [String; 3] {
    let table = text("guide/src/server-versions.md");
    let begin = format!("| {server} |");
    let row = table.lines().find(|line| line.starts_with(&begin)).unwrap();
    let cells: Vec<_> = row.split('|').skip(2).take(3).map(|cell| cell.trim().to_owned()).collect();
    cells.try_into().unwrap()
}

#[test]
fn postgres_is_refused_below_the_version_of_the_check() {
    let [_, expected, refused] = row("PostgreSQL");
    let least: u32 = expected.split(',').next().unwrap().parse().unwrap();
    assert_eq!(refused, format!("older than {least}, by `connect`"));
    for (file, check) in [
        ("eventstore-postgres/src/preflight.rs", format!("const SERVER_VERSION_MIN: i32 = {least}0_000;")),
        ("eventbus-cli/src/doctor/checks.sql", format!("version < {least}0000 AS _is_old")),
    ] {
        assert!(text(file).contains(&check), "{file} has no `{check}`");
    }
}

#[test]
fn redis_is_found_below_the_version_of_the_check() {
    let [tested, _, refused] = row("Redis");
    assert!(refused.ends_with(&format!("`eventbus doctor` finds one older than {tested}")), "{refused}");
    let check = format!("const MAJOR_VERSION_MIN: u64 = {};", tested.split('.').next().unwrap());
    assert!(text("eventbus-cli/src/doctor/redis_server.rs").contains(&check), "{check}");
}

#[test]
fn sqlite_is_the_one_that_is_linked() {
    let [tested, ..] = row("SQLite");
    let linked = eventstore_sqlite::rusqlite::version();
    assert!(linked.starts_with(&(tested.strip_suffix(", compiled in").unwrap().to_owned() + ".")), "{linked}");
}

#[test]
fn the_releases_of_the_python_library_are_those_of_the_tests() {
    let mut releases: Vec<String> = Vec::new();
    for file in fs::read_dir(workspace("tests/python")).unwrap() {
        let path = file.unwrap().path();
        let is_list = path.extension().is_some_and(|extension| extension == "txt");
        let text = if is_list { fs::read_to_string(path).unwrap() } else { continue };
        let pinned = text.lines().find_map(|line| line.strip_prefix("eventsource-py[postgresql,redis]=="));
        releases.extend(pinned.map(str::to_owned));
    }
    let mut shown: Vec<_> = row("eventsource-py on the same streams")[0].split(", ").map(str::to_owned).collect();
    releases.sort();
    shown.sort();
    assert!(!releases.is_empty() && releases == shown, "{releases:?}, and the guide has {shown:?}");
}

#[test]
fn the_lowest_rust_is_that_of_the_manifests() {
    let [_, expected, refused] = row("Rust");
    let least = env!("CARGO_PKG_RUST_VERSION");
    assert_eq!((expected, refused), (format!("{least}, and newer"), format!("older than {least}, by cargo")));
}

/// Of the servers in the compose file that `eventbus new` writes.
#[test]
fn a_new_crate_has_servers_of_the_major_versions_that_are_tested() {
    let compose = text("eventbus-cli/template/compose.yaml");
    let images: Vec<_> = compose.lines().filter_map(|line| line.trim().strip_prefix("image: ")).collect();
    let image = |name: &str, server: &str| format!("{name}:{}", row(server)[0].split('.').next().unwrap());
    assert_eq!(images, [image("postgres", "PostgreSQL"), image("redis", "Redis")]);
}

/// A pooler drops the settings of the store's connections, so the guide gives them to the role.
#[test]
fn the_role_behind_a_pooler_gets_all_settings_of_a_connection() {
    let guide = text("guide/src/postgres-and-redis.md");
    let given: Vec<_> = guide.lines().filter_map(|line| line.strip_prefix("ALTER ROLE app SET ")).collect();
    let names: Vec<_> = given.iter().map(|line| line.split(" = ").next().unwrap().to_owned()).collect();
    let between = |file: &str, begin: &str, end: &str| {
        let source = text(file);
        source.split(begin).nth(1).unwrap().split(end).next().unwrap().to_owned()
    };
    let of_config = between("eventstore-postgres/src/config.rs", "options.options([", "])");
    let of_pool = between("eventstore-postgres/src/pool.rs", "PLANNER_SETTINGS: [(&str, &str); 3] =", ";");
    let settings = of_config + &of_pool;
    let mut of_code: Vec<_> =
        settings.split("(\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect();
    of_code.sort();
    let mut sorted = names;
    sorted.sort();
    assert_eq!(sorted, of_code);
    assert_eq!(of_code.len(), 7);
    for (name, value) in
        [("lock_timeout", "0;"), ("default_transaction_isolation", "'read committed';"), ("jit", "off;")]
    {
        assert!(given.contains(&&*format!("{name} = {value}")), "{name}");
    }
}
