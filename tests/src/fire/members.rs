//! Processes of a run that do the same at once: every second one is killed.

use std::{process::Stdio, time::Duration};

use fastrand::Rng;
use tokio::process::Child;

use super::{HarnessError, kills::Program, role::Role};

/// Number of members in each slot that make all of their attempts; as many are killed.
pub(super) const ROUNDS: u64 = 2;

/// The role of such a process.
pub(super) trait Member: Role {
    /// Number of attempts of all its writers.
    fn attempts(&self) -> u64;

    /// Returns the same with other random choices, which never ends if `is_endless`.
    fn with(&self, seed: u64, is_endless: bool) -> Self;
}

fn start<M: Member>(program: &Program, member: &M) -> Result<Child, HarnessError> {
    Ok(program.in_role(member)?.stderr(Stdio::inherit()).spawn()?)
}

/// Runs members in several slots, in each one after the other: every second one is killed, the others make all of their
/// attempts. Returns the number of those that were killed.
pub(super) async fn run<M: Member>(program: &Program, member: &M, slots: u64, seed: u64) -> Result<u64, HarnessError> {
    let mut random = Rng::with_seed(seed);
    let slots = (0..slots).map(|_| random.fork()).map(async |mut random| {
        let mut kills = 0;
        for _ in 0..ROUNDS {
            let mut killed = start(program, &member.with(random.u64(..), true))?;
            let longest = 100 + member.attempts() / 2;
            tokio::time::sleep(Duration::from_millis(random.u64(30..longest))).await; // any time will do
            killed.kill().await?;
            kills += 1;
            let ended = start(program, &member.with(random.u64(..), false))?.wait().await?;
            if !ended.success() {
                return Err(HarnessError::from(format!("a member ended by itself, {ended}")));
            }
        }
        Ok(kills)
    });
    Ok(futures_util::future::try_join_all(slots).await?.into_iter().sum())
}
