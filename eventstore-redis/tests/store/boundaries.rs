//! Tags of events: their counts, the sets of their positions, and the conditions of appends.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use eventbus::{
    ExpectedVersion, Name, NewEvent, Position, RecordedEvent, StreamId, Uuid,
    event::{TAGS_MAX, Tag, UniqueChange},
    port::{
        Append, AppendError, AppendEvents as _, FeedFilter, MultiStreamAppends as _, ReadError, ReadFeed as _,
        ReadStream as _,
    },
    store::{Boundaries as _, Boundary, BoundaryCondition, MultiStreamAppend, MultiStreamOutcome},
};
use eventstore_redis::{RedisEventStore, RedisEventStoreConfig, RedisTransactionError};
use futures_util::TryStreamExt as _;
use redis::aio::MultiplexedConnection;
use tokio::task::JoinSet;

use crate::{
    client,
    common::{
        proxy::{Network, Proxy},
        said,
        store::{config, config_on, open},
        until,
    },
    fresh, key, order, tell,
};

use ExpectedVersion::{Any, NoStream};

const ENROLLED: Name = Name::from_static("Enrolled");
const TYPES: [Name; 2] = [ENROLLED, Name::from_static("Left")];
const TENANT: Uuid = Uuid::from_u128(7);

fn tag(text: &str) -> Tag {
    Tag::from_stored(text).unwrap()
}

fn tagged(tags: &[&str]) -> NewEvent {
    NewEvent::new(ENROLLED, 1, "{}").with_tags(tags.iter().map(|text| tag(text)))
}

fn boundary(items: &[&[&str]]) -> Boundary {
    let items = items.iter().map(|item| item.iter().map(|text| tag(text)).collect()).collect();
    Boundary { tenant_id: None, event_types: [ENROLLED].into(), items }
}

async fn count(store: &RedisEventStore, items: &[&[&str]]) -> BoundaryCondition {
    store.count_tagged(&boundary(items)).await.unwrap()
}

async fn append_if(
    store: &RedisEventStore,
    condition: &BoundaryCondition,
    stream: &StreamId,
    event: NewEvent,
) -> Result<Vec<RecordedEvent>, AppendError> {
    let appends = vec![Append { stream: stream.clone(), expected: NoStream, events: vec![event] }];
    let multi = MultiStreamAppend { appends, condition: Some(condition.clone()), ..Default::default() };
    store.append_streams(multi).await.map(MultiStreamOutcome::into_records)
}

fn is_moved<T>(outcome: &Result<T, AppendError>) -> bool {
    matches!(outcome, Err(AppendError::BoundaryMoved { .. }))
}

/// What the keys of tags hold, or must hold: counts by type, and positions.
#[derive(Debug, Default, PartialEq, Eq)]
struct TagKeys {
    counts: BTreeMap<String, BTreeMap<String, u64>>,
    positions: BTreeMap<String, BTreeSet<u64>>,
}

impl TagKeys {
    /// Reads them.
    async fn read(store: &RedisEventStore, connection: &mut MultiplexedConnection) -> Self {
        let mut read = Self::default();
        let all: Vec<String> = tell(connection, &["KEYS", &key(store, "eventstore:*")]).await;
        for name in all {
            if name.contains(":tags:") {
                let counts: BTreeMap<String, u64> = tell(connection, &["HGETALL", &name]).await;
                read.counts.insert(name, counts);
            } else if name.contains(":tagged_events:") {
                let members: Vec<(u64, u64)> = tell(connection, &["ZRANGE", &name, "0", "-1", "WITHSCORES"]).await;
                assert!(members.iter().all(|(member, score)| member == score), "{name}: {members:?}");
                read.positions.insert(name, members.into_iter().map(|(position, _)| position).collect());
            }
        }
        read
    }

    /// Counts anew, from the entries of the events and the tags that were added later.
    async fn recount(store: &RedisEventStore, connection: &mut MultiplexedConnection) -> Self {
        let mut recounted = Self::default();
        let added: HashMap<u64, String> = tell(connection, &["HGETALL", &key(store, "eventstore:added_tags")]).await;
        let added: HashMap<u64, Vec<String>> =
            added.iter().map(|(position, tags)| (*position, serde_json::from_str(tags).unwrap())).collect();
        let feed: Vec<(String, HashMap<String, String>)> =
            tell(connection, &["XRANGE", &key(store, "aggregate:feed"), "-", "+"]).await;
        for (position, (id, pointer)) in (1_u64..).zip(feed) {
            assert_eq!(id, format!("{position}-0"));
            let tenant = match pointer["tenant_id"].as_str() {
                "" => String::new(),
                tenant => format!("tenant:{tenant}:"),
            };
            let stream = format!("{tenant}aggregate:{}:{}", pointer["aggregate_type"], pointer["aggregate_id"]);
            let version = format!("{}-0", pointer["version"]);
            let found: Vec<(String, HashMap<String, String>)> =
                tell(connection, &["XRANGE", &key(store, &stream), &version, &version]).await;
            let fields = &found[0].1;
            let own: Vec<String> =
                fields.get("tags").map(|tags| serde_json::from_str(tags).unwrap()).unwrap_or_default();
            let added = added.get(&position).map_or(&[][..], Vec::as_slice);
            for (number, tag) in (1_usize..).zip(own.iter().chain(added)) {
                let further = (added.len() - number.saturating_sub(own.len())) as u64;
                let counts = recounted.counts.entry(key(store, &format!("eventstore:{tenant}tags:{tag}"))).or_default();
                *counts.entry(fields["type"].clone()).or_default() += 1;
                if further > 0 {
                    *counts.entry(String::new()).or_default() += further;
                }
                for of in BTreeSet::from(["", &tenant]) {
                    let set = key(store, &format!("eventstore:{of}tagged_events:{tag}"));
                    assert!(recounted.positions.entry(set).or_default().insert(position), "a tag is there twice");
                }
            }
        }
        recounted
    }
}

/// Checks that counts and positions are those of the entries.
async fn check_counts(store: &RedisEventStore, connection: &mut MultiplexedConnection) -> TagKeys {
    let (read, recounted) = (TagKeys::read(store, connection).await, TagKeys::recount(store, connection).await);
    assert_eq!(read, recounted);
    read
}

/// An event with some of the tags, which all tasks use.
fn any_event() -> NewEvent {
    let tags: BTreeSet<_> = (0..fastrand::usize(0..4)).map(|_| format!("t:{}", fastrand::u8(0..6))).collect();
    let event_type = TYPES[fastrand::usize(..TYPES.len())].clone();
    NewEvent::new(event_type, 1, "{}").with_tags(tags.iter().map(|text| tag(text)))
}

fn any_events() -> Vec<NewEvent> {
    (0..fastrand::usize(1..4)).map(|_| any_event()).collect()
}

fn any_stream() -> StreamId {
    order(&fastrand::u8(0..8).to_string()).with_tenant_id(fastrand::bool().then_some(TENANT))
}

fn any_append() -> Append {
    let expected = if fastrand::u8(0..4) == 0 { NoStream } else { Any };
    Append { stream: any_stream(), expected, events: any_events() }
}

/// Appends in any way, beside concurrent appends of the same streams. Returns `true` if it was made.
async fn append_in_any_way(store: &RedisEventStore) -> bool {
    let append = any_append();
    match fastrand::u8(0..6) {
        0 => {
            let Append { stream, expected, events } = append;
            let first = store.append(&stream, expected, events.clone()).await;
            let again = store.append(&stream, expected, events).await;
            assert_eq!(first.is_ok(), again.is_ok(), "a repeat: {first:?} {again:?}");
            first.is_ok()
        }
        1 => store.append_many(vec![append, any_append(), any_append()]).await.iter().all(Result::is_ok),
        2 | 3 => {
            let mut wanted = boundary(&[&["t:1", "t:2"], &["t:3"]]);
            wanted.tenant_id = append.stream.tenant_id();
            let condition = store.count_tagged(&wanted).await.unwrap();
            let mut appends = vec![append, any_append()];
            appends.dedup_by(|one, other| one.stream == other.stream);
            let multi = MultiStreamAppend { appends, condition: Some(condition), ..Default::default() };
            match store.append_streams(multi.clone()).await {
                Ok(first) => {
                    assert_eq!(store.append_streams(multi).await.unwrap(), first);
                    true
                }
                Err(error) => {
                    assert!(error.is_conflict(), "{error:?}");
                    false
                }
            }
        }
        4 => {
            let mut tx = store.begin_transaction();
            for Append { stream, events, .. } in [append, any_append()] {
                tx.hincrby("stats", "events", 1).unwrap();
                store.append_in(&mut tx, &stream, Any, events).await.unwrap();
            }
            if fastrand::u8(0..4) == 0 {
                return false;
            }
            match tx.commit().await {
                Ok(()) => true,
                Err(error) => {
                    assert!(matches!(error, RedisTransactionError::Changed { .. }), "{error:?}");
                    false
                }
            }
        }
        _ => {
            let events: Vec<_> = store.read_all(Position::START).try_collect().await.unwrap();
            if events.is_empty() {
                return false;
            }
            let event = &events[fastrand::usize(..events.len())];
            store.add_tag(event, &tag(&format!("t:{}", fastrand::u8(0..6)))).await.unwrap()
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_and_positions_equal_a_recount_of_the_events() {
    let (one, mut connection) = fresh().await;
    let two = open(one.config().clone()).await;
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let store = if task % 2 == 0 { one.clone() } else { two.clone() };
        tasks.spawn(async move {
            let mut made = 0;
            for _ in 0..40 {
                made += usize::from(append_in_any_way(&store).await);
            }
            made
        });
    }
    let made: usize = tasks.join_all().await.into_iter().sum();
    let counted = check_counts(&one, &mut connection).await;
    assert_eq!(counted.counts.len(), 12, "six tags of two tenants: {counted:?}");
    assert_eq!(counted.positions.len(), 12);
    assert!((80..320).contains(&made), "some took effect, some did not: {made}");
}

/// The key of a tag as errors name it: without the value of the tag, which may be personal.
fn shown(key: &str) -> String {
    key.replace("secret", "*")
}

/// Fails if a step that is refused leaves the events, or the counts of tags before it.
#[tokio::test]
async fn an_append_whose_tags_cannot_be_counted_stores_nothing() {
    let (store, mut connection) = fresh().await;
    store.append(&order("1"), NoStream, vec![tagged(&["a:1"])]).await.unwrap();
    let names = ["eventstore:tags:z:secret", "eventstore:tagged_events:z:secret", "eventstore:tags:y:secret"];
    let [counts, positions, count] = names.map(|name| key(&store, name));
    tell::<String>(&mut connection, &["SET", &counts, "foreign"]).await;
    tell::<String>(&mut connection, &["SET", &positions, "foreign"]).await;
    tell::<u64>(&mut connection, &["HSET", &count, "Enrolled", "many"]).await;
    let all = key(&store, "*");
    let keys = async |connection: &mut _| tell::<BTreeSet<String>>(connection, &["KEYS", &all]).await;
    for (damaged, wrong) in [("z:secret", &counts), ("z:secret", &positions), ("y:secret", &count)] {
        let (before, event) = (keys(&mut connection).await, tagged(&["a:1", "a:2", damaged]));
        let error = store.append(&order("2"), NoStream, vec![event.clone()]).await.unwrap_err();
        assert!(
            matches!(error, AppendError::Refused { .. }) && said(&error).contains(&shown(wrong)),
            "{}",
            said(&error)
        );
        let mut tx = store.begin_transaction();
        tx.hincrby("stats", "events", 1).unwrap();
        store.append_in(&mut tx, &order("1"), Any, vec![event.clone()]).await.unwrap();
        store.append_in(&mut tx, &order("2"), Any, vec![event]).await.unwrap();
        let error = tx.commit().await.unwrap_err();
        assert!(
            matches!(&error, RedisTransactionError::EffectRefused { key, .. } if *key == shown(wrong)),
            "{error:?}"
        );
        assert_eq!(keys(&mut connection).await, before, "the keys of the store");
        assert_eq!(store.head().await.unwrap(), 1_u64);
        assert_eq!(store.stream_version(&order("1")).await.unwrap(), 1_u64);
        if wrong == &counts {
            tell::<u64>(&mut connection, &["DEL", &counts]).await;
        }
    }
    tell::<u64>(&mut connection, &["DEL", &positions, &count]).await;
    check_counts(&store, &mut connection).await;
    store.append(&order("2"), NoStream, vec![tagged(&["a:1", "a:2", "y:secret", "z:secret"])]).await.unwrap();
    check_counts(&store, &mut connection).await;
}

#[tokio::test]
async fn damaged_keys_of_tags_are_named() {
    let (store, mut connection) = fresh().await;
    store.append(&order("1"), NoStream, vec![tagged(&["a:secret", "b:secret"])]).await.unwrap();
    let (filter, head) = (FeedFilter::all().tagged([tag("a:secret"), tag("b:secret")]), Position::new(10));
    let place = |error: ReadError| {
        assert!(!said(&error).contains("secret"), "the value of a tag: {}", said(&error));
        match error {
            ReadError::Corrupt { place, .. } => place,
            other => panic!("{other:?}"),
        }
    };
    let read = async || {
        let found: Result<Vec<_>, _> = store.read_feed(Position::START, head, &filter).try_collect().await;
        place(found.unwrap_err())
    };
    let [counts, positions] =
        ["eventstore:tags:a:secret", "eventstore:tagged_events:a:secret"].map(|name| key(&store, name));
    tell::<u64>(&mut connection, &["ZADD", &positions, "1", "foreign"]).await;
    tell::<u64>(&mut connection, &["ZADD", &key(&store, "eventstore:tagged_events:b:secret"), "5", "5", "6", "6"])
        .await;
    assert!(read().await.contains(&shown(&positions)));
    tell::<String>(&mut connection, &["SET", &positions, "foreign"]).await;
    assert!(read().await.contains(&shown(&positions)));
    // an event that the feed does not have
    tell::<u64>(&mut connection, &["DEL", &positions]).await;
    tell::<u64>(&mut connection, &["ZADD", &positions, "1", "1", "5", "5"]).await;
    assert!(read().await.contains("aggregate:feed"));
    tell::<u64>(&mut connection, &["HSET", &counts, "Enrolled", "many"]).await;
    let condition = count(&store, &[&["b:secret"]]).await;
    assert!(place(store.count_tagged(&boundary(&[&["a:secret"]])).await.unwrap_err()).contains(&shown(&counts)));
    tell::<String>(&mut connection, &["SET", &counts, "foreign"]).await;
    assert!(place(store.count_tagged(&boundary(&[&["a:secret"]])).await.unwrap_err()).contains(&shown(&counts)));
    // the script compares the condition before its first write
    let condition = BoundaryCondition { boundary: boundary(&[&["a:secret"]]), ..condition };
    let error = append_if(&store, &condition, &order("2"), tagged(&["c:1"])).await.unwrap_err();
    assert!(matches!(error, AppendError::Refused { .. }) && said(&error).contains(&shown(&counts)), "{}", said(&error));
    assert_eq!(store.head().await.unwrap(), 1_u64);
}

/// Sets of any sizes, more than a page reads of one set, and any range.
#[tokio::test]
async fn pages_of_tagged_events_are_those_of_a_scan() {
    let (store, _) = fresh().await;
    let mut all: Vec<Vec<Tag>> = Vec::new();
    for stream in 0..12 {
        let mut events = Vec::new();
        for _ in 0..130 {
            // tag 0 is on most events, tag 11 on few
            let tags: BTreeSet<_> = (0..12).filter(|n| fastrand::u32(0..=*n) == 0).map(|n| format!("t:{n}")).collect();
            let event = NewEvent::new(ENROLLED, 1, "{}").with_tags(tags.iter().map(|text| tag(text)));
            all.push(event.tags().to_vec());
            events.push(event);
        }
        store.append(&order(&stream.to_string()), NoStream, events).await.unwrap();
    }
    for round in 0..30_usize {
        let any_set = || (0..fastrand::usize(1..4)).map(|_| tag(&format!("t:{}", fastrand::u8(0..13)))).collect();
        let filter = FeedFilter::all().tagged_any((0..round).map(|_| any_set()).collect::<BTreeSet<BTreeSet<_>>>());
        let (after, through) = (fastrand::u64(0..400), fastrand::u64(800..3_000));
        let wanted: Vec<_> = (1_u64..)
            .zip(&all)
            .filter(|(position, tags)| *position > after && *position <= through && filter.matches_tags(tags))
            .map(|(position, _)| position)
            .collect();
        let (after, through) = (Position::new(after), Position::new(through));
        let found: Vec<_> = store.read_feed(after, through, &filter).try_collect().await.unwrap();
        let found: Vec<_> = found.iter().map(|event| event.position().unwrap().get()).collect();
        assert_eq!(found, wanted, "{filter:?} from {after} to {through}");
        assert_eq!(store.count_events(after, through, &filter).await.unwrap(), wanted.len() as u64);
    }
    // all events have the tags of an empty set
    let filter = FeedFilter::all().tagged_any([BTreeSet::new(), [tag("t:1")].into()]);
    assert_eq!(store.count_events(Position::START, Position::new(5_000), &filter).await.unwrap(), 1_560);
}

#[tokio::test]
async fn a_moved_boundary_is_reported_before_a_taken_value() {
    let (store, _) = fresh().await;
    let takes = |event: NewEvent| {
        event.with_unique(vec![UniqueChange::new(Name::from_static("email"), Some("a@b".into())).unwrap()])
    };
    let stale = count(&store, &[&["a:1"]]).await;
    store.append(&order("1"), NoStream, vec![takes(tagged(&["b:1"]))]).await.unwrap();
    let outcome = append_if(&store, &stale, &order("2"), takes(tagged(&["a:1"]))).await;
    assert!(matches!(outcome, Err(AppendError::Taken { .. })), "{outcome:?}");
    store.append(&order("3"), NoStream, vec![tagged(&["a:1"])]).await.unwrap();
    let outcome = append_if(&store, &stale, &order("2"), takes(tagged(&["a:1"]))).await;
    assert!(is_moved(&outcome), "{outcome:?}");
    assert_eq!(store.head().await.unwrap(), 2_u64);
}

#[tokio::test]
async fn an_event_gets_as_many_tags_as_one_that_is_stored_with_them() {
    let (store, mut connection) = fresh().await;
    let tags: Vec<_> = (0..TAGS_MAX - 2).map(|n| format!("\"\\/ü\u{1}{n}")).map(|value| format!("a:{value}")).collect();
    let tags: Vec<_> = tags.iter().map(String::as_str).collect();
    let stream = order("1").with_tenant_id(Some(TENANT));
    let event = &store.append(&stream, NoStream, vec![tagged(&tags)]).await.unwrap()[0];
    for (text, is_new) in
        [(tags[5], false), ("a:/\"\u{7f}", true), ("a:/\"\u{7f}", false), ("b:2", true), ("b:2", false)]
    {
        assert_eq!(store.add_tag(event, &tag(text)).await.unwrap(), is_new, "{text:?}");
    }
    let error = store.add_tag(event, &tag("b:3")).await.unwrap_err();
    assert!(matches!(error, AppendError::Refused { .. }) && said(&error).contains("65 tags"), "{}", said(&error));
    check_counts(&store, &mut connection).await;
    // a different store has a different event at this place
    let other = tagged(&[]).recorded_as(stream, event.version(), None);
    assert!(matches!(store.add_tag(&other, &tag("b:2")).await, Err(AppendError::Refused { .. })));
    // a wrong key is found before the first write
    tell::<String>(&mut connection, &["SET", &key(&store, "eventstore:tagged_events:b:4"), "foreign"]).await;
    let short = &store.append(&order("2"), NoStream, vec![tagged(&["b:1"])]).await.unwrap()[0];
    assert!(matches!(store.add_tag(short, &tag("b:4")).await, Err(AppendError::Refused { .. })));
    tell::<u64>(&mut connection, &["DEL", &key(&store, "eventstore:tagged_events:b:4")]).await;
    check_counts(&store, &mut connection).await;
}

/// A store behind a proxy, of which a conditioned append waits at the server, which takes no writes.
struct Waiting {
    server: eventbus_test::PrivateRedis,
    admin: MultiplexedConnection,
    proxy: Proxy,
    direct: RedisEventStore,
    append: tokio::task::JoinHandle<Result<Vec<RecordedEvent>, AppendError>>,
}

async fn waiting_append() -> Waiting {
    let server = eventbus_test::private_redis();
    let proxy = Proxy::before(server.port()).await;
    let config = RedisEventStoreConfig { socket_timeout: Duration::from_secs(1), ..config_on(&proxy.url()) };
    let store = open(config.clone()).await;
    let direct = open(RedisEventStoreConfig { redis_url: server.url().into(), ..config }).await;
    let mut admin = client(server.url()).await;
    // the server knows the script
    store.append(&order("0"), NoStream, vec![tagged(&["b:1"])]).await.unwrap();
    let condition = count(&store, &[&["a:1"]]).await;
    tell::<String>(&mut admin, &["CLIENT", "PAUSE", "60000", "WRITE"]).await;
    let append = tokio::spawn(async move { append_if(&store, &condition, &order("1"), tagged(&["a:1"])).await });
    until("the append is at the server", async || {
        tell::<String>(&mut admin, &["INFO", "clients"]).await.contains("blocked_clients:1")
    })
    .await;
    Waiting { server, admin, proxy, direct, append }
}

#[tokio::test]
async fn an_unanswered_append_that_moved_its_own_boundary_took_effect() {
    let Waiting { server, mut admin, proxy, direct, append } = waiting_append().await;
    // the server makes the append; its answer is lost
    proxy.set(Network::HalfOpen);
    tell::<String>(&mut admin, &["CLIENT", "UNPAUSE"]).await;
    until("the append is made", async || direct.head().await.unwrap() == 2_u64).await;
    proxy.set(Network::Works);
    let recorded = append.await.unwrap().unwrap();
    assert_eq!(recorded[0].position().unwrap(), 2_u64);
    assert_eq!(count(&direct, &[&["a:1"]]).await.counts, [1]);
    drop(server);
}

#[tokio::test]
async fn an_unanswered_append_whose_boundary_was_moved_by_a_different_one_is_refused() {
    let Waiting { server, mut admin, proxy, direct, append } = waiting_append().await;
    // the server forgets the append, and the next attempt comes after a different one
    proxy.set(Network::Waits);
    let clients: String = tell(&mut admin, &["CLIENT", "LIST"]).await;
    let blocked = clients.lines().find(|line| line.contains(" flags=b ")).unwrap_or_else(|| panic!("{clients}"));
    let blocked = blocked.split(' ').next().unwrap().trim_start_matches("id=");
    tell::<u64>(&mut admin, &["CLIENT", "KILL", "ID", blocked]).await;
    tell::<String>(&mut admin, &["CLIENT", "UNPAUSE"]).await;
    direct.append(&order("2"), NoStream, vec![tagged(&["a:1"])]).await.unwrap();
    proxy.set(Network::Works);
    let outcome = append.await.unwrap();
    assert!(is_moved(&outcome), "{outcome:?}");
    assert_eq!(direct.head().await.unwrap(), 2_u64);
    drop(server);
}

/// Both read the boundary; they have no stream in common, so that only the condition keeps one of them out.
#[tokio::test]
async fn of_two_decisions_about_one_boundary_the_second_is_refused() {
    for (tenant_id, other) in [(None, Some(TENANT)), (Some(TENANT), None), (Some(TENANT), Some(Uuid::from_u128(8)))] {
        let ada = open(config()).await;
        let bob = open(ada.config().clone()).await;
        let wanted = Boundary { tenant_id, ..boundary(&[&["a:1"]]) };
        let stream = |id: &str| order(id).with_tenant_id(tenant_id);
        let (seen_by_ada, seen_by_bob) =
            (ada.count_tagged(&wanted).await.unwrap(), bob.count_tagged(&wanted).await.unwrap());
        ada.append(&order("1").with_tenant_id(other), Any, vec![tagged(&["a:1"])]).await.unwrap();
        append_if(&ada, &seen_by_ada, &stream("2"), tagged(&["a:1"])).await.unwrap();
        let refused = append_if(&bob, &seen_by_bob, &stream("3"), tagged(&["a:1"])).await;
        assert!(is_moved(&refused), "{tenant_id:?}: {refused:?}");
        assert_eq!(bob.count_tagged(&wanted).await.unwrap().counts, [1]);
        let of_tenant = FeedFilter::all().tagged([tag("a:1")]).tenant(tenant_id.unwrap_or_default());
        assert_eq!(bob.count_events(Position::START, Position::new(9), &of_tenant).await.unwrap(), 1);
    }
}
