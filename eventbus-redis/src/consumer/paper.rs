//! Writing down what came of entries.
//!
//! Keep: an entry leaves the hand only after what came of it is written down; what could not be written is kept and
//! written later. Whatever is written about a failure is refused by the server if the entry is somebody else's by now;
//! an acknowledgement never is, as the handlers have succeeded.
//!
//! Real time, not the given clock: how long notes of failures gather, so that one script writes many.

use std::{collections::VecDeque, time::Duration};

use eventbus::{
    RecordedEvent,
    port::{MessageId, Settled, Tries, Verdict},
};
use redis::ScriptInvocation;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{Consumer, leave::Skip};
use crate::{
    command,
    connection::CommandError,
    keys::field,
    script,
    wire::{self, timestamp},
};

/// How many entries one command acknowledges; the server takes no command with more than a million arguments.
const ACKNOWLEDGED_TOGETHER: usize = 10_000;

/// How long after the last notes of failures the next ones are written, so that they gather where many events fail; one
/// that fails alone is noted at once. If the process ends before, what failed counts as in flight.
const GATHER: Duration = Duration::from_millis(20);

/// What came of entries and is not written down yet, by the way in which it is written.
#[derive(Default)]
pub(super) struct Paper {
    pub(super) acknowledged: Vec<MessageId>,
    /// Those about which something was noted before.
    settled: Vec<MessageId>,
    skipped: Vec<Skip>,
    /// Those that are none of this group's business.
    not_ours: Vec<MessageId>,
    noted: Vec<Note>,
    /// When the next notes are written at the earliest; nothing if at once.
    notes_at: Option<Instant>,
    buried: VecDeque<Burial>,
}

struct Note {
    id: MessageId,
    tries: Tries,
    /// Whether it is begun as soon as that is written.
    begins: bool,
}

struct Burial {
    id: MessageId,
    record: Option<RecordedEvent>,
    tries: Tries,
}

/// How many entries became what, when they were written down.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) acknowledged: u64,
    pub(super) failed: u64,
    pub(super) buried: u64,
    /// Entries about which nothing was noted, as they are somebody else's by now.
    pub(super) lost: Vec<MessageId>,
}

impl Paper {
    pub(super) fn is_empty(&self) -> bool {
        self.acknowledged.is_empty()
            && self.settled.is_empty()
            && self.skipped.is_empty()
            && self.not_ours.is_empty()
            && self.noted.is_empty()
            && self.buried.is_empty()
    }

    /// When what gathers is to be written; nothing if nothing gathers.
    pub(super) fn gathers_until(&self) -> Option<Instant> {
        if self.noted.is_empty() { None } else { self.notes_at }
    }

    /// Has the notes written next time, with what is written then.
    pub(super) const fn gather_no_more(&mut self) {
        self.notes_at = None;
    }

    fn gathers(&self) -> bool {
        self.notes_at.is_some_and(|at| at > Instant::now()) && self.noted.len() < command::TOGETHER
    }

    pub(super) fn add(&mut self, settled: impl IntoIterator<Item = Settled>) {
        for settled in settled {
            let Settled { id, record, verdict, .. } = settled;
            match verdict {
                Verdict::Acknowledge { has_tries: false } => self.acknowledged.push(id),
                Verdict::Acknowledge { has_tries: true } => self.settled.push(id),
                Verdict::Skip(tries) => self.skipped.extend(record.map(|record| Skip { id, record, tries })),
                Verdict::Retry { tries, .. } => self.noted.push(Note { id, tries, begins: false }),
                Verdict::Begin(tries) => {
                    self.noted.push(Note { id, tries, begins: true });
                    self.gather_no_more(); // a worker waits for it
                }
                Verdict::Bury(tries) => self.buried.push_back(Burial { id, record, tries }),
            }
        }
    }
}

impl Consumer {
    /// Writes down everything there is to write; what fails stays on the paper.
    pub(super) async fn write(&self, paper: &mut Paper) -> Result<Written, CommandError> {
        paper.gather_no_more();
        self.write_most(paper).await
    }

    /// The same, except for notes that gather.
    pub(super) async fn write_most(&self, paper: &mut Paper) -> Result<Written, CommandError> {
        let mut written = Written::default();
        paper.not_ours.append(&mut self.not_ours());
        if !paper.not_ours.is_empty() {
            self.acknowledge(&paper.not_ours).await?;
            paper.not_ours.clear();
        }
        if !paper.acknowledged.is_empty() {
            self.acknowledge(&paper.acknowledged).await?;
            written.acknowledged += self.done(&mut paper.acknowledged);
        }
        // what is tried again is noted before it is read, so nothing below is of an entry whose note gathers
        if !paper.noted.is_empty() && !paper.gathers() {
            written.lost = self.note(&paper.noted).await?;
            let (begun, failed): (Vec<&Note>, Vec<_>) = paper.noted.iter().partition(|note| note.begins);
            self.hand.begin(begun.into_iter().map(|note| &note.id));
            written.failed += failed.into_iter().filter(|note| !written.lost.contains(&note.id)).count() as u64;
            paper.noted.clear();
            paper.notes_at = Some(Instant::now() + GATHER);
        }
        if !paper.settled.is_empty() {
            self.settle(&paper.settled).await?;
            written.acknowledged += self.done(&mut paper.settled);
        }
        if !paper.skipped.is_empty() {
            self.skip(&paper.skipped).await?;
            self.done(&mut paper.skipped.drain(..).map(|skipped| skipped.id).collect());
        }
        while let Some(burial) = paper.buried.front() {
            if let Some(record) = &burial.record
                && self.leave_to_newer(&burial.id, record, &burial.tries.done).await?
            {
                self.hand.let_go([&burial.id]);
                paper.buried.pop_front();
                continue;
            }
            match self.shared.config.enable_dlq {
                true => written.buried += u64::from(self.bury(burial).await?),
                false => written.failed += u64::from(self.leave_pending(burial).await?),
            }
            let burial = paper.buried.pop_front();
            self.hand.let_go(burial.iter().map(|burial| &burial.id));
        }
        Ok(written)
    }

    pub(super) fn done(&self, ids: &mut Vec<MessageId>) -> u64 {
        self.hand.let_go(&*ids);
        let count = ids.len() as u64;
        ids.clear();
        count
    }

    async fn acknowledge(&self, ids: &[MessageId]) -> Result<(), CommandError> {
        if self.fence.is_some() {
            return self.settle(ids).await;
        }
        for ids in ids.chunks(ACKNOWLEDGED_TOGETHER) {
            let acknowledge = command::acknowledge(&self.shared.stream, &self.group, ids);
            self.shared.link.query::<u64>(&acknowledge).await?;
        }
        Ok(())
    }

    async fn settle(&self, ids: &[MessageId]) -> Result<(), CommandError> {
        for ids in ids.chunks(command::TOGETHER) {
            let mut settle = self.script(&script::SETTLE);
            settle.key(&self.keys.retry).arg(self.group.as_str());
            add_ids(&mut settle, ids);
            self.rerun::<u64>(settle).await?;
        }
        Ok(())
    }

    /// Notes tries; entries that are somebody else's by now leave the hand, and are returned.
    async fn note(&self, notes: &[Note]) -> Result<Vec<MessageId>, CommandError> {
        let mut all_lost = Vec::new();
        for notes in notes.chunks(command::TOGETHER) {
            let mut note = self.script(&script::NOTE);
            note.key(&self.keys.retry).arg(self.group.as_str()).arg(&self.name);
            for Note { id, tries, .. } in notes {
                let count = tries.attempts.saturating_add(tries.process_ends);
                note.arg(id.as_str()).arg(count).arg(json(tries));
            }
            let lost: Vec<String> = self.rerun(note).await?;
            all_lost.extend(lost.into_iter().map(MessageId::new));
        }
        self.lose(&all_lost);
        Ok(all_lost)
    }

    /// Makes an entry a dead letter. False: it is somebody else's by now.
    async fn bury(&self, Burial { id, record, tries }: &Burial) -> Result<bool, CommandError> {
        let mut bury = self.script(&script::BURY);
        bury.key(&self.keys.retry).key(&self.keys.dead_letters);
        bury.arg(self.group.as_str()).arg(&self.name).arg(id.as_str());
        let own = self.epitaph(id, tries);
        bury.arg(own.len() * 2);
        let in_memory = record.as_ref().and_then(|record| wire::encode(record).ok()).unwrap_or_default();
        for (name, value) in &own {
            bury.arg(*name).arg(value);
        }
        for (name, value) in &in_memory {
            bury.arg(*name).arg(&**value);
        }
        // who sees that it is pending no more sees it counted
        let _counted = self.shared.burying.read().await;
        let written: Option<String> = self.rerun(bury).await?;
        let event = record.as_ref().map(RecordedEvent::metadata);
        match &written {
            Some(dead_letter) => {
                self.shared.counters.messages_sent_to_dlq(1);
                self.shared.buried.notify_one();
                tracing::error!(
                    group = %self.group, %id, dead_letter, handler = tries.handlers(), error = tries.errors(),
                    attempts = tries.most_attempts(), event_type = event.map(|event| event.event_type().as_str()),
                    aggregate = event.map(|event| tracing::field::display(event.stream())),
                    event_id = event.map(|event| tracing::field::display(event.event_id())),
                    "event is a dead letter now"
                );
            }
            None => tracing::warn!(group = %self.group, %id, "somebody else has taken a failed event over"),
        }
        Ok(written.is_some())
    }

    /// The fields that a dead letter has beside those of its entry.
    fn epitaph(&self, id: &MessageId, tries: &Tries) -> Vec<(&'static str, String)> {
        let time = |ms: Option<u64>| {
            let nanos = i128::from(ms.unwrap_or_default()) * 1_000_000;
            let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
            utc(time)
        };
        let attempts = tries.most_attempts();
        vec![
            (field::ORIGINAL_MESSAGE_ID, id.to_string()),
            (field::RETRY_COUNT, attempts.saturating_sub(1).to_string()),
            (field::DLQ_TIMESTAMP, utc(self.shared.config.clock.now())),
            (field::ERROR, tries.errors()),
            (field::HANDLER, tries.handlers()),
            (field::GROUP, self.group.to_string()),
            (field::ATTEMPTS, attempts.to_string()),
            (field::FIRST_FAILED_AT, time(tries.first_failed_at)),
            (field::LAST_FAILED_AT, time(tries.last_failed_at)),
            (field::DONE_HANDLERS, serde_json::Value::from(tries.done.as_slice()).to_string()),
        ]
    }

    /// Notes that an entry used up its attempts; it stays pending. False: it is somebody else's by now.
    async fn leave_pending(&self, Burial { id, tries, .. }: &Burial) -> Result<bool, CommandError> {
        let mut tries = tries.clone();
        tries.is_exhausted = true;
        let error = tries.errors();
        if !self.note(&[Note { id: id.clone(), tries, begins: false }]).await?.is_empty() {
            return Ok(false);
        }
        if self.left().insert(id.clone()) {
            self.shared.counters.messages_exhausted(1);
            tracing::error!(group = %self.group, %id, error, "event used up its attempts and stays pending");
        }
        Ok(true)
    }

    /// Lets go of entries that are somebody else's by now.
    pub(super) fn lose(&self, ids: &[MessageId]) {
        if ids.is_empty() {
            return;
        }
        let count = ids.len();
        tracing::warn!(group = %self.group, count, "entries were taken over by another consumer");
        self.hand.let_go(ids);
    }
}

/// A time as dead letters spell it.
fn utc(time: OffsetDateTime) -> String {
    format!("{}+00:00", timestamp::write(time))
}

/// Adds ids to the arguments of a script.
pub(super) fn add_ids(script: &mut ScriptInvocation<'_>, ids: &[MessageId]) {
    for id in ids {
        script.arg(id.as_str());
    }
}

/// Tries as they are noted, empty if there is nothing to note; plain data, which cannot fail to be written.
pub(super) fn json(tries: &Tries) -> String {
    if *tries == Tries::default() {
        return String::new();
    }
    serde_json::to_string(tries).unwrap_or_default()
}
