//! Converts git's description of a change into an event.

use crate::domain::{Commit, FileAdded, FileDeleted, FileEvent, FileModified, FileRenamed, Kind, What};

/// One change of a commit, without its paths.
#[derive(Debug)]
pub struct Change<'a> {
    pub old_mode: &'a str,
    pub new_mode: &'a str,
    pub same_content: bool,
    /// One letter per parent; `R` and `C` of a commit that is no merge are followed by a percentage.
    pub status: &'a str,
    pub is_merge: bool,
}

impl Change<'_> {
    /// Returns the event of a change in a commit that is no merge.
    pub fn event(self, from: String, path: String, commit: Commit) -> FileEvent {
        match self.status.as_bytes()[0] {
            b'A' | b'C' => self.added(path, commit),
            b'D' => FileEvent::FileDeleted(FileDeleted { path, commit }),
            b'R' => {
                let similarity_percent = self.status[1..].parse().unwrap_or(0);
                let to = path;
                FileEvent::FileRenamed(FileRenamed { from, to, similarity_percent, commit })
            }
            _ => {
                let what = match (self.same_content, self.old_mode == self.new_mode) {
                    (true, false) => What::Mode,
                    (false, false) => What::ContentAndMode,
                    (_, true) => What::Content,
                };
                let kind = kind(self.new_mode);
                FileEvent::FileModified(FileModified { path, what, kind, commit })
            }
        }
    }

    /// Returns the event of a change that a merge made itself: the file differs from all parents. If one parent had the
    /// file, it already existed.
    pub fn merged(self, mut paths: Vec<String>, commit: Commit) -> FileEvent {
        let path = paths.pop().unwrap_or_default();
        let every = |status| self.status.bytes().all(|letter| letter == status);
        if every(b'D') {
            FileEvent::FileDeleted(FileDeleted { path, commit })
        } else if every(b'A') {
            self.added(path, commit)
        } else if let (false, Some(parent)) = (self.status.contains(['M', 'T', 'D']), self.status.find(['R', 'C'])) {
            FileEvent::FileRenamed(FileRenamed {
                from: paths.into_iter().nth(parent).unwrap_or_default(),
                to: path,
                similarity_percent: 0,
                commit,
            })
        } else {
            FileEvent::FileModified(FileModified { path, what: What::Content, kind: kind(self.new_mode), commit })
        }
    }

    fn added(&self, path: String, commit: Commit) -> FileEvent {
        FileEvent::FileAdded(FileAdded { path, kind: kind(self.new_mode), commit })
    }
}

fn kind(mode: &str) -> Kind {
    match mode {
        "100755" => Kind::Executable,
        "120000" => Kind::Symlink,
        "160000" => Kind::Submodule,
        _ => Kind::File,
    }
}
