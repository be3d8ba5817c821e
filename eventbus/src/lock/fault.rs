//! What is wrong with today's reading of a stored payload, and the repair.

use super::{
    file::{LockFile, LockedPayload, LockedVersion},
    json,
    known_event::KnownEvent,
};
use crate::domain::{codec::DecodeError, field_error::FieldError, probe::RereadError, trace::Shape};

/// How serde's message begins.
const MISSING_FIELD: &str = "missing field `";

/// What is wrong with the reading of a payload, and the repair.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fault {
    pub(super) text: String,
    pub(super) repair: String,
}

/// Reads stored payloads as today's version of their event, and compares.
pub(super) struct Reader<'a> {
    event: &'a KnownEvent,
    /// Today's version.
    today: u32,
    /// The shape of today's version in the code; empty if it cannot be traced.
    shape: Shape,
    /// The shape of today's version in the file, if it has it.
    locked: Option<&'a Shape>,
}

impl<'a> Reader<'a> {
    pub(super) fn of(event: &'a KnownEvent, file: &'a LockFile) -> Self {
        let descriptor = &event.descriptor;
        let today = descriptor.schema_version;
        let locked = file.events.get(descriptor.event_type).and_then(|event| event.versions.get(&today));
        let shape = event.probe.samples().map(|samples| samples.shape).unwrap_or_default();
        Self { event, today, shape, locked: locked.map(|version| &version.shape) }
    }

    /// Returns the payload as today's version reads it.
    ///
    /// # Errors
    /// The [`Fault`] if it is not read, or not as before.
    pub(super) fn read(
        &self,
        name: &str,
        version: u32,
        stored: &LockedVersion,
        payload: &LockedPayload,
    ) -> Result<String, Fault> {
        let read = self.event.probe.reread(name, version, &payload.json);
        let read = read.map_err(|error| self.fault_of(&error, version, &stored.shape))?;
        if version == self.today
            && let Some(fault) = self.lost_value(&payload.json, &read, &stored.shape)
        {
            return Err(fault);
        }
        match &payload.reads {
            Some((reader, before)) if *reader == self.today => {
                self.changed_reading(before, &read, version).map_or(Ok(read), Err)
            }
            _ => Ok(read),
        }
    }

    /// Describes why a payload of a version with the shape `stored` is not read.
    fn fault_of(&self, error: &RereadError, version: u32, stored: &Shape) -> Fault {
        let today = self.today;
        match error {
            RereadError::Decode(DecodeError::Payload { rust_type, source, .. }) => {
                let refused = self.refused_field(rust_type, source, stored);
                if *rust_type != self.event.probe.rust_type() {
                    let repair = format!(
                        "let `{rust_type}` keep the fields of its version, and their types: if it shares a nested type with \
                         today's event, mend that type or give it a copy of the former one"
                    );
                    return Fault { text: refused, repair };
                }
                if version == today {
                    let text = refused + &self.further_changes(stored, source.reason());
                    return Fault { text, repair: self.repair_of_refused(source, stored) };
                }
                let default = source
                    .reason()
                    .starts_with(MISSING_FIELD)
                    .then_some(", or `#[serde(default)]` on the field if a default is right");
                let repair = format!(
                    "an upcaster from version {version} in `upcast(..)` that makes what `{rust_type}` takes{}",
                    default.unwrap_or_default()
                );
                Fault { text: refused, repair }
            }
            RereadError::Decode(DecodeError::Upcast { from, .. }) => {
                Fault { text: error.to_string(), repair: format!("let the upcaster from version {from} accept them") }
            }
            _ => Fault { text: error.to_string(), repair: self.another_version("the former type of the field") },
        }
    }

    /// Says which field a type does not accept.
    fn refused_field(&self, rust_type: &str, source: &FieldError, stored: &Shape) -> String {
        let (path, reason) = (source.path(), source.reason());
        if path.is_empty() {
            return format!("`{rust_type}` does not accept them: {reason}");
        }
        let (before, now) = (kind_in(stored, path), kind_in(&self.shape, path));
        match now.is_empty() || before == now {
            true => format!("`{rust_type}` does not accept their field `{path}{before}`: {reason}"),
            false => format!(
                "`{rust_type}` does not accept their field `{path}{before}`, which now is `{}`: {reason}",
                &now[2..]
            ),
        }
    }

    /// Lists the fields that are gone or new, apart from the one that `reason` names; empty if there are none.
    fn further_changes(&self, stored: &Shape, reason: &str) -> String {
        let gone = self.gone(stored).map(|(path, kind)| format!("`{path}: {kind}` is gone"));
        // the reason names a field that is missing
        let is_told = |path: &str| reason.contains(&format!("`{}`", name_of(path)));
        let new = self.shape.iter().filter(|(path, _)| !stored.contains_key(*path) && !is_told(path));
        let new = new.map(|(path, kind)| format!("`{path}: {kind}` is new"));
        let changes: Vec<_> = gone.chain(new).collect();
        if changes.is_empty() { String::new() } else { format!("; {}", changes.join(", ")) }
    }

    /// Returns the fields of `stored` that today's version does not have, with their kinds.
    fn gone<'b>(&'b self, stored: &'b Shape) -> impl Iterator<Item = (&'b String, &'b String)> {
        let is_traced = !self.shape.is_empty();
        stored.iter().filter(move |(path, _)| is_traced && !self.shape.contains_key(*path))
    }

    /// Returns the repair where today's version refuses what it once wrote.
    fn repair_of_refused(&self, source: &FieldError, stored: &Shape) -> String {
        let place = json::general(source.path());
        let former = self.gone(stored).filter(|(path, _)| parent_of(path) == place);
        let alias: Vec<_> = former.map(|(path, _)| format!("`#[serde(alias = \"{}\")]`", name_of(path))).collect();
        let alias = alias.join(" or ");
        self.another_version(&match source.reason() {
            reason if reason.starts_with("unknown variant") && !alias.is_empty() => {
                format!("{alias} on the variant if it has a new name, the variant again if not")
            }
            reason if !reason.starts_with(MISSING_FIELD) => "the former type of the field".to_owned(),
            _ if alias.is_empty() => "`#[serde(default)]` on it if a default is right".to_owned(),
            _ => format!("{alias} on it if that was its name, `#[serde(default)]` if a default is right"),
        })
    }

    /// Describes the values that are lost where today's version reads a payload of its own; `None` if none is.
    fn lost_value(&self, stored: &str, read: &str, shape: &Shape) -> Option<Fault> {
        // a variant may have a new name and its old one as an alias
        let is_variant = |value: &str| {
            let name = format!(".{}", value.trim_matches('"'));
            shape.iter().any(|(path, kind)| kind.starts_with("variant") && path.ends_with(&name))
        };
        let mut told: Vec<(String, String)> = Vec::new();
        let mut alias = None;
        for (path, value) in json::lost(stored, read) {
            if is_variant(&value) || told.iter().any(|(other, _)| *other == json::general(&path)) {
                continue;
            }
            let kind = kind_in(shape, &path);
            let text = match json::value_at(read, &path) {
                None => {
                    alias.get_or_insert_with(|| name_of(&path).to_owned());
                    format!("field `{path}{kind}` is lost")
                }
                Some(now) => format!("field `{path}{kind}` changes from {value} to {now}"),
            };
            told.push((json::general(&path), text));
        }
        if told.is_empty() {
            return None;
        }
        let text = told.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(", ");
        Some(Fault { text, repair: self.repair_of_lost(alias.as_deref()) })
    }

    /// Describes the first value that is read differently, by an upcaster, a default or a nested type; `None` if all are
    /// read as before.
    fn changed_reading(&self, before: &str, now: &str, version: u32) -> Option<Fault> {
        let (path, value) = json::lost(before, now).into_iter().next()?;
        let is_in = |shape: &Shape| shape.keys().any(|other| json::general(other) == json::general(&path));
        if let Some(locked) =
            self.locked.filter(|locked| is_in(locked) && !self.shape.is_empty() && !is_in(&self.shape))
        {
            // today's version lost the field: no upcaster can give it back
            let text = format!("field `{path}{}` is lost", kind_in(locked, &path));
            return Some(Fault { text, repair: self.repair_of_lost(Some(name_of(&path))) });
        }
        let text = match json::value_at(now, &path) {
            None => format!("field `{path}`, which was read as {value}, is lost"),
            Some(now) => format!("field `{path}` was read as {value}, and is now read as {now}"),
        };
        let repair = format!(
            "the former upcaster; if the new one is right, delete the `reads` lines of version {version} and write the file \
             again"
        );
        Some(Fault { text, repair })
    }

    /// Returns the repair of lost values; `gone` names their field, if today's version does not have it.
    fn repair_of_lost(&self, gone: Option<&str>) -> String {
        let (today, next) = (self.today, self.today + 1);
        let alias = gone.map(|name| format!("`#[serde(alias = \"{name}\")]` on the field if it has a new name, else "));
        let alias = alias.unwrap_or_default();
        format!(
            "{alias}`version = {next}` and an upcaster from {today}; `_` as the upcaster if the values are not needed any more"
        )
    }

    /// Adds the repair that is always possible, a new version.
    fn another_version(&self, or: &str) -> String {
        format!("{or}, else `version = {}` and an upcaster from {}", self.today + 1, self.today)
    }
}

/// Returns the last name of a path: `sku` of `lines[].sku`.
fn name_of(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, name)| name)
}

/// Returns what holds the last name of a path: `lines[]` of `lines[].sku`; empty if that is the event.
fn parent_of(path: &str) -> String {
    json::general(path.rsplit_once('.').map_or("", |(parent, _)| parent))
}

/// Returns the kind of a field in a shape, as `: string`; empty if it has none.
fn kind_in(shape: &Shape, path: &str) -> String {
    let wanted = json::general(path);
    let found = shape.iter().find(|(path, _)| json::general(path) == wanted);
    found.map(|(_, kind)| format!(": {kind}")).unwrap_or_default()
}
