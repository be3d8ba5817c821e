//! Relays over one store, and a bus that loses data, replies and time: events that a group had not finished come again,
//! and none comes twice without a loss.

use std::{collections::BTreeSet, time::Duration};

use eventbus::{
    InMemoryEventStore, Name,
    port::{Leases, ReadFeed},
    prelude::*,
    testkit::{Fault, LossyBus},
};
use proptest::{collection::vec, prelude::*};

use crate::relay_kit::{AUDIT, MAILS, ROLE, app, append};

const RELAYS: usize = 3;
static GROUPS: [&Name; 2] = [&AUDIT, &MAILS];

#[derive(Debug, Clone)]
enum Event {
    Append(usize),
    Take(usize, usize),
    Flush,
    Copy,
    Restore,
    Trim(usize),
    Fail(usize, bool),
    Pause(usize, bool),
    TakeOver,
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1..400_usize).prop_map(Event::Append),
        4 => (0..GROUPS.len(), 1..300_usize).prop_map(|(group, most)| Event::Take(group, most)),
        6 => (0..3_000_u64).prop_map(Event::Wait),
        2 => (0..RELAYS, any::<bool>()).prop_map(|(relay, is_lost)| Event::Fail(relay, is_lost)),
        2 => (0..RELAYS, any::<bool>()).prop_map(|(relay, is_paused)| Event::Pause(relay, is_paused)),
        1 => Just(Event::TakeOver),
    ]
}

fn event_or_loss() -> impl Strategy<Value = Event> {
    prop_oneof![
        10 => event(),
        1 => Just(Event::Flush),
        1 => Just(Event::Copy),
        1 => Just(Event::Restore),
        1 => (1..200_usize).prop_map(Event::Trim),
    ]
}

struct World {
    store: InMemoryEventStore,
    bus: LossyBus,
    connections: Vec<LossyBus>,
    _apps: Vec<App>,
    copy: eventbus::testkit::LossyBusSnapshot,
    taken: [BTreeSet<u64>; 2],
    /// Number of times that an event may come again.
    losses: usize,
    /// Set if the bus, or the copy of it, was trimmed: a copy from before the repair brings that loss back.
    is_trimmed: bool,
    is_copy_trimmed: bool,
}

impl World {
    async fn begin() -> Self {
        let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
        let connections: Vec<_> = (0..RELAYS).map(|_| bus.connection()).collect();
        let mut apps = Vec::new();
        GROUPS.iter().for_each(|group| bus.create_group(group));
        for connection in &connections {
            apps.push(app(&store, connection).await);
        }
        let copy = bus.snapshot();
        let (taken, losses, is_trimmed, is_copy_trimmed) = Default::default();
        let mut world = Self { store, bus, connections, _apps: apps, copy, taken, losses, is_trimmed, is_copy_trimmed };
        append(&world.store, 1).await;
        // the promise holds for known groups
        world.settle().await;
        world.copy = world.bus.snapshot();
        world
    }

    fn take(&mut self, group: usize, most: usize) -> usize {
        let events = self.bus.take(GROUPS[group], most);
        self.taken[group].extend(events.iter().map(|event| event.position().unwrap().get()));
        events.len()
    }

    async fn happen(&mut self, event: &Event) {
        match *event {
            Event::Append(events) => drop(append(&self.store, events).await),
            Event::Take(group, most) => drop(self.take(group, most)),
            Event::Copy => {
                self.copy = self.bus.snapshot();
                self.is_copy_trimmed = self.is_trimmed;
            }
            Event::Flush => {
                self.losses += 1;
                self.is_trimmed = false;
                self.bus.flush();
            }
            Event::Restore => {
                self.losses += if self.is_copy_trimmed { 2 } else { 1 };
                self.is_trimmed = self.is_copy_trimmed;
                self.bus.restore(&self.copy);
            }
            Event::Trim(entries) => {
                self.losses += 2; // the last one may be among them: then all is lost, and the groups have a gap
                self.is_trimmed = true;
                self.bus.trim(entries);
            }
            Event::Fail(relay, is_lost) => {
                self.connections[relay]
                    .ranges
                    .fail_next(if is_lost { Fault::LostReply } else { Fault::Unavailable }, 1);
            }
            Event::Pause(relay, is_paused) => self.connections[relay].pause(is_paused),
            Event::TakeOver => {
                let lease = self.store.seize_lease(&ROLE, GROUPS[0], Duration::from_secs(1)).await.unwrap();
                self.store.release_lease(&lease).await.unwrap();
            }
            Event::Wait(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        }
    }

    /// Runs until no more events come.
    async fn settle(&mut self) {
        self.connections.iter().for_each(|connection| connection.pause(false));
        let mut quiet = 0;
        while quiet < 10 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let is_quiet = [0, 1].map(|group| self.take(group, usize::MAX)) == [0, 0];
            quiet = if is_quiet { quiet + 1 } else { 0 };
        }
    }

    async fn check(&self) -> Result<(), TestCaseError> {
        let head = self.store.head().await.unwrap().get();
        let all: BTreeSet<u64> = (1..=head).collect();
        for (group, taken) in GROUPS.iter().zip(&self.taken) {
            let lost: Vec<_> = all.difference(taken).collect();
            prop_assert!(lost.is_empty(), "`{group}` never got {lost:?} of {head}");
        }
        let history = self.bus.history();
        let jumps = history.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
        prop_assert!(jumps <= self.losses, "{jumps} jumps after {} losses", self.losses);
        let mut times = vec![0; history.iter().max().map_or(0, |max| *max as usize) + 1];
        history.iter().for_each(|position| times[*position as usize] += 1);
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
    fn after_losses_everything_comes_that_a_group_had_not_finished(events in vec(event_or_loss(), 1..80)) {
        run(&events)?;
    }
}

#[test]
fn a_copy_from_before_the_repair_of_a_trimmed_bus_brings_its_loss_back() {
    let copied = [Event::Append(1), Event::Wait(1), Event::Trim(2), Event::Copy, Event::Append(1)];
    let events = [&copied[..], &[Event::Wait(1001), Event::Restore]].concat();
    run(&events).unwrap();
}
