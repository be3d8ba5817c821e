//! Rules of tags and of appends with a condition.

use std::collections::BTreeSet;

use futures_util::TryStreamExt as _;

use super::{
    multi_stream_appends::multi_stream,
    store_under_test::{StoreUnderTest, event, stream},
    unique_values::holding,
};
use crate::{
    ExpectedVersion, Name, NewEvent, Position, RecordedEvent, StreamId, Uuid, Version,
    event::{TAG_BYTES_MAX, TAGS_MAX, Tag},
    port::{
        Append, AppendError, EventStore, FeedFilter,
        boundaries::{Boundaries, Boundary, BoundaryCondition, BoundaryRead},
    },
    repository::IdempotencyKey,
    store::{Handled, HandledCommand, MultiStreamAppend, MultiStreamOutcome},
};

const ANY: ExpectedVersion = ExpectedVersion::Any;
const ENROLLED: Name = Name::from_static("Enrolled");
const VIEWED: Name = Name::from_static("Viewed");
/// Most students of a course.
const CAPACITY: usize = 5;

fn boundaries<S: EventStore>(store: &StoreUnderTest<S>) -> &dyn Boundaries {
    store.boundaries().unwrap_or_else(|| store.fail("the store has no boundaries"))
}

fn tag(text: &str) -> Tag {
    Tag::from_stored(text).expect("a tag that stores keep")
}

fn set(tags: &[&str]) -> BTreeSet<Tag> {
    tags.iter().map(|text| tag(text)).collect()
}

fn tagged(event_type: &Name, tags: &[&str]) -> NewEvent {
    NewEvent::new(event_type.clone(), 1, r#"{"n":1}"#).with_tags(set(tags))
}

/// Returns the boundary of the enrolments that have all tags of at least one item.
fn boundary(items: &[&[&str]]) -> Boundary {
    let items = items.iter().map(|item| set(item)).collect();
    Boundary { tenant_id: None, event_types: [ENROLLED].into(), items }
}

async fn count<S: EventStore>(store: &StoreUnderTest<S>, boundary: &Boundary) -> BoundaryCondition {
    store.ok(boundaries(store).count_tagged(boundary).await, "counting the tagged events")
}

async fn counts<S: EventStore>(store: &StoreUnderTest<S>, items: &[&[&str]]) -> Vec<u64> {
    count(store, &boundary(items)).await.counts
}

/// Appends events to a new stream under a condition.
async fn append_if<S: EventStore>(
    store: &StoreUnderTest<S>,
    condition: &BoundaryCondition,
    events: Vec<NewEvent>,
) -> Result<Vec<RecordedEvent>, AppendError> {
    let appends = vec![Append { stream: stream(), expected: ExpectedVersion::NoStream, events }];
    let multi = MultiStreamAppend { appends, condition: Some(condition.clone()), ..Default::default() };
    multi_stream(store).append_streams(multi).await.map(MultiStreamOutcome::into_records)
}

async fn takes_effect<S: EventStore>(store: &StoreUnderTest<S>, condition: &BoundaryCondition, events: Vec<NewEvent>) {
    store.ok(append_if(store, condition, events).await, "an append whose boundary has no further events");
}

/// Checks that the store refuses an append under the condition, and does not store it.
async fn is_moved<S: EventStore>(store: &StoreUnderTest<S>, condition: &BoundaryCondition) {
    let before = store.head_position().await;
    match append_if(store, condition, vec![tagged(&ENROLLED, &["course:refused"])]).await {
        Err(error @ AppendError::BoundaryMoved { .. }) => {
            store.check(error.is_conflict(), "the error is no conflict");
            let AppendError::BoundaryMoved { names } = &error else { return };
            let wanted: BTreeSet<_> = condition.boundary.tags().iter().map(|tag| tag.name().to_owned()).collect();
            store.same(names, &wanted.into_iter().collect(), "the names in the error");
        }
        other => store.fail(format_args!("an append whose boundary has further events: {other:?}")),
    }
    store.same(store.head_position().await, before, "a refused append stored events");
    store.same(counts(store, &[&["course:refused"]]).await, vec![0], "a refused append counted its tags");
}

async fn filtered<S: EventStore>(store: &StoreUnderTest<S>, filter: &FeedFilter) -> Vec<RecordedEvent> {
    let (start, head) = (Position::START, store.head_position().await);
    let found = store.collect("reading tagged events", store.read_feed(start, head, filter)).await;
    let number = store.ok(store.count_events(start, head, filter).await, "counting tagged events");
    store.same(number, found.len() as u64, "the number of tagged events");
    found
}

/// Reads all events of a boundary, and its condition.
async fn read_boundary<S: EventStore>(
    store: &StoreUnderTest<S>,
    boundary: &Boundary,
) -> (BoundaryCondition, Vec<RecordedEvent>) {
    let BoundaryRead { condition, events } =
        store.ok(boundaries(store).read_boundary(boundary).await, "reading a boundary");
    (condition, store.collect("reading the events of a boundary", events).await)
}

/// A feed is filtered by tags, beside types and tenants: an event matches if it has all tags of the set, or of one of
/// several sets.
pub async fn events_are_found_by_their_tags<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("events_are_found_by_their_tags", store);
    let of_tenant = stream().with_tenant_id(Some(Uuid::from_u128(7)));
    let (one, two) = (stream(), stream());
    let mut all = store.add(&one, ANY, &[tagged(&ENROLLED, &["course:1", "student:a"]), event()]).await;
    all.extend(store.add(&two, ANY, &[tagged(&ENROLLED, &["course:1", "student:b"])]).await);
    all.extend(store.add(&one, ANY, &[tagged(&ENROLLED, &["course:2", "student:a"])]).await);
    all.extend(store.add(&two, ANY, &[tagged(&VIEWED, &["course:1"])]).await);
    all.extend(store.add(&of_tenant, ANY, &[tagged(&ENROLLED, &["course:1"])]).await);
    let found = async |filter: FeedFilter, wanted: &[usize]| {
        let wanted: Vec<_> = wanted.iter().map(|&index| all[index].clone()).collect();
        store.same(filtered(&store, &filter).await, wanted, format_args!("events of {filter:?}"));
    };
    let feed = FeedFilter::all;
    found(feed().tagged([tag("course:1")]), &[0, 2, 4, 5]).await;
    found(feed().tagged([tag("course:1"), tag("student:a")]), &[0]).await;
    found(feed().tagged([tag("course:3")]), &[]).await;
    // an event that is in several sets comes once
    found(feed().tagged_any([set(&["course:1"]), set(&["student:a"])]), &[0, 2, 3, 4, 5]).await;
    found(feed().tagged_any([set(&["course:2", "student:a"]), set(&["student:b"])]), &[2, 3]).await;
    found(feed().tagged([tag("course:1")]).event_types([ENROLLED]), &[0, 2, 5]).await;
    found(feed().tagged([tag("course:1")]).tenant(Uuid::nil()), &[0, 2, 4]).await;
    found(feed().tagged([tag("course:1")]).tenant(Uuid::from_u128(7)), &[5]).await;
    found(feed().tagged([tag("course:1")]).aggregate_types([Name::from_static("Other")]), &[]).await;
    found(feed().tagged_any([]), &[]).await;
    found(feed(), &[0, 1, 2, 3, 4, 5]).await;
}

/// A long feed filtered by tags returns each tagged event once, in order, although events without tags are among them.
pub async fn long_feeds_of_tagged_events_are_read_whole<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("long_feeds_of_tagged_events_are_read_whole", store);
    let payload = format!(r#"{{"filler":"{}"}}"#, "x".repeat(2_000));
    let mut wanted = Vec::new();
    for _ in 0..4 {
        let mut events = Vec::new();
        for n in 0..300 {
            let tags: &[&str] = match n % 3 {
                0 => &["course:1", "student:a"],
                1 => &["student:a"],
                _ => &[],
            };
            events.push(NewEvent::new(ENROLLED, 1, payload.clone()).with_tags(set(tags)));
        }
        let stored = store.add(&stream(), ANY, &events).await;
        wanted.extend(stored.into_iter().enumerate().filter(|(n, _)| n % 3 < 2).map(|(_, event)| event));
    }
    let filter = FeedFilter::all().tagged_any([set(&["course:1"]), set(&["student:a"])]);
    store.same(filtered(&store, &filter).await, wanted.clone(), "all tagged events");
    let (after, through) = (wanted[99].position(), wanted[599].position());
    let (Some(after), Some(through)) = (after, through) else { store.fail("an event without a position") };
    let part: Vec<_> = store.ok(store.read_feed(after, through, &filter).try_collect().await, "reading a part");
    store.same(part, wanted[100..600].to_vec(), "a part of the tagged events");
    let beyond = Position::new(i64::MAX as u64);
    let rest: Vec<_> = store.ok(store.read_feed(after, beyond, &filter).try_collect().await, "reading to the end");
    store.same(rest, wanted[100..].to_vec(), "the rest of the tagged events");
}

/// A read of a boundary returns its events and the condition that no event is added to it, also if it has many events.
pub async fn boundary_is_read_with_its_condition<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("boundary_is_read_with_its_condition", store);
    let of_tenant = stream().with_tenant_id(Some(Uuid::from_u128(7)));
    let events: Vec<_> = (0..700).map(|_| tagged(&ENROLLED, &["course:1", "student:a"])).collect();
    let mut wanted = store.add(&stream(), ANY, &events).await;
    wanted.extend(store.add(&stream(), ANY, &events).await);
    store.add(&stream(), ANY, &[tagged(&VIEWED, &["course:1"]), tagged(&ENROLLED, &["course:2"])]).await;
    store.add(&of_tenant, ANY, &[tagged(&ENROLLED, &["course:1"])]).await;
    for items in [&[&["course:1"][..]][..], &[&["course:1", "student:a"]], &[&["course:1"], &["student:a"]]] {
        let (condition, events) = read_boundary(&store, &boundary(items)).await;
        store.same(&condition, &count(&store, &boundary(items)).await, "the condition");
        store.same(&events, &wanted, "the events of the boundary");
        takes_effect(&store, &condition, vec![tagged(&VIEWED, &["course:9"])]).await;
    }
    let (condition, events) = read_boundary(&store, &boundary(&[&["course:3"]])).await;
    store.same((condition.counts, events), (vec![0], vec![]), "a boundary without events");
    let mut of_tenant = boundary(&[&["course:1"]]);
    of_tenant.tenant_id = Some(Uuid::from_u128(7));
    let (condition, events) = read_boundary(&store, &of_tenant).await;
    store.same((condition.counts, events.len()), (vec![1], 1), "a boundary of a tenant");
    // an event that is added while the first ones are read
    let read = store.ok(boundaries(&store).read_boundary(&boundary(&[&["course:1"]])).await, "reading a boundary");
    wanted.extend(store.add(&stream(), ANY, &[tagged(&ENROLLED, &["course:1"])]).await);
    let events = store.collect("reading the events of a boundary", read.events).await;
    store.check(wanted.starts_with(&events), "the events that were read are not those that are stored");
    is_moved(&store, &read.condition).await;
}

/// An append with a condition takes effect if no event was added to the boundary; otherwise it stores no event.
pub async fn condition_holds_until_its_boundary_moves<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("condition_holds_until_its_boundary_moves", store);
    let of_course = boundary(&[&["course:1"]]);
    let none = count(&store, &of_course).await;
    store.same(none.counts.clone(), vec![0], "the counts of no event");
    takes_effect(&store, &none, vec![tagged(&ENROLLED, &["course:1", "student:a"])]).await;
    is_moved(&store, &none).await;
    let one = count(&store, &of_course).await;
    store.same(one.counts.clone(), vec![1], "the counts of an event");
    // events outside of the boundary: other values, types and tenants, and no tags
    takes_effect(&store, &count(&store, &boundary(&[&["course:2"]])).await, vec![tagged(&ENROLLED, &["course:2"])])
        .await;
    store.add(&stream(), ANY, &[tagged(&VIEWED, &["course:1"]), event()]).await;
    let of_tenant = stream().with_tenant_id(Some(Uuid::from_u128(7)));
    store.add(&of_tenant, ANY, &[tagged(&ENROLLED, &["course:1"])]).await;
    takes_effect(&store, &one, vec![tagged(&ENROLLED, &["student:b"])]).await;
    takes_effect(&store, &one, vec![event()]).await;
    // an append's own event moves the boundary too
    takes_effect(&store, &one, vec![tagged(&ENROLLED, &["course:1"]), tagged(&ENROLLED, &["course:1"])]).await;
    is_moved(&store, &one).await;
    store.same(counts(&store, &[&["course:1"], &["student:a"], &["student:b"]]).await, vec![3, 1, 1], "the counts");
}

/// A boundary of several items moves if one of them does; an item of several tags moves only if each of its tags has
/// moved.
pub async fn item_moves_if_all_its_tags_do<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("item_moves_if_all_its_tags_do", store);
    let either = count(&store, &boundary(&[&["course:1"], &["student:a"]])).await;
    let both = count(&store, &boundary(&[&["course:1", "student:a"]])).await;
    let none = count(&store, &boundary(&[])).await;
    store.add(&stream(), ANY, &[tagged(&ENROLLED, &["student:a"])]).await;
    is_moved(&store, &either).await;
    takes_effect(&store, &both, vec![event()]).await;
    store.add(&stream(), ANY, &[tagged(&ENROLLED, &["course:1"])]).await;
    is_moved(&store, &both).await;
    takes_effect(&store, &none, vec![event()]).await;
}

/// Every kind of append counts the tags of its events, and a repeat counts none.
pub async fn every_append_counts_its_tags<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("every_append_counts_its_tags", store);
    let items: &[&[&str]] = &[&["course:1"]];
    let (one, two) = (stream(), stream());
    let given = [tagged(&ENROLLED, &["course:1"]), tagged(&ENROLLED, &["course:1"])];
    for _ in 0..2 {
        store.add(&one, ExpectedVersion::NoStream, &given).await;
        store.same(counts(&store, items).await, vec![2], "after an append, and its repeat");
    }
    let append = |stream: &StreamId, expected| {
        let events = vec![tagged(&ENROLLED, &["course:1"]), event()];
        Append { stream: stream.clone(), expected, events }
    };
    let many = vec![append(&one, ANY), append(&two, ANY), append(&two, ExpectedVersion::NoStream), append(&two, ANY)];
    let results = store.append_many(many).await;
    store.same(results.iter().filter(|result| result.is_ok()).count(), 3, "appends of a call");
    store.same(counts(&store, items).await, vec![5], "after several appends of a call");
    let appends = vec![append(&one, ANY), append(&two, ExpectedVersion::StreamExists)];
    let multi = MultiStreamAppend { appends, ..Default::default() };
    for _ in 0..2 {
        store.ok(multi_stream(&store).append_streams(multi.clone()).await, "a multi-stream append");
        store.same(counts(&store, items).await, vec![7], "after a multi-stream append, and its repeat");
    }
    let refused = store.append(&one, ExpectedVersion::NoStream, vec![tagged(&ENROLLED, &["course:1"])]).await;
    store.check(refused.is_err(), "a conflict");
    store.same(counts(&store, items).await, vec![7], "after a conflict");
}

/// A transaction counts the tags of its events when it commits, and none if it is dropped.
pub async fn committed_transaction_counts_its_tags<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("committed_transaction_counts_its_tags", store);
    let transactions = store.transactions().unwrap_or_else(|| store.fail("the store has no transactions"));
    let (one, two) = (stream(), stream());
    store.add(&one, ANY, &[tagged(&ENROLLED, &["course:1"])]).await;
    let append = |stream: &StreamId, tags: &[&str]| {
        let events = vec![tagged(&ENROLLED, tags), event()];
        Append { stream: stream.clone(), expected: ANY, events }
    };
    for is_committed in [false, true] {
        let stale = count(&store, &boundary(&[&["course:1"], &["student:a"]])).await;
        let mut transaction = store.ok(transactions.begin().await, "beginning");
        for append in [append(&one, &["course:1"]), append(&two, &["course:1", "student:a"])] {
            store.ok(transaction.append(append).await, "appending in a transaction");
        }
        if !is_committed {
            drop(transaction);
            store.same(count(&store, &stale.boundary).await, stale, "counts after a transaction was dropped");
            continue;
        }
        store.ok(transaction.commit().await, "committing");
        // the dropped transaction may hold back the head until the store has rolled it back
        let last = store.read(&two).await.last().and_then(RecordedEvent::position);
        let caught_up = async { while Some(store.head_position().await) < last {} };
        store.within("the head of the feed", caught_up).await;
        let items: &[&[&str]] = &[&["course:1"], &["student:a"], &["course:2"]];
        store.same(counts(&store, items).await, vec![3, 0, 1], "counts after a transaction");
        is_moved(&store, &stale).await;
    }
    let found = filtered(&store, &FeedFilter::all().tagged([tag("course:1")])).await;
    store.same(found.len(), 3, "events of the course");
}

/// A repeat returns the first result, also if its boundary has moved since.
pub async fn repeat_is_known_after_its_boundary_moved<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("repeat_is_known_after_its_boundary_moved", store);
    let condition = Some(count(&store, &boundary(&[&["course:1"]])).await);
    let events = vec![tagged(&ENROLLED, &["course:1"])];
    let appends = vec![Append { stream: stream(), expected: ExpectedVersion::NoStream, events }];
    let multi = MultiStreamAppend { appends, condition, ..Default::default() };
    let first = store.ok(multi_stream(&store).append_streams(multi.clone()).await, "the first call");
    let again = store.ok(multi_stream(&store).append_streams(multi).await, "a repeat");
    store.same(again, first, "the result of a repeat");
    store.same(counts(&store, &[&["course:1"]]).await, vec![1], "the count");
}

/// A command whose boundary moved is not noted. If several checks fail, the error is that of the stream first, then
/// that of the boundary.
pub async fn moved_boundary_notes_no_command<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("moved_boundary_notes_no_command", store);
    let key: IdempotencyKey = "k1".parse().expect("a valid key");
    let command =
        HandledCommand { tenant_id: None, key: key.clone(), request: Uuid::from_u128(1), answer: "{}".into() };
    let stale = count(&store, &boundary(&[&["course:1"]])).await;
    let to = stream();
    store.add(&to, ANY, &[tagged(&ENROLLED, &["course:1"])]).await;
    let multi = |condition, expected| MultiStreamAppend {
        appends: vec![Append { stream: to.clone(), expected, events: vec![event()] }],
        handled: Some(Handled::Command(command.clone())),
        condition: Some(condition),
    };
    let moved = multi_stream(&store).append_streams(multi(stale.clone(), ANY)).await;
    store.check(matches!(moved, Err(AppendError::BoundaryMoved { .. })), format_args!("{moved:?}"));
    let conflict = multi_stream(&store).append_streams(multi(stale, ExpectedVersion::NoStream)).await;
    store.check(matches!(conflict, Err(AppendError::Conflict { .. })), format_args!("{conflict:?}"));
    let find = async || store.ok(multi_stream(&store).find_command(None, &key).await, "looking for the command");
    store.same(find().await, None, "a refused append noted its command");
    let current = count(&store, &boundary(&[&["course:1"]])).await;
    store.ok(multi_stream(&store).append_streams(multi(current, ANY)).await, "the command");
    store.check(find().await.is_some(), "the command is not noted");
}

/// An append whose boundary moved, and that also takes a value held by another stream, is refused for its boundary: the
/// application decides again, and may choose a free value.
pub async fn moved_boundary_comes_before_a_taken_value<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("moved_boundary_comes_before_a_taken_value", store);
    let stale = count(&store, &boundary(&[&["course:1"]])).await;
    let (holder, existing) = (stream(), stream());
    store.add(&holder, ANY, &[holding(Some("a@x")), tagged(&ENROLLED, &["course:1"])]).await;
    store.add(&existing, ANY, &[event()]).await;
    let current = count(&store, &stale.boundary).await;
    let append = |stream: &StreamId| {
        let events = vec![tagged(&ENROLLED, &["course:1"]), holding(Some("a@x"))];
        Append { stream: stream.clone(), expected: ANY, events }
    };
    let free = Append { stream: stream(), expected: ANY, events: vec![holding(Some("b@x"))] };
    for appends in [vec![append(&stream())], vec![append(&existing)], vec![free, append(&existing)]] {
        let multi = |condition: &BoundaryCondition| {
            let (appends, condition) = (appends.clone(), Some(condition.clone()));
            multi_stream(&store).append_streams(MultiStreamAppend { appends, condition, ..Default::default() })
        };
        let moved = multi(&stale).await;
        store.check(matches!(moved, Err(AppendError::BoundaryMoved { .. })), format_args!("{moved:?}"));
        let taken = multi(&current).await;
        store.check(matches!(taken, Err(AppendError::Taken { .. })), format_args!("{taken:?}"));
    }
    store.same(counts(&store, &[&["course:1"]]).await, vec![1], "refused appends counted their tags");
}

/// Concurrent decisions about one tag take effect one after the other: each has seen all events before its own.
pub async fn concurrent_decisions_about_a_tag_are_serial<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("concurrent_decisions_about_a_tag_are_serial", store);
    store
        .at_once(16, |n| {
            let store = store.clone();
            async move {
                let of_course = boundary(&[&["course:1"], &["course:2"]]);
                loop {
                    let (condition, events) = read_boundary(&store, &of_course).await;
                    if events.len() >= CAPACITY {
                        return;
                    }
                    let course = if n % 2 == 0 { "course:1" } else { "course:2" };
                    match append_if(&store, &condition, vec![tagged(&ENROLLED, &[course, "term:1"])]).await {
                        Ok(_) => {}
                        Err(error) => store.check(error.is_conflict(), format_args!("{error:?}")),
                    }
                }
            }
        })
        .await;
    let enrolled = filtered(&store, &FeedFilter::all().tagged([tag("term:1")])).await;
    store.same(enrolled.len(), CAPACITY, "students of both courses");
    store.same(counts(&store, &[&["term:1"]]).await, vec![CAPACITY as u64], "the count");
}

/// Of two appends, each under the condition that the other one's tag has no event, one takes effect, also if neither
/// tag is known yet.
pub async fn condition_on_an_unknown_tag_is_kept<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("condition_on_an_unknown_tag_is_kept", store);
    for round in 0..20 {
        let (heads, tails) = (format!("heads:{round}"), format!("tails:{round}"));
        let condition = count(&store, &boundary(&[&[&heads], &[&tails]])).await;
        let outcomes = store
            .at_once(2, |n| {
                let (store, mut condition) = (store.clone(), condition.clone());
                let (own, other) = if n == 0 { (&heads, &tails) } else { (&tails, &heads) };
                condition.boundary = boundary(&[&[other]]);
                condition.counts = vec![0];
                let event = tagged(&ENROLLED, &[own]);
                async move { append_if(&store, &condition, vec![event]).await }
            })
            .await;
        let made = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        store.same(made, 1, format_args!("appends of round {round} that took effect: {outcomes:?}"));
    }
}

/// Tags are compared byte by byte; an event may have many and long ones.
pub async fn tags_are_compared_byte_by_byte<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("tags_are_compared_byte_by_byte", store);
    let long = format!("name:{}", "ü".repeat((TAG_BYTES_MAX - 5) / 2));
    let texts =
        ["name:a", "name:A", "name:a ", "name:ä", "name:a\u{308}", "name:", "name:a:b,{}\"'\\", "n:ame:a", &long];
    for text in texts {
        store.add(&stream(), ANY, &[tagged(&ENROLLED, &[text])]).await;
    }
    for text in texts {
        store.same(counts(&store, &[&[text]]).await, vec![1], format_args!("the count of {text:?}"));
        let found = filtered(&store, &FeedFilter::all().tagged([tag(text)])).await;
        store.same(found.len(), 1, format_args!("events of {text:?}"));
    }
    let many: Vec<_> = (0..TAGS_MAX).map(|n| format!("many:{n}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let recorded = store.add(&stream(), ANY, &[tagged(&ENROLLED, &many)]).await;
    store.same(filtered(&store, &FeedFilter::all().tagged([tag("many:63")])).await, recorded, "an event of many tags");
    let too_many = tagged(&ENROLLED, &many).with_tags(set(&many).into_iter().chain([tag("many:64")]));
    let refused = store.refused(&stream(), ANY, &[too_many]).await;
    store.check(matches!(refused, AppendError::Refused { .. }), format_args!("{refused:?}"));
}

/// A tag is added to a stored event once, and moves the boundaries of that tag.
pub async fn tag_is_added_to_a_stored_event<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("tag_is_added_to_a_stored_event", store);
    let to = stream();
    let given = [tagged(&ENROLLED, &[]), tagged(&ENROLLED, &["student:a"]), tagged(&VIEWED, &[])];
    let stored = store.add(&to, ANY, &given).await;
    let items: &[&[&str]] = &[&["course:1"]];
    let before = count(&store, &boundary(items)).await;
    // an event that had one of the tags gets the other one
    let of_both = count(&store, &boundary(&[&["course:1", "student:a"]])).await;
    let of_others = count(&store, &boundary(&[&["course:2"]])).await;
    for (event, is_new) in [(&stored[0], true), (&stored[0], false), (&stored[1], true), (&stored[2], true)] {
        let added = store.ok(boundaries(&store).add_tag(event, &tag("course:1")).await, "adding a tag");
        store.same(added, is_new, format_args!("adding to event {}", event.version()));
    }
    store.same(counts(&store, items).await, vec![2], "the count");
    // its event, and the further tag of that
    store.same(counts(&store, &[&["student:a"]]).await, vec![2], "the count of a tag whose event got a further one");
    is_moved(&store, &before).await;
    is_moved(&store, &of_both).await;
    takes_effect(&store, &of_others, vec![event()]).await;
    store.same(filtered(&store, &FeedFilter::all().tagged([tag("course:1")])).await, stored.clone(), "tagged events");
    let both = FeedFilter::all().tagged([tag("course:1"), tag("student:a")]);
    store.same(filtered(&store, &both).await, vec![stored[1].clone()], "events with both tags");
    store.holds(&to, &stored).await;
    let missing = event().recorded_as(to, Version::new(4), None);
    for missing in [missing, event().recorded_as(stream(), Version::FIRST, None)] {
        let refused = boundaries(&store).add_tag(&missing, &tag("course:1")).await;
        store.check(matches!(refused, Err(AppendError::Refused { .. })), format_args!("{refused:?}"));
    }
}
