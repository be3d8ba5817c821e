//! Rules of floors: the low-water marks of the groups of a bus.

use super::store_under_test::StoreUnderTest;
use crate::{
    Name,
    port::{EventStore, Floor},
};

const BUS: Name = Name::from_static("redis:orders:stream");
const OTHER: Name = Name::from_static("redis:orders");

fn floors(groups: &[(&'static str, u64)]) -> Vec<Floor> {
    groups.iter().map(|&(group, at)| Floor { group: Name::from_static(group), position: at.into() }).collect()
}

async fn save<S: EventStore>(store: &StoreUnderTest<S>, bus: &Name, groups: &[(&'static str, u64)]) {
    store.ok(store.save_floors(bus, &floors(groups)).await, format_args!("saving floors of {bus}"));
}

async fn expect<S: EventStore>(store: &StoreUnderTest<S>, bus: &Name, groups: &[(&'static str, u64)]) {
    let loaded = store.ok(store.floors(bus).await, format_args!("loading floors of {bus}"));
    store.same(loaded, floors(groups), format_args!("floors of {bus}"));
}

/// Loaded floors are those saved last, also if lower; floors of other groups stay.
pub async fn floors_are_what_was_saved_last<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("floors_are_what_was_saved_last", store);
    expect(&store, &BUS, &[]).await;
    save(&store, &BUS, &[]).await;
    expect(&store, &BUS, &[]).await;
    save(&store, &BUS, &[("mail", 7)]).await;
    save(&store, &BUS, &[("mail", 9), ("audit", 3)]).await;
    expect(&store, &BUS, &[("audit", 3), ("mail", 9)]).await;
    save(&store, &BUS, &[("mail", 2)]).await;
    expect(&store, &BUS, &[("audit", 3), ("mail", 2)]).await;
    save(&store, &BUS, &[("audit", 0), ("mail", i64::MAX as u64)]).await;
    expect(&store, &BUS, &[("audit", 0), ("mail", i64::MAX as u64)]).await;
}

/// Floors are sorted by group, byte for byte, in whichever order they were saved.
pub async fn floors_are_sorted<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("floors_are_sorted", store);
    let saved = [("b", 1), ("é", 2), ("a", 3), ("B", 4), ("a b", 5), ("_", 6), ("ab", 7), ("10", 8), ("9", 9)];
    save(&store, &BUS, &saved).await;
    let mut sorted = saved;
    sorted.sort_unstable_by_key(|(group, _)| *group);
    expect(&store, &BUS, &sorted).await;
}

/// Each bus has its own floors.
pub async fn floors_of_buses_are_independent<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("floors_of_buses_are_independent", store);
    save(&store, &BUS, &[("mail", 1), ("audit", 2)]).await;
    expect(&store, &OTHER, &[]).await;
    save(&store, &OTHER, &[("mail", 3)]).await;
    expect(&store, &BUS, &[("audit", 2), ("mail", 1)]).await;
    expect(&store, &OTHER, &[("mail", 3)]).await;
}

/// A forgotten floor is removed for one bus only, other groups keep theirs, and it may be saved again.
pub async fn forgotten_floor_is_gone<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("forgotten_floor_is_gone", store);
    let mail = Name::from_static("mail");
    let forget = async |bus: &Name| store.ok(store.forget_floor(bus, &mail).await, "forgetting");
    forget(&BUS).await;
    for bus in [&BUS, &OTHER] {
        save(&store, bus, &[("mail", 5), ("audit", 6)]).await;
    }
    forget(&BUS).await;
    forget(&BUS).await;
    expect(&store, &BUS, &[("audit", 6)]).await;
    expect(&store, &OTHER, &[("audit", 6), ("mail", 5)]).await;
    save(&store, &BUS, &[("mail", 1)]).await;
    expect(&store, &BUS, &[("audit", 6), ("mail", 1)]).await;
}

/// Concurrent callers save the same floors in different orders, and none is refused.
pub async fn floors_are_saved_at_once<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("floors_are_saved_at_once", store);
    store
        .at_once(8, |task| {
            let store = store.clone();
            async move {
                let mut groups = [("a", 1), ("b", 2), ("c", 3), ("d", 4)];
                groups.rotate_left(task % 4);
                for _ in 0..20 {
                    save(&store, &BUS, &groups).await;
                }
            }
        })
        .await;
    expect(&store, &BUS, &[("a", 1), ("b", 2), ("c", 3), ("d", 4)]).await;
}
