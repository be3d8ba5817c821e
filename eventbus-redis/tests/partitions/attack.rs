//! Consumers that are killed, paused, added and stopped under load.

use std::time::{Duration, Instant};

use eventbus::port::EventBus;
use eventbus_redis::RedisEventBus;
use eventbus_test::internal::Actor;

use crate::{
    journal::{Account, Journal, Load, account},
    process::{self, LONG, SHORT, config, until_finished},
};

const AGGREGATES: usize = 200;
const EVENTS: usize = 10_000;
const BATCH: usize = 25;

/// Pseudorandom numbers.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1;
        println!("seed {seed}");
        Self(seed)
    }

    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % below
    }
}

/// Three to five consumers, one of which may be paused.
struct Crowd<'a> {
    spawn: &'a dyn Fn() -> Actor,
    running: Vec<Actor>,
    paused: Vec<(Actor, Instant)>,
    counts: [usize; 4],
}

impl Crowd<'_> {
    async fn disturb(&mut self, dice: &mut Dice) {
        let now = Instant::now();
        let (over, paused): (Vec<_>, _) = std::mem::take(&mut self.paused).into_iter().partition(|(_, at)| *at <= now);
        self.paused = paused;
        for (process, _) in over {
            process.signal("CONT");
            self.running.push(process);
        }
        let what = dice.roll(4);
        self.counts[what] += 1;
        let victim = dice.roll(self.running.len());
        match what {
            0 => {
                self.running.swap_remove(victim).kill();
            }
            1 if self.paused.is_empty() => {
                let process = self.running.swap_remove(victim);
                process.signal("STOP");
                let pause = SHORT + Duration::from_millis(100 + dice.roll(700) as u64);
                self.paused.push((process, now + pause));
            }
            2 if self.running.len() < 5 => self.running.push((self.spawn)()),
            3 if self.running.len() > 3 => process::stop(self.running.swap_remove(victim)),
            _ => self.counts[what] -= 1,
        }
        while self.running.len() < 3 {
            self.running.push((self.spawn)());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_each_aggregate_keeps_its_order_whoever_dies_or_sleeps() {
    let (server, prefix) = (eventbus_test::private_redis(), eventbus_test::unique_name("attack"));
    let url = server.url();
    let bus = RedisEventBus::connect(config(url, &prefix, 8, SHORT)).await.unwrap();
    let spawn = || process::spawn(url, &prefix, true);
    let mut crowd =
        Crowd { spawn: &spawn, running: (0..4).map(|_| spawn()).collect(), paused: Vec::new(), counts: [0; 4] };
    let (mut load, mut dice) = (Load::over(AGGREGATES), Dice::new());
    let began = Instant::now();
    for round in 0..EVENTS / BATCH {
        bus.publish(&load.batch(BATCH)).await.unwrap();
        if round % 6 == 5 {
            crowd.disturb(&mut dice).await;
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }
    for (process, _) in crowd.paused.drain(..) {
        process.signal("CONT");
        crowd.running.push(process);
    }
    until_finished(&bus, Duration::from_secs(60)).await;
    crowd.running.into_iter().for_each(process::stop);
    let lines = Journal::on(url, prefix.clone()).await.lines().await;
    let account = account(&lines, &load.published);
    let [kills, pauses, joins, leaves] = crowd.counts;
    println!(
        "{EVENTS} events, {kills} kills, {pauses} pauses, {joins} joins, {leaves} leaves in {:?}: {} repeated",
        began.elapsed(),
        account.repeated
    );
    assert_eq!(account, Account { repeated: account.repeated, ..Account::default() });
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_repeated_when_consumers_come_and_go_in_peace() {
    let (server, prefix) = (eventbus_test::private_redis(), eventbus_test::unique_name("peace"));
    let url = server.url();
    let bus = RedisEventBus::connect(config(url, &prefix, 8, LONG)).await.unwrap();
    let spawn = || process::spawn(url, &prefix, false);
    let mut running = vec![spawn()];
    let mut load = Load::over(AGGREGATES);
    for round in 0..EVENTS / BATCH {
        bus.publish(&load.batch(BATCH)).await.unwrap();
        if round % 20 == 19 {
            match running.len() {
                4 => process::stop(running.remove(0)),
                _ if round % 60 == 59 => process::stop(running.remove(0)),
                _ => running.push(spawn()),
            }
            if running.is_empty() {
                running.push(spawn());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    until_finished(&bus, Duration::from_secs(60)).await;
    running.into_iter().for_each(process::stop);
    let lines = Journal::on(url, prefix.clone()).await.lines().await;
    assert_eq!(account(&lines, &load.published), Account::default());
}

/// With many unread entries, a paused owner would read on at once, past the entries that the next owner has in flight.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_was_paused_overtakes_nobody() {
    let (server, prefix) = (eventbus_test::private_redis(), eventbus_test::unique_name("paused"));
    let url = server.url();
    let bus = RedisEventBus::connect(config(url, &prefix, 8, SHORT)).await.unwrap();
    let mut load = Load::over(AGGREGATES);
    for _ in 0..EVENTS / 1_000 {
        bus.publish(&load.batch(1_000)).await.unwrap();
    }
    let running: Vec<_> = (0..3).map(|_| process::working(url, &prefix, true, 5)).collect();
    let journal = Journal::on(url, prefix.clone()).await;
    crate::common::until("they are at work", async || journal.ended().await > 100).await;
    let mut pauses = 0;
    while journal.ended().await < EVENTS * 3 / 4 {
        running[pauses % 3].signal("STOP");
        tokio::time::sleep(SHORT + Duration::from_millis(200)).await;
        running[pauses % 3].signal("CONT");
        pauses += 1;
    }
    until_finished(&bus, Duration::from_secs(60)).await;
    running.into_iter().for_each(process::stop);
    let account = account(&journal.lines().await, &load.published);
    println!("{pauses} pauses beyond the lease: {} repeated", account.repeated);
    assert!(pauses > 2, "it was too quick");
    assert_eq!(account, Account { repeated: account.repeated, ..Account::default() });
}
