//! Copies of the dead letters in a store, from which the copier restores dead letters that Redis has lost.
//!
//! Applications and tools list, replay and discard dead letters in Redis. The store keeps a note with a copy of each
//! dead letter of its own events; only the copier reads the notes. It writes a note for each dead letter that has none,
//! and deletes the note of a dead letter that Redis no longer has, because an application or a tool has replayed or
//! discarded it.
//!
//! If Redis was emptied, or is an older copy of itself, the copier puts back each dead letter that only has a note. A
//! [record](CopyRecord) in Redis, one for each store, detects this: it has a generation, and a revision that grows
//! before notes change. The store saves both after its notes have changed.
//!
//! Invariant: each step replaces the record only if it is still the one that the process has read, so of two processes
//! one continues. The copier repeats an interrupted step, but puts back no dead letter whose [key](DeadLetterKey) is in
//! Redis already.

use std::{collections::BTreeSet, str::FromStr, sync::Arc, time::Duration};

use eventbus::{
    BoxError, Name,
    event::InvalidName,
    port::{EventStore, Lease, Notes},
    support::{Outage, PAGE_BYTES},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    RedisCommandError,
    command::{
        self,
        pages::{self, EntryPage},
    },
    dead_letters::{DeadLetterFields, field_text, split_fields},
    entry_id::EntryId,
    inner::BusInner,
    keys::{self, field},
    script,
};

/// The interval of the checks for changes; a dead letter of this process triggers one at once.
const COPY_INTERVAL: Duration = Duration::from_secs(10);
/// The delay before the next check while a different process copies, or the store or Redis is away.
const COPY_RETRY_DELAY: Duration = Duration::from_secs(1);
/// The copier's lease: how long other processes wait for a copier that died.
const COPY_LEASE_TTL: Duration = Duration::from_secs(10);
/// The number of dead letters that one step reads, notes or puts back; fewer if they reach [`PAGE_BYTES`].
const COPY_BATCH_MAX: usize = 100;
/// The number of note names that one read returns.
const NOTE_NAMES_PAGE: usize = 1_000;
/// The longest stream name that is part of the names of notes; for a longer one, its hash is.
const PLAIN_STREAM_NAME_MAX: usize = 180;

/// Copies the dead letters of a bus to a store, until the future is dropped or the bus is shut down.
pub(crate) async fn run_copier(bus: Arc<BusInner>, store: Arc<dyn EventStore>) {
    let (clock, dead_letters) = (bus.config().clock.clone(), bus.config().dlq_stream_name());
    let mut outage = Outage::new(clock.clone());
    let names = match NoteNames::new(&dead_letters) {
        Ok(names) => names,
        Err(error) => {
            return tracing::error!(%dead_letters, %error, "cannot copy dead letters to the store");
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
                    tracing::info!(%dead_letters, ?lasted, "copying dead letters to the store again");
                }
                COPY_INTERVAL
            }
            Err(CopyError::ShutDown) => return,
            Err(CopyError::Busy) => COPY_RETRY_DELAY,
            Err(CopyError::Failed(error)) => {
                if outage.begins() {
                    tracing::warn!(%dead_letters, %error, "cannot copy dead letters to the store, retrying");
                }
                COPY_RETRY_DELAY
            }
        };
        // a new dead letter of this process ends the pause: until it is copied, only Redis has it
        tokio::select! {
            () = bus.dead_letter_gate().written() => {}
            () = clock.sleep(pause) => {}
        }
    }
}

/// The reason why a check ended early.
#[derive(Debug)]
enum CopyError {
    /// A different process copies, or has replaced the record.
    Busy,
    /// The bus was shut down.
    ShutDown,
    /// The store or Redis is unavailable or refuses.
    Failed(BoxError),
}

impl<E: Into<BoxError>> From<E> for CopyError {
    fn from(error: E) -> Self {
        let error = error.into();
        match error.downcast_ref() {
            Some(RedisCommandError::ShutDown { .. }) => Self::ShutDown,
            _ => Self::Failed(error),
        }
    }
}

/// The counters of the dead letters' stream.
#[derive(Debug, derive_more::Display, Clone, Copy, Default, PartialEq, Eq)]
#[display("{length} {last_generated_id} {max_deleted_id} {entries_added}")]
struct StreamCounts {
    length: u64,
    /// The newest id that the stream ever had.
    last_generated_id: EntryId,
    max_deleted_id: EntryId,
    /// The number of entries ever added.
    entries_added: u64,
}

impl StreamCounts {
    /// Returns `true` if since then dead letters were added, and none was removed.
    fn has_only_grown(&self, since: &Self) -> bool {
        let grown = self.length.checked_sub(since.length);
        self.last_generated_id >= since.last_generated_id
            && self.max_deleted_id == since.max_deleted_id
            && grown.is_some()
            && grown == self.entries_added.checked_sub(since.entries_added)
    }
}

/// The record in Redis of the copies that a store has.
///
/// | state | event | next state |
/// |---|---|---|
/// | no record | the check finds neither dead letters nor copies | no record |
/// | no record | the check finds some: Redis was emptied, or the first copy begins | restoring |
/// | restoring | a check begins: the one before was interrupted | restoring |
/// | restoring | the copier puts back a page of dead letters that only have a note | restoring |
/// | copied | the saved generation differs, or the saved revision is higher: Redis is an older copy | restoring |
/// | copied | the stream has changed, or no revision is saved: the store is new here | copied |
/// | restoring, copied | the comparison has ended, and the store has saved generation and revision | copied |
/// | any state | Redis loses its data | no record, or an older one |
///
/// A check that begins restoring sets a new generation; every step but the last of a check raises the revision. A
/// record that cannot be parsed counts as none.
#[derive(Debug, derive_more::Display, Clone, PartialEq, Eq)]
#[display("{generation} {revision} {} {compared_counts}", if *is_restoring { "restoring" } else { "copied" })]
struct CopyRecord {
    generation: String,
    revision: u64,
    is_restoring: bool,
    /// The counters of the stream at the start of the last comparison that ended.
    compared_counts: StreamCounts,
}

impl FromStr for CopyRecord {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let [generation, revision, state, counts] = text.splitn(4, ' ').collect::<Vec<_>>()[..] else {
            return Err(());
        };
        let (revision, compared_counts) = (revision.parse().map_err(drop)?, counts.parse()?);
        Ok(Self { generation: generation.to_owned(), revision, is_restoring: state != "copied", compared_counts })
    }
}

impl FromStr for StreamCounts {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let [length, last_generated, max_deleted, added] = text.split(' ').collect::<Vec<_>>()[..] else {
            return Err(());
        };
        Ok(Self {
            length: length.parse().map_err(drop)?,
            last_generated_id: last_generated.parse().map_err(drop)?,
            max_deleted_id: max_deleted.parse().map_err(drop)?,
            entries_added: added.parse().map_err(drop)?,
        })
    }
}

/// The identity of a dead letter, in Redis and in its copy: the time when it became one, in milliseconds, and a hash of
/// the event, the group, the entry and that time.
type DeadLetterKey = (u64, u128);

/// The names of a store's notes.
struct NoteNames {
    /// The prefix of the names of all copies.
    prefix: Name,
    /// The name of the note with generation and revision; also the role of the copier's lease.
    role: Name,
}

impl NoteNames {
    /// Returns the names for a stream of dead letters: with the stream's name, or with its hash if that is too long.
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

    /// Returns the key of the dead letter that a note copies; `None` if the stream has a longer name.
    fn parse_key(&self, note: &Name) -> Option<DeadLetterKey> {
        let (died_at, hash) = note.strip_prefix(self.prefix.as_str())?.split_once('-')?;
        let is_ours = died_at.len() == 14 && hash.len() == 32;
        is_ours.then_some((died_at.parse().ok()?, u128::from_str_radix(hash, 16).ok()?))
    }
}

/// A dead letter as a store keeps it: the names and values of its fields, in order.
type StoredDeadLetter = Vec<(String, String)>;

/// Returns the dead letter in an entry, if its event is of this store: its relay published it.
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

/// The copier of a bus's dead letters to one store.
struct DeadLetterCopier {
    bus: Arc<BusInner>,
    store: Arc<dyn EventStore>,
    note_names: NoteNames,
    /// The id of the store; empty before the first check.
    store_id: String,
    /// The record with which the store agreed at the last check.
    agreed_record: Option<String>,
}

impl DeadLetterCopier {
    /// Compares Redis with the store, if the stream or the record has changed.
    async fn sync_if_changed(&mut self) -> Result<(), CopyError> {
        if self.store_id.is_empty() {
            self.store_id = self.store.store_id().await?.to_string();
        }
        let (text, counts) = self.load_record().await?;
        let record: Option<CopyRecord> = text.as_deref().and_then(|text| text.parse().ok());
        let is_compared =
            record.as_ref().is_some_and(|record| !record.is_restoring && record.compared_counts == counts);
        if is_compared && self.agreed_record == text {
            return Ok(());
        }
        let saved_state = self.notes()?.load_note(&self.note_names.role).await?;
        let saved_state = saved_state.as_deref().and_then(|saved| saved.split_once(' '));
        let saved_state: Option<(&str, u64)> =
            saved_state.and_then(|(generation, revision)| Some((generation, revision.parse().ok()?)));
        let is_lost = match (&record, saved_state) {
            (None, _) => true,
            (Some(record), saved_state) => {
                let is_older = |(generation, revision)| generation != record.generation || revision > record.revision;
                record.is_restoring || saved_state.is_some_and(is_older)
            }
        };
        // a store that was restored has copies of an older revision
        let is_known = !is_lost
            && record.as_ref().is_some_and(|record| saved_state == Some((&record.generation, record.revision)));
        if is_compared && is_known {
            self.agreed_record = text;
            return Ok(());
        }
        if text.is_none()
            && counts.length == 0
            && self.notes()?.list_note_names(&self.note_names.prefix, None, 1).await?.is_empty()
        {
            return Ok(()); // neither dead letters nor copies exist yet
        }
        // the record guards writes to Redis; this lease keeps two processes from changing notes at once
        let owner = Name::new("owner", self.bus.instance())?;
        let lease =
            self.store.acquire_lease(&self.note_names.role, &owner, COPY_LEASE_TTL).await?.ok_or(CopyError::Busy)?;
        let before = record.as_ref().map(|record| record.compared_counts).unwrap_or_default();
        let after = (is_known && counts.has_only_grown(&before)).then_some(before.last_generated_id);
        let generation = match record.as_ref().filter(|_| !is_lost) {
            Some(record) => record.generation.clone(),
            None => self.bus.config().clock.new_id().simple().to_string(),
        };
        let revision = record.map_or(0, |record| record.revision).saturating_add(1);
        let own_record = CopyRecord { generation, revision, is_restoring: is_lost, compared_counts: before };
        let compared = self.sync(text, own_record, counts, after, &lease).await;
        let released = self.store.release_lease(&lease).await;
        self.agreed_record = Some(compared?);
        Ok(released?)
    }

    /// Compares dead letters with copies, those after an id or all; returns the final record.
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
            // if Redis was emptied since the stream was read, `missing_keys` is stale
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
            let (dead_letters, count) = (self.bus.config().dlq_stream_name(), missing_keys.len());
            tracing::warn!(%dead_letters, count, "put back dead letters from the store that Redis had lost");
        }
        let saved_state = format!("{} {}", own_record.generation, own_record.revision);
        self.notes()?.save_note(&self.note_names.role, &saved_state).await?;
        let done = CopyRecord { is_restoring: false, compared_counts: counts, ..own_record.clone() };
        self.replace_record(&own_record.to_string(), &done, &[]).await?;
        Ok(done.to_string())
    }

    /// Notes the dead letters after an id that have no copy; returns the keys of all that it found.
    async fn save_new_copies(
        &self,
        own_record: &CopyRecord,
        copies: &BTreeSet<DeadLetterKey>,
        after: Option<EntryId>,
        lease: &Lease,
    ) -> Result<BTreeSet<DeadLetterKey>, CopyError> {
        let dead_letters = [self.bus.config().dlq_stream_name()];
        let (mut found, mut after) = (BTreeSet::new(), after.map(|id| id.to_string()));
        loop {
            let page = pages::page(&dead_letters, after.as_deref(), None, COPY_BATCH_MAX);
            let page: EntryPage = self.bus.run_idempotent(&page).await?;
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
                    let text = serde_json::to_string(&dead_letter)?;
                    self.notes()?.save_note(&self.note_names.note_name(key)?, &text).await?;
                }
            }
            if !page.has_more {
                return Ok(found);
            }
        }
    }

    /// Puts back dead letters that Redis has lost, oldest first: each page in one step with the record.
    async fn restore_lost(&self, own_record: &mut CopyRecord, keys: &[DeadLetterKey]) -> Result<(), CopyError> {
        let (mut dead_letters, mut bytes) = (Vec::new(), 0);
        for (number, key) in keys.iter().enumerate() {
            let note = self.note_names.note_name(*key)?;
            if let Some(text) = self.notes()?.load_note(&note).await? {
                bytes += text.len();
                dead_letters.push(serde_json::from_str::<StoredDeadLetter>(&text)?);
            }
            if bytes >= PAGE_BYTES || number + 1 == keys.len() {
                let next = CopyRecord { revision: own_record.revision.saturating_add(1), ..own_record.clone() };
                self.replace_record(&own_record.to_string(), &next, &std::mem::take(&mut dead_letters)).await?;
                (*own_record, bytes) = (next, 0);
            }
        }
        Ok(())
    }

    /// Replaces the record and adds dead letters, if the record is still `text`.
    async fn replace_record(
        &self,
        text: &str,
        next: &CopyRecord,
        dead_letters: &[StoredDeadLetter],
    ) -> Result<(), CopyError> {
        let mut replace = script::dead_letters::RESTORE_DEAD_LETTERS.prepare_invoke();
        let stream = self.bus.config().dlq_stream_name();
        replace.key(keys::dead_letter_copies(&stream)).key(&stream);
        replace.arg(&self.store_id).arg(text).arg(next.to_string());
        for dead_letter in dead_letters {
            command::add_fields(&mut replace, dead_letter);
        }
        match self.bus.run::<u64>(&replace).await? {
            0 => Err(CopyError::Busy),
            _ => Ok(()),
        }
    }

    /// Fails with [`CopyError::Busy`] if a different process copies now, or Redis has lost the record.
    async fn ensure_own_record(&self, own_record: &CopyRecord, lease: &Lease) -> Result<(), CopyError> {
        let is_leased = self.store.renew_lease(lease, COPY_LEASE_TTL).await?;
        let (text, _) = self.load_record().await?;
        if is_leased && text.as_deref() == Some(&own_record.to_string()) { Ok(()) } else { Err(CopyError::Busy) }
    }

    /// Loads the record and the counters of the stream.
    async fn load_record(&self) -> Result<(Option<String>, StreamCounts), CopyError> {
        let mut script = script::dead_letters::INSPECT_DEAD_LETTERS.prepare_invoke();
        let stream = self.bus.config().dlq_stream_name();
        script.key(keys::dead_letter_copies(&stream)).key(&stream).arg(&self.store_id);
        let reply: (Option<String>, String, String, String, String) = self.bus.run_idempotent(&script).await?;
        let (text, length, last, max_deleted, added) = reply;
        let counts = format!("{length} {last} {max_deleted} {added}");
        let counts = counts.parse().map_err(|()| CopyError::from(format!("the server replied {counts}")))?;
        Ok((text, counts))
    }

    /// Loads the keys of the dead letters of which the store has a copy.
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
        self.store.notes().ok_or_else(|| CopyError::from("the store keeps no notes"))
    }
}
