//! What each event changed in the state of an aggregate.

use std::{collections::BTreeSet, fmt};

use serde::Serialize;
use serde_json::Value;

use crate::domain::{
    field_error::FieldError,
    json::{from_json, to_json},
    metadata::Metadata,
};

/// An event of an aggregate, and its changes to the state; see
/// [`AggregateRepository::history`](crate::AggregateRepository::history).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HistoryStep<E> {
    /// The event; `None` if the aggregate has retired its type.
    pub event: Option<E>,
    /// Its metadata: version, times, actor.
    pub metadata: Metadata,
    /// Its changes, sorted by path.
    pub changes: Vec<Change>,
}

/// A value that an event changed in the JSON form of an aggregate's state.
///
/// # Examples
/// ```
/// let change = eventbus::repository::Change { path: "lines[0].count".into(), old: None, new: Some(2.into()) };
/// assert_eq!(change.to_string(), "lines[0].count: added 2");
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The path of the value: `lines[0].count`; empty for a state that is one value.
    pub path: String,
    /// The value before; `None` if it was added.
    pub old: Option<Value>,
    /// The value after; `None` if it was removed.
    pub new: Option<Value>,
}

impl fmt::Display for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "state" } else { &self.path };
        match (&self.old, &self.new) {
            (Some(old), Some(new)) => write!(out, "{path}: {old} → {new}"),
            (None, Some(new)) => write!(out, "{path}: added {new}"),
            (Some(old), None) => write!(out, "{path}: removed {old}"),
            (None, None) => write!(out, "{path}"),
        }
    }
}

/// The JSON form of a state, which is compared with the next one.
pub(super) struct StateDiff(Value);

impl StateDiff {
    /// Begins with a state.
    pub(super) fn new(state: &impl Serialize) -> Result<Self, FieldError> {
        Ok(Self(from_json(to_json(state)?)?))
    }

    /// Returns what differs in the next state, and goes on from there.
    pub(super) fn advance(&mut self, state: &impl Serialize) -> Result<Vec<Change>, FieldError> {
        let next = Self::new(state)?;
        let mut changes = Vec::new();
        compare(&mut String::new(), &self.0, &next.0, &mut changes);
        *self = next;
        Ok(changes)
    }
}

fn compare(path: &mut String, old: &Value, new: &Value, changes: &mut Vec<Change>) {
    let length = path.len();
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for key in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
                compare_parts(path, old.get(key), new.get(key), changes);
                path.truncate(length);
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            for index in 0..old.len().max(new.len()) {
                path.push_str(&format!("[{index}]"));
                compare_parts(path, old.get(index), new.get(index), changes);
                path.truncate(length);
            }
        }
        _ if old == new => {}
        _ => changes.push(Change { path: path.clone(), old: Some(old.clone()), new: Some(new.clone()) }),
    }
}

fn compare_parts(path: &mut String, old: Option<&Value>, new: Option<&Value>, changes: &mut Vec<Change>) {
    match (old, new) {
        (Some(old), Some(new)) => compare(path, old, new, changes),
        _ => changes.push(Change { path: path.clone(), old: old.cloned(), new: new.cloned() }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn changes_are_the_paths_that_differ() {
        let mut diff =
            StateDiff::new(&json!({ "a": 1, "b": [1, { "c": 2 }], "gone": null, "same": { "x": [1] } })).unwrap();
        let next = json!({ "a": "1", "b": [1, { "c": 3, "d": true }, 4], "new": [], "same": { "x": [1] } });
        let changes: Vec<_> = diff.advance(&next).unwrap().iter().map(Change::to_string).collect();
        assert_eq!(
            changes,
            [
                "a: 1 → \"1\"",
                "b[1].c: 2 → 3",
                "b[1].d: added true",
                "b[2]: added 4",
                "gone: removed null",
                "new: added []"
            ]
        );
        assert_eq!(diff.advance(&next).unwrap(), []);
        let changes = diff.advance(&json!(7)).unwrap();
        assert_eq!((changes.len(), &*changes[0].path), (1, ""));
    }
}
