//! The imported part of the history, and the plan for the rest.
//!
//! A commit is imported when its `CommitRecorded` is stored, after all of its file events. File events without it come
//! from a killed import: they are stored, so they are skipped, but count for no commit.

use std::collections::{BTreeSet, HashMap, HashSet};

use eventbus::{
    EventId, ExpectedVersion, Name, StreamId, Version,
    prelude::*,
    store::{Direction, EventStore},
};
use futures_util::TryStreamExt;

use crate::{
    domain::{CommitRecorded, FileEvent, History, HistoryRewritten},
    git::{GitError, Repository},
    identity::Files,
};

/// The contents of the store, folded from its events without a projection; the importer continues from it.
#[derive(Debug, Default, Clone)]
pub struct Imported {
    pub commits: u64,
    rewrites: u64,
    /// Commits without an imported child.
    tips: BTreeSet<String>,
    /// The tips of abandoned histories.
    abandoned: BTreeSet<String>,
    pub files: Files,
    unfinished: HashMap<String, Vec<(EventId, AggregateId, FileEvent)>>,
}

#[projection(name = "imported")]
impl Imported {
    fn changed(&mut self, event: &FileEvent, meta: &Metadata) {
        let left_over = (meta.event_id(), meta.aggregate_id().clone(), event.clone());
        let commit = event.commit().hash.clone();
        self.unfinished.entry(commit).or_default().push(left_over);
    }

    fn recorded(&mut self, event: &CommitRecorded) {
        for (_, file, change) in self.unfinished.remove(&event.commit.hash).unwrap_or_default() {
            self.files.learn(&file, &change);
        }
        self.count(&event.commit.hash, &event.parents);
    }

    fn rewritten(&mut self, event: &HistoryRewritten) {
        self.abandon(event);
    }
}

impl Imported {
    pub fn count(&mut self, commit: &str, parents: &[String]) {
        for parent in parents {
            self.tips.remove(parent);
        }
        self.tips.insert(commit.to_owned());
        self.commits += 1;
    }

    pub fn abandon(&mut self, event: &HistoryRewritten) {
        for tip in &event.abandoned {
            self.tips.remove(tip);
        }
        self.abandoned.extend(event.abandoned.iter().cloned());
        self.rewrites += 1;
    }

    /// Returns the version of the history's stream. With it as the expectation, a concurrent import makes the next
    /// append conflict.
    pub fn history_version(&self) -> ExpectedVersion {
        ExpectedVersion::Exact(Version::new(self.commits + self.rewrites))
    }

    /// Returns the stored file events whose commit is not imported.
    pub fn left_over(&self) -> HashSet<EventId> {
        self.unfinished.values().flatten().map(|(id, ..)| *id).collect()
    }
}

/// The commits to import.
#[derive(Debug)]
pub struct Plan {
    /// All commits reachable from these are imported.
    pub without: Vec<String>,
    /// Commits that are imported too, although git cannot derive it.
    pub skip: HashSet<String>,
    /// Number of commits to import.
    pub commits: u64,
    /// The event of a rewrite, which precedes the commits.
    pub rewritten: Option<HistoryRewritten>,
}

/// The reason why the import cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error(
        "HEAD does not contain what was imported before ({gone}): the history was rewritten, another branch is checked \
         out, or this is another repository.\nImport it into another store (--store), or add --accept-rewrite to import \
         what is missing: commits that were rewritten then count as often as they were written."
    )]
    Rewritten { gone: String },
    #[error(
        "{appeared} commits have appeared before those that were imported: the clone was shallow and is deeper now.\n\
         Import it into another store (--store): events are facts in order, and nothing can be put before them."
    )]
    Deepened { appeared: u64 },
    #[error(transparent)]
    Git(#[from] GitError),
}

/// Compares the repository with the imported part.
pub async fn plan(
    repository: &Repository,
    imported: &Imported,
    store: &dyn EventStore,
    accept_rewrite: bool,
) -> eventbus::Result<Plan> {
    let head = std::slice::from_ref(&repository.head);
    let (tips, lost_tips) = repository.known(imported.tips.iter().cloned().collect())?;
    let (abandoned, lost) = repository.known(imported.abandoned.iter().cloned().collect())?;
    let unreachable = repository.count(&tips, head)?;

    let mut rewritten = None;
    if unreachable > 0 || !lost_tips.is_empty() {
        if !accept_rewrite {
            let gone = match unreachable {
                0 => "its last commits are gone".to_owned(),
                1 => "1 commit is not part of it any more".to_owned(),
                n => format!("{n} commits are not part of it any more"),
            };
            return Err(PlanError::Rewritten { gone }.into());
        }
        let mut gone = lost_tips.clone();
        for tip in &tips {
            if repository.count(std::slice::from_ref(tip), head)? > 0 {
                gone.push(tip.clone());
            }
        }
        rewritten = Some(HistoryRewritten { abandoned: gone, new_head: repository.head.clone() });
    }

    let is_complete = lost_tips.is_empty() && lost.is_empty();
    let without: Vec<String> = tips.into_iter().chain(abandoned).collect();
    let appeared = repository.count(&without, &[])?.saturating_sub(imported.commits);
    if is_complete && appeared > 0 {
        return Err(PlanError::Deepened { appeared }.into());
    }
    let (skip, commits) = if is_complete {
        (HashSet::new(), repository.count(head, &without)?)
    } else {
        let skip = all_commits(store).await?;
        let commits = repository.count_except(head, &without, &skip)?;
        (skip, commits)
    };
    Ok(Plan { commits, without, skip, rewritten })
}

/// Returns the stream of all commits.
pub fn history() -> eventbus::Result<StreamId> {
    use eventbus::Aggregate;
    let aggregate_type = Name::from_static(History::AGGREGATE_TYPE);
    Ok(StreamId::new(aggregate_type, "HEAD".parse()?))
}

/// Returns every imported commit; loaded only if git lacks some.
async fn all_commits(store: &dyn EventStore) -> eventbus::Result<HashSet<String>> {
    let mut records = store.read_stream(&history()?, Version::FIRST, Direction::Forward);
    let mut commits = HashSet::new();
    while let Some(record) = records.try_next().await? {
        if let Ok(event) = record.decode::<CommitRecorded>() {
            commits.insert(event.commit.hash);
        }
    }
    Ok(commits)
}
