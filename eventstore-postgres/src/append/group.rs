//! Those who append at the same time share statements.
//!
//! Who finds nothing under way sends at once, in its own task: there is nothing to wait for, and no timer. Meanwhile
//! the others line up; then one statement takes all of them along.
//!
//! Keep: the turn is always somewhere. While somebody stands in line, somebody has it, or a task that will take it; who
//! drops it, whatever the reason, hands it on. A caller that goes away takes nothing with it but its own append.
//!
//! Real time, not the given clock: the replies of PostgreSQL.

use std::{
    collections::VecDeque,
    mem,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use eventbus::{
    NewEvent,
    port::{Append, AppendError, ListedEventTypes},
};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, oneshot},
    task::yield_now,
    time::timeout,
};

use super::{
    AppendResult,
    aside::{Aside, LONG, UntilFree},
    entry::Entry,
    settle::Writer,
};
use crate::{config::PgEventStoreConfig, notify::Appended, pool::Connections, statements::Statements};

/// The most appends in a statement.
const MAX_APPENDS: usize = 1_000;
/// The most bytes in a statement of several appends, roughly; a larger append goes alone.
const MAX_BYTES: usize = 4 << 20;
/// What an event takes beside its payload, roughly.
const EVENT_BYTES: usize = 256;
/// Who waits for which result.
type Answers = Vec<(usize, oneshot::Receiver<AppendResult>)>;

/// All who append through one store.
#[derive(Debug)]
pub(crate) struct Group {
    writer: Writer,
    line: Mutex<Line>,
    /// A place for each append that is under way or waits.
    places: Arc<Semaphore>,
    max_call: usize,
}

/// Those who wait for the turn.
#[derive(Debug, Default)]
struct Line {
    /// Whether somebody has the turn; if nobody has, nobody waits.
    is_taken: bool,
    calls: VecDeque<Queued>,
}

#[derive(Debug)]
struct Queued {
    entries: Vec<Entry>,
    bytes: usize,
    /// Where the caller runs, and hence a task can run for it.
    runtime: Handle,
}

/// The task that made the append ended before it was done: its runtime was shut down.
#[derive(Debug, thiserror::Error)]
#[error("the runtime was shut down meanwhile")]
struct ShutDown;

impl Group {
    pub(crate) fn new(
        config: &PgEventStoreConfig,
        connections: Connections,
        statements: Arc<Statements>,
        listed: Arc<ListedEventTypes>,
        appended: Arc<Appended>,
    ) -> Arc<Self> {
        let places = config.append_queue as usize;
        Arc::new(Self {
            writer: Writer {
                connections,
                statements,
                listed,
                appended,
                aside: Aside::default(),
                patience: config.connect_timeout,
            },
            line: Mutex::default(),
            places: Arc::new(Semaphore::new(places)),
            max_call: places.min(MAX_APPENDS),
        })
    }

    /// An empty call.
    pub(super) fn call(&self) -> Call {
        Call { max: self.max_call, ..Call::default() }
    }

    /// Makes the appends, alone or with others, and notes the results.
    pub(super) async fn append(self: &Arc<Self>, mut call: Call, results: &mut [AppendResult]) {
        let (held, until_free) = call.split_off(&self.writer.aside);
        let mut answers = self.make(call).await;
        for free in until_free {
            free.wait().await;
        }
        answers.append(&mut self.make(held).await);
        for (number, answer) in answers {
            // where nobody answers, nobody knows
            results[number] = answer.await.unwrap_or_else(|_| Err(AppendError::OutcomeUnknown(ShutDown.into())));
        }
    }

    /// Lines up, or settles the appends at once if nobody is before them.
    async fn make(self: &Arc<Self>, call: Call) -> Answers {
        if call.appends.is_empty() {
            return Vec::new();
        }
        let (queued, answers) = self.admit(call).await;
        if let Some((turn, entries)) = self.line_up(queued) {
            turn.settle(entries).await;
        }
        answers
    }

    /// Those who stepped aside line up again, to be told that the store is closed.
    pub(crate) fn close(&self) {
        self.writer.aside.close();
    }

    /// Waits until there is room.
    async fn admit(&self, call: Call) -> (Queued, Answers) {
        let number = u32::try_from(call.appends.len()).unwrap_or(u32::MAX);
        let mut places =
            Arc::clone(&self.places).acquire_many_owned(number).await.expect("the semaphore is never closed");
        let mut queued = Queued { entries: Vec::new(), bytes: call.bytes, runtime: Handle::current() };
        let mut answers = Vec::new();
        for (number, append) in call.appends {
            let place = places.split(1).expect("there is a place for each");
            let (entry, answer) = Entry::new(append, place);
            queued.entries.push(entry);
            answers.push((number, answer));
        }
        (queued, answers)
    }

    /// Takes the turn if nobody has it, otherwise waits in line.
    fn line_up(self: &Arc<Self>, queued: Queued) -> Option<(Turn, Vec<Entry>)> {
        let mut line = self.line();
        if mem::replace(&mut line.is_taken, true) {
            line.calls.push_back(queued);
            return None;
        }
        Some((Turn(Arc::clone(self)), queued.entries))
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// Moves as many calls as fit into the load.
    fn load(&mut self, load: &mut Load) {
        while let Some(mut call) = self.calls.pop_front_if(|call| load.has_room_for(call)) {
            // nothing was sent for those who are gone, and nothing needs to be
            call.entries.retain(|entry| !entry.is_abandoned());
            if !call.entries.is_empty() {
                load.bytes += call.bytes;
                load.entries.append(&mut call.entries);
                load.runtime = Some(call.runtime);
            }
        }
    }
}

/// What a statement takes along.
#[derive(Debug, Default)]
struct Load {
    entries: Vec<Entry>,
    bytes: usize,
    /// That of one who waits for it.
    runtime: Option<Handle>,
}

impl Load {
    fn has_room_for(&self, call: &Queued) -> bool {
        let fits = self.entries.len() + call.entries.len() <= MAX_APPENDS && self.bytes + call.bytes <= MAX_BYTES;
        fits || self.entries.is_empty()
    }
}

/// The right to send the next statement. Dropped, it goes to those who wait, or to whoever comes next.
#[derive(Debug)]
struct Turn(Arc<Group>);

impl Turn {
    /// Settles appends, and returns the turn unless it took long: then it was handed on meanwhile.
    async fn settle(self, entries: Vec<Entry>) -> Option<Self> {
        let group = Arc::clone(&self.0);
        let mut settled = pin!(group.writer.settle(entries));
        if timeout(LONG, &mut settled).await.is_ok() {
            return Some(self);
        }
        drop(self);
        settled.await;
        None
    }

    /// Settles the load, and then what comes meanwhile, until nothing comes any more.
    async fn serve(self, mut load: Load) {
        let mut turn = self;
        loop {
            turn.gather(&mut load).await;
            if load.entries.is_empty() {
                return;
            }
            match turn.settle(mem::take(&mut load).entries).await {
                Some(again) => turn = again,
                None => return,
            }
        }
    }

    /// Takes along those who wait, and those who are about to: the ones just answered, who append again.
    async fn gather(&self, load: &mut Load) {
        let mut before = None;
        loop {
            self.0.line().load(load);
            if before == Some(load.entries.len()) {
                return;
            }
            before = Some(load.entries.len());
            yield_now().await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut load = Load::default();
        {
            let mut line = self.0.line();
            line.load(&mut load);
            line.is_taken = load.runtime.is_some();
        }
        // a task that cannot run any more drops its load, and hands on the turn for the rest
        if let Some(runtime) = load.runtime.take() {
            runtime.spawn(Turn(Arc::clone(&self.0)).serve(load));
        }
    }
}

/// Appends that are made in one call, which no statement tears apart, each with the number of its result.
#[derive(Debug, Default)]
pub(super) struct Call {
    appends: Vec<(usize, Append)>,
    bytes: usize,
    max: usize,
}

impl Call {
    pub(super) fn has_room_for(&self, append: &Append) -> bool {
        self.appends.is_empty() || (self.appends.len() < self.max && self.bytes + size(append) <= MAX_BYTES)
    }

    pub(super) fn push(&mut self, number: usize, append: Append) {
        self.bytes += size(&append);
        self.appends.push((number, append));
    }

    /// Takes out the appends to streams that are set aside, with what to wait for before they are made.
    fn split_off(&mut self, aside: &Aside) -> (Self, Vec<UntilFree>) {
        let (mut held, mut until_free) = (Self::default(), Vec::new());
        if aside.is_empty() {
            return (held, until_free);
        }
        for (number, append) in self.take().appends {
            let free = aside.until_free(&append.stream);
            let call = if free.is_some() { &mut held } else { &mut *self };
            call.push(number, append);
            until_free.extend(free);
        }
        (held, until_free)
    }

    /// Takes out what was pushed.
    pub(super) fn take(&mut self) -> Self {
        let empty = Self { max: self.max, ..Self::default() };
        mem::replace(self, empty)
    }
}

/// How many bytes an append takes in a statement, roughly.
fn size(append: &Append) -> usize {
    let of_event = |event: &NewEvent| EVENT_BYTES + event.payload().len() + event.context().attributes.as_json().len();
    append.events.iter().map(of_event).sum()
}
