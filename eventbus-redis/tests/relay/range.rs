//! Publishing ranges.

use std::{sync::Arc, time::Duration};

use eventbus::{
    Name, NewEvent, RecordedEvent, StreamId, Version,
    port::{EventBus, PublishError},
    relay::{PublishRange, RangeOutcome},
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};

use crate::{
    common::{
        config, config_on,
        proxy::{Network, Proxy},
        said, until,
    },
    rig::{Rig, at, between, event, set_at},
};

#[tokio::test]
async fn a_range_follows_the_one_before_and_no_other() {
    let rig = Rig::on(config()).await;
    assert_eq!(rig.publish(0, 3).await, "lost", "no relay has begun");
    rig.begin(0).await;
    assert_eq!(rig.publish(0, 3).await, "published");
    assert_eq!(rig.publish(0, 3).await, "moved to 3", "sent again");
    assert_eq!(rig.publish(5, 7).await, "moved to 3");
    assert_eq!(rig.publish(3, 4).await, "published");
    assert_eq!(rig.positions().await, [1, 2, 3, 4]);
    assert_eq!(rig.bus.stats().events_published, 4);
}

#[tokio::test]
async fn a_range_without_events_moves_the_position() {
    let rig = Rig::begun().await;
    rig.publish(0, 4).await;
    let moved = rig.try_publish_events(4, 9, &[]).await.unwrap();
    assert!(matches!(moved, RangeOutcome::Published(ids) if ids.is_empty()));
    assert_eq!(rig.published().await, Some(set_at(9)));
    assert_eq!(rig.publish(9, 10).await, "published");
}

#[tokio::test]
async fn positions_of_all_sizes_are_kept_exactly() {
    let rig = Rig::on(config()).await;
    for start in [(1 << 53) - 2, u64::MAX - 5] {
        rig.run(&["DEL", &rig.key("relay")]).await;
        rig.begin(start).await;
        for position in start..start + 4 {
            assert_eq!(rig.publish(position, position + 1).await, "published");
            assert_eq!(rig.publish(position, position + 1).await, format!("moved to {}", position + 1));
        }
        assert_eq!(rig.set(rig.published().await, start + 1).await, start + 1);
    }
}

#[tokio::test]
async fn entries_are_those_of_a_plain_publish_with_the_store() {
    let rig = Rig::begun().await;
    let traced = r#"{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}"#;
    let attributes = eventbus::event::Attributes::parse(traced).unwrap();
    let metadata = event(1).metadata().clone().with_attributes(attributes);
    let one = RecordedEvent::new(metadata, r#"{"n":1}"#);
    rig.bus.publish(std::slice::from_ref(&one)).await.unwrap();
    let range = PublishRange { after: set_at(0), through: at(1), events: &[one] };
    let RangeOutcome::Published(ids) = rig.target().publish_range(rig.store, range).await.unwrap() else {
        panic!("it is not published");
    };
    let mut entries = rig.entries().await;
    assert_eq!(ids[0].as_str(), entries[1].0);
    assert!(entries.is_sorted(), "ids ascend");
    let store = entries[1].1.remove(7);
    assert_eq!(store, ("store".into(), rig.store.to_string()));
    assert_eq!(entries[0].1, entries[1].1);
    assert_eq!(
        entries[0].1[7..].iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["position", "traceparent"]
    );
}

/// Publishes again while the outcome is unknown; returns the error then.
async fn until_known(publish: impl AsyncFn() -> PublishError) -> PublishError {
    let known = async {
        loop {
            match publish().await {
                PublishError::OutcomeUnknown { .. } | PublishError::Unavailable { .. } => {}
                error => return error,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), known).await.expect("the server replies")
}

/// Fails if the relay takes the reply for an outage, or keeps the connection, which the server closes.
#[tokio::test]
async fn an_event_that_is_too_long_for_the_server_is_refused_by_name_and_those_before_it_are_published() {
    let server = eventbus_test::private_redis_with(&["--proto-max-bulk-len", "1mb"]);
    let rig = Rig::on(config_on(server.url())).await;
    rig.begin(0).await;
    let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(1_200_000));
    let long = RecordedEvent::new(event(2).metadata().clone(), long);
    let id = long.metadata().event_id();
    let events = [event(1), long, event(3)];
    let range = PublishRange { after: set_at(0), through: at(3), events: &events };
    // the server may close the connection before its reply is read: then the relay sends the range again
    let error = until_known(async || rig.target().publish_range(rig.store, range).await.unwrap_err()).await;
    assert!(matches!(error, PublishError::Refused { event_id: Some(refused), .. } if refused == id), "{error:?}");
    assert!(said(&error).contains("longer than the `proto-max-bulk-len` of the server"), "{}", said(&error));
    assert_eq!(rig.publish(0, 1).await, "published");
    assert_eq!(rig.positions().await, [1]);

    let alone = until_known(async || rig.bus.publish(&events[1..2]).await.unwrap_err()).await;
    assert!(matches!(alone, PublishError::Refused { event_id: Some(refused), .. } if refused == id), "{alone:?}");
}

#[tokio::test]
async fn what_cannot_be_published_is_refused_by_name_and_nothing_is_sent() {
    let rig = Rig::begun().await;
    let bad = RecordedEvent::new(event(2).metadata().clone(), "[]");
    let nowhere = RecordedEvent::new(event(2).metadata().clone().with_position(None), "{}");
    let (id, place) = (bad.metadata().event_id().to_string(), "position 2");
    for (events, words) in [
        (vec![event(1), bad], [id.as_str(), place]),
        (vec![event(1), nowhere], ["no place in a store", ""]),
        (vec![event(2), event(1)], ["position 1", "in order"]),
        (vec![event(2), event(2)], [place, "in order"]),
        (vec![event(10)], ["position 10", "between 0 and 9"]),
    ] {
        let last = events[events.len() - 1].metadata().event_id();
        let range = PublishRange { after: set_at(0), through: at(9), events: &events };
        let error = rig.target().publish_range(rig.store, range).await.unwrap_err();
        assert!(
            matches!(error, PublishError::Refused { event_id: Some(event_id), .. } if event_id == last),
            "{error:?}"
        );
        assert!(words.iter().all(|word| said(&error).contains(word)), "{}", said(&error));
    }
    let backwards = PublishRange { after: set_at(3), through: at(2), events: &[] };
    let error = rig.target().publish_range(rig.store, backwards).await.unwrap_err();
    assert!(matches!(error, PublishError::Refused { event_id: None, .. }), "{error:?}");
    assert!(rig.entries().await.is_empty());

    let strict = RedisEventBusConfig { readable_by_python: true, ..config() };
    let strict = Rig::on(strict).await;
    strict.begin(0).await;
    let error = strict.try_publish(0, 1).await.unwrap_err();
    assert!(said(&error).contains("readable_by_python"), "{}", said(&error));
    strict.bus.disconnect().await;
    let error = strict.try_publish(0, 1).await.unwrap_err();
    assert!(matches!(error, PublishError::ShutDown { .. }), "{error:?}");
}

#[tokio::test]
async fn large_events_and_many_events_fit_into_a_range() {
    let rig = Rig::begun().await;
    let stream = StreamId::parse("Order", "1").unwrap();
    let payload = format!(r#"{{"text":"{}"}}"#, "x".repeat(5_000_000));
    let large = NewEvent::new(Name::from_static("OrderCreated"), 1, payload);
    let large = large.recorded_as(stream, Version::FIRST, Some(at(1)));
    let range = PublishRange { after: set_at(0), through: at(1), events: &[large] };
    let published = rig.target().publish_range(rig.store, range).await.unwrap();
    assert!(matches!(published, RangeOutcome::Published(ids) if ids.len() == 1));
    assert_eq!(rig.publish(1, 3_000).await, "published");
    assert_eq!(rig.positions().await, (1..=3_000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn publishers_that_race_publish_everything_once_in_order() {
    const LAST: u64 = 2_000;
    let rig = Arc::new(Rig::begun().await);
    let mut racers = tokio::task::JoinSet::new();
    for racer in 0..3 {
        let bus = RedisEventBus::connect(rig.bus.config().clone()).await.unwrap();
        let rig = Rig { bus, ..rig.another(rig.store) };
        racers.spawn(async move {
            let (mut position, mut moved) = (0, 0);
            while position < LAST {
                let through = (position + 1 + (position + racer) % 7).min(LAST);
                match rig.try_publish(position, through).await.unwrap() {
                    RangeOutcome::Published(_) => position = through,
                    RangeOutcome::Moved(to) => (position, moved) = (to.position.get(), moved + 1),
                    other => panic!("{other:?}"),
                }
            }
            moved
        });
    }
    let foreign = async {
        for _ in 0..200 {
            rig.add_foreign(1).await;
        }
    };
    let (moved, ()) = tokio::join!(racers.join_all(), foreign);
    assert_eq!(rig.positions().await, (1..=LAST).collect::<Vec<_>>());
    assert!(moved.iter().sum::<i32>() > 0, "they never met");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_whose_reply_was_lost_is_sent_again_and_published_once() {
    let server = eventbus_test::private_redis();
    let proxy = Proxy::before(server.port()).await;
    let direct = Rig::on(config_on(server.url())).await;
    direct.begin(0).await;
    let through_proxy = RedisEventBusConfig { redis_url: proxy.url(), ..direct.bus.config().clone() };
    let bus = RedisEventBus::connect(through_proxy).await.unwrap();
    let rig = Rig { bus, ..direct.another(direct.store) };
    let mut position = 0;
    let mut unknown = 0;
    for round in 0..12 {
        if round % 2 == 1 {
            let after = direct.published().await.unwrap();
            let events = between(position, position + 10);
            server.pause();
            let range = PublishRange { after, through: (position + 10).into(), events: &events };
            let publishing = rig.target().publish_range(rig.store, range);
            let cutting = async {
                tokio::task::yield_now().await;
                tokio::time::sleep(std::time::Duration::from_millis(20)).await; // until the command is sent
                proxy.set(Network::Cut);
                proxy.set(Network::Works);
            };
            let (outcome, ()) = tokio::join!(publishing, cutting);
            server.resume();
            unknown += i32::from(matches!(outcome, Err(PublishError::OutcomeUnknown { .. })));
        }
        until("the range is published", async || match rig.try_publish(position, position + 10).await {
            Ok(RangeOutcome::Published(_) | RangeOutcome::Moved(_)) => true,
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                assert!(error.is_retryable(), "{error:?}");
                false
            }
        })
        .await;
        position += 10;
    }
    assert_eq!(direct.positions().await, (1..=position).collect::<Vec<_>>());
    assert!(unknown > 0, "no reply was lost");
}

#[tokio::test]
async fn keys_of_other_kinds_are_refused_and_nothing_is_written() {
    let rig = Rig::begun().await;
    rig.publish(0, 3).await;
    let (record, relay, away) = (rig.record().await, rig.key("relay"), rig.key("away"));
    for key in [&rig.stream, &relay] {
        rig.run(&["RENAME", key, &away]).await;
        rig.run(&["SET", key, "something else"]).await;
        let error = rig.try_publish(3, 5).await.unwrap_err();
        assert!(matches!(error, PublishError::Refused { .. }), "{error:?}");
        rig.run(&["RENAME", &away, key]).await;
    }
    assert_eq!((rig.record().await, rig.positions().await), (record, vec![1, 2, 3]));
    // also if no event was published yet
    rig.run(&["DEL", &rig.stream, &relay]).await;
    rig.begin(0).await;
    let record = rig.record().await;
    rig.run(&["SET", &rig.stream, "something else"]).await;
    assert!(rig.try_publish(0, 5).await.is_err());
    assert_eq!(rig.record().await, record);
}

#[tokio::test]
async fn a_server_that_forgot_the_scripts_or_has_no_memory_is_no_loss() {
    let server = eventbus_test::private_redis();
    let rig = Rig::on(config_on(server.url())).await;
    rig.begin(0).await;
    assert_eq!(rig.publish(0, 2).await, "published");
    rig.run(&["SCRIPT", "FLUSH"]).await;
    assert_eq!(rig.publish(2, 4).await, "published");
    rig.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let record = rig.record().await;
    let error = rig.try_publish(4, 9).await.unwrap_err();
    assert!(matches!(error, PublishError::Unavailable { .. }), "{error:?}");
    let known = rig.published().await;
    assert!(rig.target().set_position(rig.store, known, set_at(1)).await.is_err());
    assert_eq!((rig.record().await, rig.positions().await), (record, vec![1, 2, 3, 4]));
    rig.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(rig.publish(4, 5).await, "published");
}

#[tokio::test]
async fn what_was_added_before_the_server_refused_counts() {
    let rig = Rig::begun().await;
    // room for two ids
    let stream = &rig.stream;
    rig.run(&["XADD", stream, "18446744073709551615-18446744073709551613", "n", "1"]).await;
    assert_eq!(rig.publish(0, 5).await, "moved to 2");
    let added = rig.entries().await.pop().unwrap().1;
    let told = rig.published().await.unwrap().event_id.map(|id| id.to_string());
    assert_eq!(told.as_deref(), added.iter().find(|(name, _)| name == "event_id").map(|(_, id)| id.as_str()));
    assert!(matches!(rig.try_publish(2, 5).await, Err(PublishError::Refused { .. })));
    assert_eq!(rig.positions().await, [1, 2]);
}
