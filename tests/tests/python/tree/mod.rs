//! Three services over Redis, that of Python between two of this side: each order has one tree of events, also while
//! two of them are killed between an effect and its acknowledgement.

mod audit;
pub(crate) mod services;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::process::ExitStatusExt as _,
    path::Path,
};

use eventbus::{Name, Uuid};
use eventbus_redis::RedisEventBus;
use eventbus_test::{Postgres, internal::Actor};

use self::{
    audit::{Edge, Evidence, Node, stored},
    services::{Death, HOLDS, ORDERS, SALES, SHIPPING, Service, runs_key},
};
use super::{bus, command, pending, script::Script, until};

/// The group of the Python service.
const PAYMENTS: &str = "payments";
/// Number of deaths of each kind.
const DEATHS: usize = 3;
/// Number of runs of a process before it dies; in the Python service and in that which prepares shipments.
const PAYMENTS_BEFORE: &str = "10";
const SHIPMENTS_BEFORE: u8 = 4;
const SIGABRT: i32 = 6;

/// What the services work on.
struct World {
    bus: RedisEventBus,
    database: Postgres,
}

impl World {
    fn start(&self, name: &str, death: Death) -> Actor {
        let config = self.bus.config();
        let service = Service {
            name: name.into(),
            database_url: self.database.url().into(),
            redis_url: config.redis_url.clone(),
            stream_prefix: config.stream_prefix.clone(),
            death,
        };
        service.start()
    }

    /// Kills Python several times between publishing and acknowledging; returns the last process.
    async fn take_payments(&self, python: &Path) -> Script {
        let group = ["--group", PAYMENTS, "--max-retries", "100"];
        for _ in 0..DEATHS {
            let hold = [group.as_slice(), &["--hold-after", PAYMENTS_BEFORE]].concat();
            let mut there = Script::start(python, "payments.py", &self.bus, &hold);
            until("a run of Python never ends", async || !there.said("holds").is_empty()).await;
            there.kill().await;
            let taken = self.nodes().await.into_iter().filter(|node| node.event_type == "PaymentTaken");
            self.assert_in_flight_with_effect(PAYMENTS, &taken.collect::<Vec<_>>()).await;
        }
        Script::start(python, "payments.py", &self.bus, &group)
    }

    /// Lets processes of this side die several times, in turn after a commit and before it; returns the last process.
    async fn prepare_shipments(&self) -> Actor {
        for _ in 0..DEATHS {
            let dies = self.start(SHIPPING, Death::AfterCommits(SHIPMENTS_BEFORE.into()));
            let (status, printed) = blocking(|| dies.wait()).await;
            assert_eq!(status.signal(), Some(SIGABRT), "{printed:?}");
            self.assert_in_flight_with_effect(SHIPPING, &stored(self.database.url(), SHIPPING).await).await;

            let dies = self.start(SHIPPING, Death::AfterRuns(SHIPMENTS_BEFORE.into()));
            blocking(move || {
                dies.until(&[HOLDS]);
                dies.kill()
            })
            .await;
        }
        self.start(SHIPPING, Death::Never)
    }

    /// Returns the entries of the stream.
    async fn published(&self) -> Vec<(String, Node)> {
        let stream = self.bus.config().stream_name();
        let entries: Vec<(String, BTreeMap<String, String>)> = command(&self.bus, "XRANGE", &[&stream, "-", "+"]).await;
        let node = |fields: &BTreeMap<_, String>| serde_json::from_str(&fields["payload"]).unwrap();
        entries.into_iter().map(|(entry_id, fields)| (entry_id, node(&fields))).collect()
    }

    async fn nodes(&self) -> Vec<Node> {
        self.published().await.into_iter().map(|(_, node)| node).collect()
    }

    /// Asserts that a process died between an effect and its acknowledgement.
    async fn assert_in_flight_with_effect(&self, group: &str, effects: &[Node]) {
        let stream = self.bus.config().stream_name();
        let pending: Vec<(String, String, u64, u64)> =
            command(&self.bus, "XPENDING", &[&stream, group, "-", "+", "1000"]).await;
        let pending: BTreeSet<_> = pending.into_iter().map(|(entry_id, ..)| entry_id).collect();
        let in_flight = self.published().await.into_iter().filter(|(entry_id, _)| pending.contains(entry_id));
        let in_flight: BTreeSet<_> = in_flight.map(|(_, node)| node.number).collect();
        let has_effect = effects.iter().any(|effect| in_flight.contains(&effect.number));
        assert!(has_effect, "{group}: no order in flight has an effect: {in_flight:?}");
    }

    /// Returns the runs that the handler of a group recorded: more than orders, because killed runs are repeated.
    async fn runs(&self, group: &str) -> Vec<Edge> {
        let key = runs_key(&self.bus.config().stream_prefix, group);
        let runs: Vec<String> = command(&self.bus, "LRANGE", &[&key, "0", "-1"]).await;
        assert!(runs.len() as u64 > ORDERS, "{group}: {}", runs.len());
        runs.iter().map(|run| serde_json::from_str(run).unwrap()).collect()
    }

    async fn evidence(&self) -> Evidence {
        let url = self.database.url();
        let stored = [stored(url, SALES).await, stored(url, SHIPPING).await].concat();
        let runs = [self.runs(PAYMENTS).await, self.runs(SHIPPING).await].concat();
        Evidence { stored, published: self.nodes().await, runs }
    }
}

/// Runs what blocks its thread.
async fn blocking<T: Send + 'static>(blocks: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(blocks).await.unwrap()
}

with_each_release!(each_order_has_one_tree_over_three_services_that_are_killed);

async fn each_order_has_one_tree_over_three_services_that_are_killed(python: &Path) {
    let world = World { bus: bus().await, database: eventbus_test::postgres() };
    let sales = world.start(SALES, Death::Never);
    let (mut payments, mut shipping) = tokio::join!(world.take_payments(python), world.prepare_shipments());
    let (status, printed) = blocking(|| sales.wait()).await;
    assert!(status.success(), "{printed:?}");
    for group in [PAYMENTS, SHIPPING] {
        pending(&world.bus, &Name::from_static(group), 0).await;
    }
    payments.end().await;
    shipping.resume();
    let (status, printed) = blocking(|| shipping.wait()).await;
    assert!(status.success(), "{printed:?}");

    let evidence = world.evidence().await;
    let faults = evidence.faults();
    assert!(faults.is_empty(), "{} faults, as {}", faults.len(), faults[0]);
    every_break_is_found(&evidence);
}

/// The audit finds each fault that is made in good evidence, in rows and entries alike.
fn every_break_is_found(good: &Evidence) {
    let last = good.stored.last().unwrap();
    let in_both = |bad: &mut Evidence, change: &dyn Fn(&mut Node)| {
        let both = bad.stored.iter_mut().chain(&mut bad.published);
        both.filter(|node| node.event_id == last.event_id).for_each(change);
    };
    let add_to_both = |bad: &mut Evidence, node: Node| {
        bad.stored.push(node.clone());
        bad.published.push(node);
    };
    type Break<'b> = &'b dyn Fn(&mut Evidence);
    let breaks: [(&str, Break<'_>); 9] = [
        ("entries and rows differ", &|bad| bad.stored.truncate(bad.stored.len() - 1)),
        ("an event is there twice", &|bad| add_to_both(bad, last.clone())),
        ("events with several effects", &|bad| add_to_both(bad, Node { event_id: Uuid::nil(), ..last.clone() })),
        ("no tree", &|bad| in_both(bad, &|node| node.causation_id = None)),
        ("no tree", &|bad| in_both(bad, &|node| node.causation_id = Some(good.stored[0].event_id))),
        ("no tree", &|bad| in_both(bad, &|node| node.correlation_id = Uuid::nil())),
        ("no tree", &|bad| bad.published.retain(|node| Some(node.event_id) != last.causation_id)),
        ("edges without a run", &|bad| bad.runs.retain(|(_, effect)| *effect != last.event_id)),
        ("events with a run and without an edge", &|bad| bad.runs.push((Uuid::nil(), Uuid::max()))),
    ];
    for (expected, break_it) in breaks {
        let mut bad = good.clone();
        break_it(&mut bad);
        let faults = bad.faults();
        assert!(faults.iter().any(|fault| fault.starts_with(expected)), "{expected}: {faults:?}");
    }
}
