//! Places where one process follows the other, each to die in its turn.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use fastrand::Rng;

use super::{
    Program, Scenario, child::ProcessEnd, crash_counts::CrashCounts, latency_probe::LatencyProbe,
    process_role::Settings,
};
use crate::fire::{
    HarnessError,
    failpoints::{CrashPoint, FAIL_POINTS},
};

pub(super) const WRITERS: u64 = 2;
pub(super) const WORKERS: u64 = 2;

/// Of the workers the one that often relays.
pub(super) const LEADER: u64 = WRITERS;

/// Where who plays in a slot dies. Of the workers one mostly dies at what the owner of a lease does, which takes its time,
/// and the other one, which makes room for that, at what every process does.
fn fail_points_of(number: u64) -> Vec<(&'static str, bool)> {
    const OWNERS: [&str; 5] = ["publish", "floors", "checkpoint", "switch", "switched"];
    let is_here = |point: &str| match number {
        0..WRITERS => point == "append",
        LEADER => OWNERS.contains(&point),
        _ => !OWNERS.contains(&point) && !["append", "adopt"].contains(&point),
    };
    FAIL_POINTS.into_iter().filter(|(point, _)| is_here(point)).collect()
}

/// Points by turns, in an order of its own; one that nobody reached comes again.
struct FailPointCycle(VecDeque<(&'static str, bool)>);

impl FailPointCycle {
    fn new(mut points: Vec<(&'static str, bool)>, random: &mut Rng) -> Self {
        random.shuffle(&mut points);
        Self(points.into())
    }

    fn current(&self) -> Option<(&'static str, bool)> {
        self.0.front().copied()
    }

    fn advance(&mut self) {
        self.0.rotate_left(1);
    }
}

/// A place where one process follows the other.
pub(super) struct ProcessSlot {
    number: u64,
    scenario: Arc<Scenario>,
    program: Program,
    crash_counts: Arc<CrashCounts>,
    fail_points: FailPointCycle,
    latency_probe: LatencyProbe,
    random: Rng,
}

impl ProcessSlot {
    pub(super) fn new(
        number: u64,
        program: Program,
        scenario: Arc<Scenario>,
        counts: Arc<CrashCounts>,
        latency_probe: LatencyProbe,
        mut random: Rng,
    ) -> Self {
        let points = FailPointCycle::new(fail_points_of(number), &mut random);
        Self { number, scenario, program, crash_counts: counts, fail_points: points, latency_probe, random }
    }

    pub(super) async fn run(mut self, kills: u64) -> Result<(), HarnessError> {
        let (writes, leads) = (self.number < WRITERS, self.number == LEADER);
        while !self.crash_counts.is_enough(kills) {
            let name =
                if writes { format!("writer-{}", self.number) } else { format!("worker-{}", self.number - WRITERS) };
            let mut script = self.scenario.process_config(&name, self.random.u64(..), writes);
            script.death = self.next_crash();
            script.rebuilds = script.death.as_ref().is_some_and(|death| death.point.starts_with("switch"));
            // the owner of a lease dies at a point only after the lease of the owner before it has run out
            let takeover = script.settings.lease() - Settings::Short.lease();
            let time = match (writes, &script.death) {
                (true, _) => Duration::from_millis(self.random.u64(1_000..6_000)),
                (false, None) => Duration::from_millis(self.random.u64(300..2_000)),
                (false, Some(_)) if leads => Duration::from_secs(10) + 2 * takeover,
                (false, Some(_)) => Duration::from_secs(3) + 2 * takeover,
            };
            let end = self.program.spawn(&script)?.run_for(time).await?;
            let death = script.death.filter(|_| end == ProcessEnd::AtPoint);
            self.crash_counts.record(self.number, death.as_ref());
            if !writes {
                self.latency_probe.record_fault();
            }
            if death.is_some() {
                self.fail_points.advance();
            }
        }
        Ok(())
    }

    /// At the next named point, or in one of five cases none.
    fn next_crash(&mut self) -> Option<CrashPoint> {
        let (point, after) = self.fail_points.current().filter(|_| self.random.u8(..5) > 0)?;
        let nth = match point {
            "floors" | "switch" | "switched" => 1,
            "append" => self.random.u64(1..=100),
            _ => self.random.u64(1..=12),
        };
        Some(CrashPoint { point: point.into(), after, nth })
    }
}
