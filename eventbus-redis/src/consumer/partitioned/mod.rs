//! The consumer of one group where the stream has partitions: it owns some of them, and what it reads from all of them is
//! in one hand.
//!
//! Keep: only the owner of a partition reads it, and the server checks that within the script that reads. A new owner
//! gets everything that is pending there, in order, before it reads on. Whoever loses a partition forgets all it has of
//! it.

mod fetch;
mod keep;
mod owned;
mod share;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eventbus::{
    Name,
    port::{Hand, StopSignal},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::owned::Owned;
use super::Consumer;
use crate::{bus::Shared, command, connection::CommandError};

/// The consumer of one group.
struct Partitioned {
    /// What it would be without partitions. It has the hand and knows the handlers; it reads nothing itself.
    front: Consumer,
    owned: Mutex<Owned>,
    /// Tells the reader that it has other partitions than before.
    changed: Notify,
    /// Tells the keeper that a partition was lost.
    lost: Notify,
}

/// Hands the group its events until it is stopped; connects anew as often as it must.
pub(super) async fn consume(shared: Arc<Shared>, group: Name, hand: Arc<Hand>, stop: StopSignal) {
    let consumer = Partitioned {
        front: Consumer::new(shared, group, hand),
        owned: Mutex::default(),
        changed: Notify::new(),
        lost: Notify::new(),
    };
    let desk = consumer.front.desk();
    let ended = CancellationToken::new();
    let work = async {
        let trim = consumer.front.trim(&stop, || consumer.owned().streams());
        let release = consumer.front.release(&stop);
        tokio::join!(consumer.front.hand.work(&desk, &stop), consumer.fetch(&stop), release, trim);
        ended.cancel();
    };
    tokio::join!(work, consumer.keep(&ended));
}

impl Partitioned {
    fn owned(&self) -> MutexGuard<'_, Owned> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.front.shared
    }

    /// How long it owns a partition without a sign of life.
    fn lease(&self) -> Duration {
        Duration::from_millis(self.shared().config.partition_lease_ms)
    }

    /// Does what is to be done when the server refuses something about a partition; any other error is the caller's.
    async fn refused(&self, part: &Arc<Consumer>, error: CommandError) -> Result<(), CommandError> {
        if command::is_fenced(&error) {
            self.owned().lost(part);
            self.lost.notify_one();
            return Ok(());
        }
        if command::is_no_group(&error) {
            part.make_group_anew().await?;
            self.owned().read_again(part);
            return Ok(());
        }
        Err(error)
    }
}
