//! The server is up, and has lost a part of its data.

use eventbus::port::EventBus;

use crate::{
    common::seen::settled,
    rig::{Rig, for_each_rig, outage},
};

#[tokio::test(flavor = "multi_thread")]
async fn everything_deleted() {
    for_each_rig(async |mut rig: Rig| {
        for _ in 0..5 {
            rig.heals("FLUSHALL", async |rig| rig.command::<()>("FLUSHALL", &[]).await).await;
        }
        rig.lost_and_repeated_nothing().await;
        assert_eq!(rig.reconnections(), 0, "no connection was lost");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_deleted() {
    for_each_rig(async |mut rig: Rig| {
        let stream = rig.bus.config().stream_name();
        rig.heals("DEL", async |rig| rig.command::<()>("DEL", &[&stream]).await).await;
        rig.lost_and_repeated_nothing().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_the_wrong_type() {
    for_each_rig(async |mut rig: Rig| {
        let stream = rig.bus.config().stream_name();
        let fault = async |rig: &Rig| {
            let _: () = rig.command("SET", &[&stream, "no stream"]).await;
            outage().await;
            let _: () = rig.command("DEL", &[&stream]).await;
        };
        rig.heals("WRONGTYPE", fault).await;
        rig.lost_and_repeated_nothing().await;
    })
    .await;
}

/// A group that is made again begins with the oldest entry: it gets all of them once more.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_was_destroyed() {
    for_each_rig(async |mut rig: Rig| {
        let (stream, group) = (rig.bus.config().stream_name(), rig.bus.default_group().to_string());
        let destroy = async |rig: &Rig| {
            settled(&rig.bus).await;
            rig.command::<()>("XGROUP", &["DESTROY", &stream, &group]).await;
        };
        rig.heals("XGROUP DESTROY", destroy).await;
    })
    .await;
}
