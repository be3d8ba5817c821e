//! The rebuild of a table, as it is run by hand: killed once, then resumed.

mod common;

use common::{Process, printed, run};

#[test]
fn a_table_without_orders_is_rebuilt_too() {
    let folder = std::env::temp_dir().join(eventbus_test::unique_name("rebuild"));
    let said = printed(&run(env!("CARGO_BIN_EXE_rebuild"), &["--folder", folder.to_str().unwrap(), "--orders", "0"]));
    assert!(said.starts_with("before: 0 orders, 0 shipped, 0 paid\n") && said.contains("after:  "), "{said}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_table_is_right_again_also_after_a_rebuild_that_was_killed() {
    let folder = std::env::temp_dir().join(eventbus_test::unique_name("rebuild"));
    let folder = folder.to_str().unwrap();
    let arguments = ["--folder", folder, "--orders", "3000"];
    let process = Process::start(env!("CARGO_BIN_EXE_rebuild"), &arguments, &[]);
    assert!(
        common::until(|| process.stdout().iter().any(|line| line.starts_with("before:"))),
        "{:?}",
        process.stderr()
    );
    assert!(process.stdout().contains(&"before: 3000 orders, 3000 shipped, 0 paid".to_owned()));
    drop(process); // SIGKILL, in the midst of the rebuild or before it

    let said = printed(&run(env!("CARGO_BIN_EXE_rebuild"), &["--folder", folder, "--resume"]));
    let after = said.lines().find_map(|line| line.strip_prefix("after:  ")).unwrap_or_else(|| panic!("{said}"));
    let figures: Vec<u64> = after.split(", ").map(|part| part.split(' ').next().unwrap().parse().unwrap()).collect();
    assert!(figures[0] > 3_000, "customers go on ordering: {after}");
    assert!(figures.iter().all(|figure| *figure == figures[0]), "each is shipped and paid one: {after}");
    assert!(said.contains("order-rows [##############] 100 %"), "{said}");
    std::fs::remove_dir_all(folder).unwrap();
}
