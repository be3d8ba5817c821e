//! The comparison of the code with a lock file.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    fault::{Fault, Reader},
    file::{LockFile, LockedEvent, LockedVersion},
    finding::Finding,
    json,
    known_event::KnownEvent,
};
use crate::domain::{event::EventDescriptor, probe::Samples, trace::Shape};

/// The event types of the code.
pub(super) struct Code<'a> {
    pub(super) events: Vec<KnownEvent>,
    /// The wire names that aggregates have retired, each with the type of the aggregate.
    pub(super) retired: BTreeSet<(&'static str, &'static str)>,
    pub(super) samples: &'a BTreeMap<&'static str, Vec<Result<String, String>>>,
}

/// What a comparison found.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// The changes that would break stored events.
    pub(super) findings: Vec<Finding>,
    /// What the file lacks.
    pub(super) news: Vec<String>,
    /// The file with what it lacks.
    pub(super) updated: LockFile,
}

impl Code<'_> {
    /// Compares the events with the file.
    pub(super) fn compare(&self, file: &LockFile) -> Comparison {
        let mut comparison = Comparison { updated: file.clone(), ..Comparison::default() };
        for (name, locked) in &file.events {
            match self.events.iter().find(|event| event.descriptor.is_named(name)) {
                Some(event) => comparison.read_stored(name, locked, event, file),
                None if self.retired.contains(&(locked.aggregate_type.as_str(), name.as_str())) => {}
                None => comparison.findings.push(Finding {
                    event_type: name.clone(),
                    versions: locked.versions.keys().copied().collect(),
                    fault: "no event has this wire name any more".into(),
                    repair: format!(
                        "`was(\"{name}\")` on the event that took its place, or `retired(\"{name}\")` on its aggregate"
                    ),
                }),
            }
        }
        for event in &self.events {
            comparison.add_today(event, self.samples.get(event.descriptor.event_type));
        }
        comparison
    }
}

impl Comparison {
    /// Reads the stored payloads of an event.
    fn read_stored(&mut self, name: &str, locked: &LockedEvent, event: &KnownEvent, file: &LockFile) {
        let KnownEvent { descriptor, .. } = event;
        let finding = |versions: Vec<u32>, fault, repair: &str| Finding {
            event_type: name.into(),
            versions,
            fault,
            repair: repair.into(),
        };
        let all = || locked.versions.keys().copied().collect::<Vec<_>>();
        if locked.aggregate_type != descriptor.aggregate_type {
            let (before, now) = (&locked.aggregate_type, descriptor.aggregate_type);
            let fault = format!(
                "its aggregate type was `{before}` and is `{now}`, whose streams have none of the stored events"
            );
            self.findings.push(finding(all(), fault, &format!("`type = \"{before}\"` on the aggregate")));
        }
        let today = descriptor.schema_version;
        let later: Vec<u32> = locked.versions.keys().copied().filter(|version| *version > today).collect();
        if let Some(last) = later.last() {
            let fault = format!("{} would read none of them: they are of later versions", shown(descriptor));
            self.findings.push(finding(later.clone(), fault, &format!("`version = {last}` or higher")));
        }
        let reader = Reader::of(event, file);
        let mut faults: BTreeMap<Fault, Vec<u32>> = BTreeMap::new();
        for (&version, stored) in locked.versions.range(..=today) {
            for (index, payload) in stored.payloads.iter().enumerate() {
                match reader.read(name, version, stored, payload) {
                    Ok(read) => self.note_reading(name, version, index, (today, read)),
                    Err(fault) => {
                        let versions = faults.entry(fault).or_default();
                        if versions.last() != Some(&version) {
                            versions.push(version);
                        }
                    }
                }
            }
        }
        self.findings
            .extend(faults.into_iter().map(|(Fault { text, repair }, versions)| finding(versions, text, &repair)));
    }

    /// Adds how today's version reads a payload, if that differs from the payload.
    fn note_reading(&mut self, name: &str, version: u32, index: usize, read: (u32, String)) {
        let event = self.updated.events.get_mut(name);
        let stored = event.and_then(|event| event.versions.get_mut(&version));
        if let Some(payload) = stored.and_then(|stored| stored.payloads.get_mut(index)) {
            let is_noted = payload.reads.as_ref().is_some_and(|(reader, _)| *reader == read.0);
            if is_noted || (version == read.0 && json::lost(&read.1, &payload.json).is_empty()) {
                return;
            }
            let news = format!("`{name}` version {version}: how version {} reads it", read.0);
            payload.reads = Some(read);
            if self.news.last() != Some(&news) {
                self.news.push(news);
            }
        }
    }

    /// Adds today's version of an event.
    fn add_today(&mut self, event: &KnownEvent, given: Option<&Vec<Result<String, String>>>) {
        let EventDescriptor { event_type, schema_version, aggregate_type, .. } = event.descriptor;
        let refuse = |fault: String| Finding {
            event_type: event_type.into(),
            versions: vec![schema_version],
            fault,
            repair: "give `Lock::sample` one that can be stored".into(),
        };
        let given = given.map(Vec::as_slice).unwrap_or_default();
        self.findings.extend(given.iter().filter_map(|sample| sample.clone().err()).map(refuse));
        let given: Vec<_> = given.iter().flatten().cloned().collect();
        let Samples { mut payloads, shape } = match event.probe.samples() {
            Ok(samples) => samples,
            Err(_) if !given.is_empty() => Samples { payloads: Vec::new(), shape: shape_of(&given) },
            Err(error) => return self.findings.push(refuse(format!("no sample of it can be made: {error}"))),
        };
        let known = self.updated.events.get(event_type).and_then(|event| event.versions.get(&schema_version));
        // a payload that shows a fault of the field has reported it already
        if !self.findings.iter().any(|finding| finding.event_type == event_type)
            && let Some((path, kind)) = known.and_then(|known| no_longer_optional(known, &shape))
        {
            let next = schema_version + 1;
            return self.findings.push(Finding {
                event_type: event_type.into(),
                versions: vec![schema_version],
                fault: format!("field `{path}: {kind}` may be `null` in stored events, and must have a value now"),
                repair: format!(
                    "the `Option` again, or `version = {next}` and an upcaster from {schema_version} that puts a value there"
                ),
            });
        }
        let changes = match known {
            None if self.updated.events.contains_key(event_type) => {
                vec![format!("`{event_type}` has a version {schema_version}")]
            }
            None => vec![format!("the event `{event_type}`, version {schema_version}")],
            Some(known) => changes(event_type, known, &shape, &given),
        };
        if changes.is_empty() {
            return;
        }
        self.news.extend(changes);
        let locked = self.updated.events.entry(event_type.into()).or_default();
        locked.aggregate_type = aggregate_type.into();
        let version = locked.versions.entry(schema_version).or_default();
        version.shape = shape;
        payloads.extend(given);
        payloads.iter().for_each(|payload| version.add_payload(payload));
    }
}

/// Returns a field that was an `Option` and no longer is one, with its former kind.
fn no_longer_optional<'a>(known: &'a LockedVersion, shape: &Shape) -> Option<(&'a String, &'a String)> {
    known.shape.iter().find(|(path, before)| {
        shape.get(*path).is_some_and(|now| before.strip_suffix('?').is_some_and(|required| required == now))
    })
}

/// Returns what a version of the file lacks.
fn changes(event_type: &str, known: &LockedVersion, shape: &Shape, given: &[String]) -> Vec<String> {
    let named = |what: String| format!("`{event_type}`: {what}");
    let mut changes = Vec::new();
    for (path, kind) in shape {
        match known.shape.get(path) {
            None => changes.push(named(format!("the field `{path}: {kind}`"))),
            Some(before) if before != kind => changes.push(named(format!("`{path}` is `{kind}`, it was `{before}`"))),
            Some(_) => {}
        }
    }
    let gone = known.shape.iter().filter(|(path, _)| !shape.contains_key(*path));
    changes.extend(gone.map(|(path, kind)| named(format!("`{path}: {kind}` is gone"))));
    let is_new = |sample: &&String| !known.payloads.iter().any(|payload| payload.json == **sample);
    changes.extend(given.iter().filter(is_new).map(|sample| named(format!("the sample {sample}"))));
    changes
}

/// Returns the shape of given samples: the kind of each value in them.
fn shape_of(samples: &[String]) -> Shape {
    let kind = |value: &str| match value.as_bytes().first() {
        Some(b'"') => "string",
        Some(b't' | b'f') => "bool",
        _ => "number",
    };
    let scalars = samples.iter().flat_map(|sample| json::scalars(sample));
    scalars.map(|(path, value)| (json::general(&path), kind(&value).to_owned())).collect()
}

/// Returns how an event is named in messages.
fn shown(event: &EventDescriptor) -> String {
    format!("`{}` (version {}, {})", event.event_type, event.schema_version, event.source)
}
