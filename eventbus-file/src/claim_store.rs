//! Exclusive claims as files: a folder per claim, a file per epoch.
//!
//! Invariant: a worker acquires a claim by creating the file of the next epoch, which only one worker can; from then on
//! no write by the owner of an earlier epoch has an effect. An owner writes only the file of its own epoch, and renews
//! it only while it is live.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use eventbus::support::from_json;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use time::OffsetDateTime;

use crate::{
    disk::{self, Disk},
    error::{FileQueueError, Result},
    event::{self, now},
    names,
};

/// A claim: the exclusive right of one worker to a name, until it expires.
///
/// Times are those of the owner's clock; the clocks of machines that share a folder must agree to within a small part
/// of a claim's TTL.
///
/// | state | event | next state |
/// |---|---|---|
/// | none | a worker creates the file of epoch 1 | live |
/// | live | its owner renews it | live, with a later `expires_at` |
/// | live, expired | its owner releases it | released |
/// | live | `expires_at` passes, or the clock is set back by more than the claim's TTL | expired |
/// | expired | its owner renews it | unchanged; the call fails with `ClaimLost` |
/// | expired | the clock is set back, so that `expires_at` lies ahead again | live |
/// | released, expired | a worker creates the file of the next epoch | live, owned by that worker |
/// | released | its owner renews a copy of it from before the release; no caller does | live |
/// | any | the queue removes the claim with its event | none |
/// | superseded by a later epoch | its owner renews or releases it, or writes a result | unchanged; `ClaimLost` |
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Claim {
    /// The claimed name.
    pub claim_id: String,
    /// Number of times that the name was claimed so far. Once there is a later epoch, the queue refuses writes of this
    /// one.
    pub epoch: u64,
    /// The worker that owns it.
    pub worker_id: String,
    /// Time of its creation.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Time of its last renewal.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub renewed_at: Option<OffsetDateTime>,
    /// Time at which it expires, unless its owner renews it.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// Time at which its owner released it.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub released_at: Option<OffsetDateTime>,
    /// Data of its owner.
    #[serde(default)]
    pub data: Value,
}

impl Claim {
    /// Returns `true` if the claim is exclusive now: neither released nor expired. A claim that was created or renewed
    /// in the future, by more than its TTL, counts as expired: the clock was set back since, so its end may be
    /// arbitrarily far away.
    #[must_use]
    pub fn is_live(&self) -> bool {
        let (now, since) = (now(), self.renewed_at.unwrap_or(self.created_at));
        let is_of_the_future = since - now > self.expires_at - since;
        self.released_at.is_none() && self.expires_at > now && !is_of_the_future
    }

    /// Returns the time until it expires; zero if it is not live.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        match self.is_live() {
            true => Duration::try_from(self.expires_at - now()).unwrap_or_default(),
            false => Duration::ZERO,
        }
    }

    /// Returns the decoded data of its owner.
    ///
    /// # Errors
    /// [`FileQueueError::Json`] if it is not of that type.
    pub fn data<T: DeserializeOwned>(&self) -> Result<T> {
        let what = || format!("the data of claim `{}`", self.claim_id);
        from_json(self.data.to_string()).map_err(|source| FileQueueError::Json { what: what(), source })
    }

    fn lost_error(&self) -> FileQueueError {
        FileQueueError::ClaimLost { claim_id: self.claim_id.clone(), epoch: self.epoch }
    }
}

/// The claims below one folder.
#[derive(Debug, Clone)]
pub(crate) struct ClaimStore {
    disk: Arc<Disk>,
    folder: PathBuf,
    worker_id: String,
    ttl: Duration,
}

/// A claim that this worker has just acquired.
#[derive(Debug)]
pub(crate) struct NewClaim {
    pub(crate) claim: Claim,
    /// The claim of the epoch before, if there was one.
    pub(crate) previous: Option<Claim>,
}

impl ClaimStore {
    pub(crate) fn new(disk: Arc<Disk>, worker: String, ttl: Duration) -> Self {
        Self { folder: disk.root().join(names::CLAIMS), disk, worker_id: worker, ttl }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn folder_of(&self, claim_id: &str) -> Result<PathBuf> {
        Ok(self.folder.join(names::encode("claim id", claim_id)?))
    }

    /// Returns the names that are or were claimed, sorted.
    pub(crate) fn list_ids(&self) -> Result<Vec<String>> {
        let mut ids: Vec<String> =
            disk::list_names(&self.folder)?.iter().filter_map(|name| names::decode(name)).collect();
        ids.sort();
        Ok(ids)
    }

    pub(crate) fn load_newest(&self, claim_id: &str) -> Result<Option<Claim>> {
        let (folder, mut gone) = (self.folder_of(claim_id)?, None);
        while let Some(epoch) = find_latest_epoch(&folder)?.filter(|epoch| gone != Some(*epoch)) {
            if let Some(claim) = self.load_epoch(claim_id, epoch)? {
                return Ok(Some(claim));
            }
            gone = Some(epoch); // the owner of a later epoch has removed it since
        }
        Ok(None)
    }

    /// Loads the claim of one epoch; `None` if its file does not exist, or no longer.
    pub(crate) fn load_epoch(&self, claim_id: &str, epoch: u64) -> Result<Option<Claim>> {
        let path = self.folder_of(claim_id)?.join(names::file_name(epoch));
        match disk::read_json::<Claim>(&path, "claim")? {
            Some(claim) if claim.epoch != epoch || claim.claim_id != claim_id => {
                Err(FileQueueError::torn("claim", path, "it is another claim"))
            }
            claim => Ok(claim),
        }
    }

    /// Acquires a claim; `None` if the claim is live, or if a different worker acquires it first.
    pub(crate) fn create(&self, claim_id: &str, data: Value) -> Result<Option<NewClaim>> {
        let before = self.load_newest(claim_id)?;
        match before.as_ref().is_some_and(Claim::is_live) {
            true => Ok(None),
            false => self.create_after(claim_id, before, data),
        }
    }

    /// Acquires the claim of the epoch after `before`.
    fn create_after(&self, claim_id: &str, before: Option<Claim>, data: Value) -> Result<Option<NewClaim>> {
        let at = now();
        let claim = Claim {
            claim_id: claim_id.into(),
            epoch: before.as_ref().map_or(0, |claim| claim.epoch) + 1,
            worker_id: self.worker_id.clone(),
            created_at: at,
            renewed_at: None,
            expires_at: at + self.ttl,
            released_at: None,
            data,
        };
        let path = self.path(&claim)?;
        if !self.disk.create(&path, &event::to_pretty_json("the claim", &claim)?)? {
            return Ok(None);
        }
        // this worker may have been slow: later owners may have had the claim and removed the file of this epoch, and
        // then it made that file anew
        if self.check_owned(&claim).is_err() {
            self.disk.remove(&path)?;
            return Ok(None);
        }
        Ok(Some(NewClaim { claim, previous: before }))
    }

    fn path(&self, claim: &Claim) -> Result<PathBuf> {
        Ok(self.folder_of(&claim.claim_id)?.join(names::file_name(claim.epoch)))
    }

    /// Returns an error unless this worker owns the claim and its epoch is the latest.
    pub(crate) fn check_owned(&self, claim: &Claim) -> Result<()> {
        let is_own = claim.worker_id == self.worker_id;
        match is_own && find_latest_epoch(&self.folder_of(&claim.claim_id)?)? == Some(claim.epoch) {
            true => Ok(()),
            false => Err(claim.lost_error()),
        }
    }

    /// Extends a claim by its TTL from now on, and saves its data.
    pub(crate) fn renew(&self, claim: &Claim) -> Result<Claim> {
        if !claim.is_live() {
            return Err(claim.lost_error());
        }
        let at = now();
        let renewed = Claim { renewed_at: Some(at), expires_at: at + self.ttl, ..claim.clone() };
        self.rewrite(renewed)
    }

    /// Releases a claim, and saves its data.
    pub(crate) fn release(&self, claim: &Claim) -> Result<Claim> {
        self.rewrite(Claim { released_at: Some(now()), ..claim.clone() })
    }

    fn rewrite(&self, claim: Claim) -> Result<Claim> {
        self.check_owned(&claim)?;
        self.disk.replace(&self.path(&claim)?, &event::to_pretty_json("the claim", &claim)?)?;
        // a later epoch may have begun since the first check
        self.check_owned(&claim)?;
        Ok(claim)
    }

    /// Removes the files of earlier epochs, except for that of the previous epoch.
    pub(crate) fn remove_epochs_before(&self, claim: &Claim) -> Result<()> {
        let folder = self.folder_of(&claim.claim_id)?;
        for epoch in disk::list_numbers(&folder)? {
            if epoch + 1 < claim.epoch {
                self.disk.remove(&folder.join(names::file_name(epoch)))?;
            }
        }
        Ok(())
    }

    pub(crate) fn remove_all_epochs(&self, claim_id: &str) -> Result<()> {
        let folder = self.folder_of(claim_id)?;
        for epoch in disk::list_numbers(&folder)? {
            self.disk.remove(&folder.join(names::file_name(epoch)))?;
        }
        // the folder stays if it holds a foreign file
        let _ = std::fs::remove_dir(folder);
        Ok(())
    }
}

pub(crate) fn event_claim_id(event_id: u64) -> String {
    format!("event-{event_id}")
}

/// Returns the id of the event that a claim is for; `None` for other claims.
#[cfg(feature = "redis")]
pub(crate) fn event_of_claim(claim: &str) -> Option<u64> {
    claim.strip_prefix("event-")?.parse().ok()
}

fn find_latest_epoch(folder: &Path) -> Result<Option<u64>> {
    Ok(disk::list_numbers(folder)?.into_iter().max())
}

#[cfg(test)]
mod tests;
