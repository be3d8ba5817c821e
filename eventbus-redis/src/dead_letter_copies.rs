//! Copies of the dead letters in a store, from which they are put back when Redis has lost them.
//!
//! Applications and tools list, replay and discard dead letters in Redis. The store keeps a note with a copy of each dead
//! letter of its own events; this loop alone reads the notes. The loop notes a dead letter that has no note, and removes the
//! note of one that Redis has no more, as an application or a tool has replayed or discarded it.
//!
//! Unless Redis was emptied, or is an older copy of itself. A record in Redis, one for each store, tells: a generation, and a
//! number that grows before notes change. The store notes both after its notes have changed.
//!
//! | the record in Redis | the store noted | meaning | next |
//! |---|---|---|---|
//! | none | anything | Redis was emptied, or nothing was ever copied | put back what has a note only |
//! | is restoring | anything | putting back was interrupted | the same again |
//! | another generation, or a lower number | | Redis is an older copy | the same |
//! | the same generation, no lower number | | nothing is lost | compare, if the stream changed since |
//! | any | nothing | the store is new here | compare |
//!
//! Keep: each step replaces the record only if it is still the one that was read, so of two processes one goes on. What was
//! half done is done again: a dead letter that is in Redis already is known by what it says, and not put back.

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc, time::Duration};

use eventbus::{
    BoxError, InvalidName, Name,
    port::{CheckpointError, EventStore, Lease, LeaseError, Notes, Outage, PAGE_BYTES},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    RedisCommandError,
    bus::Shared,
    command::history,
    dead_letters::{Fields, split, text},
    entry_id::EntryId,
    keys::{self, field},
    script,
};

/// How often the stream is looked at; after a burial of this process it is at once.
const EVERY: Duration = Duration::from_secs(10);
/// How soon again while another process copies, or something is away.
const AGAIN: Duration = Duration::from_secs(1);
/// How long another process waits for one that died while it copied.
const LEASE: Duration = Duration::from_secs(10);
/// How many dead letters are read, noted or put back at once; fewer if they have [`PAGE_BYTES`].
const TOGETHER: usize = 100;
/// How many names of notes are read at once.
const NAMES: usize = 1_000;
/// The longest name of a stream that stands in the names of notes as it is.
const LONGEST_SHOWN: usize = 180;

/// Copies the dead letters of a bus to a store, for as long as it is polled or until the bus is shut down.
pub(crate) async fn keep(shared: Arc<Shared>, store: Arc<dyn EventStore>) {
    let (clock, dead_letters) = (shared.config.clock.clone(), shared.config.dlq_stream_name());
    let mut outage = Outage::new(clock.clone());
    let names = match Names::new(&dead_letters) {
        Ok(names) => names,
        Err(error) => {
            return tracing::error!(%dead_letters, %error, "dead letters cannot be copied to the store");
        }
    };
    let mut copies = Copies { shared: Arc::clone(&shared), store, names, id: String::new(), settled: None };
    loop {
        let pause = match copies.look().await {
            Ok(()) => {
                if let Some(lasted) = outage.ends() {
                    tracing::info!(%dead_letters, ?lasted, "dead letters are copied to the store again");
                }
                EVERY
            }
            Err(CopyError::ShutDown) => return,
            Err(CopyError::Busy) => AGAIN,
            Err(CopyError::Failed(error)) => {
                if outage.begins() {
                    tracing::warn!(%dead_letters, %error, "dead letters are not copied to the store, trying again");
                }
                AGAIN
            }
        };
        tokio::select! {
            () = shared.buried.notified() => {}
            () = clock.sleep(pause) => {}
        }
    }
}

/// Why a look ended before its end.
#[derive(Debug)]
enum CopyError {
    /// Another process copies, or has replaced the record.
    Busy,
    /// The bus was shut down.
    ShutDown,
    /// Store or Redis cannot do it now.
    Failed(BoxError),
}

impl CopyError {
    fn failed(error: impl Into<BoxError>) -> Self {
        Self::Failed(error.into())
    }
}

impl From<CheckpointError> for CopyError {
    fn from(error: CheckpointError) -> Self {
        Self::failed(error)
    }
}

impl From<InvalidName> for CopyError {
    fn from(error: InvalidName) -> Self {
        Self::failed(error)
    }
}

impl From<LeaseError> for CopyError {
    fn from(error: LeaseError) -> Self {
        Self::failed(error)
    }
}

impl From<RedisCommandError> for CopyError {
    fn from(error: RedisCommandError) -> Self {
        match error {
            RedisCommandError::ShutDown { .. } => Self::ShutDown,
            error => Self::failed(error),
        }
    }
}

/// What the stream of dead letters has come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Figures {
    length: u64,
    /// The newest id ever.
    last: EntryId,
    max_deleted: EntryId,
    /// How many were ever added.
    added: u64,
}

impl Figures {
    /// Whether since then dead letters were added, and none was removed.
    fn has_only_grown(&self, since: &Self) -> bool {
        let grown = self.length.checked_sub(since.length);
        self.last >= since.last
            && self.max_deleted == since.max_deleted
            && grown.is_some()
            && grown == self.added.checked_sub(since.added)
    }
}

/// What Redis keeps of the copies that a store has.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    generation: String,
    changes: u64,
    is_restoring: bool,
    /// What the stream had come to before it was compared last.
    seen: Figures,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generation, changes, is_restoring, seen } = self;
        let state = if *is_restoring { "restoring" } else { "copied" };
        let Figures { length, last, max_deleted, added } = seen;
        write!(f, "{generation} {changes} {state} {length} {last} {max_deleted} {added}")
    }
}

impl FromStr for Record {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let words: Vec<&str> = text.split(' ').collect();
        let [generation, changes, state, length, last, max_deleted, added] = words[..] else {
            return Err(());
        };
        let seen = figures(length, last, max_deleted, added).ok_or(())?;
        let changes = changes.parse().map_err(drop)?;
        Ok(Self { generation: generation.to_owned(), changes, is_restoring: state != "copied", seen })
    }
}

fn figures(length: &str, last: &str, max_deleted: &str, added: &str) -> Option<Figures> {
    Some(Figures {
        length: length.parse().ok()?,
        last: last.parse().ok()?,
        max_deleted: max_deleted.parse().ok()?,
        added: added.parse().ok()?,
    })
}

/// What tells a dead letter from all others, wherever it is: when it died, to the millisecond, and a hash of the event, the
/// group, the entry and that time.
type Key = (u64, u128);

/// What a store's notes are called.
struct Names {
    /// What the names of all copies begin with.
    stem: Name,
    /// Under which generation and number are noted; also the lease of the one who copies.
    role: Name,
}

impl Names {
    /// The names for a stream of dead letters: with the stream's name, or with its hash where that is too long for a name.
    fn new(dead_letters: &str) -> Result<Self, InvalidName> {
        let named = |text: &str| {
            let stem = Name::new("note", format!("dead-letter:{text}/"))?;
            Ok(Self { stem, role: Name::new("note", format!("dead-letters:{text}"))? })
        };
        let shown = Some(dead_letters).filter(|text| text.len() <= LONGEST_SHOWN).and_then(|text| named(text).ok());
        shown.map_or_else(|| named(&format!("{:032x}", xxh3_128(dead_letters.as_bytes()))), Ok)
    }

    fn note(&self, (died_at, hash): Key) -> Result<Name, InvalidName> {
        Name::new("note", format!("{}{died_at:014}-{hash:032x}", self.stem))
    }

    /// The dead letter that a note is about; `None` for one of a stream whose name is longer.
    fn key(&self, note: &Name) -> Option<Key> {
        let (died_at, hash) = note.strip_prefix(self.stem.as_str())?.split_once('-')?;
        let is_ours = died_at.len() == 14 && hash.len() == 32;
        is_ours.then_some((died_at.parse().ok()?, u128::from_str_radix(hash, 16).ok()?))
    }
}

/// A dead letter as a store keeps it: names and values, in order.
type Letter = Vec<(String, String)>;

/// The dead letter in an entry, if its event is of this store: its relay published it.
fn copied(fields: &Fields, store: &str) -> Option<(Key, Letter)> {
    let (delivered, about) = split(fields.clone());
    text(&delivered, field::STORE).filter(|of| of == store)?;
    let died = text(&about, field::DLQ_TIMESTAMP).unwrap_or_default();
    let mut told = Vec::new();
    for part in [
        text(&delivered, field::EVENT_ID),
        text(&about, field::GROUP),
        text(&about, field::ORIGINAL_MESSAGE_ID),
        Some(died.clone()),
    ] {
        let part = part.unwrap_or_default();
        told.extend_from_slice(&part.len().to_le_bytes());
        told.extend_from_slice(part.as_bytes());
    }
    let died_at = OffsetDateTime::parse(&died, &Rfc3339).ok();
    let died_at = died_at.and_then(|at| u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok());
    let letter = fields.iter().map(|(name, value)| Some((name.clone(), String::from_utf8(value.clone()).ok()?)));
    Some(((died_at.unwrap_or_default(), xxh3_128(&told)), letter.collect::<Option<_>>()?))
}

/// The copies that one store has of a bus's dead letters.
struct Copies {
    shared: Arc<Shared>,
    store: Arc<dyn EventStore>,
    names: Names,
    /// The store's; empty before it was asked for.
    id: String,
    /// The record that the store agreed with.
    settled: Option<String>,
}

impl Copies {
    /// Compares Redis and the store, if something has changed.
    async fn look(&mut self) -> Result<(), CopyError> {
        if self.id.is_empty() {
            self.id = self.store.store_id().await.map_err(CopyError::failed)?.to_string();
        }
        let (text, seen) = self.ask().await?;
        let record: Option<Record> = text.as_deref().and_then(|text| text.parse().ok());
        let is_compared = record.as_ref().is_some_and(|record| !record.is_restoring && record.seen == seen);
        if is_compared && self.settled == text {
            return Ok(());
        }
        let noted = self.notes()?.load_note(&self.names.role).await?;
        let noted = noted.as_deref().and_then(|noted| noted.split_once(' '));
        let noted: Option<(&str, u64)> =
            noted.and_then(|(generation, changes)| Some((generation, changes.parse().ok()?)));
        let is_lost = match (&record, noted) {
            (None, _) => true,
            (Some(record), noted) => {
                let is_older = |(generation, changes)| generation != record.generation || changes > record.changes;
                record.is_restoring || noted.is_some_and(is_older)
            }
        };
        let is_known = !is_lost && noted.is_some();
        if is_compared && is_known {
            self.settled = text;
            return Ok(());
        }
        if text.is_none() && seen.length == 0 && self.notes()?.note_names(&self.names.stem, None, 1).await?.is_empty() {
            return Ok(()); // there is nothing yet
        }
        let owner = Name::new("owner", &self.shared.instance)?;
        let lease = self.store.acquire_lease(&self.names.role, &owner, LEASE).await?.ok_or(CopyError::Busy)?;
        let before = record.as_ref().map(|record| record.seen).unwrap_or_default();
        let after = (is_known && seen.has_only_grown(&before)).then_some(before.last);
        let generation = match record.as_ref().filter(|_| !is_lost) {
            Some(record) => record.generation.clone(),
            None => self.shared.config.clock.new_id().simple().to_string(),
        };
        let changes = record.map_or(0, |record| record.changes).saturating_add(1);
        let mine = Record { generation, changes, is_restoring: is_lost, seen: before };
        let compared = self.compare(text, mine, seen, after, &lease).await;
        let released = self.store.release_lease(&lease).await;
        self.settled = Some(compared?);
        Ok(released?)
    }

    /// Compares dead letters with copies, those after an id or all; returns the record in the end.
    async fn compare(
        &mut self,
        text: Option<String>,
        mut mine: Record,
        seen: Figures,
        after: Option<EntryId>,
        lease: &Lease,
    ) -> Result<String, CopyError> {
        self.replace(text.as_deref().unwrap_or_default(), &mine, &[]).await?;
        let copies = if after.is_none() { self.all_names().await? } else { BTreeSet::new() };
        let found = self.copy_new(&mine, &copies, after, lease).await?;
        let only_noted: Vec<Key> = copies.difference(&found).copied().collect();
        for keys in only_noted.chunks(TOGETHER) {
            // what was read before Redis was emptied is not what it has now
            self.ensure_mine(&mine, lease).await?;
            if mine.is_restoring {
                self.put_back(&mut mine, keys).await?;
                continue;
            }
            for key in keys {
                self.notes()?.forget_note(&self.names.note(*key)?).await?;
            }
        }
        if mine.is_restoring && !only_noted.is_empty() {
            let (dead_letters, count) = (self.shared.config.dlq_stream_name(), only_noted.len());
            tracing::warn!(%dead_letters, count, "dead letters that Redis had lost were put back from the store");
        }
        let noted = format!("{} {}", mine.generation, mine.changes);
        self.notes()?.save_note(&self.names.role, &noted).await?;
        let done = Record { is_restoring: false, seen, ..mine.clone() };
        self.replace(&mine.to_string(), &done, &[]).await?;
        Ok(done.to_string())
    }

    /// Notes the dead letters after an id that have no copy; returns all that it found.
    async fn copy_new(
        &self,
        mine: &Record,
        copies: &BTreeSet<Key>,
        after: Option<EntryId>,
        lease: &Lease,
    ) -> Result<BTreeSet<Key>, CopyError> {
        let dead_letters = [self.shared.config.dlq_stream_name()];
        let (mut found, mut after) = (BTreeSet::new(), after.map(|id| id.to_string()));
        loop {
            let page = history::page(&dead_letters, after.as_deref(), None, TOGETHER);
            let reply = self.shared.rerun(&page).await?;
            let page = history::Page::read(reply).map_err(|error| self.shared.not_done(error.into()))?;
            after = page.entries.last().map(|entry| entry.id.clone());
            let letters = page.entries.iter().filter_map(|entry| copied(entry.fields.as_ref()?, &self.id));
            let letters: Vec<(Key, Letter)> = letters.collect();
            found.extend(letters.iter().map(|(key, _)| *key));
            if letters.iter().any(|(key, _)| !copies.contains(key)) {
                self.ensure_mine(mine, lease).await?;
            }
            for (key, letter) in letters {
                if !copies.contains(&key) {
                    let text = serde_json::to_string(&letter).map_err(CopyError::failed)?;
                    self.notes()?.save_note(&self.names.note(key)?, &text).await?;
                }
            }
            if !page.has_more {
                return Ok(found);
            }
        }
    }

    /// Puts dead letters back that Redis has lost, oldest first; by pages, each in one step with the record.
    async fn put_back(&self, mine: &mut Record, keys: &[Key]) -> Result<(), CopyError> {
        let (mut letters, mut bytes) = (Vec::new(), 0);
        for (number, key) in keys.iter().enumerate() {
            let note = self.names.note(*key)?;
            if let Some(text) = self.notes()?.load_note(&note).await? {
                bytes += text.len();
                letters.push(serde_json::from_str::<Letter>(&text).map_err(CopyError::failed)?);
            }
            if bytes >= PAGE_BYTES || number + 1 == keys.len() {
                let next = Record { changes: mine.changes.saturating_add(1), ..mine.clone() };
                self.replace(&mine.to_string(), &next, &std::mem::take(&mut letters)).await?;
                (*mine, bytes) = (next, 0);
            }
        }
        Ok(())
    }

    /// Replaces the record, and adds dead letters, if the record is still this one.
    async fn replace(&self, text: &str, next: &Record, letters: &[Letter]) -> Result<(), CopyError> {
        let mut replace = script::PUT_BACK.prepare_invoke();
        let dead_letters = self.shared.config.dlq_stream_name();
        replace.key(keys::copies(&dead_letters)).key(&dead_letters);
        replace.arg(&self.id).arg(text).arg(next.to_string());
        for letter in letters {
            replace.arg(letter.len() * 2);
            for (name, value) in letter {
                replace.arg(name).arg(value);
            }
        }
        match self.shared.run::<u64>(&replace).await? {
            0 => Err(CopyError::Busy),
            _ => Ok(()),
        }
    }

    /// Fails if another process copies by now, or Redis has lost the record.
    async fn ensure_mine(&self, mine: &Record, lease: &Lease) -> Result<(), CopyError> {
        let is_kept = self.store.renew_lease(lease, LEASE).await?;
        let (text, _) = self.ask().await?;
        if is_kept && text.as_deref() == Some(&mine.to_string()) { Ok(()) } else { Err(CopyError::Busy) }
    }

    /// The record, and what the stream has come to.
    async fn ask(&self) -> Result<(Option<String>, Figures), CopyError> {
        let mut look = script::LOOK_AT_DEAD_LETTERS.prepare_invoke();
        let dead_letters = self.shared.config.dlq_stream_name();
        look.key(keys::copies(&dead_letters)).key(&dead_letters).arg(&self.id);
        let reply: (Option<String>, String, String, String, String) = self.shared.rerun(&look).await?;
        let (text, length, last, max_deleted, added) = reply;
        let seen = figures(&length, &last, &max_deleted, &added);
        let seen =
            seen.ok_or_else(|| CopyError::failed(format!("the server told {length} {last} {max_deleted} {added}")))?;
        Ok((text, seen))
    }

    /// The dead letters of which the store has a copy.
    async fn all_names(&self) -> Result<BTreeSet<Key>, CopyError> {
        let (mut all, mut last) = (BTreeSet::new(), None);
        loop {
            let names = self.notes()?.note_names(&self.names.stem, last.as_ref(), NAMES).await?;
            all.extend(names.iter().filter_map(|name| self.names.key(name)));
            if names.len() < NAMES {
                return Ok(all);
            }
            last = names.into_iter().next_back();
        }
    }

    fn notes(&self) -> Result<&dyn Notes, CopyError> {
        self.store.notes().ok_or_else(|| CopyError::failed("the store keeps no notes"))
    }
}
