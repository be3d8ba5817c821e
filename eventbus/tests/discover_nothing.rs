//! A program that links no handlers gets an error that says so.

use eventbus::{InMemoryEventBus, app::StartMistake, handler::StateMap, prelude::*};

#[tokio::test]
async fn an_empty_discovery_is_a_mistake_with_a_hint() {
    let error = App::builder().discover().start().await.unwrap_err();
    assert!(matches!(error.mistakes(), [StartMistake::NothingDiscovered]));
    assert_eq!(
        error.to_string(),
        "the app cannot start: discover() found no handlers and no projections: a crate that the binary never names \
         is not linked; add `use my_crate as _;` to main.rs"
    );
    let error = App::builder().discover_groups(["projections"]).start().await.unwrap_err();
    assert!(matches!(error.mistakes(), [StartMistake::NothingDiscovered, StartMistake::UnknownGroup { .. }]));
    let error = InMemoryEventBus::new().subscribe_discovered(&StateMap::new()).unwrap_err();
    assert!(matches!(error.mistakes(), [StartMistake::NothingDiscovered]));
}

#[tokio::test]
async fn without_discovery_nothing_is_asked_for() {
    App::builder().start().await.unwrap().settled().await.unwrap();
}
