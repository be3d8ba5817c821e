//! A crate that depends on `eventbus` under a different name, by its workspace.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::{Arc, Mutex};

use eventbus2::{Never, prelude::*};
use renamed_inherited_tests::{Account, Opened, Owners, greet};

#[tokio::test]
async fn with_the_path_of_the_crate_everything_works() {
    let greeted = Arc::new(Mutex::new(Vec::<String>::new()));
    let app = App::builder().state(Arc::clone(&greeted)).handler::<greet>().projection(Owners::default());
    let app = app.start().await.unwrap();
    let opened = |_: &Account| Ok::<_, Never>(Opened { owner: "ada".into() });
    app.repository::<Account>().upsert(&"1".parse().unwrap(), opened).await.unwrap();
    app.settled().await.unwrap();
    assert_eq!(*greeted.lock().unwrap(), ["ada"]);
    assert_eq!(app.projection::<Owners>().unwrap().read().await.names, ["ada"]);
}

#[test]
fn without_it_each_attribute_says_what_to_write() {
    trybuild::TestCases::new().compile_fail("tests/fail/*.rs");
}
