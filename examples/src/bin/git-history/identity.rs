//! The identity of files under renames: the file that a path names.
//!
//! - The first path of a file is its aggregate id, for ever.
//! - A rename adds a name. The former names still name the file, because branches without the rename continue to use
//!   them.
//! - A file added under a name that a rename has freed is a new file: `path@<commit>`. A file added under any other
//!   known name is the same file again: it was deleted and came back, or two branches added it.
//! - A rename onto a used name takes that name. Its former file keeps its events and gets no more. Git reports a rename
//!   onto a file that still exists as a deletion and a modification, and so does the import.
//!
//! Invariant: all of this depends only on the events in the order of import, so that it is the same after a restart.

use std::collections::HashMap;

use eventbus::AggregateId;
use uuid::Uuid;

use crate::domain::FileEvent;

/// The namespace of event ids and shortened aggregate ids.
const NAMESPACE: Uuid = Uuid::from_u128(0x8f0d_77a6_52f4_4e0c_9d0b_6c2b_8a51_3e47);

/// Number of bytes kept of a path that is too long for an aggregate id.
const KEPT_BYTES: usize = 180;

/// The files by their current and former names.
#[derive(Debug, Default, Clone)]
pub struct Files(HashMap<String, Bearer>);

#[derive(Debug, Clone)]
struct Bearer {
    file: AggregateId,
    /// Set if a rename has freed the name.
    left: bool,
}

impl Files {
    /// Returns the file of an event.
    pub fn file_of(&self, event: &FileEvent) -> AggregateId {
        let (name, added) = match event {
            FileEvent::FileAdded(e) => (&e.path, true),
            FileEvent::FileModified(e) => (&e.path, false),
            FileEvent::FileRenamed(e) => (&e.from, false),
            FileEvent::FileDeleted(e) => (&e.path, false),
        };
        match self.0.get(name) {
            None => aggregate_id(name),
            Some(bearer) if added && bearer.left => {
                let commit = &event.commit().hash;
                aggregate_id(&format!("{name}@{}", commit.get(..12).unwrap_or(commit)))
            }
            Some(bearer) => bearer.file.clone(),
        }
    }

    /// Records the names that an event gives to `file`.
    pub fn learn(&mut self, file: &AggregateId, event: &FileEvent) {
        let bearer = |left| Bearer { file: file.clone(), left };
        match event {
            FileEvent::FileAdded(e) => {
                self.0.insert(e.path.clone(), bearer(false));
            }
            FileEvent::FileRenamed(e) => {
                self.0.insert(e.from.clone(), bearer(true));
                self.0.insert(e.to.clone(), bearer(false));
            }
            FileEvent::FileModified(_) | FileEvent::FileDeleted(_) => {
                self.0.entry(event.path().to_owned()).or_insert_with(|| bearer(false));
            }
        }
    }
}

/// Returns the name itself, or its end and a hash if it is longer than an aggregate id may be.
fn aggregate_id(name: &str) -> AggregateId {
    name.parse().unwrap_or_else(|_| {
        let hash = Uuid::new_v5(&NAMESPACE, name.as_bytes());
        let end = (name.len().saturating_sub(KEPT_BYTES)..).find(|&at| name.is_char_boundary(at)).unwrap_or_default();
        let shortened = format!("…{}~{}", &name[end..], hash.simple());
        shortened.parse().unwrap_or_else(|_| hash.into())
    })
}

/// Returns the id of the event of a commit for a path, or of the commit itself for `None`.
pub fn event_id(commit: &str, path: Option<&str>) -> eventbus::EventId {
    let name = match path {
        Some(path) => format!("{commit}\0{path}"),
        None => commit.to_owned(),
    };
    Uuid::new_v5(&NAMESPACE, name.as_bytes()).into()
}

/// Returns `true` if a file under this path gets a shortened id.
pub fn is_too_long(path: &str) -> bool {
    path.len() > eventbus::event::MAX_NAME_BYTES
}

/// Returns a path as text: unchanged, or quoted as git quotes it if it is not UTF-8, has control characters or begins
/// with `"`.
///
/// Different paths stay different.
pub fn path_text(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) if !text.starts_with('"') && !text.contains(char::is_control) => text.to_owned(),
        _ => quoted(path),
    }
}

fn quoted(path: &[u8]) -> String {
    let mut text = String::from("\"");
    for chunk in path.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\\' => text.extend(['\\', character]),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                _ if character.is_control() => octal(&mut text, character.to_string().as_bytes()),
                _ => text.push(character),
            }
        }
        octal(&mut text, chunk.invalid());
    }
    text.push('"');
    text
}

fn octal(text: &mut String, bytes: &[u8]) {
    text.extend(bytes.iter().map(|byte| format!("\\{byte:03o}")));
}
