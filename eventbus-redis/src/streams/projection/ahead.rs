//! What a projection has to process next, and whether entries are gone that it had not processed.
//!
//! Keep: beside the checkpoint it is noted how many of the entries that the stream ever got are behind it; all others
//! must be there. Checkpoint, note and stream are looked at in one instant, else they do not fit each other.

use std::{fmt, str::FromStr};

use eventbus::port::{MessageId, PAGE_BYTES};
use redis::{RedisError, Value};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    EventProjection, StreamProjectionError,
    step::{Place, Reply, START},
};
use crate::{RedisCommandError, StreamEntry, command, entry_id::EntryId, keys, script, store::Program};

/// How many entries are processed in one step; fewer if they have [`PAGE_BYTES`].
const TOGETHER: usize = 100;

/// What is known of a place in a stream. What is not known is a `-` in the text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) at: EntryId,
    /// How many of the entries that the stream ever got are not after it.
    behind: Option<u64>,
    /// What the entry itself is, as a hash.
    seen: Option<u64>,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        write!(f, "{} {} {}", self.at, text(self.behind), text(self.seen))
    }
}

impl FromStr for Mark {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split(' ');
        let at = words.next().unwrap_or_default().parse().map_err(drop)?;
        let mut number = || words.next().and_then(|word| word.parse().ok());
        Ok(Self { at, behind: number(), seen: number() })
    }
}

/// What a projection has before it.
pub(super) struct Ahead {
    /// The checkpoint, as it stands there.
    pub(super) from: String,
    /// What comes next.
    pub(super) entries: Vec<StreamEntry>,
    /// What is noted of the place.
    noted: Option<Mark>,
    /// The place, with what is known of it now.
    mark: Mark,
    loss: Loss,
}

/// Whether entries are gone that were not processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    None,
    /// So many were deleted by name, as `XDEL` does.
    Deleted(u64),
    /// So many were trimmed away; `None` if nobody knows.
    Trimmed(Option<u64>),
    /// It is another stream.
    Replaced,
}

/// How a stream stands, seen from a place in it.
#[derive(Debug, Clone, Copy)]
struct Stream {
    /// How many entries it ever got, if the server counts.
    added: Option<u64>,
    length: u64,
    first: EntryId,
    newest: EntryId,
    highest_deleted: EntryId,
    /// How many it has after the place; `None` if they are many.
    after: Option<u64>,
    /// How many of those were read.
    read: u64,
    /// What the entry of the place is, if it is there.
    found: Option<u64>,
}

impl Stream {
    /// Whether all entries that it has are after a place.
    fn is_all_after(&self, at: EntryId) -> bool {
        self.length == 0 || self.first > at
    }

    fn loss(&self, mark: Mark) -> Loss {
        let Some(added) = self.added else {
            return Loss::None;
        };
        let is_other = self.found.is_some_and(|found| mark.seen.is_some_and(|seen| seen != found));
        if is_other || self.newest < mark.at {
            return Loss::Replaced;
        }
        let Some(behind) = mark.behind else {
            let may_miss = self.is_all_after(mark.at) && mark.at != EntryId::ZERO && self.newest > mark.at;
            return if may_miss { Loss::Trimmed(None) } else { Loss::None };
        };
        let Some(missing) = added.checked_sub(behind.saturating_add(self.after.unwrap_or(self.read))) else {
            return Loss::Replaced;
        };
        match (self.after.map(|_| missing), self.is_all_after(mark.at)) {
            (None | Some(0), _) => Loss::None,
            // in the middle nothing is trimmed; it may be that steps have passed what was deleted
            (Some(missing), false) if self.highest_deleted > EntryId::ZERO => Loss::Deleted(missing),
            (Some(_), false) => Loss::Replaced,
            (Some(1), true) if self.highest_deleted > mark.at => Loss::Deleted(1),
            (Some(missing), true) => Loss::Trimmed(Some(missing)),
        }
    }

    /// What is known of a place, if nothing that is gone after it counts.
    fn mark(&self, at: EntryId, noted: Option<Mark>) -> Mark {
        let counted = self.after.and_then(|after| self.added?.checked_sub(after));
        let noted = noted.unwrap_or_default();
        Mark { at, behind: counted.or(noted.behind), seen: self.found.or(noted.seen) }
    }
}

impl Ahead {
    /// The place behind so many of the entries.
    pub(super) fn mark_behind(&self, count: usize) -> Mark {
        match count.checked_sub(1).and_then(|last| self.entries.get(last)) {
            None => self.mark,
            Some(last) => Mark {
                at: last.id.as_str().parse().unwrap_or(EntryId::ZERO),
                behind: self.mark.behind.map(|behind| behind.saturating_add(count as u64)),
                seen: Some(hash(last)),
            },
        }
    }

    pub(super) fn position(&self) -> Option<MessageId> {
        Some(MessageId::new(&*self.from)).filter(|_| self.from != START)
    }
}

impl EventProjection {
    /// Looks from the checkpoint on, and makes the projection known to those who trim. Returns how many entries were
    /// deleted by name before they were processed, too.
    pub(super) async fn ahead(&self, place: &Place<'_>) -> Result<(Ahead, u64), StreamProjectionError> {
        loop {
            let ahead = self.look(place, "").await?;
            let lost = |entries| StreamProjectionError::Missing {
                projection: self.name.clone(),
                stream: self.stream.clone(),
                after: MessageId::new(ahead.mark.at.to_string()),
                entries,
            };
            let deleted = match ahead.loss {
                Loss::None => 0,
                Loss::Deleted(entries) => entries,
                Loss::Trimmed(entries) => return Err(lost(entries)),
                Loss::Replaced => {
                    return Err(StreamProjectionError::Replaced {
                        projection: self.name.clone(),
                        stream: self.stream.clone(),
                        checkpoint: MessageId::new(ahead.mark.at.to_string()),
                    });
                }
            };
            if deleted > 0 {
                tracing::warn!(projection = self.name, deleted, "entries were deleted before they were processed");
            }
            if ahead.noted == Some(ahead.mark) || self.take_note(place, &ahead.from, None, ahead.mark).await? {
                return Ok((ahead, deleted));
            }
        }
    }

    /// Sets the checkpoint by hand, behind an entry or before the oldest one: the projection goes on there, with what
    /// the stream has now.
    ///
    /// It is for what a run cannot decide: after [`Missing`](StreamProjectionError::Missing) with the id that it names,
    /// if what is missing may stay missing; after [`Replaced`](StreamProjectionError::Replaced) with `None`, if all that
    /// is in the stream now is new. What is after the entry is processed, **once more if it was**;
    /// [`rebuild`](Self::rebuild) begins from zero instead.
    ///
    /// # Errors
    /// [`StreamProjectionError::Command`]; refused too if it is no id of an entry.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn run(stats: eventbus_redis::EventProjection) -> eventbus::Result<()> {
    /// use eventbus_redis::StreamProjectionError;
    /// if let Err(StreamProjectionError::Missing { after, entries, .. }) = stats.catch_up().await {
    ///     eprintln!("{entries:?} orders are missing in the statistics from now on");
    ///     stats.go_on_after(Some(&after)).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "save_checkpoint")]
    pub async fn go_on_after(&self, entry: Option<&MessageId>) -> Result<(), StreamProjectionError> {
        let text = entry.map_or(START, MessageId::as_str);
        let at = EntryId::of_place(text).ok_or_else(|| self.refuses(&format!("`{text}` is no id of an entry")))?;
        loop {
            let ahead = self.look(&Place::Live, &at.to_string()).await?;
            if self.take_note(&Place::Live, &ahead.from, Some(at), ahead.mark).await? {
                return Ok(());
            }
        }
    }

    /// Notes what is known of a place, if the checkpoint is still there; and moves it, if it is to be moved.
    async fn take_note(
        &self,
        place: &Place<'_>,
        from: &str,
        to: Option<EntryId>,
        mark: Mark,
    ) -> Result<bool, StreamProjectionError> {
        let (checkpoint, _) = self.places(place);
        let mut program = Program::default();
        self.begin_program(&mut program, place, from);
        self.note(&mut program, place, mark);
        match to {
            None => {}
            Some(EntryId::ZERO) => drop(program.word("drop").key(&checkpoint)),
            Some(to) => drop(program.word("set").key(&checkpoint).word(to.to_string())),
        }
        match self.send(&program).await? {
            Reply::Done => Ok(true),
            Reply::Lost => Ok(false),
            Reply::Superseded => Err(self.superseded()),
            Reply::Refused { key, said, .. } => Err(self.refuses(&format!("`{key}`: {said}"))),
        }
    }

    /// Looks from an id on, or from the checkpoint.
    async fn look(&self, place: &Place<'_>, from: &str) -> Result<Ahead, StreamProjectionError> {
        self.check_name()?;
        let (checkpoint, _) = self.places(place);
        let keys = [self.stream.clone(), checkpoint, keys::projections(&self.stream)];
        self.check_slots(&keys)?;
        let mut look = script::AHEAD.key(&keys);
        look.arg(self.noted_as(place)).arg(from).arg(TOGETHER).arg(PAGE_BYTES);
        let reply: Result<Looked, _> = self.streams.link().rerun(&look).await;
        let failed = |error| RedisCommandError::of(&self.stream, error);
        Ok(ahead(reply.map_err(failed)?, from).map_err(|error| failed(error.into()))?)
    }
}

/// What the script replies.
type Looked = (String, String, Value, Value, bool, i64, u64, String, String, String);

fn ahead(looked: Looked, from: &str) -> Result<Ahead, RedisError> {
    let (checkpoint, note, own, entries, has_more, added, length, first, newest, highest_deleted) = looked;
    let id = |text: &str| EntryId::of_place(text).unwrap_or(EntryId::ZERO);
    let at = id(if from.is_empty() { &checkpoint } else { from });
    let found = |entries| Ok::<_, RedisError>(command::range_entries(entries)?.into_iter().map(StreamEntry::from));
    let own = found(own)?.find(|entry| id(entry.id.as_str()) == at);
    let entries: Vec<_> = found(entries)?.collect();
    let (first, read) = (id(&first), entries.len() as u64);
    let mut stream = Stream {
        added: u64::try_from(added).ok(),
        length,
        first,
        newest: id(&newest),
        highest_deleted: id(&highest_deleted),
        after: (!has_more).then_some(read),
        read,
        found: own.as_ref().map(hash),
    };
    if stream.is_all_after(at) {
        stream.after = Some(length);
    }
    let noted = note.parse::<Mark>().ok().filter(|mark| mark.at == at && from.is_empty());
    let loss = stream.loss(noted.unwrap_or(Mark { at, ..Mark::default() }));
    Ok(Ahead { from: checkpoint, entries, noted, mark: stream.mark(at, noted), loss })
}

fn hash(entry: &StreamEntry) -> u64 {
    let mut all = Vec::new();
    for (name, value) in entry.fields() {
        for part in [name.as_bytes(), value] {
            all.extend_from_slice(&part.len().to_le_bytes());
            all.extend_from_slice(part);
        }
    }
    xxh3_64(&all)
}
