//! Appends whose script got no answer: each later error leaves open whether the events were stored.

use std::time::Duration;

use eventbus::{
    ExpectedVersion::{self, Any, Exact, NoStream, StreamExists},
    Name, NewEvent,
    event::UniqueChange,
    port::{Append, AppendError, AppendEvents as _, MultiStreamAppends as _},
    store::{MultiStreamAppend, MultiStreamOutcome},
};
use eventstore_redis::{RedisEventStore, RedisEventStoreConfig};
use redis::aio::MultiplexedConnection;
use tokio::task::JoinHandle;

use crate::{
    client,
    common::{
        proxy::{Network, Proxy},
        store::{config_on, open},
        until,
    },
    order, tell,
};

const PLACED: Name = Name::from_static("Placed");

fn append() -> MultiStreamAppend {
    MultiStreamAppend::single(Append {
        stream: order("1"),
        expected: Any,
        events: vec![NewEvent::new(PLACED, 1, "{}")],
    })
}

/// An append whose first script the server forgot before it ran. The store cannot know that, and waits for a connection.
struct Unanswered {
    server: eventbus_test::PrivateRedis,
    admin: MultiplexedConnection,
    proxy: Proxy,
    direct: RedisEventStore,
    append: JoinHandle<Result<MultiStreamOutcome, AppendError>>,
}

impl Unanswered {
    async fn new() -> Self {
        Self::of(append()).await
    }

    async fn of(multi: MultiStreamAppend) -> Self {
        Self::by(|store| async move { store.append_streams(multi).await }).await
    }

    /// The same with an append to one stream.
    async fn plain(id: &'static str, expected: ExpectedVersion) -> Self {
        let send = move |store: RedisEventStore| async move {
            let appended = store.append(&order(id), expected, vec![NewEvent::new(PLACED, 1, "{}")]).await;
            appended.map(|events| MultiStreamOutcome::Appended(vec![events]))
        };
        Self::by(send).await
    }

    async fn by<F>(send: impl FnOnce(RedisEventStore) -> F) -> Self
    where
        F: Future<Output = Result<MultiStreamOutcome, AppendError>> + Send + 'static,
    {
        let server = eventbus_test::private_redis();
        let proxy = Proxy::before(server.port()).await;
        let direct = open(config_on(server.url())).await;
        let store = open(RedisEventStoreConfig { redis_url: proxy.url(), ..direct.config().clone() }).await;
        let mut admin = client(server.url()).await;
        // the server knows the script
        store.append_streams(append()).await.unwrap();
        tell::<String>(&mut admin, &["CLIENT", "PAUSE", "60000", "WRITE"]).await;
        let append = tokio::spawn(send(store));
        until("the append is at the server", async || {
            tell::<String>(&mut admin, &["INFO", "clients"]).await.contains("blocked_clients:1")
        })
        .await;
        proxy.set(Network::Waits);
        let clients: String = tell(&mut admin, &["CLIENT", "LIST"]).await;
        let blocked = clients.lines().find(|line| line.contains(" flags=b ")).unwrap_or_else(|| panic!("{clients}"));
        let blocked = blocked.split(' ').next().unwrap().trim_start_matches("id=");
        tell::<u64>(&mut admin, &["CLIENT", "KILL", "ID", blocked]).await;
        tell::<String>(&mut admin, &["CLIENT", "UNPAUSE"]).await;
        Self { server, admin, proxy, direct, append }
    }

    async fn has_an_unknown_outcome(self) {
        let outcome = self.outcome().await;
        assert!(matches!(outcome, Err(AppendError::OutcomeUnknown(_))), "{outcome:?}");
    }

    async fn outcome(self) -> Result<MultiStreamOutcome, AppendError> {
        let outcome = tokio::time::timeout(Duration::from_secs(60), self.append).await.unwrap().unwrap();
        drop(self.server);
        outcome
    }
}

#[tokio::test]
async fn an_unanswered_append_that_cannot_read_again_has_an_unknown_outcome() {
    let unanswered = Unanswered::new().await;
    unanswered.proxy.set(Network::Cut);
    unanswered.has_an_unknown_outcome().await;
}

#[tokio::test]
async fn an_unanswered_append_that_the_server_refuses_later_has_an_unknown_outcome() {
    let mut unanswered = Unanswered::new().await;
    tell::<String>(&mut unanswered.admin, &["CONFIG", "SET", "maxmemory", "1"]).await;
    unanswered.proxy.set(Network::Works);
    unanswered.has_an_unknown_outcome().await;
}

/// The store sends its script again: the append takes effect once, whether or not the server ran the first copy.
#[tokio::test]
async fn an_unanswered_append_is_sent_again_and_takes_effect_once() {
    let unanswered = Unanswered::new().await;
    unanswered.proxy.set(Network::Works);
    let records = unanswered.outcome().await.unwrap().into_records();
    assert_eq!((records.len(), records[0].version().get()), (1, 2));
}

/// A second stream may give the value back before the first script runs.
#[tokio::test]
async fn an_unanswered_append_whose_value_may_become_free_has_an_unknown_outcome() {
    let email = || vec![UniqueChange::new(Name::from_static("email"), Some("a@x".into())).unwrap()];
    let taking = |id| {
        let events = vec![NewEvent::new(PLACED, 1, "{}").with_unique(email())];
        MultiStreamAppend::single(Append { stream: order(id), expected: Any, events })
    };
    let unanswered = Unanswered::of(taking("2")).await;
    unanswered.direct.append_streams(taking("3")).await.unwrap();
    unanswered.proxy.set(Network::Works);
    unanswered.has_an_unknown_outcome().await;
}

/// A second writer may bring the stream to the expected version before the first script runs.
#[tokio::test]
async fn an_unanswered_append_whose_stream_may_get_the_expected_version_has_an_unknown_outcome() {
    for expected in [StreamExists, Exact(7.into())] {
        let unanswered = Unanswered::plain("2", expected).await;
        unanswered.proxy.set(Network::Works);
        unanswered.has_an_unknown_outcome().await;
    }
    // order 1 has an event: its version does not become a lower one
    let unanswered = Unanswered::plain("1", NoStream).await;
    unanswered.proxy.set(Network::Works);
    let outcome = unanswered.outcome().await;
    assert!(matches!(outcome, Err(AppendError::Conflict { .. })), "{outcome:?}");
}
