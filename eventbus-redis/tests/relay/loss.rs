//! Servers that lose data.

use eventbus_redis::RedisEventBus;

use crate::{common::config_on, rig::Rig};

#[tokio::test]
async fn a_server_that_lost_everything_has_no_record_and_takes_one_at_any_position() {
    for everything in [true, false] {
        let rig = Rig::begun().await;
        rig.publish(0, 40).await;
        let keys = [rig.key("relay"), rig.stream.clone()];
        for key in &keys[..if everything { 2 } else { 1 }] {
            rig.run(&["DEL", key]).await;
        }
        assert_eq!(rig.publish(40, 41).await, "lost");
        assert_eq!(rig.begin(40).await, 40);
        assert_eq!(rig.publish(40, 41).await, "published");
        assert_eq!(rig.positions().await.last(), Some(&41));
    }
}

#[tokio::test]
async fn a_stream_that_alone_was_lost_goes_on_behind_the_record() {
    let rig = Rig::begun().await;
    rig.publish(0, 5).await;
    rig.run(&["DEL", &rig.stream]).await;
    assert_eq!(rig.publish(5, 7).await, "published");
    assert_eq!(rig.positions().await, [6, 7]);
}

#[tokio::test]
async fn a_server_that_went_back_says_where_it_is() {
    let mut server = eventbus_test::private_redis();
    let rig = Rig::on(config_on(server.url())).await;
    rig.begin(0).await;
    rig.publish(0, 40).await;
    let folder: (String, String) = rig.command(&["CONFIG", "GET", "dir"]).await;
    let log = std::path::Path::new(&folder.1).join("appendonlydir").join("appendonly.aof.1.incr.aof");
    let older = std::fs::read(&log).unwrap();
    rig.publish(40, 90).await;
    server.stop();
    std::fs::write(&log, older).unwrap();
    server.start();
    let bus = RedisEventBus::connect(rig.bus.config().clone()).await.unwrap();
    let rig = Rig { store: rig.store, ..Rig::on(bus.config().clone()).await };
    assert_eq!(rig.publish(90, 95).await, "moved to 40");
    assert_eq!(rig.publish(40, 95).await, "published");
    assert_eq!(rig.positions().await, (1..=95).collect::<Vec<_>>());
}
