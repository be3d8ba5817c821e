//! Event sourcing on Redis Streams alone, as its users run it.

mod common;

use common::{printed, run};

fn play(url: &str) -> Vec<String> {
    printed(&run(env!("CARGO_BIN_EXE_redis-streams"), &["--redis", url])).lines().map(str::to_owned).collect()
}

/// How many orders, how much they came to in cents, and how many were shipped. The server's sums have an error, far
/// below a cent.
fn stats(url: &str) -> (u64, i64, u64) {
    let mut server = redis::Client::open(url).unwrap().get_connection().unwrap();
    let mut ask = redis::cmd("HMGET");
    ask.arg("stats:orders").arg("total_count").arg("total_value").arg("shipped_count");
    let (orders, value, shipped): (u64, f64, u64) = ask.query(&mut server).unwrap();
    (orders, (value * 100.0).round() as i64, shipped)
}

#[test]
fn events_are_billed_counted_and_kept_and_a_second_run_counts_nothing_twice() {
    let server = test_servers::private_redis();
    let said = play(server.url());
    let expected = [
        "published 2 events, and a batch of 2",
        "the last of at most 10: order.shipped",
        "after the first of them there are 3",
        "billing-1 dies with 4 events",
        "  billed order.created",
        "  billed order.paid",
        "  billed order.created",
        "  billed order.shipped",
        "billing-2 has taken over 4 events",
        "order-stats has processed 4 events, 1 of them unknown",
        "  rebuilt 4 of 4",
        "  rebuilt 4 of 4",
        "rebuilt from 4 events",
        "trimmed: 0 removed",
        "Stream length: 4",
        "Group billing-service: 0 pending messages",
        "Projection order-stats: up to date",
    ];
    assert_eq!(said, expected);
    assert_eq!(stats(server.url()), (2, 14_998, 1));

    let said = play(server.url());
    assert!(said.contains(&"order-stats has processed 4 events, 1 of them unknown".to_owned()), "{said:#?}");
    assert!(said.contains(&"rebuilt from 8 events".to_owned()), "{said:#?}");
    assert_eq!(stats(server.url()), (4, 29_996, 2));
}
