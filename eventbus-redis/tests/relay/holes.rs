//! Entries that foreign programs remove before a group has finished them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use eventbus::{
    HandlerError, Name, NewEvent, StreamId, Version,
    event::EventFilter,
    handler::HandlerOptions,
    port::{EventBus, Subscriber},
    relay::{GroupFloor, PublishRange, Publisher, ResyncOutcome},
};
use eventbus_redis::{GroupStart, Recovery, RedisEventBusConfig, Trim};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::{
    common::{
        actor::{Actor, CREATED, ONLY_CREATED, SHIPPED, pending, until_finished},
        config,
        seen::{Seen, settled, start},
        until,
    },
    rig::{Rig, at},
};

const ALL: usize = 10_000;

async fn trim_plainly(rig: &Rig, length: usize) {
    rig.run(&["XTRIM", &rig.stream, "MAXLEN", &length.to_string()]).await;
}

async fn ready(groups: &[&str]) -> Rig {
    let rig = Rig::adopted().await;
    for group in groups {
        rig.make(group).await;
    }
    rig.publish(0, 1_000).await;
    rig
}

#[tokio::test]
async fn unread_events_that_others_removed_come_back() {
    let rig = ready(&["behind", "done"]).await;
    let mut handled: BTreeSet<u64> = rig.handle("behind", 300).await.into_iter().collect();
    rig.handle("done", 1_000).await;
    assert_eq!(rig.floor("behind").await, GroupFloor::At(at(300)));
    trim_plainly(&rig, 200).await;
    for _ in 0..2 {
        let floors = rig.floors(&["behind", "done"]).await;
        assert_eq!((floors["behind"], floors["done"]), (GroupFloor::Gap, GroupFloor::At(at(1_000))));
    }
    assert_eq!(rig.rewind(300).await, ResyncOutcome::At(at(300)));
    assert_eq!(rig.floor("behind").await, GroupFloor::At(at(300)));
    rig.publish(300, 1_000).await;
    handled.extend(rig.handle("behind", ALL).await);
    assert_eq!(handled.len(), 1_000);
    assert_eq!(rig.floor("behind").await, GroupFloor::At(at(1_000)));
    // the gap is closed: the server still counts the removed entries, the bus does not count them again
    rig.handle("done", ALL).await;
    rig.bus.trim(Trim { max_length: Some(10), max_age: None }).await.unwrap();
    for _ in 0..2 {
        assert_eq!(rig.floor("behind").await, GroupFloor::At(at(1_000)));
    }
    trim_plainly(&rig, 5).await;
    assert_eq!(rig.floor("behind").await, GroupFloor::At(at(1_000)));
}

#[tokio::test]
async fn a_hole_is_seen_though_the_group_has_read_on() {
    for (read_on, expected) in [(50, GroupFloor::Unknown), (120, GroupFloor::Gap), (200, GroupFloor::Gap)] {
        let rig = ready(&["behind"]).await;
        rig.handle("behind", 300).await;
        rig.floors(&[]).await;
        trim_plainly(&rig, 200).await;
        rig.handle("behind", read_on).await;
        // the number of unread entries is unknown as long as they are many
        assert_eq!(rig.floor("behind").await, expected, "{read_on}");
        rig.handle("behind", 200 - read_on).await;
        for _ in 0..2 {
            assert_eq!(rig.floor("behind").await, GroupFloor::Gap, "{read_on}");
        }
        rig.rewind(300).await;
        rig.publish(300, 1_000).await;
        assert_eq!(rig.handle("behind", ALL).await, (301..=1_000).collect::<Vec<_>>());
        assert_eq!(rig.floor("behind").await, GroupFloor::At(at(1_000)));
    }
}

#[tokio::test]
async fn pending_events_that_others_removed_come_back_once() {
    let rig = ready(&["reports"]).await;
    let read = rig.read("reports", 300).await;
    rig.acknowledge("reports", &read[..100]).await;
    assert_eq!(rig.floor("reports").await, GroupFloor::At(at(100)));
    trim_plainly(&rig, 800).await;
    assert_eq!(rig.floor("reports").await, GroupFloor::Gap);
    rig.rewind(100).await;
    // removed entries stay pending until a consumer acknowledges them
    for _ in 0..2 {
        assert_eq!(rig.floor("reports").await, GroupFloor::At(at(100)));
    }
    rig.publish(100, 1_000).await;
    rig.acknowledge("reports", &read[200..]).await;
    rig.handle("reports", 700).await;
    assert_eq!(rig.handle("reports", 10).await, (101..=110).collect::<Vec<_>>());
    assert_eq!(rig.floor("reports").await, GroupFloor::At(at(110)));
}

/// The server takes an entry that is gone from the pending ones when a consumer saves its attempts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_others_removed_while_its_handler_failed_comes_back() {
    let rig = ready(&["behind"]).await;
    rig.handle("behind", 998).await;
    assert_eq!(rig.floor("behind").await, GroupFloor::At(at(998)));
    let (begun, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (begins, opens) = (Arc::clone(&begun), Arc::clone(&gate));
    let fails = Subscriber::new(Name::from_static("fails"), EventFilter::All, move |_| {
        let (begins, opens) = (Arc::clone(&begins), Arc::clone(&opens));
        Box::pin(async move {
            begins.add_permits(1);
            drop(opens.acquire().await);
            Err(HandlerError::from("not yet"))
        })
    });
    rig.bus.add_subscriber(Name::from_static("behind"), fails);
    let consumer = start(&rig.bus).await;
    drop(tokio::time::timeout(Duration::from_secs(60), begun.acquire()).await.unwrap());
    let pending = async |count: u64| {
        rig.bus.progress(&Name::from_static("behind")).await.is_ok_and(|progress| progress.pending == count)
    };
    until("both are in hand", async || pending(2).await).await;
    trim_plainly(&rig, 1).await;
    gate.add_permits(1_000);
    // before a look at the floors, which would find the gap by itself
    until("the attempt of the first is saved", async || pending(1).await).await;
    assert_eq!(rig.floor("behind").await, GroupFloor::Gap);
    rig.bus.stop_consuming().await;
    consumer.await.unwrap();
}

#[tokio::test]
async fn a_hole_is_mended_for_each_store_by_itself() {
    let one = Rig::adopted().await;
    let two = one.another(Publisher { store: Uuid::now_v7(), epoch: 1 });
    two.adopt_as(0, &[], true).await;
    one.make("reports").await;
    for position in 0..100 {
        one.publish(position, position + 1).await;
        two.publish(position, position + 1).await;
    }
    one.handle("reports", 40).await;
    one.floors(&[]).await;
    trim_plainly(&one, 100).await;
    assert_eq!(one.floor("reports").await, GroupFloor::Gap);
    one.rewind(20).await;
    one.publish(20, 100).await;
    assert_eq!(one.floor("reports").await, GroupFloor::At(at(20)));
    // a rewind by a relay that does not know the gap closes no gap
    two.rewind(90).await;
    two.publish(90, 100).await;
    assert_eq!(two.floor("reports").await, GroupFloor::Gap);
    two.rewind(20).await;
    assert_eq!(two.floor("reports").await, GroupFloor::At(at(20)));
    assert_eq!(one.floor("reports").await, GroupFloor::At(at(20)));
}

#[tokio::test]
async fn a_hole_without_own_events_is_mended_without_publishing_again() {
    let rig = Rig::adopted().await;
    rig.make("reports").await;
    rig.add_foreign(50).await;
    rig.publish(0, 5).await;
    rig.floors(&["reports"]).await;
    trim_plainly(&rig, 20).await;
    assert_eq!(rig.floor("reports").await, GroupFloor::Gap);
    rig.rewind(0).await;
    rig.publish(0, 5).await;
    rig.handle("reports", ALL).await;
    rig.add_foreign(50).await;
    assert_eq!(rig.floor("reports").await, GroupFloor::At(at(5)));
    rig.handle("reports", 10).await;
    assert_eq!(rig.floor("reports").await, GroupFloor::At(at(5)));
    trim_plainly(&rig, 45).await;
    assert_eq!(rig.seen(&[]).await, eventbus::relay::GroupFloors::Lost, "the last own event is gone too");
    rig.adopt(5, &["reports"]).await;
    assert_eq!(rig.floor("reports").await, GroupFloor::At(at(5)));
    trim_plainly(&rig, 20).await;
    assert_eq!(rig.floor("reports").await, GroupFloor::Gap);
    assert_eq!(rig.rewind(5).await, ResyncOutcome::Moved(at(5)));
    assert_eq!(rig.floor("reports").await, GroupFloor::At(at(5)), "there is nothing to publish again");
}

#[tokio::test]
async fn there_is_no_false_alarm() {
    let rig = ready(&["reports", "slow", "idle"]).await;
    let all = ["reports", "slow", "idle"];
    let expect = async |what: &str, floors: [u64; 3]| {
        let seen = rig.floors(&all).await;
        let expected = floors.map(|floor| GroupFloor::At(at(floor)));
        assert_eq!([seen["reports"], seen["slow"], seen["idle"]], expected, "{what}");
    };
    rig.handle("reports", 900).await;
    rig.handle("slow", 500).await;
    rig.handle("idle", 200).await;
    expect("at first", [900, 500, 200]).await;
    rig.bus.trim(Trim { max_length: Some(0), max_age: None }).await.unwrap();
    expect("after our own trim", [900, 500, 200]).await;
    let ids: Vec<String> = rig.entries().await.into_iter().map(|(id, _)| id).collect();
    // some groups have not read these entries in the middle
    for id in &ids[400..420] {
        rig.run(&["XDEL", &rig.stream, id]).await;
    }
    expect("after entries in the middle were deleted", [900, 500, 200]).await;
    rig.handle("slow", 200).await;
    rig.handle("idle", 300).await;
    rig.bus.trim(Trim { max_length: Some(0), max_age: None }).await.unwrap();
    rig.handle("idle", 450).await;
    rig.handle("slow", 250).await;
    rig.bus.trim(Trim { max_length: Some(0), max_age: None }).await.unwrap();
    expect("after those were passed", [900, 970, 970]).await;
    for made in ["new", "from the end"] {
        rig.make(made).await;
        rig.run(&["XGROUP", "SETID", &rig.stream, made, if made == "new" { "0" } else { "$" }]).await;
        rig.read(made, 10).await;
    }
    assert!(rig.floors(&all).await.values().all(|floor| matches!(floor, GroupFloor::At(_))));
    rig.handle("reports", ALL).await;
    rig.handle("slow", ALL).await;
    rig.handle("idle", ALL).await;
    expect("at the end", [1_000; 3]).await;
    // a foreign program trims finished entries between two checks, at the very end of the entries read
    for round in 0..5 {
        rig.publish(1_000 + round * 10, 1_010 + round * 10).await;
        for group in all {
            rig.handle(group, ALL).await;
        }
        trim_plainly(&rig, 1).await;
        expect("others trim", [1_010 + round * 10; 3]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_consumer_had_in_hand_comes_back_though_its_successor_was_first_to_miss_it() {
    for restarts in [true, false] {
        let rig = Rig::on(RedisEventBusConfig { consumer_name: Some("reader".into()), ..config() }).await;
        let group = rig.bus.default_group().clone();
        rig.adopt(0, &[&group]).await;
        rig.publish(0, 100).await;
        let read = rig.read(&group, 100).await;
        rig.acknowledge(&group, &read[..10]).await;
        assert_eq!(rig.floor(&group).await, GroupFloor::At(at(10)));
        trim_plainly(&rig, 50).await;
        let seen = Seen::default();
        seen.join(&rig.bus);
        if restarts {
            start(&rig.bus).await;
        } else {
            let at_once = Recovery { min_idle_time_ms: Some(0), ..Recovery::default() };
            rig.bus.recover_pending_messages(at_once).await.unwrap();
        }
        until("what is there is handled", async || settled(&rig.bus).await == 0).await;
        assert_eq!(seen.all().len(), 50);
        rig.bus.stop_consuming().await;
        assert_eq!(rig.floor(&group).await, GroupFloor::Gap, "restarts: {restarts}");
        rig.rewind(10).await;
        rig.publish(10, 100).await;
        assert_eq!(rig.handle(&group, ALL).await, (11..=100).collect::<Vec<_>>());
        assert_eq!(rig.floor(&group).await, GroupFloor::At(at(100)));
    }
}

/// The server takes a removed entry from the pending ones when a consumer gives it back.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_removed_is_missed_though_its_consumer_gave_it_back_when_it_stopped() {
    let rig = Rig::on(RedisEventBusConfig { pending_idle_ms: 60_000, concurrency: 1, ..config() }).await;
    let group = rig.bus.default_group().clone();
    rig.adopt(0, &[&group]).await;
    rig.publish(0, 10).await;
    let actor = Actor::waiting();
    actor.join(&rig.bus);
    start(&rig.bus).await;
    until("one is handled, and one read ahead", async || pending(&rig.bus).await.len() == 2).await;
    until("the first is handled", async || actor.begun().len() == 1).await;
    assert_eq!(rig.floor(&group).await, GroupFloor::At(at(0)));
    trim_plainly(&rig, 8).await;
    tokio::join!(biased; rig.bus.stop_consuming(), async { actor.let_go(1) });
    assert_eq!(rig.floor(&group).await, GroupFloor::Gap);
}

/// As above, when a consumer hands it off.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_removed_is_missed_though_its_consumer_left_it_to_a_member_that_handles_its_type() {
    let rig = Rig::on(RedisEventBusConfig { pending_idle_ms: 60_000, ..config() }).await;
    let group = rig.bus.default_group().clone();
    rig.adopt(0, &[&group]).await;
    rig.run(&["HSET", &rig.key(&format!("event_types:{group}")), "OrderShipped@1", "1"]).await;
    let stream = StreamId::parse("Order", "1").unwrap();
    let recorded = |(name, position)| {
        let event = NewEvent::new(Name::from_static(name), 1, "{}");
        event.recorded_as(stream.clone(), Version::FIRST, Some(at(position)))
    };
    let events: Vec<_> = [CREATED, SHIPPED, CREATED].into_iter().zip(1..).map(recorded).collect();
    let range = PublishRange { after: at(0), through: at(3), events: &events };
    rig.target().publish_range(rig.publisher, range).await.unwrap();
    let actor = Actor::waiting();
    actor.join_as(&rig.bus, "act", ONLY_CREATED, HandlerOptions::default());
    start(&rig.bus).await;
    until("all are in flight", async || pending(&rig.bus).await.len() == 3).await;
    assert_eq!(rig.floor(&group).await, GroupFloor::At(at(0)));
    trim_plainly(&rig, 1).await;
    actor.let_go(2);
    until_finished(&rig.bus).await;
    assert_eq!(rig.floor(&group).await, GroupFloor::Gap);
    rig.bus.stop_consuming().await;
}

#[tokio::test]
async fn what_others_removed_while_a_group_was_gone_is_not_forgotten_by_a_look_that_did_not_ask_for_it() {
    let rig = ready(&["reports"]).await;
    rig.handle("reports", 300).await;
    assert_eq!(rig.floor("reports").await, GroupFloor::At(at(300)));
    rig.run(&["XGROUP", "DESTROY", &rig.stream, "reports"]).await;
    trim_plainly(&rig, 200).await;
    // as an app does at its start, or the relay of a second store
    assert!(rig.floors(&[]).await.is_empty());
    rig.bus.create_group(&Name::from_static("reports"), GroupStart::Now).await.unwrap();
    rig.handle("reports", ALL).await;
    assert_eq!(rig.floor("reports").await, GroupFloor::Gap);
}

#[tokio::test]
async fn what_others_removed_while_a_group_was_gone_comes_back() {
    for looks in [true, false] {
        let rig = ready(&["reports"]).await;
        let reports = Name::from_static("reports");
        rig.handle("reports", 300).await;
        assert_eq!(rig.floor("reports").await, GroupFloor::At(at(300)));
        rig.run(&["XGROUP", "DESTROY", &rig.stream, "reports"]).await;
        trim_plainly(&rig, 200).await;
        if looks {
            assert_eq!(rig.floor("reports").await, GroupFloor::Missing);
        }
        rig.bus.create_group(&reports, GroupStart::Now).await.unwrap();
        rig.handle("reports", ALL).await;
        assert_eq!(rig.floor("reports").await, GroupFloor::Gap, "looks: {looks}");
        rig.rewind(300).await;
        rig.publish(300, 1_000).await;
        assert_eq!(rig.handle("reports", ALL).await, (301..=1_000).collect::<Vec<_>>());
        assert_eq!(rig.floor("reports").await, GroupFloor::At(at(1_000)));
        // a group that resumes where it was, without removed entries, is no alarm
        rig.run(&["XGROUP", "DESTROY", &rig.stream, "reports"]).await;
        rig.bus.create_group(&reports, GroupStart::Now).await.unwrap();
        assert_eq!(rig.floor("reports").await, GroupFloor::At(at(1_000)));
    }
}

#[tokio::test]
async fn a_hole_is_mended_by_the_relay_that_was_told_of_it() {
    let rig = Rig::adopted().await;
    rig.make("reports").await;
    rig.publish(0, 100).await;
    rig.handle("reports", 10).await;
    rig.floors(&[]).await;
    rig.run(&["XTRIM", &rig.stream, "MAXLEN", "40"]).await;
    // a starting process asks, and then an operator who knows of no gap rewinds the stream
    let [starting, operator] = [0, 6].map(|epoch| rig.another(Publisher { epoch, ..rig.publisher }));
    assert_eq!(starting.floor("reports").await, GroupFloor::Gap);
    assert_eq!(rig.floor("reports").await, GroupFloor::Gap);
    assert_eq!(operator.rewind(80).await, ResyncOutcome::At(at(80)));
    let relay = rig.another(Publisher { epoch: 7, ..rig.publisher });
    assert_eq!(relay.floor("reports").await, GroupFloor::Gap);
    assert_eq!(starting.floor("reports").await, GroupFloor::Gap);
    assert_eq!(relay.rewind(10).await, ResyncOutcome::At(at(10)));
    assert_ne!(relay.floor("reports").await, GroupFloor::Gap);
}
