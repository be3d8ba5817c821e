//! The record of a store.

use eventbus::{EventId, port::EventBus};

use crate::rig::{Rig, at, set_at};

#[tokio::test]
async fn the_record_names_the_event_at_its_position() {
    let rig = Rig::on(crate::common::config()).await;
    assert_eq!(rig.published().await, None);
    rig.begin(0).await;
    assert_eq!(rig.published().await, Some(set_at(0)));
    rig.publish(0, 4).await;
    let entry = rig.entries().await.pop().unwrap();
    let event_id = entry.1.iter().find(|(name, _)| name == "event_id").map(|(_, id)| EventId::parse(id).unwrap());
    let record = rig.published().await.unwrap();
    assert_eq!((record.position, record.event_id), (at(4), event_id));
    assert_eq!(rig.record().await, Some(format!("4 {} {}", event_id.unwrap(), entry.0)));
    rig.run(&["XTRIM", &rig.stream, "MAXLEN", "0"]).await;
    assert_eq!(rig.published().await, Some(record), "the record outlives its entry");
}

#[tokio::test]
async fn the_record_is_set_only_if_it_has_not_moved() {
    let rig = Rig::begun().await;
    assert_eq!(rig.begin(9).await, 0, "there is a record");
    rig.publish(0, 6).await;
    let known = rig.published().await;
    assert_eq!(rig.set(Some(set_at(6)), 2).await, 6, "a different event is at that position");
    rig.publish(6, 8).await;
    assert_eq!(rig.set(known, 2).await, 8);
    assert_eq!(rig.set(rig.published().await, 2).await, 2);
    assert_eq!(rig.publish(8, 9).await, "moved to 2");
    assert_eq!(rig.publish(2, 9).await, "published");
    assert_eq!(rig.positions().await, (1..=8).chain(3..=9).collect::<Vec<_>>());
}

/// Fails if the range is compared by its position alone: the store was restored, and gave the position to a new event.
#[tokio::test]
async fn a_range_behind_a_different_event_at_the_same_position_is_refused() {
    let rig = Rig::begun().await;
    rig.publish(0, 3).await;
    let after = rig.published().await.unwrap();
    assert_eq!(rig.set(Some(after), 2).await, 2);
    rig.publish(2, 3).await;
    let events = crate::rig::between(3, 4);
    let range = eventbus::relay::PublishRange { after, through: at(4), events: &events };
    let outcome = rig.target().publish_range(rig.store, range).await.unwrap();
    assert!(matches!(outcome, eventbus::relay::RangeOutcome::Moved(record) if record != after), "{outcome:?}");
    assert_eq!(rig.bus.stats().events_published, 4);
}
