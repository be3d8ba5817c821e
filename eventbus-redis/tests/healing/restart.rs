//! The server stops and starts again.

use tokio::sync::Mutex;

use crate::rig::{Rig, for_each_rig, outage};

/// Runs a fault that stops and starts the server, and checks the consumer afterwards.
async fn after(mut rig: Rig, what: &str, fault: impl AsyncFn(&mut eventbus_test::PrivateRedis)) -> Rig {
    let server = std::mem::replace(&mut rig.server, eventbus_test::private_redis());
    let server = Mutex::new(server);
    rig.heals(what, async |_| fault(&mut *server.lock().await).await).await;
    rig.server = server.into_inner();
    assert!(rig.reconnections() >= 1);
    rig
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_loses_and_repeats_nothing() {
    for_each_rig(async |rig: Rig| {
        let rig = after(rig, "restart", async |server| {
            server.stop();
            outage().await;
            server.start();
        });
        rig.await.lost_and_repeated_nothing().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_without_data() {
    for_each_rig(async |rig: Rig| {
        let rig = after(rig, "restart without data", async |server| {
            server.stop();
            outage().await;
            server.start_empty();
        });
        rig.await.lost_and_repeated_nothing().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_shuts_down_while_it_is_read() {
    let rig = after(Rig::new().await, "SHUTDOWN", async |server| {
        let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
        let _: redis::RedisResult<()> = redis::cmd("SHUTDOWN").arg("NOSAVE").query_async(&mut connection).await;
        server.stop();
        outage().await;
        server.start();
    });
    rig.await.lost_and_repeated_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_its_time_to_load() {
    for_each_rig(async |rig: Rig| {
        let rig = after(rig, "loading", async |server| {
            server.restart_loading();
            outage().await;
            server.finish_loading();
        });
        let rig = rig.await;
        assert!(rig.refused().await > 0, "the consumer did not see it loading");
        rig.lost_and_repeated_nothing().await;
    })
    .await;
}
