//! Suspects: entries that were in flight when the process that had them ended. One of them may be the cause.
//!
//! To find it, one suspect of the bus runs at a time, after a delay, the one with the fewest ended runs first. The bus
//! counts the run before the handlers begin, and clears the count when they end. So an entry that ends its process each
//! time becomes a dead letter after five runs, and an entry that was only read ahead beside it is handled before it. An
//! entry that only waited for a retry, or was blocked behind an earlier one of its aggregate, is no suspect.
//!
//! Invariant: a suspect runs only after the bus has persisted the count of this run. If it counted later, a process end
//! that the entry causes would not count.
//!
//! This table shows the attempts that the bus persists at each step; [`state`](super::state) has all transitions.
//!
//! | stage | event | next stage | persisted attempts |
//! |---|---|---|---|
//! | – | added; in flight when its process ended | `Waiting` | `process_ends` + 1; `next_at`: in 1 s, 2 s … 1 min |
//! | – | the same, with `ended_alone` at 5 | `Finished` | moved to the dead letters |
//! | – | added as a suspect; its process was slow, and lives | `Suspect` | later: `ended_alone` - 1 |
//! | `Waiting` | its delay has passed | `Suspect` | – |
//! | `Suspect` | its turn: no other suspect of the bus runs | `Beginning` | `ended_alone` + 1, no `next_at` |
//! | `Beginning`, `Ready`, `Running` | nacked | – | `ended_alone` as before; `next_at`: now |
//! | `Running` | runs for ten seconds: the turn ends | `Running` | – |
//! | `Running` | handled, or failed as any other entry | see [`state`](super::state) | `process_ends` and `ended_alone`: 0 |
//! | `Running` | its group has no handlers any more | `Suspect` | – |
//! | any | the process ends | – | – |

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Lets one suspect of a bus run at a time; shared by its groups.
#[derive(Debug, Clone)]
pub struct SuspectLock(Arc<Semaphore>);

/// The permit of a suspect to run, until dropped.
#[derive(Debug)]
pub struct SuspectPermit {
    #[allow(dead_code, reason = "it is held, not read")]
    permit: Option<OwnedSemaphorePermit>,
}

impl Default for SuspectLock {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl SuspectLock {
    /// Waits until no other suspect runs.
    pub async fn acquire(&self) -> SuspectPermit {
        SuspectPermit { permit: Arc::clone(&self.0).acquire_owned().await.ok() } // it fails if closed, which it never is
    }
}
