//! A bus that is several consumers of its groups.

use crate::common::{
    actor::{Actor, connect, consumers, kill, numbered, pending, publish_numbered},
    config,
    seen::{settled, start},
    until,
};
use eventbus::port::EventBus;
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};

const NAMES: [&str; 3] = ["worker-0", "worker-1", "worker-2"];

/// Three consumers, each with room for one event; entries that one leaves are reclaimed after a minute only.
fn three() -> RedisEventBusConfig {
    let name = Some("worker".into());
    RedisEventBusConfig { consumer_name: name, consumers: 3, batch_size: 1, max_in_flight: Some(1), ..config() }
}

/// The consumers with pending events, sorted.
async fn holders(bus: &RedisEventBus) -> Vec<String> {
    let mut holders: Vec<_> = pending(bus).await.into_iter().map(|(_, on)| on).collect();
    holders.sort();
    holders
}

#[tokio::test(flavor = "multi_thread")]
async fn each_has_a_name_and_takes_its_share_and_all_stop_together() {
    let bus = connect(&three()).await;
    let actor = Actor::waiting();
    actor.join(&bus);
    publish_numbered(&bus, 30).await;
    start(&bus).await;
    until("all three are at work", async || actor.runs().len() == 3).await;
    assert_eq!(holders(&bus).await, NAMES);
    actor.let_go(27);
    until("all three are at work again", async || actor.runs().len() == 30).await;
    let stopping = tokio::spawn({
        let bus = bus.clone();
        async move { bus.stop_consuming().await }
    });
    actor.let_go(3);
    stopping.await.unwrap();
    assert_eq!(settled(&bus).await, 0, "they finish what they have begun");
    let mut done = actor.done();
    done.sort();
    assert_eq!((done, consumers(&bus).await), (numbered(30), NAMES.map(Into::into).to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_they_had_in_hand_is_handled_by_the_next_ones_of_their_names() {
    let config = three();
    let (dying, hanging) = (connect(&config).await, Actor::waiting());
    hanging.join(&dying);
    publish_numbered(&dying, 3).await;
    let consuming = start(&dying).await;
    until("all three are at work", async || hanging.runs().len() == 3).await;
    kill(consuming).await;
    until("nothing runs any more", async || hanging.cancelled() == 3).await;
    let (next, actor) = (connect(&config).await, Actor::willing());
    actor.join(&next);
    start(&next).await;
    assert_eq!(settled(&next).await, 0);
    assert_eq!(actor.done().len(), 3);
    next.stop_consuming().await;
}
