//! Helpers of the tests.
#![allow(dead_code, reason = "each test file uses some of it")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../../../eventbus-redis/tests/common/cost.rs"]
pub(crate) mod cost;
#[path = "../../../eventbus-redis/tests/common/proxy.rs"]
pub(crate) mod proxy;
pub(crate) mod store;

use std::time::Duration;

/// Waits until the condition holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert!(waited.is_ok(), "waited in vain until {what}");
}

/// The texts of an error and of its causes.
pub(crate) fn said(error: &(dyn std::error::Error + 'static)) -> String {
    let mut said = format!("{error} {error:?}");
    let mut cause = error.source();
    while let Some(error) = cause {
        said.push_str(&format!(" {error} {error:?}"));
        cause = error.source();
    }
    said
}
