//! Differences between the events that a test expects and those that were recorded, field by field.
//!
//! Events are compared by what a save would write: their types, and the JSON of their fields. So an event needs no
//! `PartialEq`, and an event that no store would take also fails the test.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;

use crate::domain::record::{EncodeEvent, RecordedEvent};

/// An event as the text of a failure shows it: a title, and its fields by path, each with its JSON.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EventLines {
    title: String,
    fields: Vec<(String, String)>,
}

impl EventLines {
    /// Returns the lines of each event.
    ///
    /// # Panics
    /// If a save would refuse an event.
    #[track_caller]
    pub(super) fn of_all<E: EncodeEvent>(events: &[E]) -> Vec<Self> {
        let mut lines = Vec::with_capacity(events.len());
        for event in events {
            match event.encode() {
                Ok(event) => lines.push(Self::new(event.event_type().to_string(), event.payload())),
                Err(error) => panic!("an event of the test cannot be saved: {error}"),
            }
        }
        lines
    }

    /// Returns the lines of a stored event; the title names its aggregate too.
    pub(super) fn of_record(record: &RecordedEvent) -> Self {
        Self::new(format!("{} of {}", record.event_type(), record.metadata().aggregate_id()), record.payload())
    }

    fn new(title: String, payload: &str) -> Self {
        let mut fields = Vec::new();
        match serde_json::from_str(payload) {
            Ok(payload) => add_fields(&mut String::new(), payload, &mut fields),
            Err(_) => fields.push(("payload".into(), payload.into())),
        }
        Self { title, fields }
    }
}

/// Adds each value within a value under its path: `lines[0].count`. Numbers keep their text: parsed, two different ones
/// could become equal.
fn add_fields(path: &mut String, value: &RawValue, fields: &mut Vec<(String, String)>) {
    let length = path.len();
    if let Ok(object) = serde_json::from_str::<BTreeMap<String, &RawValue>>(value.get())
        && (!object.is_empty() || path.is_empty())
    {
        for (name, value) in object {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(&name);
            add_fields(path, value, fields);
            path.truncate(length);
        }
    } else if let Ok(list) = serde_json::from_str::<Vec<&RawValue>>(value.get())
        && !list.is_empty()
    {
        for (index, value) in list.into_iter().enumerate() {
            path.push_str(&format!("[{index}]"));
            add_fields(path, value, fields);
            path.truncate(length);
        }
    } else {
        fields.push((path.clone(), value.get().into()));
    }
}

/// Returns a line for each field of the events, or `None` if they are equal. A line has `-` if its field was only
/// expected, `+` if it was only recorded, and `>` at the first difference.
pub(super) fn diff(expected: &[EventLines], recorded: &[EventLines]) -> Option<String> {
    if expected == recorded {
        return None;
    }
    let mut text = DiffText::default();
    for index in 0..expected.len().max(recorded.len()) {
        match (expected.get(index), recorded.get(index)) {
            (Some(expected), Some(recorded)) if expected.title == recorded.title => text.add_fields(expected, recorded),
            (expected, recorded) => {
                text.add_event('-', expected);
                text.add_event('+', recorded);
            }
        }
    }
    Some(text.lines.join("\n"))
}

#[derive(Default)]
struct DiffText {
    lines: Vec<String>,
    /// Set once a difference is marked.
    is_marked: bool,
}

impl DiffText {
    fn add(&mut self, sign: char, line: &str) {
        let is_first = sign != ' ' && !self.is_marked;
        self.is_marked |= is_first;
        self.lines.push(format!("{} {sign} {line}", if is_first { '>' } else { ' ' }));
    }

    fn add_event(&mut self, sign: char, event: Option<&EventLines>) {
        if let Some(event) = event {
            self.add(sign, &event.title);
            for (path, value) in &event.fields {
                self.add(sign, &format!("  {path}: {value}"));
            }
        }
    }

    /// Adds the fields of two events with the same title.
    fn add_fields(&mut self, expected: &EventLines, recorded: &EventLines) {
        self.add(' ', &expected.title);
        let (of_expected, of_recorded): (BTreeMap<_, _>, BTreeMap<_, _>) =
            (expected.fields.iter().cloned().collect(), recorded.fields.iter().cloned().collect());
        let mut seen = BTreeSet::new();
        for (path, _) in expected.fields.iter().chain(&recorded.fields).filter(|(path, _)| seen.insert(path)) {
            let (expected, recorded) = (of_expected.get(path), of_recorded.get(path));
            let line = |value: &String| format!("  {path}: {value}");
            if expected == recorded {
                expected.into_iter().for_each(|value| self.add(' ', &line(value)));
                continue;
            }
            expected.into_iter().for_each(|value| self.add('-', &line(value)));
            recorded.into_iter().for_each(|value| self.add('+', &line(value)));
        }
    }
}
