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
    bus::BusInner,
    command::pages,
    dead_letters::{DeadLetterFields, field_text, split_fields},
    entry_id::EntryId,
    keys::{self, field},
    script,
};

/// How often the stream is looked at; after a burial of this process it is at once.
const COPY_INTERVAL: Duration = Duration::from_secs(10);
/// How soon again while another process copies, or something is away.
const COPY_RETRY_DELAY: Duration = Duration::from_secs(1);
/// How long another process waits for one that died while it copied.
const COPY_LEASE_TTL: Duration = Duration::from_secs(10);
/// How many dead letters are read, noted or put back at once; fewer if they have [`PAGE_BYTES`].
const COPY_BATCH_MAX: usize = 100;
/// How many names of notes are read at once.
const NOTE_NAMES_PAGE: usize = 1_000;
/// The longest name of a stream that stands in the names of notes as it is.
const PLAIN_STREAM_NAME_MAX: usize = 180;

/// Copies the dead letters of a bus to a store, for as long as it is polled or until the bus is shut down.
pub(crate) async fn run_copier(bus: Arc<BusInner>, store: Arc<dyn EventStore>) {
    let (clock, dead_letters) = (bus.config.clock.clone(), bus.config.dlq_stream_name());
    let mut outage = Outage::new(clock.clone());
    let names = match NoteNames::new(&dead_letters) {
        Ok(names) => names,
        Err(error) => {
            return tracing::error!(%dead_letters, %error, "dead letters cannot be copied to the store");
        }
    };
    let mut copies = DeadLetterCopier {
        bus: Arc::clone(&bus),
        store,
        note_names: names,
        store_id: String::new(),
        agreed_record: None,
    };
    loop {
        let pause = match copies.sync_if_changed().await {
            Ok(()) => {
                if let Some(lasted) = outage.ends() {
                    tracing::info!(%dead_letters, ?lasted, "dead letters are copied to the store again");
                }
                COPY_INTERVAL
            }
            Err(CopyError::ShutDown) => return,
            Err(CopyError::Busy) => COPY_RETRY_DELAY,
            Err(CopyError::Failed(error)) => {
                if outage.begins() {
                    tracing::warn!(%dead_letters, %error, "dead letters are not copied to the store, trying again");
                }
                COPY_RETRY_DELAY
            }
        };
        tokio::select! {
            () = bus.dead_letter_signal.notified() => {}
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
    fn from_error(error: impl Into<BoxError>) -> Self {
        Self::Failed(error.into())
    }
}

impl From<CheckpointError> for CopyError {
    fn from(error: CheckpointError) -> Self {
        Self::from_error(error)
    }
}

impl From<InvalidName> for CopyError {
    fn from(error: InvalidName) -> Self {
        Self::from_error(error)
    }
}

impl From<LeaseError> for CopyError {
    fn from(error: LeaseError) -> Self {
        Self::from_error(error)
    }
}

impl From<RedisCommandError> for CopyError {
    fn from(error: RedisCommandError) -> Self {
        match error {
            RedisCommandError::ShutDown { .. } => Self::ShutDown,
            error => Self::from_error(error),
        }
    }
}

/// What the stream of dead letters has come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct StreamCounts {
    length: u64,
    /// The newest id ever.
    last_generated_id: EntryId,
    max_deleted_id: EntryId,
    /// How many were ever added.
    entries_added: u64,
}

impl StreamCounts {
    /// Whether since then dead letters were added, and none was removed.
    fn has_only_grown(&self, since: &Self) -> bool {
        let grown = self.length.checked_sub(since.length);
        self.last_generated_id >= since.last_generated_id
            && self.max_deleted_id == since.max_deleted_id
            && grown.is_some()
            && grown == self.entries_added.checked_sub(since.entries_added)
    }
}

/// What Redis keeps of the copies that a store has.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CopyRecord {
    generation: String,
    revision: u64,
    is_restoring: bool,
    /// What the stream had come to before it was compared last.
    compared_counts: StreamCounts,
}

impl fmt::Display for CopyRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generation, revision: changes, is_restoring, compared_counts: seen } = self;
        let state = if *is_restoring { "restoring" } else { "copied" };
        let StreamCounts { length, last_generated_id: last, max_deleted_id: max_deleted, entries_added: added } = seen;
        write!(f, "{generation} {changes} {state} {length} {last} {max_deleted} {added}")
    }
}

impl FromStr for CopyRecord {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let words: Vec<&str> = text.split(' ').collect();
        let [generation, changes, state, length, last, max_deleted, added] = words[..] else {
            return Err(());
        };
        let compared_counts = parse_counts(length, last, max_deleted, added).ok_or(())?;
        let changes = changes.parse().map_err(drop)?;
        Ok(Self {
            generation: generation.to_owned(),
            revision: changes,
            is_restoring: state != "copied",
            compared_counts,
        })
    }
}

fn parse_counts(length: &str, last: &str, max_deleted: &str, added: &str) -> Option<StreamCounts> {
    Some(StreamCounts {
        length: length.parse().ok()?,
        last_generated_id: last.parse().ok()?,
        max_deleted_id: max_deleted.parse().ok()?,
        entries_added: added.parse().ok()?,
    })
}

/// What tells a dead letter from all others, wherever it is: when it died, to the millisecond, and a hash of the event, the
/// group, the entry and that time.
type DeadLetterKey = (u64, u128);

/// What a store's notes are called.
struct NoteNames {
    /// What the names of all copies begin with.
    prefix: Name,
    /// Under which generation and number are noted; also the lease of the one who copies.
    role: Name,
}

impl NoteNames {
    /// The names for a stream of dead letters: with the stream's name, or with its hash where that is too long for a name.
    fn new(dead_letters: &str) -> Result<Self, InvalidName> {
        let named = |text: &str| {
            let stem = Name::new("note", format!("dead-letter:{text}/"))?;
            Ok(Self { prefix: stem, role: Name::new("note", format!("dead-letters:{text}"))? })
        };
        let shown =
            Some(dead_letters).filter(|text| text.len() <= PLAIN_STREAM_NAME_MAX).and_then(|text| named(text).ok());
        shown.map_or_else(|| named(&format!("{:032x}", xxh3_128(dead_letters.as_bytes()))), Ok)
    }

    fn note_name(&self, (died_at, hash): DeadLetterKey) -> Result<Name, InvalidName> {
        Name::new("note", format!("{}{died_at:014}-{hash:032x}", self.prefix))
    }

    /// The dead letter that a note is about; `None` for one of a stream whose name is longer.
    fn parse_key(&self, note: &Name) -> Option<DeadLetterKey> {
        let (died_at, hash) = note.strip_prefix(self.prefix.as_str())?.split_once('-')?;
        let is_ours = died_at.len() == 14 && hash.len() == 32;
        is_ours.then_some((died_at.parse().ok()?, u128::from_str_radix(hash, 16).ok()?))
    }
}

/// A dead letter as a store keeps it: names and values, in order.
type StoredDeadLetter = Vec<(String, String)>;

/// The dead letter in an entry, if its event is of this store: its relay published it.
fn to_stored_dead_letter(fields: &DeadLetterFields, store: &str) -> Option<(DeadLetterKey, StoredDeadLetter)> {
    let (delivered, about) = split_fields(fields.clone());
    field_text(&delivered, field::STORE).filter(|of| of == store)?;
    let timestamp = field_text(&about, field::DLQ_TIMESTAMP).unwrap_or_default();
    let mut hash_input = Vec::new();
    for part in [
        field_text(&delivered, field::EVENT_ID),
        field_text(&about, field::GROUP),
        field_text(&about, field::ORIGINAL_MESSAGE_ID),
        Some(timestamp.clone()),
    ] {
        let part = part.unwrap_or_default();
        hash_input.extend_from_slice(&part.len().to_le_bytes());
        hash_input.extend_from_slice(part.as_bytes());
    }
    let timestamp_ms = OffsetDateTime::parse(&timestamp, &Rfc3339).ok();
    let timestamp_ms = timestamp_ms.and_then(|at| u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok());
    let dead_letter = fields.iter().map(|(name, value)| Some((name.clone(), String::from_utf8(value.clone()).ok()?)));
    Some(((timestamp_ms.unwrap_or_default(), xxh3_128(&hash_input)), dead_letter.collect::<Option<_>>()?))
}

/// The copies that one store has of a bus's dead letters.
struct DeadLetterCopier {
    bus: Arc<BusInner>,
    store: Arc<dyn EventStore>,
    note_names: NoteNames,
    /// The store's; empty before it was asked for.
    store_id: String,
    /// The record that the store agreed with.
    agreed_record: Option<String>,
}

impl DeadLetterCopier {
    /// Compares Redis and the store, if something has changed.
    async fn sync_if_changed(&mut self) -> Result<(), CopyError> {
        if self.store_id.is_empty() {
            self.store_id = self.store.store_id().await.map_err(CopyError::from_error)?.to_string();
        }
        let (text, counts) = self.load_record().await?;
        let record: Option<CopyRecord> = text.as_deref().and_then(|text| text.parse().ok());
        let is_compared =
            record.as_ref().is_some_and(|record| !record.is_restoring && record.compared_counts == counts);
        if is_compared && self.agreed_record == text {
            return Ok(());
        }
        let saved_state = self.notes()?.load_note(&self.note_names.role).await?;
        let saved_state = saved_state.as_deref().and_then(|noted| noted.split_once(' '));
        let saved_state: Option<(&str, u64)> =
            saved_state.and_then(|(generation, changes)| Some((generation, changes.parse().ok()?)));
        let is_lost = match (&record, saved_state) {
            (None, _) => true,
            (Some(record), saved_state) => {
                let is_older = |(generation, changes)| generation != record.generation || changes > record.revision;
                record.is_restoring || saved_state.is_some_and(is_older)
            }
        };
        let is_known = !is_lost && saved_state.is_some();
        if is_compared && is_known {
            self.agreed_record = text;
            return Ok(());
        }
        if text.is_none()
            && counts.length == 0
            && self.notes()?.list_note_names(&self.note_names.prefix, None, 1).await?.is_empty()
        {
            return Ok(()); // there is nothing yet
        }
        let owner = Name::new("owner", &self.bus.instance)?;
        let lease =
            self.store.acquire_lease(&self.note_names.role, &owner, COPY_LEASE_TTL).await?.ok_or(CopyError::Busy)?;
        let before = record.as_ref().map(|record| record.compared_counts).unwrap_or_default();
        let after = (is_known && counts.has_only_grown(&before)).then_some(before.last_generated_id);
        let generation = match record.as_ref().filter(|_| !is_lost) {
            Some(record) => record.generation.clone(),
            None => self.bus.config.clock.new_id().simple().to_string(),
        };
        let changes = record.map_or(0, |record| record.revision).saturating_add(1);
        let own_record = CopyRecord { generation, revision: changes, is_restoring: is_lost, compared_counts: before };
        let compared = self.sync(text, own_record, counts, after, &lease).await;
        let released = self.store.release_lease(&lease).await;
        self.agreed_record = Some(compared?);
        Ok(released?)
    }

    /// Compares dead letters with copies, those after an id or all; returns the record in the end.
    async fn sync(
        &mut self,
        text: Option<String>,
        mut own_record: CopyRecord,
        counts: StreamCounts,
        after: Option<EntryId>,
        lease: &Lease,
    ) -> Result<String, CopyError> {
        self.replace_record(text.as_deref().unwrap_or_default(), &own_record, &[]).await?;
        let copies = if after.is_none() { self.load_copied_keys().await? } else { BTreeSet::new() };
        let found = self.save_new_copies(&own_record, &copies, after, lease).await?;
        let missing_keys: Vec<DeadLetterKey> = copies.difference(&found).copied().collect();
        for keys in missing_keys.chunks(COPY_BATCH_MAX) {
            // what was read before Redis was emptied is not what it has now
            self.ensure_own_record(&own_record, lease).await?;
            if own_record.is_restoring {
                self.restore_lost(&mut own_record, keys).await?;
                continue;
            }
            for key in keys {
                self.notes()?.delete_note(&self.note_names.note_name(*key)?).await?;
            }
        }
        if own_record.is_restoring && !missing_keys.is_empty() {
            let (dead_letters, count) = (self.bus.config.dlq_stream_name(), missing_keys.len());
            tracing::warn!(%dead_letters, count, "dead letters that Redis had lost were put back from the store");
        }
        let saved_state = format!("{} {}", own_record.generation, own_record.revision);
        self.notes()?.save_note(&self.note_names.role, &saved_state).await?;
        let done = CopyRecord { is_restoring: false, compared_counts: counts, ..own_record.clone() };
        self.replace_record(&own_record.to_string(), &done, &[]).await?;
        Ok(done.to_string())
    }

    /// Notes the dead letters after an id that have no copy; returns all that it found.
    async fn save_new_copies(
        &self,
        own_record: &CopyRecord,
        copies: &BTreeSet<DeadLetterKey>,
        after: Option<EntryId>,
        lease: &Lease,
    ) -> Result<BTreeSet<DeadLetterKey>, CopyError> {
        let dead_letters = [self.bus.config.dlq_stream_name()];
        let (mut found, mut after) = (BTreeSet::new(), after.map(|id| id.to_string()));
        loop {
            let page = pages::page(&dead_letters, after.as_deref(), None, COPY_BATCH_MAX);
            let reply = self.bus.run_idempotent(&page).await?;
            let page = pages::EntryPage::parse(reply).map_err(|error| self.bus.command_error(error.into()))?;
            after = page.entries.last().map(|entry| entry.id.clone());
            let found_dead_letters =
                page.entries.iter().filter_map(|entry| to_stored_dead_letter(entry.fields.as_ref()?, &self.store_id));
            let found_dead_letters: Vec<(DeadLetterKey, StoredDeadLetter)> = found_dead_letters.collect();
            found.extend(found_dead_letters.iter().map(|(key, _)| *key));
            if found_dead_letters.iter().any(|(key, _)| !copies.contains(key)) {
                self.ensure_own_record(own_record, lease).await?;
            }
            for (key, dead_letter) in found_dead_letters {
                if !copies.contains(&key) {
                    let text = serde_json::to_string(&dead_letter).map_err(CopyError::from_error)?;
                    self.notes()?.save_note(&self.note_names.note_name(key)?, &text).await?;
                }
            }
            if !page.has_more {
                return Ok(found);
            }
        }
    }

    /// Puts dead letters back that Redis has lost, oldest first; by pages, each in one step with the record.
    async fn restore_lost(&self, own_record: &mut CopyRecord, keys: &[DeadLetterKey]) -> Result<(), CopyError> {
        let (mut dead_letters, mut bytes) = (Vec::new(), 0);
        for (number, key) in keys.iter().enumerate() {
            let note = self.note_names.note_name(*key)?;
            if let Some(text) = self.notes()?.load_note(&note).await? {
                bytes += text.len();
                dead_letters.push(serde_json::from_str::<StoredDeadLetter>(&text).map_err(CopyError::from_error)?);
            }
            if bytes >= PAGE_BYTES || number + 1 == keys.len() {
                let next = CopyRecord { revision: own_record.revision.saturating_add(1), ..own_record.clone() };
                self.replace_record(&own_record.to_string(), &next, &std::mem::take(&mut dead_letters)).await?;
                (*own_record, bytes) = (next, 0);
            }
        }
        Ok(())
    }

    /// Replaces the record, and adds dead letters, if the record is still this one.
    async fn replace_record(
        &self,
        text: &str,
        next: &CopyRecord,
        dead_letters: &[StoredDeadLetter],
    ) -> Result<(), CopyError> {
        let mut replace = script::RESTORE_DEAD_LETTERS.prepare_invoke();
        let stream = self.bus.config.dlq_stream_name();
        replace.key(keys::dead_letter_copies(&stream)).key(&stream);
        replace.arg(&self.store_id).arg(text).arg(next.to_string());
        for dead_letter in dead_letters {
            replace.arg(dead_letter.len() * 2);
            for (name, value) in dead_letter {
                replace.arg(name).arg(value);
            }
        }
        match self.bus.run::<u64>(&replace).await? {
            0 => Err(CopyError::Busy),
            _ => Ok(()),
        }
    }

    /// Fails if another process copies by now, or Redis has lost the record.
    async fn ensure_own_record(&self, own_record: &CopyRecord, lease: &Lease) -> Result<(), CopyError> {
        let is_kept = self.store.renew_lease(lease, COPY_LEASE_TTL).await?;
        let (text, _) = self.load_record().await?;
        if is_kept && text.as_deref() == Some(&own_record.to_string()) { Ok(()) } else { Err(CopyError::Busy) }
    }

    /// The record, and what the stream has come to.
    async fn load_record(&self) -> Result<(Option<String>, StreamCounts), CopyError> {
        let mut script = script::INSPECT_DEAD_LETTERS.prepare_invoke();
        let stream = self.bus.config.dlq_stream_name();
        script.key(keys::dead_letter_copies(&stream)).key(&stream).arg(&self.store_id);
        let reply: (Option<String>, String, String, String, String) = self.bus.run_idempotent(&script).await?;
        let (text, length, last, max_deleted, added) = reply;
        let counts = parse_counts(&length, &last, &max_deleted, &added);
        let counts = counts
            .ok_or_else(|| CopyError::from_error(format!("the server told {length} {last} {max_deleted} {added}")))?;
        Ok((text, counts))
    }

    /// The dead letters of which the store has a copy.
    async fn load_copied_keys(&self) -> Result<BTreeSet<DeadLetterKey>, CopyError> {
        let (mut all, mut last) = (BTreeSet::new(), None);
        loop {
            let names = self.notes()?.list_note_names(&self.note_names.prefix, last.as_ref(), NOTE_NAMES_PAGE).await?;
            all.extend(names.iter().filter_map(|name| self.note_names.parse_key(name)));
            if names.len() < NOTE_NAMES_PAGE {
                return Ok(all);
            }
            last = names.into_iter().next_back();
        }
    }

    fn notes(&self) -> Result<&dyn Notes, CopyError> {
        self.store.notes().ok_or_else(|| CopyError::from_error("the store keeps no notes"))
    }
}
