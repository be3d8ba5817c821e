//! What an app at rest asks its store for, beside the head of the feed: its leases.
//!
//! The clock of tokio is paused: it moves on when all tasks wait.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use eventbus::{
    InMemoryEventStore, Name, Position,
    app::AppBuilder,
    port::{CheckpointError, Checkpoints, Lease, LeaseError, Leases},
    prelude::*,
    testkit::delegate,
};
use tokio::sync::Semaphore;

use crate::wait::until;

const MINUTES: Duration = Duration::from_secs(100);
const ROLES: [Name; 3] =
    [Name::from_static("projection:one"), Name::from_static("projection:two"), Name::from_static("projection:three")];

/// The answer to a request about several leases.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Joint {
    Answers,
    Fails,
    Hangs,
}

/// Counts what an app at rest asks for.
#[derive(Clone)]
struct CountingStore {
    store: InMemoryEventStore,
    joint: Joint,
    /// The permits of renewals; without one, a renewal is on its way to the server.
    arrivals: Arc<Semaphore>,
    /// Number of renewals that panic from now on.
    panics: Arc<AtomicUsize>,
    renewals: Arc<AtomicUsize>,
    /// Number of requests for the leases and checkpoints of several roles.
    joint_polls: Arc<AtomicUsize>,
    /// Number of requests for the lease or checkpoint of one role, other than renewals.
    polls_alone: Arc<AtomicUsize>,
}

impl CountingStore {
    fn new(joint: Joint) -> Self {
        Self {
            store: InMemoryEventStore::new(),
            joint,
            arrivals: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            panics: Arc::default(),
            renewals: Arc::default(),
            joint_polls: Arc::default(),
            polls_alone: Arc::default(),
        }
    }

    /// Returns the renewals in [`MINUTES`].
    async fn renewals(&self) -> usize {
        Self::counted([&self.renewals, &self.polls_alone]).await.0
    }

    /// Returns by how much these counts grow in [`MINUTES`].
    async fn counted(counts: [&AtomicUsize; 2]) -> (usize, usize) {
        let count = || counts.map(|count| count.load(Ordering::SeqCst));
        let before = count();
        tokio::time::sleep(MINUTES).await;
        let after = count();
        (after[0] - before[0], after[1] - before[1])
    }

    /// The epochs of the leases that are held.
    async fn epochs(&self) -> Vec<Option<u64>> {
        let mut epochs = Vec::new();
        for role in &ROLES {
            epochs.push(self.store.lease_of(role).await.unwrap().map(|lease| lease.epoch));
        }
        epochs
    }
}

delegate!(CountingStore, self => self.store;
    AppendEvents, ReadStream, ReadFeed, EventStore);

#[async_trait]
impl Checkpoints for CountingStore {
    async fn load_checkpoint(&self, name: &Name) -> Result<Option<Position>, CheckpointError> {
        self.polls_alone.fetch_add(1, Ordering::SeqCst);
        self.store.load_checkpoint(name).await
    }

    async fn load_checkpoints(&self, names: &[Name]) -> Result<Vec<Option<Position>>, CheckpointError> {
        self.joint_polls.fetch_add(1, Ordering::SeqCst);
        self.store.load_checkpoints(names).await
    }

    async fn save_checkpoint(&self, name: &Name, position: Position) -> Result<(), CheckpointError> {
        self.store.save_checkpoint(name, position).await
    }

    async fn delete_checkpoint(&self, name: &Name) -> Result<(), CheckpointError> {
        self.store.delete_checkpoint(name).await
    }
}

#[async_trait]
impl Leases for CountingStore {
    async fn acquire_lease(&self, role: &Name, owner: &Name, ttl: Duration) -> Result<Option<Lease>, LeaseError> {
        self.polls_alone.fetch_add(1, Ordering::SeqCst);
        self.store.acquire_lease(role, owner, ttl).await
    }

    async fn seize_lease(&self, role: &Name, owner: &Name, ttl: Duration) -> Result<Lease, LeaseError> {
        self.store.seize_lease(role, owner, ttl).await
    }

    async fn renew_lease(&self, lease: &Lease, ttl: Duration) -> Result<bool, LeaseError> {
        self.renewals.fetch_add(1, Ordering::SeqCst);
        let panics = self.panics.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        assert!(panics.is_err(), "made by the test");
        let (server, lease) = (self.clone(), lease.clone());
        // as on a server, it takes effect also if the caller does not wait any more
        let renewal = tokio::spawn(async move {
            server.arrivals.acquire().await.unwrap().forget();
            server.store.renew_lease(&lease, ttl).await
        });
        renewal.await.unwrap()
    }

    async fn release_lease(&self, lease: &Lease) -> Result<(), LeaseError> {
        self.store.release_lease(lease).await
    }

    async fn lease_of(&self, role: &Name) -> Result<Option<Lease>, LeaseError> {
        self.polls_alone.fetch_add(1, Ordering::SeqCst);
        self.store.lease_of(role).await
    }

    async fn leases_of(&self, roles: &[Name]) -> Result<Vec<Option<Lease>>, LeaseError> {
        self.joint_polls.fetch_add(1, Ordering::SeqCst);
        match self.joint {
            Joint::Answers => self.store.leases_of(roles).await,
            Joint::Fails => Err(LeaseError::new(&roles[0], "away")),
            Joint::Hangs => std::future::pending().await,
        }
    }
}

#[derive(Default)]
struct One;

#[projection(name = "one", manual)]
impl One {
    fn any(&self, _event: &RecordedEvent) {}
}

#[derive(Default)]
struct Two;

#[projection(name = "two", manual)]
impl Two {
    fn any(&self, _event: &RecordedEvent) {}
}

#[derive(Default)]
struct Three;

#[projection(name = "three", manual)]
impl Three {
    fn any(&self, _event: &RecordedEvent) {}
}

fn app(store: &CountingStore) -> AppBuilder {
    App::builder().store(store.clone()).projection(One).projection(Two).projection(Three)
}

async fn start(store: &CountingStore) -> App {
    let app = app(store).start().await.unwrap();
    until("the leases are acquired", async || store.epochs().await == [Some(1); 3]).await;
    app
}

/// Each is renewed each third of 10 seconds.
#[tokio::test(start_paused = true)]
async fn the_leases_of_a_process_are_renewed_until_it_ends() {
    let store = CountingStore::new(Joint::Answers);
    let app = start(&store).await;
    let renewals = store.renewals().await;
    assert!((87..=93).contains(&renewals), "{renewals} renewals");
    assert_eq!(store.epochs().await, [Some(1); 3], "none was acquired again");
    app.shutdown(Duration::from_secs(10)).await.unwrap();
    assert_eq!(store.epochs().await, [None; 3]);
    assert_eq!(store.renewals().await, 0, "a lease that has ended is not renewed");
}

#[tokio::test(start_paused = true)]
async fn leases_are_renewed_after_a_panic_of_the_store() {
    let store = CountingStore::new(Joint::Answers);
    store.panics.store(3, Ordering::SeqCst);
    let app = start(&store).await;
    tokio::time::sleep(MINUTES).await;
    assert_eq!(store.panics.load(Ordering::SeqCst), 0);
    assert_eq!(store.epochs().await, [Some(1); 3], "none was acquired again");
    app.shutdown(Duration::from_secs(10)).await.unwrap();
}

/// Also if the renewal was given up before.
#[tokio::test(start_paused = true)]
async fn a_lease_is_released_after_the_renewals_that_are_under_way() {
    for given_up in [false, true] {
        let store = CountingStore::new(Joint::Answers);
        let app = start(&store).await;
        store.arrivals.forget_permits(Semaphore::MAX_PERMITS);
        let sent = store.renewals.load(Ordering::SeqCst);
        until("renewals are under way", async || store.renewals.load(Ordering::SeqCst) == sent + 3).await;
        if given_up {
            // they time out after a third of 10 seconds
            until("they are sent again", async || store.renewals.load(Ordering::SeqCst) == sent + 6).await;
        }
        let arrive = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            store.arrivals.add_permits(100);
        };
        let (stopped, ()) = tokio::join!(app.shutdown(Duration::from_secs(10)), arrive);
        stopped.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(store.epochs().await, [None; 3]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_passes_on_leaves_the_others_to_their_owner() {
    let store = CountingStore::new(Joint::Answers);
    let _app = start(&store).await;
    let (other, long) = (Name::from_static("other"), Duration::from_secs(3_600));
    store.store.seize_lease(&ROLES[1], &other, long).await.unwrap();
    tokio::time::sleep(MINUTES).await;
    assert_eq!(store.epochs().await, [1, 2, 1].map(Some));
    assert_eq!(store.store.lease_of(&ROLES[1]).await.unwrap().unwrap().owner, other);
    let renewals = store.renewals().await;
    assert!((58..=62).contains(&renewals), "{renewals} renewals");
}

/// Leases and checkpoints each second; each lease alone each 30 seconds.
#[tokio::test(start_paused = true)]
async fn a_process_that_stands_by_asks_for_all_its_projections_together() {
    let store = CountingStore::new(Joint::Answers);
    let owner = start(&store).await;
    let _standby = app(&store).start().await.unwrap();
    tokio::time::sleep(MINUTES).await;
    let (joint, alone) = CountingStore::counted([&store.joint_polls, &store.polls_alone]).await;
    assert!((190..=202).contains(&joint) && (6..=12).contains(&alone), "{joint} joint requests, {alone} of one role");
    assert_eq!(store.epochs().await, [Some(1); 3], "the owner keeps them");
    // a released lease is acquired soon
    owner.shutdown(Duration::from_secs(10)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(store.epochs().await, [Some(2); 3]);
}

#[tokio::test(start_paused = true)]
async fn a_standby_that_gets_no_answer_about_its_leases_still_acquires_them() {
    for joint in [Joint::Fails, Joint::Hangs] {
        let store = CountingStore::new(joint);
        let owner = start(&store).await;
        let _standby = app(&store).start().await.unwrap();
        tokio::time::sleep(MINUTES).await;
        owner.shutdown(Duration::from_secs(10)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(store.epochs().await, [Some(2); 3]);
    }
}
