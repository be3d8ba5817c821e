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
