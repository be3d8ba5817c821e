//! A store with any number of events, and its relay.

use eventbus::{
    Name, NewEvent, Position, RecordedEvent, StreamId, Version,
    port::{EventBus, PublishError, RelayTarget},
    relay::{PublishRange, PublishedPosition, RangeOutcome},
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use redis::{FromRedisValue, aio::MultiplexedConnection};
use uuid::Uuid;

use crate::common::config;

pub(crate) struct Rig {
    pub(crate) bus: RedisEventBus,
    pub(crate) store: Uuid,
    pub(crate) stream: String,
    pub(crate) connection: MultiplexedConnection,
}

pub(crate) fn at(position: u64) -> Position {
    Position::new(position)
}

pub(crate) fn event(position: u64) -> RecordedEvent {
    let stream = StreamId::parse("Order", &format!("order-{}", position % 7)).unwrap();
    let event = NewEvent::new(Name::from_static("OrderCreated"), 1, format!(r#"{{"n":{position}}}"#));
    event.recorded_as(stream, Version::FIRST, Some(at(position)))
}

/// The events after one position through a second one.
pub(crate) fn between(after: u64, through: u64) -> Vec<RecordedEvent> {
    (after + 1..=through).map(event).collect()
}

/// A record that a relay or an operator has set.
pub(crate) fn set_at(position: u64) -> PublishedPosition {
    PublishedPosition { position: at(position), event_id: None }
}

impl Rig {
    /// A relay that has begun on a stream of the test's own.
    pub(crate) async fn begun() -> Self {
        let rig = Self::on(config()).await;
        rig.begin(0).await;
        rig
    }

    pub(crate) async fn on(config: RedisEventBusConfig) -> Self {
        let bus = RedisEventBus::connect(config).await.unwrap();
        let connection = eventbus_test::internal::redis_connection(&bus.config().redis_url).await;
        let stream = bus.config().stream_name();
        Self { bus, store: Uuid::now_v7(), stream, connection }
    }

    /// The relay of a store on the same stream, perhaps in a second process.
    pub(crate) fn another(&self, store: Uuid) -> Self {
        let Self { bus, stream, connection, .. } = self;
        Self { bus: bus.clone(), store, stream: stream.clone(), connection: connection.clone() }
    }

    pub(crate) fn target(&self) -> &dyn RelayTarget {
        self.bus.relay_target().unwrap()
    }

    /// The record of the store.
    pub(crate) async fn published(&self) -> Option<PublishedPosition> {
        self.target().published_position(self.store).await.unwrap()
    }

    pub(crate) async fn try_publish(&self, after: u64, through: u64) -> Result<RangeOutcome, PublishError> {
        self.try_publish_events(after, through, &between(after, through)).await
    }

    pub(crate) async fn try_publish_events(
        &self,
        after: u64,
        through: u64,
        events: &[RecordedEvent],
    ) -> Result<RangeOutcome, PublishError> {
        let after = match self.target().published_position(self.store).await {
            Ok(Some(record)) if record.position == at(after) => record,
            _ => set_at(after),
        };
        self.target().publish_range(self.store, PublishRange { after, through: at(through), events }).await
    }

    /// Publishes the events after one position through a second one; returns the outcome in a word.
    pub(crate) async fn publish(&self, after: u64, through: u64) -> String {
        match self.try_publish(after, through).await.unwrap() {
            RangeOutcome::Published(ids) => {
                assert_eq!(ids.len() as u64, through - after);
                "published".into()
            }
            RangeOutcome::Moved(record) => format!("moved to {}", record.position),
            RangeOutcome::Lost => "lost".into(),
            other => panic!("{other:?}"),
        }
    }

    /// Begins to publish after a position; returns the position of the record.
    pub(crate) async fn begin(&self, after: u64) -> u64 {
        self.set(None, after).await
    }

    /// Sets the record, unless it has moved; returns its position.
    pub(crate) async fn set(&self, from: Option<PublishedPosition>, to: u64) -> u64 {
        self.target().set_position(self.store, from, set_at(to)).await.unwrap().position.get()
    }

    pub(crate) async fn try_command<T: FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut self.connection.clone()).await
    }

    pub(crate) async fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_command(words).await.unwrap()
    }

    /// Runs a command that changes the server, and ignores its reply.
    pub(crate) async fn run(&self, words: &[&str]) {
        self.command::<redis::Value>(words).await;
    }

    pub(crate) fn key(&self, name: &str) -> String {
        format!("{{{}}}:{name}", self.stream)
    }

    /// Adds entries as a foreign publisher.
    pub(crate) async fn add_foreign(&self, count: usize) {
        for _ in 0..count {
            self.run(&["XADD", &self.stream, "*", "event_type", "Foreign", "position", "1"]).await;
        }
    }

    pub(crate) async fn entries(&self) -> Vec<(String, Vec<(String, String)>)> {
        let entries: Vec<(String, Vec<String>)> = self.command(&["XRANGE", &self.stream, "-", "+"]).await;
        entries.into_iter().map(|(id, fields)| (id, pairs(&fields))).collect()
    }

    /// The positions of the store's events in the stream.
    pub(crate) async fn positions(&self) -> Vec<u64> {
        let store = self.store.to_string();
        let entries = self.entries().await;
        entries.iter().filter_map(|(_, fields)| position_of(fields, &store)).collect()
    }

    pub(crate) async fn record(&self) -> Option<String> {
        self.command(&["HGET", &self.key("relay"), &self.store.to_string()]).await
    }
}

fn pairs(fields: &[String]) -> Vec<(String, String)> {
    fields.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
}

fn position_of(fields: &[(String, String)], store: &str) -> Option<u64> {
    let value = |name| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str());
    (value("store") == Some(store)).then(|| value("position").unwrap().parse().unwrap())
}
