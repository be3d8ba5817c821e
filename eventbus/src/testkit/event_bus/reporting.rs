//! Rules of statistics, stream info and progress.

use super::{
    Bus,
    fixtures::{
        CREATED, RecordingHandler, SHIPPED, consume, created, event, events, progress, publish, shipped,
        wait_until_idle, wait_until_started,
    },
};
use crate::{
    domain::{event::EventFilter, name::Name},
    port::{
        GroupProgress,
        stats::{BusStats, GroupInfo},
    },
    runtime::subscription::EventBusExt,
};

const OTHER_GROUP: Name = Name::from_static("other");

/// Subscribers are counted in all, by type and as wildcards.
pub async fn subscribers_are_counted(bus: Bus, _: Bus) {
    let handler = RecordingHandler::new();
    let group = bus.default_group();
    let first = handler.subscribe(&bus, group, created());
    handler.subscribe(&bus, &OTHER_GROUP, created());
    handler.subscribe(&bus, group, shipped());
    let wildcard = handler.subscribe(&bus, group, EventFilter::All);
    let count_of = |event_type: &str| {
        let subscribers = bus.subscribers();
        let typed = subscribers.iter().map(|other| other.subscriber()).filter(|subscriber| !subscriber.is_wildcard());
        typed.filter(|subscriber| subscriber.events().matches(event_type)).count()
    };
    let counts = || {
        let (created, shipped) = (count_of(CREATED), count_of(SHIPPED));
        (bus.subscriber_count(), created, shipped, bus.wildcard_subscriber_count())
    };
    assert_eq!(counts(), (3, 2, 1, 1), "(all, created, shipped, wildcard)");
    first.cancel();
    wildcard.cancel();
    assert_eq!(counts(), (2, 1, 1, 0), "after two were cancelled");
}

/// The counters are right after four events: two handled ones, one that two handlers gave up, and one that no handler
/// subscribes to.
pub async fn stats_tell_the_story(bus: Bus, _: Bus) {
    let (one, two) = (RecordingHandler::new(), RecordingHandler::new());
    one.fail_on(&[2]);
    two.fail_on(&[2]);
    one.subscribe(&bus, bus.default_group(), created());
    two.subscribe(&bus, bus.default_group(), created());
    assert_eq!(bus.stats(), BusStats::default(), "before publishing");
    publish(&bus, &events(1..=3)).await;
    publish(&bus, &[event(SHIPPED, 4)]).await;
    let consumer = consume(&bus).await;
    wait_until_idle(&bus, bus.default_group()).await;
    consumer.stop().await;
    let expected = BusStats {
        events_published: 4,
        events_consumed: 4,
        events_processed_success: 2,
        events_skipped: 1,
        events_processed_failed: 1,
        messages_sent_to_dlq: 1,
        handler_errors: 2,
        ..BusStats::default()
    };
    assert_eq!(bus.stats(), expected, "after consuming");
}

/// The stream info shows the stream's length and ends, its groups and their pending entries, before and after
/// consuming.
pub async fn stream_info_tells_the_story(bus: Bus, _: Bus) {
    let fresh = bus.stream_info().await;
    assert!(fresh.connected, "connected");
    assert!(!fresh.stream.name.is_empty(), "the stream has a name");
    assert_eq!(fresh.stream.length, 0, "length of a fresh stream");
    assert_eq!(fresh.stream.first_entry_id, None, "first id of a fresh stream");
    assert_eq!(fresh.stream.last_entry_id, None, "last id of a fresh stream");
    let default = bus.default_group().as_str();
    let groups = described(&fresh.consumer_groups);
    assert!(groups.is_empty() || groups == [(default, 0, 0)], "groups of a fresh stream: {groups:?}");

    let (mine, theirs) = (RecordingHandler::new(), RecordingHandler::new());
    mine.fail_on(&[2]);
    mine.subscribe(&bus, bus.default_group(), EventFilter::All);
    theirs.subscribe(&bus, &OTHER_GROUP, EventFilter::All);
    let ids = publish(&bus, &events(1..=3)).await;
    let consumer = consume(&bus).await;
    wait_until_idle(&bus, bus.default_group()).await;
    wait_until_idle(&bus, &OTHER_GROUP).await;
    let info = bus.stream_info().await;
    consumer.stop().await;
    assert_eq!(info.stream.name, fresh.stream.name, "name");
    assert_eq!(info.stream.length, 3, "length");
    assert_eq!(info.stream.first_entry_id.as_deref(), ids.first().map(String::as_str), "first id");
    assert_eq!(info.stream.last_entry_id.as_deref(), ids.last().map(String::as_str), "last id");
    let other = OTHER_GROUP;
    let mut groups = vec![(default, 1, 0), (other.as_str(), 1, 0)];
    groups.sort_unstable();
    assert_eq!(described(&info.consumer_groups), groups, "groups, sorted by name");
    assert_eq!(info.pending_messages, 0, "pending over all groups");
    assert_eq!(info.active_consumers, 2, "consumers over all groups");
    assert_eq!(info.dlq_messages, 1, "dead letters");
    assert_eq!(info.stats.events_published, 3, "stats are included");
}

/// Returns the fields that every bus reports about its groups: name, active consumers, pending entries.
fn described(groups: &[GroupInfo]) -> Vec<(&str, u64, u64)> {
    groups.iter().map(|group| (group.name.as_str(), group.active_consumers, group.pending)).collect()
}

/// Progress counts unread and pending entries of a group before, during and after consuming, and of a group without
/// members.
pub async fn progress_tells_the_story(bus: Bus, _: Bus) {
    let group = bus.default_group();
    let of = |unread, pending| GroupProgress { unread, pending, ..GroupProgress::default() };
    assert_eq!(progress(&bus, group).await, of(0, 0), "a fresh stream");
    let handler = RecordingHandler::gated();
    handler.subscribe(&bus, group, EventFilter::All);
    publish(&bus, &events(1..=3)).await;
    assert_eq!(progress(&bus, group).await, of(3, 0), "before consuming");
    let consumer = consume(&bus).await;
    wait_until_started(&handler, 1).await;
    let now = progress(&bus, group).await;
    assert_eq!(now.unread + now.pending, 3, "no entry is finished yet: {now:?}");
    assert!(!now.is_settled(), "three entries are unfinished: {now:?}");
    for _ in 0..3 {
        handler.allow_one();
    }
    wait_until_idle(&bus, group).await;
    consumer.stop().await;
    let stranger = progress(&bus, &Name::from_static("never seen")).await;
    assert_eq!(stranger, of(3, 0), "a group without members");
}
