//! A journal of the handlers' starts and ends, over all consumers, in one order; and its violations.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use eventbus::{
    HandlerError, Name, NewEvent, RecordedEvent, StreamId, Version,
    event::EventFilter,
    handler::Delivery,
    port::{BoxFuture, EventBus, Subscriber},
};
use eventbus_redis::RedisEventBus;
use redis::aio::MultiplexedConnection;

/// The place of the journal.
#[derive(Clone)]
pub(crate) enum Journal {
    Memory(Arc<Mutex<Vec<String>>>),
    /// A Redis list, for several processes.
    Redis(MultiplexedConnection, String),
}

/// An event that is the `number`th of its aggregate, from 1.
pub(crate) fn numbered(aggregate: &str, number: u64) -> RecordedEvent {
    let stream = StreamId::parse("Order", aggregate).unwrap();
    NewEvent::new(Name::from_static("OrderChanged"), 1, "{}").recorded_as(stream, Version::new(number), None)
}

impl Journal {
    pub(crate) fn new() -> Self {
        Self::Memory(Arc::default())
    }

    pub(crate) async fn on(url: &str, key: String) -> Self {
        Self::Redis(eventbus_test::internal::redis_connection(url).await, key)
    }

    async fn write(&self, line: String) {
        match self {
            Self::Memory(lines) => lines.lock().unwrap().push(line),
            Self::Redis(connection, key) => {
                let mut push = redis::cmd("RPUSH");
                push.arg(key).arg(line).query_async::<u64>(&mut connection.clone()).await.unwrap();
            }
        }
    }

    pub(crate) async fn lines(&self) -> Vec<String> {
        match self {
            Self::Memory(lines) => lines.lock().unwrap().clone(),
            Self::Redis(connection, key) => {
                let mut range = redis::cmd("LRANGE");
                range.arg(key).arg(0).arg(-1).query_async(&mut connection.clone()).await.unwrap()
            }
        }
    }

    /// The number of events handled to the end.
    pub(crate) async fn ended(&self) -> usize {
        self.lines().await.iter().filter(|line| line.starts_with("end ")).count()
    }

    /// Handles events of the bus's group: records the start, works, fails now and then at the first attempt if `fails`
    /// is set, and records the end.
    pub(crate) fn join(&self, bus: &RedisEventBus, work: Duration, fails: bool) {
        let journal = self.clone();
        let handler = Subscriber::new(Name::from_static("journal"), EventFilter::All, move |delivery| {
            let journal = journal.clone();
            Box::pin(async move { journal.handle(delivery, work, fails).await })
                as BoxFuture<'_, Result<(), HandlerError>>
        });
        bus.add_subscriber(bus.default_group().clone(), handler);
    }

    async fn handle(&self, delivery: &Delivery, work: Duration, fails: bool) -> Result<(), HandlerError> {
        let metadata = delivery.metadata();
        let what = format!("{} {}", metadata.aggregate_id(), metadata.version().get());
        self.write(format!("begin {what}")).await;
        tokio::time::sleep(work).await;
        if fails && delivery.attempt() == 1 && metadata.version().get().is_multiple_of(17) {
            return Err("told to".into());
        }
        self.write(format!("end {what}")).await;
        Ok(())
    }
}

/// The violations in a journal.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// Events that were never handled.
    pub(crate) lost: usize,
    /// Events that were handled again.
    pub(crate) repeated: usize,
    /// Events whose handler began before their predecessor was handled.
    pub(crate) early: Vec<String>,
    /// Events that were handled for the first time after a later one of their aggregate.
    pub(crate) late: Vec<String>,
}

/// Reads the records of aggregates, each with the number of events published for it.
pub(crate) fn account(lines: &[String], published: &BTreeMap<String, u64>) -> Account {
    let mut account = Account::default();
    let mut done: HashMap<(&str, u64), usize> = HashMap::new();
    let mut last: HashMap<&str, u64> = HashMap::new();
    for line in lines {
        let [what, aggregate, number] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let number: u64 = number.parse().unwrap();
        match what {
            "begin" if number > 1 && !done.contains_key(&(aggregate, number - 1)) => account.early.push(line.clone()),
            "end" => {
                let times = done.entry((aggregate, number)).or_default();
                *times += 1;
                let last = last.entry(aggregate).or_default();
                if *times == 1 && number < *last {
                    account.late.push(line.clone());
                }
                *last = number.max(*last);
            }
            _ => {}
        }
    }
    let handled = |aggregate: &str| (1..).take_while(|number| done.contains_key(&(aggregate, *number))).count();
    account.lost = published.iter().map(|(aggregate, count)| *count as usize - handled(aggregate)).sum();
    account.repeated = done.values().map(|times| times - 1).sum();
    account
}

/// Publishes events of aggregates in turn, in batches.
pub(crate) struct Load {
    pub(crate) published: BTreeMap<String, u64>,
    aggregates: usize,
    next: usize,
}

impl Load {
    pub(crate) fn over(aggregates: usize) -> Self {
        Self { published: BTreeMap::new(), aggregates, next: 0 }
    }

    /// The next events, which count as published.
    pub(crate) fn batch(&mut self, count: usize) -> Vec<RecordedEvent> {
        let mut batch = Vec::with_capacity(count);
        for _ in 0..count {
            let aggregate = format!("order-{}", self.next % self.aggregates);
            self.next += 1;
            let number = self.published.entry(aggregate.clone()).or_default();
            *number += 1;
            batch.push(numbered(&aggregate, *number));
        }
        batch
    }
}

#[test]
fn an_account_finds_what_is_wrong() {
    let lines = |text: &str| text.split(", ").map(Into::into).collect::<Vec<String>>();
    let published = BTreeMap::from([("a".into(), 3)]);
    let good = lines("begin a 1, end a 1, begin a 2, begin a 2, end a 2, begin a 3, end a 3");
    assert_eq!(account(&good, &published), Account::default());
    let again = lines("begin a 1, end a 1, begin a 2, end a 2, begin a 1, end a 1, begin a 3, end a 3");
    assert_eq!(account(&again, &published), Account { repeated: 1, ..Account::default() });
    let bad = lines("begin a 1, begin a 2, end a 2, end a 1");
    let (early, late) = (vec!["begin a 2".into()], vec!["end a 1".into()]);
    assert_eq!(account(&bad, &published), Account { lost: 1, repeated: 0, early, late });
}
