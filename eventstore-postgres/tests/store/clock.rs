//! Leases and recorded times when the clock of the server is set back.

use std::time::Duration;

use crate::common::{TestSchema, run};
use eventbus::testkit::event_store::{lease_of_the_future_is_free, recorded_times_never_decrease};

#[tokio::test]
async fn a_lease_is_free_when_the_clock_was_set_back() {
    let schema = TestSchema::new();
    let store = schema.store().await;
    let set_back = async |time: Duration| {
        let time = format!("interval '{} seconds'", time.as_secs());
        let sql = format!("UPDATE leases SET renewed_at = renewed_at + {time}, expires_at = expires_at + {time}");
        run(&mut schema.connection().await, &sql).await;
    };
    lease_of_the_future_is_free(store, set_back).await;
}

#[tokio::test]
async fn recorded_times_of_a_stream_stay_in_order_when_the_clock_was_set_back() {
    let schema = TestSchema::new();
    let store = schema.store().await;
    let set_back = async |time: Duration| {
        for table in ["streams", "events"] {
            let seconds = time.as_secs();
            let sql = format!("UPDATE {table} SET recorded_at = recorded_at + interval '{seconds} seconds'");
            run(&mut schema.connection().await, &sql).await;
        }
    };
    recorded_times_never_decrease(store, set_back).await;
}
