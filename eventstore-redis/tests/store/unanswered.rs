//! Appends whose script got no answer: each later error leaves open whether the events were stored.

use std::{sync::Arc, time::Duration};

use eventbus::{
    ExpectedVersion::{self, Any, Exact, NoStream, StreamExists},
    Name, NewEvent,
    clock::{Clock, SharedClock, Sleep, SystemClock},
    event::Tag,
    port::{Append, AppendError, AppendEvents as _, MultiStreamAppends as _, ReadFeed as _},
    store::{Boundary, BoundaryCondition, MultiStreamAppend, MultiStreamOutcome},
};
use eventstore_redis::{RedisEventStore, RedisEventStoreConfig};
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use time::OffsetDateTime;
use tokio::{
    runtime::Handle,
    task::{JoinHandle, block_in_place},
    time::Instant,
};

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
    let events = vec![NewEvent::new(PLACED, 1, "{}").with_tags([Tag::from_stored("course:1").unwrap()])];
    MultiStreamAppend::single(Append { stream: order("1"), expected: Any, events })
}

/// The clock of a store. Whenever that store asks for the time, a second store makes the last of its appends, or none: each
/// attempt asks when it begins, and again after it has read the stream, before it sends its script.
#[derive(Debug, Clone, Default)]
struct Contention(Arc<Mutex<Option<OtherWriter>>>);

/// A second store, and what it has still to append.
type OtherWriter = (RedisEventStore, Vec<Option<MultiStreamAppend>>);

impl Clock for Contention {
    fn now(&self) -> OffsetDateTime {
        let next = self.0.lock().as_mut().and_then(|(other, appends)| Some((other.clone(), appends.pop()??)));
        if let Some((other, append)) = next {
            block_in_place(|| Handle::current().block_on(other.append_streams(append))).unwrap();
        }
        SystemClock.now()
    }

    fn instant(&self) -> Instant {
        SystemClock.instant()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        match *self.0.lock() {
            Some(_) => Box::pin(tokio::task::yield_now()),
            None => SystemClock.sleep_until(deadline),
        }
    }
}

/// An append whose first script the server forgot before it ran. The store cannot know that, and waits for a connection.
struct Unanswered {
    server: eventbus_test::PrivateRedis,
    admin: MultiplexedConnection,
    proxy: Proxy,
    direct: RedisEventStore,
    contention: Contention,
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
        let (direct, contention) = (open(config_on(server.url())).await, Contention::default());
        let clock = SharedClock::new(contention.clone());
        let redis_url = proxy.url();
        let store = open(RedisEventStoreConfig { redis_url, clock, ..direct.config().clone() }).await;
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
        Self { server, admin, proxy, direct, contention, append }
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unanswered_append_whose_stream_changes_under_each_attempt_has_an_unknown_outcome() {
    let unanswered = Unanswered::new().await;
    let appends = (0..200).map(|_| Some(append())).collect();
    *unanswered.contention.0.lock() = Some((unanswered.direct.clone(), appends));
    unanswered.proxy.set(Network::Works);
    unanswered.has_an_unknown_outcome().await;
}

/// The first script runs late: after the second attempt has read that the events are not stored, before its script.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unanswered_append_that_runs_late_moves_no_boundary_of_its_own() {
    let boundary = Boundary {
        tenant_id: None,
        event_types: [PLACED].into(),
        items: [[Tag::from_stored("course:1").unwrap()].into()].into(),
    };
    // an event of the boundary is stored before
    let multi = MultiStreamAppend { condition: Some(BoundaryCondition { boundary, counts: vec![1] }), ..append() };
    let unanswered = Unanswered::of(multi.clone()).await;
    *unanswered.contention.0.lock() = Some((unanswered.direct.clone(), vec![Some(multi), None]));
    unanswered.proxy.set(Network::Works);
    let outcome = unanswered.append.await.unwrap().unwrap();
    assert_eq!(outcome.into_records()[0].version(), 2_u64);
    assert_eq!(unanswered.direct.head().await.unwrap(), 2_u64);
    drop(unanswered.server);
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
