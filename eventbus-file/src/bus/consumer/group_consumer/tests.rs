//! Replays that an owner of a group receives.

use eventbus::{NewEvent, StreamId, Version};
use tempfile::TempDir;

use super::*;
use crate::{FileQueue, FileQueueConfig};

static GROUP: Name = Name::from_static("default");

async fn fresh() -> (TempDir, FileQueue) {
    let root = tempfile::tempdir().unwrap();
    let config = FileQueueConfig { sync: false, ..FileQueueConfig::at(root.path().join("queue")) };
    (root, FileQueue::open(config).await.unwrap())
}

fn outage(queue: &FileQueue) -> Outage {
    Outage::new(queue.config().clock.clone())
}

/// Acquires the group, as a worker that starts.
async fn acquire<'a>(queue: &'a FileQueue, outage: &'a mut Outage) -> Consumer<'a> {
    let acquire = |queue: &QueueInner| queue.groups().acquire_group(&GROUP, queue.subscribers());
    let owned = queue.inner().blocking(acquire).await.unwrap().expect("no other worker has the group");
    Consumer::new(queue.inner(), &GROUP, owned, outage)
}

/// Makes a dead letter of the group, and begins its replay.
fn replay(queue: &FileQueue, id: u64) {
    let event = NewEvent::new(Name::from_static("Deposited"), 1, "{}");
    let event = event.recorded_as(StreamId::parse("Account", &id.to_string()).unwrap(), Version::FIRST, None);
    let letters = queue.inner().dead_letters();
    letters.write_dead_letter(id, &GROUP, Some(&event), DeliveryAttempts::default()).unwrap();
    assert!(letters.start_replay(&format!("{id:012}-default")).unwrap());
}

/// Returns the replays that wait to become in-flight entries, each with `true` if it is marked as redelivered.
fn received(consumer: &Consumer<'_>) -> Vec<(u64, bool)> {
    let added = consumer.update.added.iter();
    added.map(|entry| (entry.id.as_str().parse().unwrap(), entry.is_redelivered)).collect()
}

#[cfg(unix)]
#[tokio::test]
async fn a_replay_that_cannot_be_read_now_is_received_later() {
    let (root, queue) = fresh().await;
    let mut outage = outage(&queue);
    let mut consumer = acquire(&queue, &mut outage).await;
    replay(&queue, 1);
    consumer.receive_replays().await.unwrap();
    replay(&queue, 2);
    let (folder, away) = (root.path().join("queue/replays"), root.path().join("away"));
    std::fs::rename(&folder, &away).unwrap();
    // it can be listed, and reading from it fails, as on a broken disk
    std::os::unix::fs::symlink(&away, &folder).unwrap();
    assert!(consumer.receive_replays().await.unwrap_err().is_retryable());
    assert_eq!(received(&consumer), [(1, false)], "those before are kept");
    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(&away, &folder).unwrap();
    consumer.receive_replays().await.unwrap();
    assert_eq!(received(&consumer), [(1, false), (2, false)]);
}
