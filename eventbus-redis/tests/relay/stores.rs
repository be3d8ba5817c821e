//! Several stores on one stream.

use uuid::Uuid;

use crate::rig::Rig;

#[tokio::test]
async fn stores_that_share_a_stream_do_not_disturb_each_other() {
    let one = Rig::begun().await;
    let two = one.another(Uuid::now_v7());
    assert_eq!(two.publish(0, 1).await, "lost");
    two.begin(0).await;
    for position in 0..50 {
        assert_eq!(one.publish(position * 2, position * 2 + 2).await, "published");
        assert_eq!(two.publish(position, position + 1).await, "published");
    }
    assert_eq!(one.positions().await, (1..=100).collect::<Vec<_>>());
    assert_eq!(two.positions().await, (1..=50).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_shared_stream_lists_the_events_of_one_store_from_the_newest_on() {
    let one = Rig::begun().await;
    let two = one.another(Uuid::now_v7());
    two.begin(0).await;
    // each more than a page
    assert_eq!(one.publish(0, 300).await, "published");
    assert_eq!(two.publish(0, 300).await, "published");
    one.add_foreign(3).await;
    for rig in [&one, &two] {
        let (mut listed, mut before) = (Vec::new(), None);
        loop {
            let page = rig.target().published_before(rig.store, before.as_ref()).await.unwrap();
            let Some((last, _)) = page.last() else { break };
            before = Some(last.clone());
            listed.extend(page.into_iter().map(|(_, published)| published));
        }
        let positions: Vec<_> = listed.iter().map(|published| published.position.get()).collect();
        assert_eq!(positions, (1..=300).rev().collect::<Vec<_>>());
        assert!(listed.iter().all(|published| published.event_id.is_some()));
    }
    let other = one.another(Uuid::now_v7());
    assert_eq!(other.target().published_before(other.store, None).await.unwrap(), []);
}

#[tokio::test]
async fn a_store_without_a_record_is_told_of_one_that_has_one() {
    let one = Rig::on(crate::common::config()).await;
    let two = one.another(Uuid::now_v7());
    let other = async |of: &Rig| of.target().other_store(of.store).await.unwrap();
    assert_eq!((other(&one).await, other(&two).await), (None, None));
    one.begin(0).await;
    assert_eq!((other(&one).await, other(&two).await), (None, Some(one.store)));
    two.begin(0).await;
    assert_eq!((other(&one).await, other(&two).await), (None, None));
    one.run(&["HDEL", &one.key("relay"), &one.store.to_string()]).await;
    assert_eq!(other(&one).await, Some(two.store));
}
