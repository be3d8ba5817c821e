//! One API and two consumers, each a process of its own.
#![cfg(unix)]

mod common;

use common::{File, Process, Stream, printed, run};

#[test]
fn every_order_arrives_in_both_consumers() {
    let binary = env!("CARGO_BIN_EXE_services");
    let (stream, store) = (Stream::new(), File::new("orders.db"));
    let consumers = ["projections", "notifications"].map(|role| {
        let consumer = Process::start(binary, &[&[role], &stream.arguments()[..]].concat(), &[]);
        consumer.until(&[&format!("{role} are ready")]);
        consumer
    });
    let arguments = [&["api", "--orders", "4", "--store", store.path()], &stream.arguments()[..]].concat();
    let saved = printed(&run(binary, &arguments));
    let orders: Vec<_> =
        saved.lines().filter_map(|line| line.strip_prefix("saved order ")?.split(' ').next()).collect();
    assert_eq!(orders.len(), 4, "{saved}");
    assert!(saved.ends_with("published 4 orders\n"), "{saved}");

    let [mut projections, mut notifications] = consumers;
    for order in orders {
        projections.until(&[&format!("[statistics] order {order}: "), &format!("[customers] order {order}: ")]);
        notifications.until(&[&format!("[notifications] order {order}: ")]);
    }
    projections.until(&[": 4 orders, 100.00 in all", ": no. 2 of ada", ": no. 2 of grace"]);
    for consumer in [&mut projections, &mut notifications] {
        consumer.signal("-TERM");
        assert!(consumer.end().success(), "{:#?}", consumer.stderr());
    }
    assert_eq!(projections.stdout().len(), 1 + 8, "each order once in each projection");
    assert_eq!(notifications.stdout().len(), 1 + 4);
}
