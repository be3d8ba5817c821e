//! A new projection has the same result from the stream as from the store.

mod common;

use common::{File, Stream, printed, run};

#[test]
fn stream_and_store_tell_the_same() {
    let (mut stream, store) = (Stream::new(), File::new("orders.db"));
    let arguments = [&["--store", store.path()], &stream.arguments()[..]].concat();
    for (orders, shipped, revenue, events) in [(10, 5, "55000", 15), (20, 10, "110000", 30)] {
        let said = printed(&run(env!("CARGO_BIN_EXE_replay-history"), &arguments));
        let statistics = format!("Statistics {{ orders: {orders}, revenue_cents: {revenue}, shipped: {shipped} }}\n");
        assert!(said.contains(&format!("from the stream: {statistics}")), "{said}");
        assert!(said.contains(&format!("rebuilt from {events} events\nfrom the store:  {statistics}")), "{said}");
        assert!(said.ends_with("equal: true\n"), "{said}");
    }
    assert_eq!(stream.payloads().len(), 30, "nothing was published twice");
}

/// Fails if an example takes events of a different one as its own.
#[test]
fn it_shares_a_database_with_the_tutorial_and_the_order_story() {
    let (stream, database, server) = (Stream::new(), eventbus_test::postgres(), eventbus_test::private_redis());
    let store = ["--store", database.url()];
    let on_bus = [&store[..], &stream.arguments()].concat();
    for orders in [10, 20] {
        let tutorial = printed(&run(env!("CARGO_BIN_EXE_tutorial-17"), &[&["repository"], &on_bus[..]].concat()));
        assert!(tutorial.ends_with("equal: true\n"), "{tutorial}");
        let story = printed(&run(env!("CARGO_BIN_EXE_order-story"), &[&store[..], &["--bus", server.url()]].concat()));
        assert!(story.ends_with("equal      true\n"), "{story}");
        let history = printed(&run(env!("CARGO_BIN_EXE_replay-history"), &on_bus));
        assert!(history.contains(&format!("from the store:  Statistics {{ orders: {orders}, ")), "{history}");
        assert!(history.ends_with("equal: true\n"), "{history}");
    }
}
