//! The domain: events of files and of the history that contains them, and two projections of the past.
//!
//! Commits are events, files are aggregates. Git has already decided, so no event is refused here: aggregates only
//! fold.

use std::collections::{BTreeMap, BTreeSet};

use eventbus::prelude::*;
use time::OffsetDateTime;

/// The commit that an event comes from; its date is the event's `occurred_at`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    pub hash: String,
    pub author: String,
    pub email: String,
    pub summary: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Kind {
    File,
    Executable,
    Symlink,
    Submodule,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum What {
    Content,
    Mode,
    ContentAndMode,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = File)]
pub struct FileAdded {
    pub path: String,
    pub kind: Kind,
    pub commit: Commit,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = File)]
pub struct FileModified {
    pub path: String,
    pub what: What,
    pub kind: Kind,
    pub commit: Commit,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = File)]
pub struct FileRenamed {
    pub from: String,
    pub to: String,
    pub similarity_percent: u8,
    pub commit: Commit,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = File)]
pub struct FileDeleted {
    pub path: String,
    pub commit: Commit,
}

/// A file with all the names it had; which file an event belongs to is decided in [`crate::identity`].
#[derive(Debug, Default, Clone, PartialEq, Aggregate)]
#[aggregate(events(FileAdded, FileModified, FileRenamed, FileDeleted))]
pub struct File {
    pub path: String,
    pub former_paths: Vec<String>,
    pub changes: u64,
    pub deleted: bool,
}

impl Apply for File {
    fn apply(&mut self, event: &FileEvent) {
        self.changes += 1;
        match event {
            FileEvent::FileAdded(e) => {
                self.path = e.path.clone();
                self.deleted = false;
            }
            FileEvent::FileModified(e) if self.path.is_empty() => self.path = e.path.clone(),
            FileEvent::FileModified(_) => {}
            FileEvent::FileRenamed(e) => {
                self.former_paths.push(e.from.clone());
                self.path = e.to.clone();
                self.deleted = false;
            }
            // a branch that does not know of a rename may delete the former name
            FileEvent::FileDeleted(e) => self.deleted |= self.path == e.path,
        }
    }
}

impl FileEvent {
    pub fn commit(&self) -> &Commit {
        match self {
            Self::FileAdded(e) => &e.commit,
            Self::FileModified(e) => &e.commit,
            Self::FileRenamed(e) => &e.commit,
            Self::FileDeleted(e) => &e.commit,
        }
    }

    /// Returns the path of the file after the event; for a deletion, the path until then.
    pub fn path(&self) -> &str {
        match self {
            Self::FileAdded(e) => &e.path,
            Self::FileModified(e) => &e.path,
            Self::FileRenamed(e) => &e.to,
            Self::FileDeleted(e) => &e.path,
        }
    }
}

/// A commit is part of the history, and all of its file events are stored: an import resumes after it.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = History)]
pub struct CommitRecorded {
    pub commit: Commit,
    pub parents: Vec<String>,
    pub files: usize,
}

/// The imported history is no longer part of the repository's history, and a new history follows it.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = History)]
pub struct HistoryRewritten {
    /// The last commits of the former history.
    pub abandoned: Vec<String>,
    pub new_head: String,
}

/// The commits of the repository, parents before children: one stream, so that the store itself counts each once.
#[derive(Debug, Default, Clone, PartialEq, Aggregate)]
#[aggregate(events(CommitRecorded, HistoryRewritten))]
pub struct History {
    pub commits: u64,
    pub rewrites: u64,
}

impl Apply for History {
    fn apply(&mut self, event: &HistoryEvent) {
        match event {
            HistoryEvent::CommitRecorded(_) => self.commits += 1,
            HistoryEvent::HistoryRewritten(_) => self.rewrites += 1,
        }
    }
}

/// The authors of the repository: by mail address, since names are spelled in many ways.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Authors(pub BTreeMap<String, Author>);

#[derive(Debug, Default, Clone, PartialEq)]
pub struct Author {
    pub name: String,
    pub commits: u64,
    pub files: BTreeSet<AggregateId>,
    pub first: Option<OffsetDateTime>,
    pub last: Option<OffsetDateTime>,
}

#[projection(name = "authors")]
impl Authors {
    fn committed(&mut self, event: &CommitRecorded, meta: &Metadata) {
        let author = self.0.entry(event.commit.email.clone()).or_default();
        let date = meta.occurred_at();
        author.name = event.commit.author.clone();
        author.commits += 1;
        author.first = Some(author.first.map_or(date, |first| first.min(date)));
        author.last = Some(author.last.map_or(date, |last| last.max(date)));
    }

    fn touched(&mut self, event: &FileEvent, id: &AggregateId) {
        let author = self.0.entry(event.commit().email.clone()).or_default();
        author.files.insert(id.clone());
    }
}

/// Which files change most, under the name they have now.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct HotFiles(pub BTreeMap<AggregateId, File>);

#[projection(name = "hot-files")]
impl HotFiles {
    fn changed(&mut self, event: &FileEvent, id: &AggregateId) {
        self.0.entry(id.clone()).or_default().apply(event);
    }
}
