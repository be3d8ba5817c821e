//! The cost of operations on the server: commands, bytes received, bytes sent.

use eventbus::{
    ExpectedVersion, NewEvent, Position, Version,
    event::Tag,
    port::{Append, AppendEvents as _, Direction, FeedFilter, MultiStreamAppends as _, ReadFeed as _, ReadStream as _},
    store::{Boundaries as _, Boundary, MultiStreamAppend},
};
use futures_util::TryStreamExt as _;

use crate::{
    client,
    common::{
        cost::{Cost, counters},
        store::{config_on, open},
    },
    event, events, order,
};

#[tokio::test]
async fn an_append_is_one_script_and_a_page_is_sent_once() {
    let server = eventbus_test::private_redis();
    let store = open(config_on(server.url())).await;
    let mut admin = client(server.url()).await;
    let known = order("1");
    store.append(&known, ExpectedVersion::Any, events(1)).await.unwrap();

    let before = counters(&mut admin).await;
    for _ in 0..200 {
        store.append(&known, ExpectedVersion::Any, events(1)).await.unwrap();
    }
    let singles = counters(&mut admin).await;
    // the commands of the script count, and the request for the counters
    singles.assert_at_most(before, Cost { commands: 200 * 9 + 1, bytes_received: 200 * 557, bytes_sent: 200 * 58 });

    for round in 0..10 {
        let append = |number| Append {
            stream: order(&format!("{round}-{number}")),
            expected: ExpectedVersion::NoStream,
            events: events(1),
        };
        let appended = store.append_many((0..100).map(append).collect()).await;
        assert!(appended.iter().all(Result::is_ok));
    }
    let batches = counters(&mut admin).await;
    batches.assert_at_most(
        singles,
        Cost { commands: 1_000 * 5 + 31, bytes_received: 1_000 * 338, bytes_sent: 1_000 * 48 },
    );

    let long = order("long");
    store.append(&long, ExpectedVersion::NoStream, events(1_000)).await.unwrap();
    let before = counters(&mut admin).await;
    let loaded: Vec<_> = store.read_stream(&long, Version::FIRST, Direction::Forward).try_collect().await.unwrap();
    assert_eq!(loaded.len(), 1_000);
    let load = counters(&mut admin).await;
    load.assert_at_most(before, Cost { commands: 88, bytes_received: 9_700, bytes_sent: 1_000 * 278 });

    let head = store.head().await.unwrap();
    let walked: Vec<_> = store.read_feed(Position::START, head, &FeedFilter::all()).try_collect().await.unwrap();
    assert_eq!(walked.len(), 2_201);
    let walk = counters(&mut admin).await;
    // the names of the 1,002 streams, too
    walk.assert_at_most(load, Cost { commands: 1_017, bytes_received: 95_000, bytes_sent: 2_201 * 439 });
}

fn tag(text: &str) -> Tag {
    Tag::from_stored(text).unwrap()
}

#[tokio::test]
async fn an_append_with_tags_is_three_calls_and_a_page_of_them_reads_no_other_events() {
    let server = eventbus_test::private_redis();
    let store = open(config_on(server.url())).await;
    let mut admin = client(server.url()).await;
    let new = |number: u64| event(1).with_tags([tag("course:c1"), tag(&format!("student:{number}"))]);
    let append = |number: u64| Append {
        stream: order(&format!("enrolment-{number}")),
        expected: ExpectedVersion::NoStream,
        events: vec![new(number)],
    };
    let decide = async |number: u64| {
        let items = [[tag("course:c1")].into(), [tag(&format!("student:{number}"))].into()].into();
        let event_types = [NewEvent::event_type(&event(1)).clone()].into();
        let condition = store.count_tagged(&Boundary { tenant_id: None, event_types, items }).await.unwrap();
        let multi = MultiStreamAppend { condition: Some(condition), ..MultiStreamAppend::single(append(number)) };
        store.append_streams(multi).await.unwrap();
    };
    store.append_many(vec![append(9_000)]).await.remove(0).unwrap();
    decide(9_001).await;

    let before = counters(&mut admin).await;
    for number in 0..200 {
        store.append_many(vec![append(number)]).await.remove(0).unwrap();
    }
    let tagged = counters(&mut admin).await;
    // which ids are stored, the version of the stream, and the append
    tagged.assert_at_most(before, Cost { commands: 200 * 16 + 1, bytes_received: 200 * 1_265, bytes_sent: 200 * 62 });
    for number in 200..600 {
        decide(number).await;
    }
    let decided = counters(&mut admin).await;
    // and a read of the counts of each tag before, that of further tags included
    decided.assert_at_most(tagged, Cost { commands: 400 * 20 + 1, bytes_received: 400 * 1_553, bytes_sent: 400 * 90 });

    for number in 0..10 {
        store.append(&order(&number.to_string()), ExpectedVersion::NoStream, events(400)).await.unwrap();
    }
    let head = store.head().await.unwrap();
    let filter = FeedFilter::all().tagged([tag("course:c1")]);
    let before = counters(&mut admin).await;
    let found: Vec<_> = store.read_feed(Position::START, head, &filter).try_collect().await.unwrap();
    assert_eq!(found.len(), 602);
    let page = counters(&mut admin).await;
    // each event is the only one of its stream; two pages
    page.assert_at_most(before, Cost { commands: 615, bytes_received: 602 * 112, bytes_sent: 602 * 493 });
    // one page, of the rare tag
    let filter = FeedFilter::all().tagged([tag("course:c1"), tag("student:300")]);
    let found: Vec<_> = store.read_feed(Position::START, head, &filter).try_collect().await.unwrap();
    assert_eq!(found.len(), 1);
    counters(&mut admin).await.assert_at_most(page, Cost { commands: 8, bytes_received: 410, bytes_sent: 1_860 });
}
