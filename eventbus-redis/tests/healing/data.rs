//! The server is up, and has lost a part of its data.

use eventbus::port::EventBus;
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};

use crate::{
    common::{
        seen::{event, settled, start},
        until,
    },
    network::clients,
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

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_was_destroyed() {
    for_each_rig(async |mut rig: Rig| {
        let (stream, group) = (rig.bus.config().stream_name(), rig.bus.default_group().to_string());
        let destroy = async |rig: &Rig| {
            // the floor of the group was stored
            settled(&rig.bus).await;
            noted(rig).await;
            rig.command::<()>("XGROUP", &["DESTROY", &stream, &group]).await;
        };
        rig.heals("XGROUP DESTROY", destroy).await;
        rig.lost_and_repeated_nothing().await;
    })
    .await;
}

/// Waits until all events handled so far are below the floor of the group.
async fn noted(rig: &Rig) {
    let floors = format!("{{{}}}:floors", rig.bus.config().stream_name());
    let (stream, group) = (rig.bus.config().stream_name(), rig.bus.default_group());
    until("the floor is noted", async || {
        let floor: Option<String> = rig.command("HGET", &[&floors, group]).await;
        let beyond: i64 = match &floor {
            Some(floor) => {
                let entries: Vec<redis::Value> = rig.command("XRANGE", &[&stream, floor, "+"]).await;
                entries.len() as i64
            }
            None => -1,
        };
        beyond == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destroyed_group_goes_on_with_what_it_had_not_finished() {
    let rig = Rig::new().await;
    let (stream, group) = (rig.bus.config().stream_name(), rig.bus.default_group().to_string());
    noted(&rig).await;
    rig.bus.stop_consuming().await;
    let events: Vec<_> = (0..1_000).map(|n| event(&format!("n{n}"))).collect();
    rig.bus.publish(&events).await.unwrap();
    // a second program of the group has read 700 and finished 650
    let read = ["GROUP", &group, "other", "COUNT", "700", "STREAMS", &stream, ">"];
    let _: redis::Value = rig.command("XREADGROUP", &read).await;
    let pending: Vec<(String, String, i64, i64)> = rig.command("XPENDING", &[&stream, &group, "-", "+", "650"]).await;
    let ids = pending.iter().map(|(id, ..)| id.as_str());
    let acknowledge: Vec<&str> = [stream.as_str(), group.as_str()].into_iter().chain(ids).collect();
    let acknowledged: i64 = rig.command("XACK", &acknowledge).await;
    assert_eq!(acknowledged, 650);
    let floors = format!("{{{stream}}}:floors");
    let next: Vec<(String, String, i64, i64)> = rig.command("XPENDING", &[&stream, &group, "-", "+", "1"]).await;
    let _: i64 = rig.command("HSET", &[&floors, &group, &next[0].0]).await;
    let _: i64 = rig.command("XGROUP", &["DESTROY", &stream, &group]).await;
    // a connecting bus makes the group anew
    RedisEventBus::connect(rig.bus.config().clone()).await.unwrap();
    start(&rig.bus).await;
    until("the rest is handled", async || rig.seen.all().len() > 350).await;
    assert_eq!(settled(&rig.bus).await, 0);
    let expected: Vec<_> = ["1".to_owned()].into_iter().chain((650..1_000).map(|n| format!("n{n}"))).collect();
    assert_eq!(rig.seen.all(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_made_anew_waits_for_its_new_backlog() {
    for partitions in [1, 2] {
        let config = RedisEventBusConfig { partitions, ..RedisEventBusConfig::default() };
        let mut rig = Rig::on(eventbus_test::private_redis(), config).await;
        let (stream, group) = (rig.bus.config().stream_name(), rig.bus.default_group().to_string());
        assert_eq!(settled(&rig.bus).await, 0);
        let streams = if partitions == 1 { vec![stream] } else { vec![format!("{stream}:0"), format!("{stream}:1")] };
        let fills = format!("{{{}}}:fills", streams[0]);
        let (open, first, fill) = (format!("open {group}"), format!("first {group}"), format!("fill store {group}\n"));
        let [now, _]: [String; 2] = rig.command("TIME", &[]).await;
        // in one step: the group is gone, with the reader's connection, and a store has events for its backlog
        let reader = clients(&rig, "xread").await;
        let mut lose = redis::pipe();
        lose.atomic().del(&streams);
        let now = format!("{now}000");
        lose.hset_multiple(&fills, &[(open.as_str(), now.as_str()), (&first, &now), (&fill, "0 5")]);
        for id in &reader {
            lose.cmd("CLIENT").arg(&["KILL", "ID", id]);
        }
        let mut connection = eventbus_test::internal::redis_connection(rig.server.url()).await;
        let _: redis::Value = lose.query_async(&mut connection).await.unwrap();
        let id = rig.publish().await;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert!(!rig.seen.all().contains(&id), "with {partitions} partitions: the backlog comes first");
        let _: u64 = rig.command("HDEL", &[&fills, &fill]).await;
        until("the event is handled after the backlog", async || rig.seen.all().contains(&id)).await;
    }
}
