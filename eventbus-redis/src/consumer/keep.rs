//! The keeper: writes down what came of entries, shows life, and looks for what others left.

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::atomic::Ordering,
    time::Duration,
};

use eventbus::port::MessageId;
use redis::ScriptInvocation;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{
    Consumer,
    intake::Retaken,
    paper::{Paper, add_ids},
    trouble::Trouble,
};
use crate::{command, connection::CommandError, script};

/// How often what could not be written down is tried again.
const WRITE: Duration = Duration::from_millis(100);
/// How long what is under way, and then what is left to do, may take when the consumer ends.
const PATIENCE: Duration = Duration::from_millis(800);
/// How often the consumer looks around, at least.
const LOOK: Duration = Duration::from_secs(1);
/// How often it looks for entries of dead consumers, at least.
const CLAIM: Duration = Duration::from_secs(2);
/// How often it looks, at most.
const POLL: Duration = Duration::from_millis(20);
/// What the keeper remembers from one time to the next.
struct Keeper {
    paper: Paper,
    writing: Trouble,
    keeping: Trouble,
    /// Where to go on looking for entries of dead consumers.
    cursor: String,
    /// Where to go on looking for notes that nobody needs.
    sweep: String,
    /// Entries that were pending on this consumer and not in hand, when it looked last.
    missing: HashSet<String>,
    /// Members that handle other types than this one: theirs, and its own.
    differing: HashMap<String, (String, String)>,
    /// Whether another one of its name was seen.
    has_double: bool,
}

/// What a keeper does.
enum What {
    Write,
    Beat,
    Look,
    Claim,
    Sweep,
    /// Everything that must not wait for its time when the consumer has joined its group.
    Join,
}

/// Something that is to be done again and again.
fn every(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

impl Consumer {
    /// Keeps until workers and reader have ended, then writes down the rest and leaves.
    pub(super) async fn keep(&self, ended: &CancellationToken) {
        let trouble = |what| Trouble::new(what, self.group.clone());
        let mut keeper = Keeper {
            paper: Paper::default(),
            writing: trouble("acknowledging"),
            keeping: trouble("recovering"),
            cursor: "0-0".into(),
            sweep: "0".into(),
            missing: HashSet::new(),
            differing: HashMap::new(),
            has_double: false,
        };
        let idle = self.pending_idle();
        let (mut write, mut beat) = (every(WRITE), every(idle / 3));
        let (mut look, mut claim) = (every((idle / 6).clamp(POLL, LOOK)), every((idle / 6).clamp(POLL, CLAIM)));
        let mut sweep = every(idle.max(CLAIM));
        let mut changes = self.shared.subscribers.watch();
        // waits on while other things are done, or what came of entries would never be old enough
        let mut settled = pin!(self.hand.settled());
        loop {
            let unwritten = !keeper.paper.is_empty() || !self.not_ours().is_empty();
            let what = tokio::select! {
                () = ended.cancelled() => break,
                () = &mut settled => {
                    settled.set(self.hand.settled());
                    What::Write
                }
                _ = write.tick(), if unwritten => What::Write,
                () = self.joined.notified() => What::Join,
                _ = beat.tick() => What::Beat,
                _ = look.tick() => What::Look,
                _ = changes.changed() => What::Look,
                _ = claim.tick() => What::Claim,
                _ = sweep.tick() => What::Sweep,
            };
            let in_vain = async {
                ended.cancelled().await;
                tokio::time::sleep(PATIENCE).await;
            };
            // always asks the server; the others may succeed without
            let has_asked = matches!(what, What::Look | What::Join);
            let kept = tokio::select! {
                kept = self.do_one(what, &mut keeper) => kept,
                () = in_vain => break, // what is not done may be done twice
            };
            match kept {
                Ok(()) if has_asked => keeper.keeping.is_over(),
                Ok(()) => {}
                // a group that is gone is made anew by the reader
                Err(error) if command::is_no_group(&error) => {}
                Err(error) => drop(keeper.keeping.happened(&error)),
            }
        }
        self.end(&mut keeper).await;
    }

    async fn do_one(&self, what: What, keeper: &mut Keeper) -> Result<(), CommandError> {
        match what {
            What::Write => self.write_down(keeper).await,
            What::Beat => self.beat().await,
            What::Look => self.look(keeper).await,
            What::Claim => self.claim(keeper).await,
            What::Sweep => self.sweep(keeper).await,
            What::Join => {
                self.look(keeper).await?;
                self.claim(keeper).await
            }
        }
    }

    async fn write_down(&self, keeper: &mut Keeper) -> Result<(), CommandError> {
        keeper.paper.add(self.hand.take_settled());
        if keeper.paper.is_empty() && self.not_ours().is_empty() {
            return Ok(());
        }
        match self.write(&mut keeper.paper).await {
            Ok(_) => keeper.writing.is_over(),
            Err(error) => {
                let delay = keeper.writing.happened(&error);
                tokio::time::sleep(delay.min(WRITE)).await;
            }
        }
        Ok(())
    }

    /// Keeps the claim on everything in hand, and on what is left pending on purpose.
    async fn beat(&self) -> Result<(), CommandError> {
        let mut ids = self.hand.ids();
        ids.extend(self.left().iter().cloned());
        let lost = self.beat_for(&ids).await?;
        for id in &lost {
            self.left().remove(id);
        }
        // what has been written down meanwhile is not lost
        let lost: Vec<_> = lost.into_iter().filter(|id| self.hand.contains(id)).collect();
        self.lose(&lost);
        Ok(())
    }

    /// Keeps the claim on entries; says which of them are somebody else's by now.
    pub(super) async fn beat_for(&self, ids: &[MessageId]) -> Result<Vec<MessageId>, CommandError> {
        let mut all_lost = Vec::new();
        for ids in ids.chunks(command::TOGETHER) {
            let mut beat = script::BEAT.key(&self.shared.stream);
            beat.arg(self.group.as_str()).arg(&self.name);
            add_ids(&mut beat, ids);
            let lost: Vec<String> = self.shared.link.rerun(&beat).await?;
            all_lost.extend(lost.into_iter().map(MessageId::new));
        }
        Ok(all_lost)
    }

    /// Shows that it lives and what it handles; finds entries that are pending on it without being in hand.
    async fn look(&self, keeper: &mut Keeper) -> Result<(), CommandError> {
        let (pending, has_double, others): (usize, bool, Vec<String>) = self.shared.link.rerun(&self.looking()).await?;
        self.is_announced.store(true, Ordering::Release);
        self.tell_differing(keeper, &others);
        if has_double && !std::mem::replace(&mut keeper.has_double, true) {
            tracing::error!(
                group = %self.group, consumer = self.name,
                "another consumer of this name is alive: both handle what is pending on it; `consumer_name` must be unique"
            );
        }
        let expected = self.hand.len() + self.left().len();
        if pending <= expected || !self.has_caught_up() {
            keeper.missing.clear();
            return Ok(());
        }
        self.find_missing(keeper).await
    }

    /// What shows that it lives, says what it handles, and tells what there is to see.
    pub(super) fn looking(&self) -> ScriptInvocation<'static> {
        let mut look = script::LOOK.key(&self.shared.stream);
        look.key(&self.keys.members).key(&self.keys.floors);
        let live_ms = self.shared.config.pending_idle_ms;
        look.arg(self.group.as_str()).arg(&self.name).arg(self.types()).arg(live_ms);
        look.arg(&self.instance).arg(u8::from(self.is_announced.load(Ordering::Acquire)));
        look
    }

    /// An entry may be on its way from the server: only one that was missing before is taken again.
    async fn find_missing(&self, keeper: &mut Keeper) -> Result<(), CommandError> {
        let before = std::mem::take(&mut keeper.missing);
        let (mut from, mut again) = ("-".to_owned(), Vec::new());
        let mut room = self.hand.free();
        loop {
            let list = command::pending_on(&self.shared.stream, &self.group, &self.name, &from, command::TOGETHER);
            let ids = command::ids(self.shared.link.query(&list).await?)?;
            let Some(last) = ids.last() else {
                break;
            };
            from = format!("({last}");
            for id in self.not_in_hand(ids) {
                if before.contains(&id) && room > 0 {
                    room -= 1;
                    again.push(id);
                } else {
                    keeper.missing.insert(id);
                }
            }
        }
        for ids in again.chunks(self.shared.config.batch_size.min(command::TOGETHER)) {
            if let Some(retake) = self.retake(ids) {
                let (entries, noted, deleted) = self.shared.link.rerun(&retake).await?;
                self.take_again(Retaken::read(entries, noted, deleted)?);
            }
        }
        Ok(())
    }

    fn tell_differing(&self, keeper: &mut Keeper, others: &[String]) {
        let own = self.types();
        let others = others.chunks_exact(2).map(|other| (other[0].clone(), other[1].clone()));
        let differing: HashMap<_, _> =
            others.filter(|(_, types)| *types != own).map(|(member, types)| (member, (types, own.clone()))).collect();
        for (member, sets) in &differing {
            if keeper.differing.get(member) != Some(sets) {
                let (types, own) = sets;
                tracing::warn!(
                    group = %self.group, consumer = self.name, handles = own, member, member_handles = types,
                    "members of one group handle different events; each event is left to a member that handles it"
                );
            }
        }
        keeper.differing = differing;
    }

    /// Takes entries over from consumers that show no life, as far as there is room.
    async fn claim(&self, keeper: &mut Keeper) -> Result<(), CommandError> {
        while self.has_caught_up() {
            let count = self.hand.free().min(self.shared.config.batch_size).min(command::TOGETHER);
            if count == 0 {
                return Ok(());
            }
            let idle = self.shared.config.pending_idle_ms;
            let (cursor, retaken) = self.claim_some(&keeper.cursor, idle, count).await?;
            keeper.cursor = cursor;
            let recovered = self.take_again(retaken);
            self.tell_recovered(recovered);
            if keeper.cursor == "0-0" {
                break;
            }
        }
        Ok(())
    }

    pub(super) async fn claim_some(
        &self,
        cursor: &str,
        idle_ms: u64,
        count: usize,
    ) -> Result<(String, Retaken), CommandError> {
        let mut claim = script::CLAIM.key(&self.shared.stream);
        claim.key(&self.keys.retry);
        claim.arg(self.group.as_str()).arg(&self.name).arg(idle_ms).arg(cursor).arg(count);
        let (cursor, entries, noted, deleted) = self.shared.link.rerun(&claim).await?;
        Ok((cursor, Retaken::read(entries, noted, deleted)?))
    }

    pub(super) fn tell_recovered(&self, count: usize) {
        if count > 0 {
            self.shared.counters.messages_recovered(count as u64);
            tracing::info!(group = %self.group, count, "entries of consumers that show no life taken over");
        }
    }

    /// Removes what dead consumers left behind.
    async fn sweep(&self, keeper: &mut Keeper) -> Result<(), CommandError> {
        let config = &self.shared.config;
        let (idle, age) =
            (config.pending_idle_ms.saturating_mul(10), config.retry_key_expiry_seconds.saturating_mul(1_000));
        let mut sweep = script::SWEEP.key(&self.shared.stream);
        sweep.key(&self.keys.retry);
        sweep.arg(self.group.as_str()).arg(&self.name).arg(idle).arg(age).arg(&keeper.sweep);
        let mut reply: Vec<String> = self.shared.link.rerun(&sweep).await?;
        let gone = reply.split_off(1.min(reply.len()));
        keeper.sweep = reply.pop().unwrap_or_else(|| "0".into());
        if !gone.is_empty() {
            tracing::info!(group = %self.group, consumers = ?gone, "names of consumers that are long gone removed");
        }
        Ok(())
    }

    /// Writes down what is left to write, and lets others have what was not begun; all within a time that a shutdown
    /// can bear.
    async fn end(&self, keeper: &mut Keeper) {
        let given_back = self.hand.give_back();
        let ending = async {
            loop {
                keeper.paper.add(self.hand.take_settled());
                match self.finish(&mut keeper.paper, &given_back).await {
                    Err(error) if !command::is_no_group(&error) => {
                        tokio::time::sleep(keeper.writing.happened(&error)).await;
                    }
                    _ => return,
                }
            }
        };
        if tokio::time::timeout(PATIENCE, ending).await.is_err() {
            let count = self.hand.len() + given_back.len();
            tracing::warn!(group = %self.group, count, "ended without an answer; what was in hand is delivered again");
        }
    }

    async fn finish(&self, paper: &mut Paper, given_back: &[MessageId]) -> Result<(), CommandError> {
        self.write(paper).await?;
        self.leave(given_back, self.shared.is_passing).await
    }

    /// Lets others have entries, and the name go if it does not come back.
    pub(super) async fn leave(&self, ids: &[MessageId], is_passing: bool) -> Result<(), CommandError> {
        let mut chunks = ids.chunks(command::TOGETHER).collect::<Vec<_>>();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        for ids in chunks {
            let mut leave = script::LEAVE.key(&self.shared.stream);
            leave.key(&self.keys.members);
            leave.arg(self.group.as_str()).arg(&self.name).arg(self.shared.config.pending_idle_ms);
            leave.arg(u8::from(is_passing));
            add_ids(&mut leave, ids);
            self.shared.link.rerun::<u64>(&leave).await?;
        }
        Ok(())
    }
}
