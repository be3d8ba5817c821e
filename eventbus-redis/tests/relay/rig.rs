//! A store with any number of events, and its relay.

use std::collections::BTreeMap;

use eventbus::{
    EventId, Name, NewEvent, Position, RecordedEvent, StreamId, Version,
    port::{EventBus, PublishError, RelayTarget},
    relay::{GroupFloor, GroupFloors, PublishRange, Publisher, RangeOutcome, ResyncOutcome, ResyncRequest},
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use redis::{FromRedisValue, aio::MultiplexedConnection};
use uuid::Uuid;

use crate::common::config;

pub(crate) struct Rig {
    pub(crate) bus: RedisEventBus,
    pub(crate) publisher: Publisher,
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

pub(crate) fn names(groups: &[&str]) -> Vec<Name> {
    groups.iter().map(|group| Name::new("group", group).unwrap()).collect()
}

impl Rig {
    /// A relay on a stream of the test's own, which is adopted at the start for no group.
    pub(crate) async fn adopted() -> Self {
        let rig = Self::on(config()).await;
        assert_eq!(rig.adopt(0, &[]).await, ResyncOutcome::At(at(0)));
        rig
    }

    pub(crate) async fn on(config: RedisEventBusConfig) -> Self {
        let bus = RedisEventBus::connect(config).await.unwrap();
        let connection = eventbus_test::internal::redis_connection(&bus.config().redis_url).await;
        let stream = bus.config().stream_name();
        Self { bus, publisher: Publisher { store: Uuid::now_v7(), epoch: 5 }, stream, connection }
    }

    /// The relay of a second store, or of a second process, on the same stream.
    pub(crate) fn another(&self, publisher: Publisher) -> Self {
        let Self { bus, stream, connection, .. } = self;
        Self { bus: bus.clone(), publisher, stream: stream.clone(), connection: connection.clone() }
    }

    pub(crate) fn target(&self) -> &dyn RelayTarget {
        self.bus.relay_target().unwrap()
    }

    pub(crate) async fn try_publish(&self, after: u64, through: u64) -> Result<RangeOutcome, PublishError> {
        let events = between(after, through);
        let range = PublishRange { after: at(after), through: at(through), events: &events };
        self.target().publish_range(self.publisher, range).await
    }

    /// Publishes the events after one position through a second one; returns the outcome in a word.
    pub(crate) async fn publish(&self, after: u64, through: u64) -> String {
        match self.try_publish(after, through).await.unwrap() {
            RangeOutcome::Published(ids) => {
                assert_eq!(ids.len() as u64, through - after);
                "published".into()
            }
            RangeOutcome::Moved(position) => format!("moved to {position}"),
            RangeOutcome::Fenced => "fenced".into(),
            RangeOutcome::Lost => "lost".into(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn adopt(&self, floor: u64, groups: &[&str]) -> ResyncOutcome {
        self.adopt_as(floor, groups, false).await
    }

    pub(crate) async fn adopt_as(&self, floor: u64, groups: &[&str], shared: bool) -> ResyncOutcome {
        let adoption = ResyncRequest { floor: at(floor), groups: &names(groups), new_groups: &[], is_shared: shared };
        self.target().resync(self.publisher, adoption).await.unwrap()
    }

    pub(crate) async fn marks(&self) -> Vec<(u64, Option<EventId>)> {
        let marks = self.target().published_positions(self.publisher).await.unwrap();
        marks.into_iter().map(|mark| (mark.position.get(), mark.event_id)).collect()
    }

    pub(crate) async fn rewind(&self, to: u64) -> ResyncOutcome {
        self.target().rewind(self.publisher, at(to)).await.unwrap()
    }

    pub(crate) async fn seen(&self, known: &[&str]) -> GroupFloors {
        self.target().group_floors(self.publisher, &names(known)).await.unwrap()
    }

    pub(crate) async fn floors(&self, known: &[&str]) -> BTreeMap<String, GroupFloor> {
        match self.seen(known).await {
            GroupFloors::Groups(groups) => groups.into_iter().map(|(name, floor)| (name.to_string(), floor)).collect(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn floor(&self, group: &str) -> GroupFloor {
        self.floors(&[group]).await[group]
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

    pub(crate) async fn make(&self, group: &str) {
        self.run(&["XGROUP", "CREATE", &self.stream, group, "0", "MKSTREAM"]).await;
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
        let store = self.publisher.store.to_string();
        let entries = self.entries().await;
        entries.iter().filter_map(|(_, fields)| position_of(fields, &store)).collect()
    }

    /// Reads as a consumer of a group; returns ids and positions, 0 for foreign entries.
    pub(crate) async fn read(&self, group: &str, count: usize) -> Vec<(String, u64)> {
        let read = self.read_from(group, count, ">").await;
        read.into_iter().map(|(id, position)| (id, position.unwrap_or(0))).collect()
    }

    /// Reads the pending entries of the consumer; acknowledges the removed ones.
    pub(crate) async fn read_again(&self, group: &str) -> Vec<(String, u64)> {
        let mut left = Vec::new();
        for (id, position) in self.read_from(group, 100_000, "0").await {
            match position {
                Some(position) => left.push((id, position)),
                None => self.acknowledge(group, &[(id, 0)]).await,
            }
        }
        left
    }

    async fn read_from(&self, group: &str, count: usize, from: &str) -> Vec<(String, Option<u64>)> {
        type Read = Option<Vec<(String, Vec<(String, Option<Vec<String>>)>)>>;
        let count = count.to_string();
        let words = ["XREADGROUP", "GROUP", group, "reader", "COUNT", &count, "STREAMS", &self.stream, from];
        // the group may be missing
        let read = self.try_command::<Read>(&words).await.ok().flatten();
        let store = self.publisher.store.to_string();
        let entries = read.into_iter().flatten().flat_map(|(_, entries)| entries);
        let position = |fields: Vec<String>| position_of(&pairs(&fields), &store).unwrap_or(0);
        entries.map(|(id, fields)| (id, fields.map(position))).collect()
    }

    pub(crate) async fn acknowledge(&self, group: &str, read: &[(String, u64)]) {
        for (id, _) in read {
            self.run(&["XACK", &self.stream, group, id]).await;
        }
    }

    /// Reads and acknowledges; returns the positions.
    pub(crate) async fn handle(&self, group: &str, count: usize) -> Vec<u64> {
        let read = self.read(group, count).await;
        self.acknowledge(group, &read).await;
        read.into_iter().map(|(_, position)| position).filter(|position| *position > 0).collect()
    }

    pub(crate) async fn record(&self) -> Option<String> {
        self.command(&["HGET", &self.key("relay"), &self.publisher.store.to_string()]).await
    }
}

fn pairs(fields: &[String]) -> Vec<(String, String)> {
    fields.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
}

fn position_of(fields: &[(String, String)], store: &str) -> Option<u64> {
    let value = |name| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str());
    (value("store") == Some(store)).then(|| value("position").unwrap().parse().unwrap())
}
