//! Relays over one store, and a bus that loses data, replies and time: none is published twice without a loss, and the
//! stream has no gap after one.

use std::time::Duration;

use eventbus::{
    InMemoryEventStore,
    port::{Leases, ReadFeed},
    prelude::*,
    testkit::{Fault, LossyBus},
};
use proptest::{collection::vec, prelude::*};

use crate::relay_kit::{AUDIT, ROLE, app, append};

const RELAYS: usize = 3;

#[derive(Debug, Clone)]
enum Event {
    Append(usize),
    Flush,
    Copy,
    Restore,
    Fail(usize, bool),
    Pause(usize, bool),
    TakeOver,
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1..400_usize).prop_map(Event::Append),
        6 => (0..3_000_u64).prop_map(Event::Wait),
        2 => (0..RELAYS, any::<bool>()).prop_map(|(relay, is_lost)| Event::Fail(relay, is_lost)),
        2 => (0..RELAYS, any::<bool>()).prop_map(|(relay, is_paused)| Event::Pause(relay, is_paused)),
        1 => Just(Event::TakeOver),
    ]
}

/// As above, with losses of the last events, as by a crash or by a restored copy.
fn event_or_rollback() -> impl Strategy<Value = Event> {
    prop_oneof![10 => event(), 1 => Just(Event::Copy), 1 => Just(Event::Restore)]
}

fn event_or_loss() -> impl Strategy<Value = Event> {
    prop_oneof![10 => event_or_rollback(), 1 => Just(Event::Flush)]
}

struct World {
    store: InMemoryEventStore,
    bus: LossyBus,
    connections: Vec<LossyBus>,
    _apps: Vec<App>,
    copy: eventbus::testkit::LossyBusSnapshot,
    /// Number of times that an event may come again.
    losses: usize,
    is_flushed: bool,
}

impl World {
    async fn begin() -> Self {
        let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
        let connections: Vec<_> = (0..RELAYS).map(|_| bus.connection()).collect();
        let mut apps = Vec::new();
        for connection in &connections {
            apps.push(app(&store, connection).await);
        }
        append(&store, 1).await;
        let copy = bus.snapshot();
        let mut world = Self { store, bus, connections, _apps: apps, copy, losses: 0, is_flushed: false };
        world.settle().await;
        world.copy = world.bus.snapshot();
        world
    }

    async fn happen(&mut self, event: &Event) {
        match *event {
            Event::Append(events) => drop(append(&self.store, events).await),
            Event::Copy => self.copy = self.bus.snapshot(),
            Event::Flush => {
                self.losses += 1;
                self.is_flushed = true;
                self.bus.flush();
            }
            Event::Restore => {
                self.losses += 1;
                self.bus.restore(&self.copy);
            }
            Event::Fail(relay, is_lost) => {
                self.connections[relay]
                    .ranges
                    .fail_next(if is_lost { Fault::LostReply } else { Fault::Unavailable }, 1);
            }
            Event::Pause(relay, is_paused) => self.connections[relay].pause(is_paused),
            Event::TakeOver => {
                let lease = self.store.seize_lease(&ROLE, &AUDIT, Duration::from_secs(1)).await.unwrap();
                self.store.release_lease(&lease).await.unwrap();
            }
            Event::Wait(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        }
    }

    /// Runs until no more events come.
    async fn settle(&mut self) {
        self.connections.iter().for_each(|connection| connection.pause(false));
        let (mut quiet, mut before) = (0, 0);
        while quiet < 10 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let published = self.bus.history().len();
            quiet = if published == before { quiet + 1 } else { 0 };
            before = published;
        }
    }

    async fn check(&self) -> Result<(), TestCaseError> {
        let head = self.store.head().await.unwrap().get();
        let positions = self.bus.positions();
        let first = positions.first().copied().unwrap_or(head + 1);
        prop_assert_eq!(&positions, &(first..=head).collect::<Vec<_>>());
        prop_assert!(self.is_flushed || first == 1, "the stream begins at {}", first);
        let history = self.bus.history();
        let jumps = history.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
        prop_assert!(jumps <= self.losses, "{jumps} jumps after {} losses", self.losses);
        let mut times = vec![0; history.iter().max().map_or(0, |max| *max as usize) + 1];
        history.iter().for_each(|position| times[*position as usize] += 1);
        prop_assert!(times[1..].iter().all(|times| *times > 0), "all were published");
        let most = times.into_iter().max().unwrap_or_default();
        prop_assert!(most <= 1 + self.losses, "{most} times after {} losses", self.losses);
        Ok(())
    }
}

fn run(events: &[Event]) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut world = World::begin().await;
        for event in events {
            world.happen(event).await;
        }
        world.settle().await;
        world.check().await
    })
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn without_a_loss_everything_comes_once_and_in_order(events in vec(event(), 1..60)) {
        run(&events)?;
    }

    #[test]
    fn after_a_bus_went_back_it_has_everything_again(events in vec(event_or_rollback(), 1..80)) {
        run(&events)?;
    }

    #[test]
    fn after_losses_the_stream_has_no_gap_and_nothing_was_left_out(events in vec(event_or_loss(), 1..80)) {
        run(&events)?;
    }
}
