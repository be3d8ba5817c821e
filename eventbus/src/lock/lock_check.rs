//! The check of a program's events against a lock file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::{
    compare::{Code, Comparison},
    error::LockError,
    file::LockFile,
    known_event::KnownEvent,
};
use crate::{
    domain::{probe::EventProbe, record::DomainEvent},
    runtime::definition::{AggregateRegistration, EventRegistration},
};

/// The variable by which a test writes the file.
const BLESS_VARIABLE: &str = "EVENTBUS_BLESS";

/// A lock file, and the events to check against it: all that are linked, unless [`event`](Self::event) or
/// [`crates`](Self::crates) chooses some.
#[derive(Debug, Clone)]
#[must_use]
pub struct Lock {
    path: PathBuf,
    chosen: Vec<KnownEvent>,
    crates: Option<BTreeSet<String>>,
    /// Payloads by wire name, or why the sample could not be encoded.
    samples: BTreeMap<&'static str, Vec<Result<String, String>>>,
}

impl Lock {
    /// Names the lock file, relative to the present folder.
    pub fn at(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().into(), chosen: Vec::new(), crates: None, samples: BTreeMap::new() }
    }

    /// Checks this event, and of the linked events only those that are chosen in the same way.
    pub fn event<E: DomainEvent>(mut self) -> Self {
        self.chosen.push(KnownEvent { descriptor: E::DESCRIPTOR, probe: EventProbe::of::<E>() });
        self
    }

    /// Checks the linked events of these crates only, by their names as code writes them: `my_orders`.
    pub fn crates(self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { crates: Some(names.into_iter().map(Into::into).collect()), ..self }
    }

    /// Adds a sample of an event, for what tracing cannot make: a variant of an enum that is untagged or internally
    /// tagged, flattened fields, a value that a type validates. Without a sample, texts are tried as words, UUIDs,
    /// times, dates, decimals, mail addresses, URLs, IP addresses and currency codes.
    ///
    /// # Examples
    /// ```
    /// use eventbus::{lock::Lock, prelude::*};
    ///
    /// #[derive(Debug, Clone, Serialize, Deserialize)]
    /// #[serde(tag = "by")]
    /// enum Payment { Card { last4: String }, Cash }
    ///
    /// #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// #[event(aggregate_type = "Order")]
    /// struct OrderPaid { payment: Payment }
    ///
    /// # let path = std::env::temp_dir().join(format!("{}.lock", AggregateId::new()));
    /// let card = OrderPaid { payment: Payment::Card { last4: "4242".into() } };
    /// let lock = Lock::at(&path).event::<OrderPaid>().sample(&card).sample(&OrderPaid { payment: Payment::Cash });
    /// lock.write()?;
    /// lock.compare()?;
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), eventbus::Error>(())
    /// ```
    pub fn sample<E: DomainEvent>(mut self, event: &E) -> Self {
        // a payload is one line of the file; JSON has line ends between values only, as a `RawValue` brings them
        let in_one_line = event.encode().map(|event| event.payload().replace(['\n', '\r'], " "));
        let payload = in_one_line.map_err(|error| error.to_string());
        self.samples.entry(E::EVENT_TYPE).or_default().push(payload);
        self
    }

    /// Checks the events, or writes the file if the environment has `EVENTBUS_BLESS=1`.
    ///
    /// # Panics
    /// If [`compare`](Self::compare) or [`write`](Self::write) fails.
    #[track_caller]
    pub fn check(&self) {
        let is_blessed = std::env::var(BLESS_VARIABLE).is_ok_and(|value| value == "1");
        let checked = if is_blessed { self.write() } else { self.compare() };
        assert!(checked.is_ok(), "{}", checked.err().map(|error| error.to_string()).unwrap_or_default());
    }

    /// Compares the events with the file.
    ///
    /// # Errors
    /// [`LockError::Unreadable`] if the code would not read stored events, or not as before; [`LockError::OutOfDate`]
    /// if it reads them all, but the file lacks some lines; [`LockError::Missing`], [`LockError::Malformed`] or
    /// [`LockError::Io`] for the file itself.
    pub fn compare(&self) -> Result<(), LockError> {
        let Some(file) = self.read()? else {
            return Err(LockError::Missing { path: self.path.clone() });
        };
        let Comparison { findings, news, .. } = self.code().compare(&file);
        if !findings.is_empty() {
            return Err(LockError::Unreadable { path: self.path.clone(), findings });
        }
        match news.is_empty() {
            true => Ok(()),
            false => Err(LockError::OutOfDate { path: self.path.clone(), news }),
        }
    }

    /// Adds to the file what it lacks; does not write a complete file.
    ///
    /// # Errors
    /// As for [`compare`](Self::compare), but a file may be missing or incomplete.
    pub fn write(&self) -> Result<(), LockError> {
        let file = self.read()?.unwrap_or_default();
        let Comparison { findings, news, updated } = self.code().compare(&file);
        if !findings.is_empty() {
            return Err(LockError::Unreadable { path: self.path.clone(), findings });
        }
        if news.is_empty() && self.path.exists() {
            return Ok(());
        }
        fs::write(&self.path, updated.to_text()).map_err(|source| LockError::Io { path: self.path.clone(), source })
    }

    /// Reads the file; `None` if there is none.
    fn read(&self) -> Result<Option<LockFile>, LockError> {
        let path = || self.path.clone();
        match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(LockError::Io { path: path(), source }),
            Ok(text) => match LockFile::parse(&text) {
                Ok(file) => Ok(Some(file)),
                Err((line, reason)) => Err(LockError::Malformed { path: path(), line, reason }),
            },
        }
    }

    fn code(&self) -> Code<'_> {
        let linked = inventory::iter::<EventRegistration>()
            .map(|event| KnownEvent { descriptor: event.descriptor, probe: event.probe });
        let is_of_crate = |event: &KnownEvent| {
            let name = event.descriptor.source.crate_name();
            self.crates.as_ref().is_none_or(|crates| crates.contains(name))
        };
        let mut events: Vec<_> =
            if self.chosen.is_empty() { linked.filter(is_of_crate).collect() } else { self.chosen.clone() };
        events.sort_unstable_by_key(|event| event.descriptor.event_type);
        Code { events, retired: AggregateRegistration::all_retired().collect(), samples: &self.samples }
    }
}
