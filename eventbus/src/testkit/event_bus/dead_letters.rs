//! Rules of dead letters.

use time::macros::datetime;

use super::{
    Bus,
    fixtures::{
        CREATED, RecordingHandler, SHIPPED, consume, event, event_of_bytes, events, publish, sorted, wait_until_idle,
        wait_until_started,
    },
};
use crate::{
    RecordedEvent,
    domain::{event::EventFilter, name::Name},
    port::{DeadLetter, DeadLetterFilter, DeadLetters},
    support::PAGE_BYTES,
};

const OTHER_GROUP: Name = Name::from_static("other");

fn require(bus: &Bus) -> &dyn DeadLetters {
    bus.dead_letters().expect("the suite is for buses that offer dead letters")
}

async fn list_dead_letters(bus: &Bus) -> Vec<DeadLetter> {
    let page = require(bus)
        .list_dead_letters(&DeadLetterFilter::default(), None, 1_000)
        .await
        .expect("dead letters are listed");
    assert_eq!(page.next, None, "all are on one page");
    page.letters
}

/// A dead letter holds the event as it was published, and the handler, error, number of attempts and times of the
/// failure.
pub async fn a_dead_letter_tells_what_happened(bus: Bus, _: Bus) {
    let (good, bad) =
        (RecordingHandler::new(), RecordingHandler::logging("bad", &std::sync::Arc::default()).with_retries(2));
    bad.fail_on(&[2]);
    let group = bus.default_group();
    good.subscribe(&bus, group, EventFilter::All);
    bad.subscribe(&bus, group, EventFilter::All);
    let consumer = consume(&bus).await;
    let published = events(1..=3);
    let ids = publish(&bus, &published).await;
    wait_until_idle(&bus, group).await;
    consumer.stop().await;
    let [dead_letter] = &list_dead_letters(&bus).await[..] else {
        panic!("not one dead letter: {:?}", list_dead_letters(&bus).await)
    };
    assert_eq!(dead_letter.original_message_id.as_ref().map(ToString::to_string).as_ref(), Some(&ids[1]), "message id");
    let record = dead_letter.record.as_ref().expect("the event is there");
    assert_eq!(record.metadata(), published[1].metadata(), "metadata");
    assert_eq!(record.payload(), published[1].payload(), "payload");
    assert_eq!(dead_letter.event_type.as_deref(), Some(CREATED), "event type");
    assert_eq!(dead_letter.aggregate_id.as_deref(), Some("order-2"), "aggregate");
    assert_eq!(dead_letter.handler.as_deref(), Some("bad"), "handler");
    assert_eq!(dead_letter.error.as_deref(), Some("failure on demand"), "error");
    assert_eq!(dead_letter.group.as_deref(), Some(group.as_str()), "group");
    assert_eq!((dead_letter.attempts, dead_letter.retry_count), (Some(3), Some(2)), "attempts, and retries");
    assert_eq!(dead_letter.done_handlers, ["recorder"], "the handlers that had succeeded");
    let times = [dead_letter.first_failed_at, dead_letter.last_failed_at, dead_letter.dead_lettered_at];
    assert!(times.iter().all(Option::is_some), "times: {times:?}");
    assert!(times[0] < times[1] && times[1] <= times[2], "times: {times:?}");
    let shown =
        require(&bus).find_dead_letter(&dead_letter.id).await.expect("a dead letter is shown").expect("it is there");
    assert_eq!((&shown.id, &shown.error), (&dead_letter.id, &dead_letter.error), "the requested one");
}

/// A replay delivers only to the failed handlers of the group: not to handlers that had succeeded, not to other groups.
/// It removes the dead letter.
pub async fn a_replay_reaches_only_who_failed(bus: Bus, _: Bus) {
    let (good, bad, foreign) =
        (RecordingHandler::new(), RecordingHandler::new().with_retries(1), RecordingHandler::new());
    bad.fail_on(&[1]);
    let group = bus.default_group();
    good.subscribe(&bus, group, EventFilter::All);
    bad.subscribe(&bus, group, EventFilter::All);
    foreign.subscribe(&bus, &OTHER_GROUP, EventFilter::All);
    let consumer = consume(&bus).await;
    publish(&bus, &events(1..=1)).await;
    wait_until_idle(&bus, group).await;
    wait_until_idle(&bus, &OTHER_GROUP).await;
    let dead_letters = list_dead_letters(&bus).await;
    let id = &dead_letters[0].id;
    bad.fail_on(&[]);
    assert!(require(&bus).replay(id).await.expect("a dead letter is replayed"), "it was there");
    wait_until_started(&bad, 3).await;
    publish(&bus, &events(2..=2)).await;
    wait_until_idle(&bus, group).await;
    wait_until_idle(&bus, &OTHER_GROUP).await;
    consumer.stop().await;
    assert_eq!(bad.completed().iter().filter(|number| **number == 1).count(), 1, "the handler that had failed");
    assert_eq!(sorted(good.started()), [1, 2], "the handler that had succeeded");
    assert_eq!(sorted(foreign.started()), [1, 2], "the other group");
    assert_eq!(bus.stream_info().await.dlq_messages, 0, "dead letters");
    assert!(
        require(&bus).find_dead_letter(id).await.expect("the bus looks the dead letter up").is_none(),
        "it is gone"
    );
    assert!(!require(&bus).replay(id).await.expect("the bus looks the dead letter up"), "it is replayed once");
}

/// A dead letter keeps the recorded time of its event, the original recorded time of an imported event, and the mark of
/// sealed fields; its replay delivers them.
pub async fn recorded_times_survive_a_dead_letter_and_its_replay(bus: Bus, _: Bus) {
    let handler = RecordingHandler::new().with_retries(1);
    handler.fail_on(&[1]);
    let group = bus.default_group();
    handler.subscribe(&bus, group, EventFilter::All);
    let consumer = consume(&bus).await;
    let [event] = &events(1..=1)[..] else { panic!("one event") };
    let metadata = event
        .metadata()
        .clone()
        .with_recorded_at(Some(datetime!(2026-11-20 06:57:25.000_120 UTC)))
        .with_original_recorded_at(Some(datetime!(2019-05-17 08:30 UTC)))
        .with_sealed_fields(true);
    publish(&bus, &[RecordedEvent::new(metadata.clone(), event.payload())]).await;
    wait_until_idle(&bus, group).await;
    let dead_letters = list_dead_letters(&bus).await;
    let kept = dead_letters[0].record.as_ref().map(RecordedEvent::metadata);
    assert_eq!(kept, Some(&metadata), "metadata of the dead letter");
    handler.fail_on(&[]);
    assert!(require(&bus).replay(&dead_letters[0].id).await.expect("a dead letter is replayed"), "it was there");
    wait_until_started(&handler, 3).await;
    consumer.stop().await;
    for delivery in handler.deliveries() {
        assert_eq!(delivery.metadata(), &metadata, "metadata of each delivery");
    }
}

/// A replayed delivery gets all its attempts anew; if they all fail, it becomes a dead letter again.
pub async fn a_replay_that_fails_is_a_dead_letter_again(bus: Bus, _: Bus) {
    let handler = RecordingHandler::new().with_retries(1);
    handler.fail_on(&[1, 2]);
    let group = bus.default_group();
    handler.subscribe(&bus, group, EventFilter::All);
    let consumer = consume(&bus).await;
    publish(&bus, &events(1..=3)).await;
    wait_until_idle(&bus, group).await;
    handler.fail_on(&[1]);
    let replayed = require(&bus).replay_all(&DeadLetterFilter::default()).await.expect("dead letters are replayed");
    assert_eq!(replayed, 2, "replayed");
    wait_until_started(&handler, 5 + 3).await;
    wait_until_idle(&bus, group).await;
    consumer.stop().await;
    let [dead_letter] = &list_dead_letters(&bus).await[..] else {
        panic!("not one dead letter: {:?}", list_dead_letters(&bus).await)
    };
    assert_eq!(
        (dead_letter.aggregate_id.as_deref(), dead_letter.attempts),
        (Some("order-1"), Some(2)),
        "the one that fails"
    );
    assert_eq!(handler.attempts_at(1).len(), 4, "all attempts, twice");
    assert_eq!(bus.stats().messages_sent_to_dlq, 3, "given up");
}

/// A discarded dead letter is removed and not delivered again.
pub async fn what_is_discarded_is_gone(bus: Bus, _: Bus) {
    let handler = RecordingHandler::new();
    handler.fail_on(&[1, 2, 3, 4]);
    let group = bus.default_group();
    handler.subscribe(&bus, group, EventFilter::All);
    let consumer = consume(&bus).await;
    publish(&bus, &[event(CREATED, 1), event(CREATED, 2), event(SHIPPED, 3), event(CREATED, 4)]).await;
    wait_until_idle(&bus, group).await;
    let first = &list_dead_letters(&bus).await[0].id;
    assert!(require(&bus).discard(first).await.expect("a dead letter is discarded"), "it was there");
    assert!(!require(&bus).discard(first).await.expect("the bus looks the dead letter up"), "it is discarded once");
    assert!(!require(&bus).replay(first).await.expect("the bus looks the dead letter up"), "it is gone");
    let created = DeadLetterFilter { event_type: Some(CREATED.into()), ..DeadLetterFilter::default() };
    assert_eq!(require(&bus).discard_all(&created).await.expect("dead letters are discarded"), 2, "those of the type");
    let left: Vec<_> = list_dead_letters(&bus).await.into_iter().map(|dead_letter| dead_letter.aggregate_id).collect();
    assert_eq!(left, [Some("order-3".to_owned())], "the one of another type");
    consumer.stop().await;
    assert_eq!(sorted(handler.started()), [1, 2, 3, 4], "no second delivery");
}

/// Pages list every dead letter that matches the filter once, the oldest first.
pub async fn pages_list_all_dead_letters(bus: Bus, _: Bus) {
    let handler = RecordingHandler::new();
    handler.fail_on(&(1..=9).collect::<Vec<_>>());
    let group = bus.default_group();
    handler.subscribe(&bus, group, EventFilter::All);
    let consumer = consume(&bus).await;
    for number in 1..=9 {
        publish(&bus, &[event(if number % 3 == 0 { SHIPPED } else { CREATED }, number)]).await;
        wait_until_idle(&bus, group).await;
    }
    consumer.stop().await;
    let created = DeadLetterFilter { event_type: Some(CREATED.into()), ..DeadLetterFilter::default() };
    for (filter, expected) in [
        (DeadLetterFilter::default(), (1..=9).collect()),
        (created, vec![1, 2, 4, 5, 7, 8]),
        (DeadLetterFilter { group: Some("unknown".into()), ..DeadLetterFilter::default() }, Vec::new()),
    ] {
        let (mut listed, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let page =
                require(&bus).list_dead_letters(&filter, after.as_ref(), 3).await.expect("dead letters are listed");
            assert!(page.letters.len() <= 3, "a page of {}", page.letters.len());
            listed.extend(page.letters.into_iter().filter_map(|dead_letter| dead_letter.aggregate_id));
            pages += 1;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let expected: Vec<_> = expected.iter().map(|number: &u64| format!("order-{number}")).collect();
        assert_eq!(listed, expected, "listed");
        assert_eq!(pages, expected.len().div_ceil(3).max(1), "pages");
    }
}

/// A page of dead letters ends with the one that reaches [`PAGE_BYTES`]; the next page starts after it.
pub async fn pages_of_large_dead_letters_end_early(bus: Bus, _: Bus) {
    const BYTES: usize = 400 * 1024;
    let handler = RecordingHandler::new();
    handler.fail_on(&(1..=7).collect::<Vec<_>>());
    let group = bus.default_group();
    handler.subscribe(&bus, group, EventFilter::All);
    let consumer = consume(&bus).await;
    for number in 1..=7 {
        publish(&bus, &[event_of_bytes(CREATED, number, BYTES)]).await;
        wait_until_idle(&bus, group).await;
    }
    consumer.stop().await;
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = require(&bus).list_dead_letters(&DeadLetterFilter::default(), after.as_ref(), 1_000).await;
        let page = page.expect("dead letters are listed");
        let (_, before) = page.letters.split_last().expect("a page has a dead letter if there is one");
        let bytes: usize = before.iter().map(DeadLetter::bytes).sum();
        assert!(bytes < PAGE_BYTES, "a page of {} dead letters, {bytes} bytes without the last", page.letters.len());
        listed.extend(page.letters.into_iter().filter_map(|dead_letter| dead_letter.aggregate_id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(listed, (1..=7).map(|number| format!("order-{number}")).collect::<Vec<_>>(), "listed");
    assert_eq!(
        require(&bus).discard_all(&DeadLetterFilter::default()).await.expect("dead letters are discarded"),
        7,
        "all"
    );
}
