//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

/// Waits until `condition` holds, and fails the test after a minute.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
