//! The payload of an event for people: its fields, without the hidden ones, and their changes.
//!
//! Invariant: a [`Payload`] has no values of an event with sealed fields, and none of hidden fields. A field is hidden
//! if an operator names it, if the event's type declares it as personal, or if applications have noted it as personal
//! in the store. If the program declares any, it hides all fields of events whose type or version it does not know,
//! because more of them may be personal.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

#[cfg(feature = "dashboard")]
use eventbus::catalog::Catalog;
use eventbus::{Metadata, RecordedEvent, event::EventDescriptor, support::PersonalFields};
use serde_json::{Map, Value};

/// The most fields of one event that are shown.
const FIELDS_MAX: usize = 200;
/// The most characters of one value that are shown.
const VALUE_MAX: usize = 500;
/// The text in place of the value of a hidden field.
const HIDDEN: &str = "(hidden)";

/// The fields whose values are shown, by their names; by default all.
#[derive(Debug, Clone, Default)]
pub(crate) struct FieldChoice {
    /// Fields that are hidden, at any depth; case, `_` and `-` do not matter.
    pub(crate) hidden: Vec<String>,
    /// If set, only these fields, and all below them, are shown.
    pub(crate) shown: Option<Vec<String>>,
    /// The events that the program knows, if one of them has personal fields.
    pub(crate) known: Vec<EventDescriptor>,
    /// The personal fields that applications have noted in the store.
    pub(crate) noted: PersonalFields,
}

impl FieldChoice {
    /// Hides the personal fields of the events that are linked into this program; the command `eventbus` has no linked
    /// events.
    #[cfg(feature = "dashboard")]
    pub(crate) fn hiding_personal() -> Self {
        let events: Vec<_> = Catalog::linked().events.into_iter().map(|event| event.descriptor).collect();
        let has_personal = events.iter().any(|event| !event.personal.is_empty());
        Self { known: if has_personal { events } else { Vec::new() }, ..Self::default() }
    }

    /// Returns `true` if it hides known personal fields of events.
    pub(crate) fn hides_personal(&self) -> bool {
        !self.known.is_empty() || !self.noted.is_empty()
    }

    /// Returns the choice for one event, which also hides its personal fields. If the program knows events with
    /// personal fields, but not this event in this version, hides all fields.
    fn of_event(&self, metadata: &Metadata) -> Cow<'_, Self> {
        if !self.hides_personal() {
            return Cow::Borrowed(self);
        }
        let event_type = metadata.event_type().as_str();
        let is_declared =
            |event: &&EventDescriptor| event.is_named(event_type) && event.schema_version == metadata.schema_version();
        let mut declared = self.known.iter().filter(is_declared).peekable();
        let is_known = self.known.is_empty() || declared.peek().is_some();
        let shown = if is_known { self.shown.clone() } else { Some(Vec::new()) };
        let personal = declared.flat_map(|event| event.personal).map(|&name| name.to_owned());
        let noted = self.noted.of_type(event_type).map(str::to_owned);
        let hidden = self.hidden.iter().cloned().chain(personal).chain(noted).collect();
        Cow::Owned(Self { hidden, shown, ..Self::default() })
    }

    /// Returns the actor of an event as it is shown: hidden if a field `actor` or `actor_id` would be.
    #[cfg(feature = "dashboard")]
    pub(crate) fn actor<'m>(&self, metadata: &'m Metadata) -> Option<&'m str> {
        let names = ["actor", "actor_id"];
        let is_shown = names.iter().any(|name| self.lists(name)) && !names.iter().any(|name| self.hides(name));
        metadata.actor_id().map(|actor| if is_shown { actor } else { HIDDEN })
    }

    fn hides(&self, name: &str) -> bool {
        let letters =
            |name: &str| name.chars().filter(|c| !"_-".contains(*c)).flat_map(char::to_lowercase).collect::<String>();
        let wanted = letters(name);
        self.hidden.iter().any(|hidden| letters(hidden) == wanted)
    }

    fn lists(&self, name: &str) -> bool {
        self.shown.as_ref().is_none_or(|shown| shown.iter().any(|listed| listed == name))
    }

    /// Returns `true` if a field at any depth of a value is listed.
    fn lists_below(&self, value: &Value) -> bool {
        match value {
            Value::Object(fields) => fields.iter().any(|(name, value)| self.lists(name) || self.lists_below(value)),
            Value::Array(items) => items.iter().any(|item| self.lists_below(item)),
            _ => false,
        }
    }
}

/// The payload of an event, or the state of an aggregate, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Payload {
    fields: Vec<Field>,
    /// Set if there are more fields.
    pub(crate) is_cut: bool,
    /// Set if it has a sealed or a hidden field.
    pub(crate) is_hiding: bool,
}

/// A field of a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) path: String,
    /// The value; of a long value, the beginning.
    pub(crate) value: String,
    /// The hash of the whole value: two values with the same beginning may differ, and so may a text and a number.
    hash: u64,
}

/// A field compared with the last event of the same type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) path: String,
    pub(crate) value: String,
    pub(crate) change: Change,
}

/// The difference between a field and the same field of the last event of the same type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// There is none, or no earlier event of this type is known.
    None,
    /// That event lacks it.
    New,
    /// It had this value.
    From(String),
    /// That event had it, with this value.
    Gone,
}

impl Payload {
    /// Reads the payload of an event, and its attributes if it has some.
    pub(crate) fn new(event: &RecordedEvent, choice: &FieldChoice) -> Self {
        let metadata = event.metadata();
        let is_sealed = metadata.has_sealed_fields();
        let choice = &*choice.of_event(metadata);
        let is_hiding = is_sealed || choice.shown.as_ref().is_some_and(Vec::is_empty);
        let mut payload = Self { fields: Vec::new(), is_cut: false, is_hiding };
        payload.add_json("", event.payload(), is_sealed, choice);
        if !metadata.attributes().is_empty() {
            payload.add_json("attributes", metadata.attributes().as_json(), is_sealed, choice);
        }
        // one of the fields that were not read may be hidden
        payload.is_hiding |= payload.is_cut && (choice.shown.is_some() || !choice.hidden.is_empty());
        payload
    }

    /// Reads the JSON of a state.
    pub(crate) fn of_json(json: &str, choice: &FieldChoice) -> Self {
        let mut payload = Self { fields: Vec::new(), is_cut: false, is_hiding: false };
        payload.add_json("", json, false, choice);
        payload
    }

    fn add_json(&mut self, path: &str, json: &str, is_sealed: bool, choice: &FieldChoice) {
        match serde_json::from_str(json) {
            Ok(Value::Object(fields)) if is_sealed => {
                for name in fields.keys() {
                    self.add_text(&join(path, name), "(sealed)");
                }
            }
            // its names are field names of the event, not keys of a map
            Ok(Value::Object(fields)) if path.is_empty() && !fields.is_empty() => {
                self.add_fields(path, &fields, choice, choice.shown.is_none());
            }
            Ok(value) if !is_sealed => self.add_value(path, &value, choice, choice.shown.is_none()),
            _ => self.add_text(path, "(not readable)"),
        }
    }

    /// Adds a value; an unlisted one only if a field below it is listed. The keys of a map may be as personal as its
    /// values.
    fn add_value(&mut self, path: &str, value: &Value, choice: &FieldChoice, is_listed: bool) {
        match value {
            Value::Object(_) | Value::Array(_) if !is_listed && !choice.lists_below(value) => self.hide(path),
            Value::Object(fields) if !fields.is_empty() => self.add_fields(path, fields, choice, is_listed),
            Value::Array(items) if !items.is_empty() => {
                for (place, item) in items.iter().enumerate() {
                    if self.is_cut {
                        return;
                    }
                    self.add_value(&format!("{path}[{place}]"), item, choice, is_listed);
                }
            }
            _ if !is_listed => self.hide(path),
            Value::String(text) => self.add(path, shorten(text), value),
            value => self.add(path, shorten(&value.to_string()), value),
        }
    }

    fn add_fields(&mut self, path: &str, fields: &Map<String, Value>, choice: &FieldChoice, is_listed: bool) {
        for (name, value) in fields {
            if self.is_cut {
                return;
            }
            let path = join(path, name);
            match choice.hides(name) {
                true => self.hide(&path),
                false => self.add_value(&path, value, choice, is_listed || choice.lists(name)),
            }
        }
    }

    /// Adds a hidden field.
    fn hide(&mut self, path: &str) {
        self.is_hiding = true;
        self.add_text(path, HIDDEN);
    }

    /// Adds a field whose value is not shown.
    fn add_text(&mut self, path: &str, text: &str) {
        self.add(path, text.to_owned(), &Value::Null);
    }

    fn add(&mut self, path: &str, shown: String, value: &Value) {
        if self.fields.len() == FIELDS_MAX {
            self.is_cut = true;
            return;
        }
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        self.fields.push(Field { path: path.to_owned(), value: shown, hash: hasher.finish() });
    }

    /// Returns the fields, without a comparison.
    #[cfg(feature = "dashboard")]
    pub(crate) fn fields(&self) -> &[Field] {
        &self.fields
    }

    fn field(&self, path: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.path == path)
    }
}

/// Compares the events of a stream, the oldest first, each with the last earlier event of its type: in events of two
/// types, fields of the same name may have different meanings.
#[derive(Debug, Default)]
pub(crate) struct PayloadComparison {
    last_of_type: BTreeMap<String, Payload>,
}

impl PayloadComparison {
    /// Returns the fields of the next event, and the fields that it lacks. If an event has more fields than are
    /// compared, the rest counts as neither new nor gone.
    pub(crate) fn compare(&mut self, event_type: &str, payload: &Payload) -> Vec<Difference> {
        let Some(last) = self.last_of_type.insert(event_type.to_owned(), payload.clone()) else {
            return payload.fields.iter().map(|field| field.with(Change::None)).collect();
        };
        let change = |field: &Field| match last.field(&field.path) {
            None if last.is_cut => Change::None,
            None => Change::New,
            Some(before) if before.hash == field.hash => Change::None,
            Some(before) => Change::From(before.value.clone()),
        };
        let mut found: Vec<_> = payload.fields.iter().map(|field| field.with(change(field))).collect();
        if !payload.is_cut {
            let gone = last.fields.iter().filter(|field| payload.field(&field.path).is_none());
            found.extend(gone.map(|field| field.with(Change::Gone)));
        }
        found
    }
}

impl Field {
    fn with(&self, change: Change) -> Difference {
        Difference { path: self.path.clone(), value: self.value.clone(), change }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(VALUE_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
    }
}

#[cfg(test)]
mod tests {
    use eventbus::{Name, NewEvent, StreamId, Version, prelude::*};

    use super::*;

    fn event(payload: &str, is_sealed: bool) -> RecordedEvent {
        let event = NewEvent::new(Name::from_static("Noted"), 1, payload);
        let record = event.recorded_as(StreamId::parse("Order", "o-1").unwrap(), Version::FIRST, None);
        RecordedEvent::new(record.metadata().clone().with_sealed_fields(is_sealed), record.payload())
    }

    fn shown(payload: &str, hidden: &[&str]) -> Vec<(String, String)> {
        let hidden = hidden.iter().map(|name| (*name).to_owned()).collect();
        pairs(Payload::new(&event(payload, false), &FieldChoice { hidden, ..FieldChoice::default() }))
    }

    fn pairs(payload: Payload) -> Vec<(String, String)> {
        payload.fields.into_iter().map(|field| (field.path, field.value)).collect()
    }

    fn pair(path: &str, value: &str) -> (String, String) {
        (path.into(), value.into())
    }

    #[test]
    fn nested_fields_have_paths() {
        let wanted = [pair("a", "1"), pair("b.c[0]", "x"), pair("b.c[1].d", "null"), pair("e", "[]"), pair("f", "<b>")];
        assert_eq!(shown(r#"{"a":1,"b":{"c":["x",{"d":null}]},"e":[],"f":"<b>"}"#, &[]), wanted);
    }

    #[test]
    fn hidden_fields_have_no_value_at_any_depth() {
        let payload = r#"{"email":{"at":"ada@example.org"},"list":[{"email":"ada@example.org","n":1}]}"#;
        let wanted = [pair("email", "(hidden)"), pair("list[0].email", "(hidden)"), pair("list[0].n", "1")];
        assert_eq!(shown(payload, &["email"]), wanted);
        assert_eq!(shown(payload, &["E-Mail"]), wanted);
    }

    #[test]
    fn personal_fields_have_no_value_and_of_another_version_none_has_one() {
        #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
        #[event(aggregate_type = "Order", version = 2, was("Written"), personal(home_address, mail), upcast(_))]
        #[serde(rename_all = "camelCase")]
        struct Noted {
            home_address: String,
            #[serde(rename = "e-mail", alias = "letters")]
            mail: String,
            cents: i64,
        }
        #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
        #[event(aggregate_type = "Order")]
        struct Paid {
            cents: i64,
        }
        let noted = Noted { home_address: "x".into(), mail: "x".into(), cents: 5 };
        let payload = serde_json::to_string(&noted).unwrap();
        let of = |version: u32, event_type: &str| {
            let record = event(&payload, false);
            let name = Name::new("event type", event_type).unwrap();
            let metadata = Metadata::new(
                record.metadata().event_id(),
                name,
                record.metadata().stream().clone(),
                Version::FIRST,
                record.metadata().occurred_at(),
            );
            RecordedEvent::new(metadata.with_schema_version(version), record.payload())
        };
        let choice =
            FieldChoice { shown: Some(vec!["homeAddress".into(), "cents".into()]), ..FieldChoice::hiding_personal() };
        for choice in [FieldChoice::hiding_personal(), choice] {
            let read = Payload::new(&of(2, "Noted"), &choice);
            assert!(read.is_hiding);
            let wanted = [pair("cents", "5"), pair("e-mail", "(hidden)"), pair("homeAddress", "(hidden)")];
            assert_eq!(pairs(read), wanted);
            for (version, event_type) in [(1, "Noted"), (3, "Noted"), (1, "Written")] {
                let read = Payload::new(&of(version, event_type), &choice);
                assert!(read.is_hiding);
                assert!(pairs(read).iter().all(|(_, value)| value == "(hidden)"), "{version} {event_type}");
            }
        }
        // a type that the program does not know, or not in this version, may have had any
        for (version, event_type, is_hiding) in [(1, "Paid", false), (2, "Paid", true), (2, "Other", true)] {
            let read = Payload::new(&of(version, event_type), &FieldChoice::hiding_personal());
            assert_eq!(read.is_hiding, is_hiding, "{version} {event_type}");
        }
        let renamed = event(r#"{"letters":"x","cents":5}"#, false);
        let renamed = RecordedEvent::new(renamed.metadata().clone().with_schema_version(2), renamed.payload());
        let read = Payload::new(&renamed, &FieldChoice::hiding_personal());
        assert_eq!(pairs(read), [pair("cents", "5"), pair("letters", "(hidden)")]);
        let many: Vec<_> = (0..FIELDS_MAX + 1).map(|number| format!(r#""a{number:03}":1"#)).collect();
        let long = event(&format!(r#"{{{},"mail":"x"}}"#, many.join(",")), false);
        let long = RecordedEvent::new(long.metadata().clone().with_schema_version(2), long.payload());
        assert!(Payload::new(&long, &FieldChoice::hiding_personal()).is_hiding, "a field that was not read");
        let one = FieldChoice { hidden: vec!["mail".into()], ..FieldChoice::default() };
        assert!(Payload::new(&long, &one).is_hiding && !Payload::new(&long, &FieldChoice::default()).is_hiding);
    }

    #[test]
    fn of_a_list_of_fields_only_those_have_values_with_all_below_them() {
        let payload = r#"{"cents":5,"name":"Ada","lines":[{"cents":2,"email":"a"},"note"],"to":{"street":"x"}}"#;
        let (hidden, shown) = (vec!["email".into()], Some(vec!["cents".into(), "to".into()]));
        let choice = FieldChoice { hidden, shown, ..FieldChoice::default() };
        let wanted = [
            pair("cents", "5"),
            pair("lines[0].cents", "2"),
            pair("lines[0].email", "(hidden)"),
            pair("lines[1]", "(hidden)"),
            pair("name", "(hidden)"),
            pair("to.street", "x"),
        ];
        assert_eq!(pairs(Payload::new(&event(payload, false), &choice)), wanted);
        assert_eq!(pairs(Payload::new(&event("7", false), &choice)), [pair("", "(hidden)")]);
    }

    #[test]
    fn a_map_without_a_listed_field_shows_no_keys() {
        let choice = |shown: &[&str]| {
            let shown = Some(shown.iter().map(|name| (*name).to_owned()).collect());
            FieldChoice { shown, ..FieldChoice::default() }
        };
        let record = event(r#"{"cents":{"ada":5},"notes":[[{"ada":1}],2],"votes":{"ada@example.org":1}}"#, false);
        let read = Payload::new(&record, &choice(&["cents"]));
        assert!(read.is_hiding, "a state may hold the values under other names");
        assert_eq!(pairs(read), [pair("cents.ada", "5"), pair("notes", "(hidden)"), pair("votes", "(hidden)")]);
        let read = Payload::new(&record, &choice(&[]));
        assert_eq!(pairs(read), [pair("cents", "(hidden)"), pair("notes", "(hidden)"), pair("votes", "(hidden)")]);
        assert!(!Payload::new(&record, &choice(&["cents", "notes", "votes"])).is_hiding);
    }

    #[test]
    fn an_event_with_sealed_fields_shows_no_value_at_all() {
        let payload = Payload::new(
            &event(r#"{"name":"sealed:1:key:c2VhbGVk","deep":{"plain":"Ada"}}"#, true),
            &FieldChoice::default(),
        );
        assert_eq!(pairs(payload), [pair("deep", "(sealed)"), pair("name", "(sealed)")]);
        let payload = Payload::new(&event(r#"["Ada"]"#, true), &FieldChoice::default());
        assert_eq!(pairs(payload), [pair("", "(not readable)")]);
    }

    #[test]
    fn large_payloads_are_cut() {
        let long = format!(r#"{{"a":"{}"}}"#, "ü".repeat(2_000));
        let fields = shown(&long, &[]);
        assert!(fields[0].1.ends_with("ü… (4000 bytes)") && fields[0].1.chars().count() < 520);
        let many = Payload::new(&event(&format!("[{}1]", "1,".repeat(10_000)), false), &FieldChoice::default());
        assert!(many.is_cut && many.fields.len() == FIELDS_MAX);
    }

    #[test]
    fn a_field_is_compared_with_the_last_event_of_the_same_type() {
        let of = |json: &str| Payload::new(&event(json, false), &FieldChoice::default());
        let mut comparison = PayloadComparison::default();
        let mut changes = |event_type: &str, json: &str| -> Vec<_> {
            let fields = comparison.compare(event_type, &of(json)).into_iter();
            fields.map(|field| (field.path, field.value, field.change)).collect()
        };
        let field = |path: &str, value: &str, change| (path.to_owned(), value.to_owned(), change);
        let placed = [field("cents", "120", Change::None), field("note", "a", Change::None)];
        assert_eq!(changes("Placed", r#"{"cents":120,"note":"a"}"#), placed);
        assert_eq!(changes("Paid", r#"{"cents":100}"#), [field("cents", "100", Change::None)]);
        let placed = [
            field("cents", "90", Change::From("120".into())),
            field("to", "b", Change::New),
            field("note", "a", Change::Gone),
        ];
        assert_eq!(changes("Placed", r#"{"cents":90,"to":"b"}"#), placed);
        assert_eq!(changes("Paid", r#"{"cents":100}"#), [field("cents", "100", Change::None)]);
    }

    #[test]
    fn whole_values_are_compared_and_fields_beyond_the_limit_are_neither_new_nor_gone() {
        let payload = |json: &str| Payload::new(&event(json, false), &FieldChoice::default());
        let mut comparison = PayloadComparison::default();
        let mut changes = |json: &str| -> Vec<_> {
            let compared = comparison.compare("Noted", &payload(json)).into_iter();
            compared.filter(|field| field.change != Change::None).map(|field| (field.path, field.change)).collect()
        };
        let long = |end: char| format!(r#"{{"a":"{}{end}","n":1}}"#, "x".repeat(1_000));
        assert_eq!(changes(&long('y')), []);
        let changed = changes(&long('z'));
        assert!(matches!(&changed[..], [(path, Change::From(_))] if path == "a"), "{changed:?}");
        let text = r#"{"a":"x","n":"1"}"#;
        assert_eq!(changes(text).last(), Some(&("n".to_owned(), Change::From("1".into()))));
        let many = |first: usize| {
            let fields: Vec<_> = (first..first + FIELDS_MAX + 1).map(|number| format!("\"f{number:04}\":1")).collect();
            format!("{{{}}}", fields.join(","))
        };
        let mut comparison = PayloadComparison::default();
        for first in [0, 1] {
            let found = comparison.compare("Noted", &payload(&many(first)));
            assert!(found.iter().all(|field| field.change == Change::None), "{found:?}");
        }
    }
}
