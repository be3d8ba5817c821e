//! Places where one process follows the other, each to die in its turn.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use fastrand::Rng;

use super::{Program, Scene, child::End, gauge::Gauge, role::Settings, tally::Tally};
use crate::fire::{
    Trouble,
    doom::{Death, POINTS},
};

pub(super) const WRITERS: u64 = 2;
pub(super) const WORKERS: u64 = 2;

/// Of the workers the one that often relays.
pub(super) const LEADER: u64 = WRITERS;

/// Where who plays in a slot dies. Of the workers one mostly dies at what the owner of a lease does, which takes its time,
/// and the other one, which makes room for that, at what every process does.
fn slot_points(number: u64) -> Vec<(&'static str, bool)> {
    const OWNERS: [&str; 5] = ["publish", "floors", "checkpoint", "switch", "switched"];
    let is_here = |point: &str| match number {
        0..WRITERS => point == "append",
        LEADER => OWNERS.contains(&point),
        _ => !OWNERS.contains(&point) && !["append", "adopt"].contains(&point),
    };
    POINTS.into_iter().filter(|(point, _)| is_here(point)).collect()
}

/// Points by turns, in an order of its own; one that nobody reached comes again.
struct Round(VecDeque<(&'static str, bool)>);

impl Round {
    fn new(mut points: Vec<(&'static str, bool)>, random: &mut Rng) -> Self {
        random.shuffle(&mut points);
        Self(points.into())
    }

    fn next(&self) -> Option<(&'static str, bool)> {
        self.0.front().copied()
    }

    fn reached(&mut self) {
        self.0.rotate_left(1);
    }
}

/// A place where one process follows the other.
pub(super) struct Slot {
    number: u64,
    scene: Arc<Scene>,
    program: Program,
    tally: Arc<Tally>,
    points: Round,
    gauge: Gauge,
    random: Rng,
}

impl Slot {
    pub(super) fn new(
        number: u64,
        program: Program,
        scene: Arc<Scene>,
        tally: Arc<Tally>,
        gauge: Gauge,
        mut random: Rng,
    ) -> Self {
        let points = Round::new(slot_points(number), &mut random);
        Self { number, scene, program, tally, points, gauge, random }
    }

    pub(super) async fn run(mut self, kills: u64) -> Result<(), Trouble> {
        let (writes, leads) = (self.number < WRITERS, self.number == LEADER);
        while !self.tally.is_enough(kills) {
            let name =
                if writes { format!("writer-{}", self.number) } else { format!("worker-{}", self.number - WRITERS) };
            let mut script = self.scene.script(&name, self.random.u64(..), writes);
            script.death = self.some_death();
            script.rebuilds = script.death.as_ref().is_some_and(|death| death.point.starts_with("switch"));
            // the owner of a lease dies at a point only after the lease of the owner before it has run out
            let takeover = script.settings.lease() - Settings::Short.lease();
            let time = match (writes, &script.death) {
                (true, _) => Duration::from_millis(self.random.u64(1_000..6_000)),
                (false, None) => Duration::from_millis(self.random.u64(300..2_000)),
                (false, Some(_)) if leads => Duration::from_secs(10) + 2 * takeover,
                (false, Some(_)) => Duration::from_secs(3) + 2 * takeover,
            };
            let end = self.program.spawn(&script)?.live(time).await?;
            let death = script.death.filter(|_| end == End::AtPoint);
            self.tally.add(self.number, death.as_ref());
            if !writes {
                self.gauge.fault();
            }
            if death.is_some() {
                self.points.reached();
            }
        }
        Ok(())
    }

    /// At the next named point, or in one of five cases none.
    fn some_death(&mut self) -> Option<Death> {
        let (point, after) = self.points.next().filter(|_| self.random.u8(..5) > 0)?;
        let nth = match point {
            "floors" | "switch" | "switched" => 1,
            "append" => self.random.u64(1..=100),
            _ => self.random.u64(1..=12),
        };
        Some(Death { point: point.into(), after, nth })
    }
}
