//! The servers in the compose file that `eventbus new` writes: the README of the new crate connects to them, and the doctor
//! finds no fault in their settings.

use std::collections::{BTreeMap, BTreeSet};

use eventbus_cli::doctor::Doctor;

use super::common::{command, config, redis, send, serious};

const COMPOSE: &str = include_str!("../../template/compose.yaml");
const README: &str = include_str!("../../template/README.md");

/// Returns the values of a YAML file by their paths, such as `services.redis.image`. Fails unless it holds mappings only,
/// indented by two spaces, with each value on the line of its key.
fn values(yaml: &str) -> BTreeMap<String, String> {
    let (mut values, mut path) = (BTreeMap::<String, String>::new(), Vec::<&str>::new());
    for line in yaml.lines().filter(|line| !line.starts_with('#')) {
        let line = line.split(" #").next().unwrap().trim_end();
        let entry = line.trim_start_matches(' ');
        let indent = line.len() - entry.len();
        let depth = indent / 2;
        assert!(indent == 2 * depth && depth <= path.len(), "the indent of `{line}`");
        let (key, value) = entry.split_once(": ").or_else(|| Some((entry.strip_suffix(':')?, ""))).unwrap();
        assert!(key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "the key of `{line}`");
        let is_below_a_value = depth > 0 && depth == path.len() && !values[&path.join(".")].is_empty();
        assert!(!is_below_a_value, "`{line}` is below a value");
        path.truncate(depth);
        path.push(key);
        assert!(values.insert(path.join("."), value.to_owned()).is_none(), "`{line}` is there twice");
    }
    values
}

/// Splits the only entry of a list at its colons: `["a:b"]`.
fn parts(list: &str) -> Vec<&str> {
    list.strip_prefix("[\"").and_then(|list| list.strip_suffix("\"]")).unwrap().split(':').collect()
}

#[test]
fn the_readme_of_a_new_crate_connects_to_the_servers_of_its_compose_file() {
    let compose = values(COMPOSE);
    let port_in_url = |service: &str, default: &str| {
        let ports = parts(&compose[&format!("services.{service}.ports")]);
        let [address, port, of_server] = ports[..] else { panic!("{ports:?}") };
        assert_eq!((address, of_server), ("127.0.0.1", default), "only this machine reaches the server");
        if port == default { String::new() } else { format!(":{port}") }
    };
    let (postgres, redis) = (port_in_url("postgres", "5432"), port_in_url("redis", "6379"));
    let environment: Vec<_> =
        compose.iter().filter(|(path, _)| path.starts_with("services.postgres.environment.")).collect();
    let [(database_path, database), (password_path, password)] = environment[..] else { panic!("{environment:?}") };
    assert!(database_path.ends_with(".POSTGRES_DB") && password_path.ends_with(".POSTGRES_PASSWORD"));
    let of_redis = options(&compose)["requirepass"];
    // the image names the superuser `postgres`
    let shown = format!(
        "\nexport DATABASE_URL=postgres://postgres:{password}@localhost{postgres}/{database} \
         REDIS_URL=redis://:{of_redis}@localhost{redis}\n"
    );
    assert!(README.contains(&shown), "the README has no `{}`", shown.trim());
}

#[test]
fn a_compose_file_has_keys_that_compose_knows_and_declares_its_volumes() {
    let compose = values(COMPOSE);
    for path in compose.keys() {
        let is_known = match path.split('.').collect::<Vec<_>>()[..] {
            ["services"] | ["services", _] | ["volumes"] | ["volumes", _] | ["services", _, "environment", _] => true,
            ["services", _, key] => ["command", "environment", "image", "ports", "volumes"].contains(&key),
            _ => false,
        };
        assert!(is_known, "{path}");
    }
    let declared: BTreeSet<_> = compose.keys().filter_map(|path| path.strip_prefix("volumes.")).collect();
    let used: BTreeSet<_> =
        compose.iter().filter(|(path, _)| path.ends_with(".volumes")).map(|(_, list)| parts(list)[0]).collect();
    assert_eq!((used.len(), &used), (2, &declared), "each server keeps its data");
}

/// Returns the options of the Redis server by their names.
fn options(compose: &BTreeMap<String, String>) -> BTreeMap<&str, &str> {
    let options = compose["services.redis.command"].strip_prefix("redis-server --").unwrap();
    options.split(" --").map(|option| option.split_once(' ').unwrap()).collect()
}

#[tokio::test]
async fn the_doctor_finds_no_fault_in_the_redis_of_a_compose_file() {
    // the defaults of Redis, where those of test servers differ
    let server = eventbus_test::private_redis_with(&["--appendonly", "no", "--appendfsync", "everysec"]);
    let admin = redis(server.url()).await;
    let compose = values(COMPOSE);
    let options = options(&compose);
    for (name, value) in &options {
        send(&admin, &format!("CONFIG SET {name} {value}")).await;
    }
    // the image listens on all addresses, so the doctor wants a password there; a test does not listen so
    let users: Vec<String> = command(&admin, "ACL LIST").await;
    assert!(!users.concat().contains("nopass"), "{users:?}");
    let url = server.url().replace("redis://", &format!("redis://:{}@", options["requirepass"]));
    let report = Doctor::new().config(config()).redis(redis(&url).await).run().await;
    assert!(serious(&report).is_empty(), "{report}");
    assert_eq!(report.not_checked(), [], "{report}");
}
