//! The order story as a reader runs it: embedded, a second time on the same file, and on servers.

mod common;

use common::{File, run};

fn story(arguments: &[&str]) -> String {
    let output = run(env!("CARGO_BIN_EXE_order-story"), arguments);
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}{errors}");
    // the private servers warn that they do not sync
    let logged: Vec<_> = errors.lines().filter(|line| !line.contains("`fsync` is off")).collect();
    assert!(logged.is_empty(), "nothing else is logged at the level of warnings: {logged:?}");
    text.into_owned()
}

fn assert_lines_in_order(text: &str, lines: &[&str]) {
    let mut rest = text;
    for line in lines {
        let at = rest.find(line).unwrap_or_else(|| panic!("`{line}` is missing, or too early, in\n{text}"));
        rest = &rest[at + line.len()..];
    }
}

#[test]
fn the_story_is_told_and_goes_on_in_the_same_file() {
    let file = File::new("story.db");
    let first = story(&["--store", file.path()]);
    assert_lines_in_order(
        &first,
        &[
            "so far: OrderStatistics { orders: 0, revenue_cents: 0, parcels: 0 }",
            "A customer orders",
            "stored     version 1 at position 1",
            "published  ",
            "The first parcel leaves",
            "stored     version 2 at position 2",
            "A command that is refused",
            "refused    parcel TRACK-1 is on its way already",
            "A second clerk has not seen",
            "conflict   stream `order-story.Order/",
            "is at version 2, expected version 1",
            "resolved   by deciding anew",
            "stored     version 3 at position 3",
            "Statistics, live and rebuilt",
            "live       OrderStatistics { orders: 1, revenue_cents: 9999, parcels: 2 }",
            "rebuilt    OrderStatistics { orders: 1, revenue_cents: 9999, parcels: 2 } from 3 events",
            "equal      true",
        ],
    );
    assert_eq!(first.matches("receipt    99.99 from cust-123 for order ").count(), 1, "{first}");
    let second = story(&["--store", file.path()]);
    assert_lines_in_order(
        &second,
        &[
            "so far: OrderStatistics { orders: 1, revenue_cents: 9999, parcels: 2 }",
            "stored     version 1 at position 4",
            "live       OrderStatistics { orders: 2, revenue_cents: 19998, parcels: 4 }",
            "equal      true",
        ],
    );
    assert_eq!(second.matches("receipt    ").count(), 1, "the first order got its receipt already");
}

#[test]
fn on_servers_each_save_shows_its_position_and_its_redis_entry() {
    let database = eventbus_test::postgres();
    let redis = eventbus_test::private_redis();
    let text = story(&["--store", database.url(), "--bus", redis.url()]);
    assert_lines_in_order(&text, &["store: postgres://", "bus:   redis://", "stored     version 1 at position 1"]);
    let ids: Vec<_> = text.lines().filter_map(|line| line.trim().strip_prefix("published  ")).collect();
    assert_eq!(ids.len(), 3, "{text}");
    let is_entry_id =
        |id: &&str| id.split_once('-').is_some_and(|(ms, seq)| ms.len() == 13 && seq.parse::<u64>().is_ok());
    assert!(ids.iter().all(is_entry_id), "{ids:?}");
    assert!(text.contains("receipt    99.99 from cust-123") && text.contains("equal      true"), "{text}");
}

#[test]
fn a_store_in_memory_with_something_after_it_makes_no_file() {
    let folder = File::new("any");
    let folder = std::path::Path::new(folder.path()).parent().unwrap();
    let mut story = std::process::Command::new(env!("CARGO_BIN_EXE_order-story"));
    let output = story.args(["--store", "sqlite::memory:x"]).current_dir(folder).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains("`:memory:` has nothing after it"), "{errors}");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0, "no file is made");
}

#[test]
fn a_store_that_is_not_there_is_named_without_its_password() {
    let url = format!("postgres://app:secret@127.0.0.1:{}/orders", eventbus_test::internal::closed_port());
    let output = run(env!("CARGO_BIN_EXE_order-story"), &["--store", &url]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(errors.contains("app@127.0.0.1") && !errors.contains("secret"), "{errors}");
}
