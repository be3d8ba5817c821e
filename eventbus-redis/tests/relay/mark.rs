//! The published position of a store, and the event that identifies it.

use eventbus::relay::{PublishRange, Publisher};

use crate::rig::{Rig, at, event};

#[tokio::test]
async fn the_event_at_the_position_is_told_while_its_entry_is_there() {
    let rig = Rig::adopted().await;
    let told = async || rig.marks().await;
    assert_eq!(told().await, [(0, None)]);
    let events = [event(3), event(7)];
    let range = PublishRange { after: at(0), through: at(7), events: &events };
    rig.target().publish_range(rig.publisher, range).await.unwrap();
    assert_eq!(told().await, [(7, Some(events[1].metadata().event_id()))]);
    let other = Publisher { store: uuid::Uuid::now_v7(), ..rig.publisher };
    assert_eq!(rig.another(other).marks().await, []);
    rig.rewind(5).await;
    assert_eq!(told().await, [(5, None)], "what was there may be another event now");
    // a record of a release without this field
    rig.publish(5, 6).await;
    let record = rig.record().await.unwrap();
    let older = record.rsplit_once(' ').unwrap().0;
    rig.run(&["HSET", &rig.key("relay"), &rig.publisher.store.to_string(), older]).await;
    assert_eq!(told().await, [(6, None)]);
    assert_eq!(rig.publish(6, 7).await, "published");
    rig.run(&["DEL", &rig.stream]).await;
    assert_eq!(told().await, []);
}
