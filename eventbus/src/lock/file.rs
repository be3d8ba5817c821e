//! The text of a lock file: sorted lines of one meaning each, so that branches can be merged.
//!
//! | line | meaning |
//! |---|---|
//! | `event OrderCreated` | begins an event, by its wire name |
//! | `aggregate Order` | its aggregate type |
//! | `version 2` | begins a version of it |
//! | `field lines[].sku: string` | a field of the version: its path and its kind |
//! | `payload {..}` | fields as a program of that version stored them |
//! | `reads 3 {..}` | how version 3 reads the payload above |

use std::{collections::BTreeMap, fmt::Write as _};

use crate::domain::trace::Shape;

const HEADER: &str = "\
# The events that are stored, or may be, by wire name and version: the code must stay able to read them.
# A test that calls `eventbus::lock` checks this file; EVENTBUS_BLESS=1 adds to it. Commit it.
";

/// The contents of a lock file, by the wire name of the event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LockFile {
    pub(super) events: BTreeMap<String, LockedEvent>,
}

/// An event in a lock file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LockedEvent {
    pub(super) aggregate_type: String,
    pub(super) versions: BTreeMap<u32, LockedVersion>,
}

/// A version of an event in a lock file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LockedVersion {
    pub(super) shape: Shape,
    pub(super) payloads: Vec<LockedPayload>,
}

/// A payload in a lock file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LockedPayload {
    pub(super) json: String,
    /// A later version, and the payload as that version read it.
    pub(super) reads: Option<(u32, String)>,
}

impl LockFile {
    /// Parses the text of a file.
    ///
    /// # Errors
    /// The line, from 1, and the reason.
    pub(super) fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut file = Self::default();
        let (mut event, mut version) = (None, None);
        for (index, line) in text.lines().enumerate() {
            let refuse = |reason: &str| (index + 1, reason.to_owned());
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (word, rest) = line.split_once(' ').ok_or_else(|| refuse("expected a word and what belongs to it"))?;
            if word == "event" {
                (event, version) = (Some(rest.to_owned()), None);
                file.events.entry(rest.into()).or_default();
                continue;
            }
            let name = event.clone().ok_or_else(|| refuse("expected `event ..` before it"))?;
            let locked = file.events.entry(name).or_default();
            match word {
                "aggregate" => locked.aggregate_type = rest.into(),
                "version" => {
                    let number: u32 = rest.parse().map_err(|_| refuse("expected the number of the version"))?;
                    version = Some(number);
                    locked.versions.entry(number).or_default();
                }
                _ => {
                    let number = version.ok_or_else(|| refuse("expected `version ..` before it"))?;
                    locked.versions.entry(number).or_default().read_line(word, rest).map_err(refuse)?;
                }
            }
        }
        Ok(file)
    }

    /// Writes the text of the file.
    pub(super) fn to_text(&self) -> String {
        let mut text = HEADER.to_owned();
        for (name, LockedEvent { aggregate_type, versions }) in &self.events {
            // writing to a text cannot fail
            let _ = write!(text, "\nevent {name}\n  aggregate {aggregate_type}\n");
            for (number, LockedVersion { shape, payloads }) in versions {
                let _ = writeln!(text, "  version {number}");
                for (path, kind) in shape {
                    let _ = writeln!(text, "    field {path}: {kind}");
                }
                for LockedPayload { json, reads } in payloads {
                    let _ = writeln!(text, "    payload {json}");
                    if let Some((version, json)) = reads {
                        let _ = writeln!(text, "      reads {version} {json}");
                    }
                }
            }
        }
        text
    }
}

impl LockedVersion {
    /// Adds the contents of a line.
    fn read_line(&mut self, word: &str, rest: &str) -> Result<(), &'static str> {
        match word {
            "field" => {
                let (path, kind) = rest.rsplit_once(": ").ok_or("expected `field name: kind`")?;
                self.shape.insert(path.into(), kind.into());
            }
            "payload" => self.payloads.push(LockedPayload { json: rest.into(), reads: None }),
            "reads" => {
                let (version, json) = rest.split_once(' ').ok_or("expected `reads 2 {..}`")?;
                let version = version.parse().map_err(|_| "expected the number of the version")?;
                let payload = self.payloads.last_mut().ok_or("expected `payload ..` before it")?;
                payload.reads = Some((version, json.into()));
            }
            _ => return Err("expected `event`, `aggregate`, `version`, `field`, `payload` or `reads`"),
        }
        Ok(())
    }

    /// Adds a payload, unless it is there.
    pub(super) fn add_payload(&mut self, json: &str) {
        if !self.payloads.iter().any(|payload| payload.json == json) {
            self.payloads.push(LockedPayload { json: json.into(), reads: None });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_parsed() {
        let version = LockedVersion {
            shape: [("a: b".to_owned(), "string?".to_owned()), ("c[]".into(), "u8".into())].into(),
            payloads: vec![
                LockedPayload { json: r#"{"a: b":"x y","c":[1]}"#.into(), reads: Some((3, "{}".into())) },
                LockedPayload { json: "{}".into(), reads: None },
            ],
        };
        let event = LockedEvent { aggregate_type: "An Order".into(), versions: [(2, version)].into() };
        let file = LockFile { events: [("order created".to_owned(), event)].into() };
        assert_eq!(LockFile::parse(&file.to_text()).unwrap(), file);
    }

    #[test]
    fn a_line_that_does_not_fit_is_named() {
        for (text, line) in [
            ("event A\n\nversion x", 3),
            ("# a comment\npayload {}", 2),
            ("event A\nfield a: u8", 2),
            ("event A\nversion 1\nfeild a: u8", 3),
            ("event A\nversion 1\nreads 1 {}", 3),
            ("<<<<<<< HEAD", 1),
            ("event", 1),
        ] {
            assert_eq!(LockFile::parse(text).unwrap_err().0, line, "{text}");
        }
    }
}
