//! Slots: in each one, processes run and die one after the other.

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

/// The slot of the worker that is often the relay's leader.
pub(super) const LEADER: u64 = WRITERS;

/// Returns the fail points of a slot. One worker mostly dies at the calls of a lease owner, which take time to reach;
/// the second one dies at calls of every process, and thereby frees the leases for the first.
fn fail_points_of(number: u64) -> Vec<(&'static str, bool)> {
    const OWNERS: [&str; 4] = ["publish", "checkpoint", "switch", "switched"];
    let is_here = |point: &str| match number {
        0..WRITERS => point == "append",
        LEADER => OWNERS.contains(&point),
        _ => !OWNERS.contains(&point) && !["append", "begin"].contains(&point),
    };
    FAIL_POINTS.into_iter().filter(|(point, _)| is_here(point)).collect()
}

/// The fail points in turn, in random order; one that was not reached stays first.
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

/// A slot in which one process follows the other.
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
            // the next owner of a lease reaches its fail point only after the lease of the former owner has expired
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

    /// Returns the next fail point, or none in one of five cases.
    fn next_crash(&mut self) -> Option<CrashPoint> {
        let (point, after) = self.fail_points.current().filter(|_| self.random.u8(..5) > 0)?;
        let nth = match point {
            "switch" | "switched" => 1,
            "append" => self.random.u64(1..=100),
            _ => self.random.u64(1..=12),
        };
        Some(CrashPoint { point: point.into(), after, nth })
    }
}
