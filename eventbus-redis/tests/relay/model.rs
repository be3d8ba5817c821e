//! In any sequence of faults a floor is never above the events that a group has finished, and at the end each group has
//! finished all events.

use std::collections::{BTreeMap, BTreeSet};

use eventbus::{
    Name,
    relay::{GroupFloor, GroupFloors, RangeOutcome, ResyncOutcome},
};
use eventbus_redis::{GroupStart, Trim};
use proptest::{prelude::*, test_runner::TestCaseResult};

use crate::{common::config, rig::Rig};

const GROUPS: [&str; 2] = ["one", "two"];

#[derive(Debug, Clone)]
enum Step {
    Append(u64),
    Publish(u64),
    Look,
    Read(usize, usize),
    Acknowledge(usize, usize),
    /// A consumer dies, and reads its entries in flight anew.
    Restart(usize),
    Trim(u64),
    Foreign(usize),
    ForeignTrim(u64),
    DeleteAll,
    DeleteStream,
    DeleteRecord,
    DestroyGroup(usize),
    Rewind(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (1..40_u64).prop_map(Step::Append),
        8 => (1..20_u64).prop_map(Step::Publish),
        4 => Just(Step::Look),
        8 => (0..2_usize, 1..150_usize).prop_map(|(group, count)| Step::Read(group, count)),
        8 => (0..2_usize, 1..150_usize).prop_map(|(group, count)| Step::Acknowledge(group, count)),
        1 => (0..2_usize).prop_map(Step::Restart),
        2 => (0..50_u64).prop_map(Step::Trim),
        2 => (1..130_usize).prop_map(Step::Foreign),
        2 => (0..30_u64).prop_map(Step::ForeignTrim),
        1 => Just(Step::DeleteAll),
        1 => Just(Step::DeleteStream),
        1 => Just(Step::DeleteRecord),
        1 => (0..2_usize).prop_map(Step::DestroyGroup),
        1 => (0..100_u64).prop_map(Step::Rewind),
    ]
}

/// The contents of a store, and the entries that the consumers of the groups have in flight and have handled.
struct Model {
    rig: Rig,
    newest: u64,
    position: u64,
    floors: BTreeMap<String, u64>,
    in_hand: [Vec<(String, u64)>; 2],
    handled: [BTreeSet<u64>; 2],
}

impl Model {
    async fn new() -> Self {
        let rig = Rig::on(config()).await;
        let floors = GROUPS.map(|group| (group.to_owned(), 0)).into();
        Self { rig, newest: 0, position: 0, floors, in_hand: Default::default(), handled: Default::default() }
    }

    async fn publish(&mut self, most: u64) {
        let through = self.newest.min(self.position + most).max(self.position);
        match self.rig.try_publish(self.position, through).await.unwrap() {
            RangeOutcome::Published(_) => self.position = through,
            RangeOutcome::Moved(to) => self.position = to.get(),
            RangeOutcome::Lost => self.adopt().await,
            other => panic!("{other:?}"),
        }
    }

    async fn adopt(&mut self) {
        let floor = self.floors.values().min().copied().unwrap();
        match self.rig.adopt(floor, &GROUPS).await {
            ResyncOutcome::At(to) | ResyncOutcome::Moved(to) => self.position = to.get(),
            other => panic!("{other:?}"),
        }
    }

    async fn look(&mut self) {
        let GroupFloors::Groups(seen) = self.rig.seen(&GROUPS).await else {
            return self.adopt().await;
        };
        let holes: Vec<_> = seen.iter().filter(|(_, floor)| *floor == GroupFloor::Gap).collect();
        for (group, floor) in &seen {
            if let GroupFloor::At(position) = floor {
                self.floors.insert(group.to_string(), position.get());
            }
        }
        if let Some(to) = holes.iter().map(|(group, _)| self.floors[group.as_str()]).min() {
            self.rewind(to).await;
        }
    }

    async fn rewind(&mut self, to: u64) {
        match self.rig.rewind(to).await {
            ResyncOutcome::At(to) | ResyncOutcome::Moved(to) => self.position = to.get().min(self.newest),
            other => panic!("{other:?}"),
        }
    }

    async fn read(&mut self, group: usize, count: usize) {
        let name = GROUPS[group];
        self.rig.bus.create_group(&Name::from_static(name), GroupStart::Beginning).await.unwrap();
        let read = self.rig.read(name, count).await;
        self.in_hand[group].extend(read);
    }

    async fn acknowledge(&mut self, group: usize, count: usize) {
        let hand = &mut self.in_hand[group];
        let some: Vec<_> = hand.drain(..count.min(hand.len())).collect();
        if some.is_empty() {
            return;
        }
        let mut acknowledge = vec!["XACK", &self.rig.stream, GROUPS[group]];
        acknowledge.extend(some.iter().map(|(id, _)| id.as_str()));
        self.rig.run(&acknowledge).await;
        self.handled[group].extend(some.iter().map(|(_, position)| *position));
    }

    /// The relay checks before removed entries leave the pending ones.
    async fn restart(&mut self, group: usize) {
        self.look().await;
        self.in_hand[group].clear();
        self.in_hand[group] = self.rig.read_again(GROUPS[group]).await;
    }

    async fn run(&mut self, step: Step) {
        let stream = self.rig.stream.clone();
        match step {
            Step::Append(count) => self.newest += count,
            Step::Publish(most) => self.publish(most).await,
            Step::Look => self.look().await,
            Step::Read(group, count) => self.read(group, count).await,
            Step::Acknowledge(group, count) => self.acknowledge(group, count).await,
            Step::Restart(group) => self.restart(group).await,
            Step::Trim(length) => {
                self.rig.bus.trim(Trim { max_length: Some(length), max_age: None }).await.unwrap();
            }
            Step::Foreign(count) => self.rig.add_foreign(count).await,
            Step::ForeignTrim(length) => self.rig.run(&["XTRIM", &stream, "MAXLEN", &length.to_string()]).await,
            Step::DeleteAll => {
                self.rig.run(&["DEL", &stream, &self.rig.key("relay"), &self.rig.key("floors")]).await;
                self.pass_a_millisecond().await;
            }
            Step::DeleteStream => {
                self.rig.run(&["DEL", &stream]).await;
                self.pass_a_millisecond().await;
            }
            Step::DeleteRecord => self.rig.run(&["DEL", &self.rig.key("relay")]).await,
            Step::DestroyGroup(group) => {
                drop(self.rig.try_command::<redis::Value>(&["XGROUP", "DESTROY", &stream, GROUPS[group]]).await)
            }
            Step::Rewind(to) => self.rewind(to).await,
        }
    }

    /// A stream that is lost and made anew within one millisecond may reuse ids of the former one.
    async fn pass_a_millisecond(&self) {
        let ms = async || {
            let (seconds, micros): (u64, u64) = self.rig.command(&["TIME"]).await;
            seconds * 1_000 + micros / 1_000
        };
        let begin = ms().await;
        while ms().await == begin {}
    }

    fn check(&self) -> TestCaseResult {
        for (group, handled) in GROUPS.iter().zip(&self.handled) {
            let floor = self.floors[*group];
            let unfinished = (1..=floor).find(|position| !handled.contains(position));
            prop_assert_eq!(unfinished, None, "the floor of {} is {}", group, floor);
        }
        Ok(())
    }

    /// Handles until every group has finished.
    async fn settle(&mut self) -> TestCaseResult {
        for _ in 0..30 {
            self.look().await;
            self.check()?;
            for _ in 0..=self.newest / 20 {
                self.publish(20).await;
            }
            for group in 0..GROUPS.len() {
                self.read(group, 100_000).await;
                self.acknowledge(group, 100_000).await;
            }
            if self.position == self.newest && self.floors.values().all(|floor| *floor == self.newest) {
                return Ok(());
            }
        }
        prop_assert!(false, "it never settles: floors {:?} of {}, at {}", self.floors, self.newest, self.position);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn floors_are_true_and_everything_is_handled(steps in prop::collection::vec(step(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut model = Model::new().await;
            for step in steps {
                model.run(step).await;
                model.check()?;
            }
            model.settle().await?;
            model.rig.run(&["DEL", &model.rig.stream]).await;
            Ok::<_, TestCaseError>(())
        })?;
    }
}
