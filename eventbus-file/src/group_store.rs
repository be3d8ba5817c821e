//! The progress of a group, and its consumer: a claim below `subscriptions/` whose data is the progress.
//!
//! Invariant: an operator retires a group by the claim of the next epoch. The file of that claim stays, so that writes
//! by a worker of an earlier epoch have no effect, as after a takeover by a different worker.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use eventbus::{
    Name,
    delivery::{DeliveryAttempts, GroupTypes, Subscribers},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    claim_store::{Claim, ClaimStore, NewClaim},
    dead_letter_files::DeadLetterFiles,
    error::{FileQueueError, Result},
    event,
    folder::QueueFolder,
    log::EventLog,
};

/// The most bytes of error texts that the file of a group holds: each save writes the file whole, and a file of more than
/// 128 MiB cannot be read.
const ERROR_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The only field in the data of a retired group's claim: `true`.
const RETIRED: &str = "retired";

/// Progress of a group.
///
/// | state of an event | event | next state |
/// |---|---|---|
/// | after `read` | the consumer receives it and saves the progress | open: in flight |
/// | open | its handlers succeed, or skip it | finished |
/// | open | a handler fails and has attempts left | open: waits for the retry, with its attempts |
/// | open | no handler is here that wants it or can decode it | open: received again when the handlers change |
/// | open | it fails for good, or its file is torn | finished, after its dead letter is written |
/// | open | the group passes to the next owner | open: redelivered there |
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Progress {
    /// The newest event that the group received.
    pub(crate) read: u64,
    /// Every event up to here is finished; stored only for human readers of the file.
    finished_through: u64,
    /// Events that the group received and has not finished, with their attempts so far.
    pub(crate) open: BTreeMap<u64, DeliveryAttempts>,
    /// Replays that the consumer received and has not finished: the next owner counts a process end for them. Their
    /// attempts are in their own files.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) replays: BTreeSet<u64>,
    /// Event types that the group ever announced, and the events that it left unhandled.
    pub(crate) types: GroupTypes,
    /// The handlers of the worker that consumes.
    pub(crate) handlers: Vec<String>,
    /// The queue of these events: in a different queue, the group begins anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) queue_id: Option<Uuid>,
    /// The epoch in which the group began anew, after an operator retired it or in a different queue; `None` if it never
    /// did. A dead letter with a different one does not finish an event of this progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first_epoch: Option<u64>,
}

impl Progress {
    /// Returns the id up to which every event is finished.
    pub(crate) fn finished_through(&self) -> u64 {
        let oldest = self.open.keys().next().copied().into_iter().chain(self.types.oldest_unfinished()).min();
        oldest.map_or(self.read, |oldest| self.read.min(oldest.saturating_sub(1)))
    }

    /// Returns the number of events that are open, or wait for a handler that is not here.
    pub(crate) fn count_pending(&self) -> u64 {
        self.open.len() as u64 + self.types.count_left_pending()
    }

    /// Returns the number of unread events, computed from ids: gaps count, and so do ids that are not published yet, or
    /// never will be, below the newest.
    pub(crate) fn count_unread(&self, head: u64, removed_through: u64) -> u64 {
        // a skipped range that is due is read again
        let due = u64::from(self.types.due().is_some());
        head.saturating_sub(self.read.max(removed_through)) + due
    }

    pub(crate) fn to_value(&self) -> Result<Value> {
        let mut stored = Self { finished_through: self.finished_through(), ..self.clone() };
        stored.shorten_errors();
        event::to_value("the progress", &stored)
    }

    /// Cuts the texts of errors, so that the file of the group stays far below the size that can be read.
    fn shorten_errors(&mut self) {
        let failures = self.open.values().flat_map(|attempts| attempts.failed.values());
        let (count, bytes) = failures.fold((0, 0), |(count, bytes), failure| (count + 1, bytes + failure.error.len()));
        if bytes <= ERROR_BYTES_MAX {
            return;
        }
        for failure in self.open.values_mut().flat_map(|attempts| attempts.failed.values_mut()) {
            failure.error.truncate(failure.error.floor_char_boundary(ERROR_BYTES_MAX / count));
        }
    }
}

/// Numbers of the unfinished events of a retired group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RetiredGroup {
    /// Events that the group had read and not finished, and replays that it had not finished.
    pub pending: u64,
    /// Events that the group had not read; gaps count.
    pub unread: u64,
}

/// The claim of the worker that consumes for a group, or was the last to do so, and the group's progress. Without a
/// claim the group does not exist.
pub(crate) type LoadedGroup = (Option<Claim>, Progress);

/// A group that this worker consumes for.
#[derive(Debug)]
pub(crate) struct OwnedGroup {
    pub(crate) claim: Claim,
    pub(crate) progress: Progress,
    /// Set if the previous owner did not release the group: it died, or lost it.
    pub(crate) was_abandoned: bool,
}

/// The groups: one claim each, owned by the worker that consumes for it, with the group's progress as its data.
#[derive(Debug)]
pub(crate) struct GroupStore {
    claims: ClaimStore,
    folder: Arc<QueueFolder>,
    log: Arc<EventLog>,
}

impl GroupStore {
    pub(crate) fn new(claims: ClaimStore, folder: Arc<QueueFolder>, log: Arc<EventLog>) -> Self {
        Self { claims, folder, log }
    }

    /// Returns the claims of the groups, for the check of the folder.
    pub(crate) fn claims(&self) -> &ClaimStore {
        &self.claims
    }

    /// Loads the newest claim of a group; `None` if there is no such group, or if an operator retired it.
    fn load_claim(&self, group: &Name) -> Result<Option<Claim>> {
        Ok(self.claims.load_newest(group)?.filter(|claim| !is_retired(claim)))
    }

    /// Loads the claim of the worker that consumes for a group, or was the last to do so, and the group's progress.
    pub(crate) fn load_group(&self, group: &Name) -> Result<LoadedGroup> {
        self.load_claim(group).and_then(|claim| self.with_progress(claim))
    }

    /// Loads the groups one by one, sorted by name, without those that an operator retired.
    pub(crate) fn load_groups(&self) -> Result<impl Iterator<Item = (Name, Result<LoadedGroup>)>> {
        let groups = self.claims.list_ids()?.into_iter().filter_map(|name| Name::new("group", name).ok());
        // a foreign file is no group; a path that cannot be inspected now may be a group
        let groups = groups.filter(|group| !self.claims.folder_of(group).is_ok_and(|folder| folder.is_file()));
        Ok(groups.filter_map(|group| match self.claims.load_newest(&group) {
            Ok(Some(claim)) if is_retired(&claim) => None,
            claim => Some((group, claim.and_then(|claim| self.with_progress(claim)))),
        }))
    }

    fn with_progress(&self, claim: Option<Claim>) -> Result<LoadedGroup> {
        let progress = match &claim {
            Some(claim) => self.decode_progress(Some(claim))?,
            None => Progress::default(),
        };
        Ok((claim, progress))
    }

    /// Returns the progress in a claim. If an operator retired the group, or the claim is of a different queue than the
    /// folder holds, there is none yet: the group begins anew in the next epoch.
    fn decode_progress(&self, claim: Option<&Claim>) -> Result<Progress> {
        let queue_id = Some(self.folder.queue_id());
        let Some(claim) = claim else {
            return Ok(Progress { queue_id, ..Progress::default() });
        };
        let stored = claim.data::<Progress>()?;
        let is_of_queue = stored.queue_id.is_none() || stored.queue_id == queue_id;
        Ok(match is_of_queue && !is_retired(claim) {
            true => Progress { queue_id, ..stored },
            false => Progress { queue_id, first_epoch: Some(claim.epoch + 1), ..Progress::default() },
        })
    }

    /// Removes a group without a claim, which never consumed: a worker died between making its folder and the claim.
    /// Returns `false` if its folder is not empty: another worker may have made the claim since.
    pub(crate) fn remove_unclaimed(&self, group: &Name) -> Result<bool> {
        Ok(std::fs::remove_dir(self.claims.folder_of(group)?).is_ok())
    }

    /// Makes a group if it is missing. The group begins after the id `read`, and no later event is removed before the
    /// group has finished it.
    pub(crate) fn make_group(&self, group: &Name, read: u64) -> Result<()> {
        if self.load_claim(group)?.is_some() {
            return Ok(());
        }
        let data = |before: Option<&Claim>| {
            let progress = self.decode_progress(before)?;
            match before.is_none_or(is_retired) {
                true => Progress { read, ..progress }.to_value(),
                false => progress.to_value(), // a worker has made the group meanwhile
            }
        };
        if let Some(NewClaim { claim: now, .. }) = self.claims.create_with(group, false, data)? {
            self.claims.release(&now)?;
        }
        Ok(())
    }

    /// Makes a group without a consumer skip a type from now on.
    pub(crate) fn forget_event_type(&self, group: &Name, event_type: &str) -> Result<bool> {
        let mut was_announced = false;
        let forgotten = self.change_group(group, |mut progress| {
            was_announced = progress.types.forget(event_type);
            progress.to_value()
        });
        match forgotten {
            // a group that is made here would hold back the removal of events
            Err(FileQueueError::GroupNotFound { .. }) => Ok(false),
            forgotten => {
                self.claims.release(&forgotten?)?;
                Ok(was_announced)
            }
        }
    }

    /// Creates the next claim of a group without a consumer, with data that follow from its progress.
    fn change_group(&self, group: &Name, data: impl FnOnce(Progress) -> Result<Value>) -> Result<Claim> {
        let changed = self.claims.create_with(group, false, |before| {
            let known = before.filter(|claim| !is_retired(claim));
            let known = known.ok_or_else(|| FileQueueError::GroupNotFound { group: group.clone() })?;
            data(self.decode_progress(Some(known))?)
        })?;
        let changed = changed.ok_or_else(|| FileQueueError::GroupInUse { group: group.clone() })?;
        Ok(changed.claim)
    }

    /// Removes a group for good in one step, by the claim of its next epoch, then makes its replays dead letters again.
    /// If the process dies between the two steps, the next call completes the second.
    pub(crate) fn retire_group(&self, group: &Name, dead_letters: &DeadLetterFiles) -> Result<RetiredGroup> {
        let (head, removed_through) = (self.log.head()?, self.log.removed_through()?);
        let mut retired = RetiredGroup { pending: 0, unread: 0 };
        let is_known = self.load_claim(group)?.is_some();
        if is_known {
            let claim = self.change_group(group, |progress| {
                retired.pending = progress.count_pending();
                retired.unread = progress.count_unread(head, removed_through);
                Ok(json!({ RETIRED: true }))
            })?;
            let released = self.claims.release(&claim);
            if let Err(error) = released.and_then(|claim| self.claims.remove_epochs_before(&claim)) {
                // the claim expires, and the next owner of a group of that name removes the files
                tracing::debug!(%group, error = error.log(), "the claim of a retired group is not released");
            }
        }
        let returned = dead_letters.return_replays(group)?;
        if !is_known && returned == 0 {
            self.folder.check_present()?; // else the group may exist
            return Err(FileQueueError::GroupNotFound { group: group.clone() });
        }
        retired.pending += returned;
        Ok(retired)
    }

    /// Acquires a group that no other worker consumes for; `None` if one does.
    pub(crate) fn acquire_group(
        &self,
        group: &Name,
        subscribers: &Subscribers,
        dead_letters: &DeadLetterFiles,
    ) -> Result<Option<OwnedGroup>> {
        let handlers = || {
            let subscribers = subscribers.of_group(group);
            subscribers.iter().map(|handler| handler.name().to_string()).collect()
        };
        let of = |claim: Option<&Claim>| -> Result<Progress> {
            Ok(Progress { handlers: handlers(), ..self.decode_progress(claim)? })
        };
        if subscribers.start_now(group) && self.load_claim(group)?.is_none() {
            self.make_group(group, self.log.head()?)?;
        }
        // `before` may be stale: its owner may save progress until the new epoch begins. If this worker dies before its
        // first save, the next owner gets that older progress. It is a consistent state: events are delivered again,
        // and none is lost.
        let claimed = self.claims.create_with(group, true, |before| of(before)?.to_value())?;
        let Some(NewClaim { claim: now, .. }) = claimed else {
            return Ok(None);
        };
        // read again: the previous owner may have saved progress until the new epoch began, and can no longer do so
        let before = self.load_previous(&now)?;
        if before.as_ref().is_some_and(is_retired) {
            tracing::warn!(%group, "an operator retired the group, but this worker consumes for it: it begins with the oldest event");
        }
        let was_abandoned = before.as_ref().is_some_and(|before| before.released_at.is_none());
        let mut progress = of(before.as_ref())?;
        if !progress.replays.is_empty() {
            // the previous owner may have ended between removing a replay's file and saving the progress
            let replays = dead_letters.list_replays(group)?;
            progress.replays.retain(|id| replays.contains(id));
        }
        self.claims.remove_epochs_before(&now)?;
        Ok(Some(OwnedGroup { claim: now, progress, was_abandoned }))
    }

    /// Loads the claim of the previous owner; `None` if a claim is the group's first.
    fn load_previous(&self, claim: &Claim) -> Result<Option<Claim>> {
        let before = self.claims.load_epoch(&claim.claim_id, claim.epoch - 1)?;
        if before.is_none() {
            self.folder.check_present()?; // else the group begins anew
        }
        Ok(before)
    }

    /// Saves the progress of a group as the owner of its claim: renews the claim, or releases it with the last progress.
    pub(crate) fn save_progress(&self, claim: &Claim, progress: Value, is_last: bool) -> Result<Claim> {
        let claim = Claim { data: progress, ..claim.clone() };
        if is_last { self.claims.release(&claim) } else { self.claims.renew(&claim) }
    }

    /// Returns `ClaimLost` unless this worker owns the claim and its epoch is the group's latest; the claim may have
    /// expired.
    pub(crate) fn check_owned(&self, claim: &Claim) -> Result<()> {
        self.claims.check_owned(claim)
    }
}

/// Returns `true` if an operator retired the group of a claim, and no worker has consumed for it since.
fn is_retired(claim: &Claim) -> bool {
    claim.data[RETIRED] == true
}

#[cfg(test)]
mod tests {
    use eventbus::clock::SharedClock;

    use super::*;
    use crate::{FileQueue, FileQueueConfig};

    /// Fails if many open events with long errors make a file that no worker can read.
    #[test]
    fn the_errors_of_many_open_events_are_cut() {
        let saved = |events: u64| {
            let error = format!("a{}", "é".repeat(1_999));
            let attempts = DeliveryAttempts::undecodable(error, &SharedClock::SYSTEM);
            let open = (1..=events).map(|id| (id, attempts.clone())).collect();
            let stored: Progress =
                serde_json::from_value(Progress { open, ..Progress::default() }.to_value().unwrap()).unwrap();
            let errors =
                stored.open.values().flat_map(|attempts| attempts.failed.values().map(|failed| failed.error.len()));
            let lengths: BTreeSet<_> = errors.collect();
            (stored.open.len() as u64, lengths.into_iter().collect::<Vec<_>>())
        };
        assert_eq!(saved(4_000), (4_000, vec![3_999]));
        assert_eq!(saved(8_000), (8_000, vec![2_097]), "16 MiB of 8,000");
    }

    fn names(queue: &FileQueue) -> Vec<Name> {
        queue.inner().groups().load_groups().unwrap().map(|(group, _)| group).collect()
    }

    fn acquire(queue: &FileQueue, group: &Name) -> OwnedGroup {
        let queue = queue.inner();
        queue.groups().acquire_group(group, queue.subscribers(), queue.dead_letters()).unwrap().unwrap()
    }

    fn retire(queue: &FileQueue, group: &Name) -> Result<RetiredGroup> {
        queue.inner().groups().retire_group(group, queue.inner().dead_letters())
    }

    #[tokio::test]
    async fn a_worker_that_was_slow_writes_no_progress_of_a_retired_group() {
        let root = tempfile::tempdir().unwrap();
        let queue = FileQueue::open(FileQueueConfig::at(root.path().join("queue"))).await.unwrap();
        queue.publish_all(&[1, 2, 3]).await.unwrap();
        let (groups, name) = (queue.inner().groups(), Name::from_static("default"));
        let acquire = || acquire(&queue, &name);
        let owned = acquire();
        let open = BTreeMap::from([(1, DeliveryAttempts::default())]);
        let progress = Progress { read: 1, open, ..owned.progress }.to_value().unwrap();
        assert!(matches!(retire(&queue, &name), Err(FileQueueError::GroupInUse { .. })));
        let claim = groups.save_progress(&owned.claim, progress.clone(), true).unwrap();
        assert_eq!(retire(&queue, &name).unwrap(), RetiredGroup { pending: 1, unread: 2 });
        let late = groups.save_progress(&claim, progress, true);
        assert!(matches!(late, Err(FileQueueError::ClaimLost { .. })), "{late:?}");
        assert_eq!(groups.load_group(&name).unwrap(), (None, Progress::default()));
        let anew = acquire();
        assert_eq!((anew.progress.read, anew.progress.open.len(), anew.was_abandoned), (0, 0, false));
        assert_eq!(names(&queue), std::slice::from_ref(&name));
    }

    /// Fails if a process that dies between two steps leaves a replay that no worker receives and no operator sees.
    #[tokio::test]
    async fn a_retirement_that_was_interrupted_is_completed_by_the_next_call() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("queue");
        let queue = FileQueue::open(FileQueueConfig::at(&folder)).await.unwrap();
        let (groups, dead_letters) = (queue.inner().groups(), queue.inner().dead_letters());
        let record = event::record_of_payload("one").unwrap();
        for (group, dies_before_release) in [("a", true), ("b", false)] {
            let (group, stem) = (Name::from_static(group), format!("000000000001-{group}"));
            groups.make_group(&group, 0).unwrap();
            dead_letters.write_dead_letter(1, &group, None, Some(&record), DeliveryAttempts::default()).unwrap();
            assert!(dead_letters.start_replay(&stem).unwrap());
            let used = DeliveryAttempts::from_json(r#"{"attempts":3,"done":["mail"]}"#).unwrap();
            dead_letters.save_replay_attempts(1, &group, used).unwrap();
            if dies_before_release {
                groups.change_group(&group, |_| Ok(json!({ RETIRED: true }))).unwrap();
            } else {
                let blocked = folder.join("dead_letters").join(format!("{stem}.json"));
                std::fs::create_dir(&blocked).unwrap(); // the file cannot be moved there, as if the process died before
                retire(&queue, &group).unwrap_err();
                std::fs::remove_dir(&blocked).unwrap();
            }
            assert!(names(&queue).is_empty());
            assert_eq!(retire(&queue, &group).unwrap(), RetiredGroup { pending: 1, unread: 0 });
            assert!(dead_letters.has_dead_letter(1, &group, None).unwrap());
            assert!(dead_letters.list_replays(&group).unwrap().is_empty());
            let again = retire(&queue, &group);
            assert!(matches!(again, Err(FileQueueError::GroupNotFound { .. })), "{again:?}");
            assert!(dead_letters.start_replay(&stem).unwrap());
            let anew = dead_letters.load_replay(1, &group).unwrap().unwrap();
            assert_eq!(anew.attempts, DeliveryAttempts::replayed(vec!["mail".into()]));
        }
    }

    /// Fails if a group that begins anew takes dead letters of before its retirement for those of its new deliveries.
    #[tokio::test]
    async fn a_group_that_begins_anew_keeps_the_epoch_in_which_it_did() {
        let root = tempfile::tempdir().unwrap();
        let queue = FileQueue::open(FileQueueConfig::at(root.path().join("queue"))).await.unwrap();
        let groups = queue.inner().groups();
        for (name, is_made_first) in [("a", false), ("b", true)] {
            let name = Name::new("group", name).unwrap();
            let acquire = || acquire(&queue, &name);
            let first_epoch = || acquire().progress.first_epoch;
            assert_eq!((first_epoch(), first_epoch()), (None, None));
            let owned = acquire();
            groups.save_progress(&owned.claim, owned.progress.to_value().unwrap(), true).unwrap();
            retire(&queue, &name).unwrap();
            if is_made_first {
                groups.make_group(&name, 0).unwrap();
            }
            let anew = Some(owned.claim.epoch + 2);
            assert_eq!((first_epoch(), first_epoch()), (anew, anew), "{name}");
        }
    }

    /// Fails if a mistyped name makes a group, which holds back the removal of events.
    #[tokio::test]
    async fn a_type_of_a_group_that_does_not_exist_is_forgotten_without_making_it() {
        let root = tempfile::tempdir().unwrap();
        let queue = FileQueue::open(FileQueueConfig::at(root.path().join("queue"))).await.unwrap();
        let name = Name::from_static("mistyped");
        assert!(!queue.forget_event_type(&name, "OrderShipped").await.unwrap());
        assert!(names(&queue).is_empty());
        queue.inner().groups().make_group(&name, 0).unwrap();
        retire(&queue, &name).unwrap();
        assert!(!queue.forget_event_type(&name, "OrderShipped").await.unwrap());
        assert!(names(&queue).is_empty());
    }

    /// Fails if a folder that goes away makes a group begin anew.
    #[tokio::test]
    async fn the_progress_of_the_owner_before_is_not_gone_while_the_folder_is_away() {
        let root = tempfile::tempdir().unwrap();
        let (folder, away) = (root.path().join("queue"), root.path().join("away"));
        let queue = FileQueue::open(FileQueueConfig::at(&folder)).await.unwrap();
        let (groups, name) = (queue.inner().groups(), Name::from_static("default"));
        let acquire = || acquire(&queue, &name).claim;
        let (first, second) = (acquire(), acquire());
        std::fs::rename(&folder, &away).unwrap();
        assert!(groups.load_previous(&second).unwrap_err().is_folder_missing());
        std::fs::rename(&away, &folder).unwrap();
        assert_eq!(groups.load_previous(&first).unwrap(), None);
        assert_eq!(groups.load_previous(&second).unwrap(), Some(first));
    }
}
