//! Which appends go out in one statement.
//!
//! Keep: the appends to one stream go out in the order given, so one that cannot go with those before it holds back
//! those after it. A statement claims a stream once, with one expectation, and holds no event id twice.

use std::collections::{HashMap, HashSet};

use eventbus::{EventId, ExpectedVersion, NewEvent, StreamId, Version, port::Append};

use super::entry::Entry;
use crate::{
    columns::{EventColumns, StreamColumns},
    pool::Query,
    statements::AppendStatements,
};

/// The appends to one stream that go out together: they are stored together or not at all.
#[derive(Debug, PartialEq)]
pub(super) struct Chain {
    /// The first of them, by its number in the plan.
    pub(super) first: usize,
    /// Where the stream will be, if that is known before.
    version: Option<Version>,
}

impl Chain {
    fn of(append: &Append, first: usize) -> Self {
        let start = match append.expected {
            ExpectedVersion::NoStream => Some(Version::NONE),
            ExpectedVersion::Exact(version) => Some(version),
            ExpectedVersion::Any | ExpectedVersion::StreamExists => None,
        };
        let events = append.events.len();
        Self { first, version: start.map(|start| start.plus(events)) }
    }

    /// Whether the append is sure to find what it expects if those before it did.
    fn leads_to(&self, append: &Append) -> bool {
        match append.expected {
            ExpectedVersion::Any | ExpectedVersion::StreamExists => true,
            ExpectedVersion::Exact(version) => self.version == Some(version),
            ExpectedVersion::NoStream => false,
        }
    }

    fn push(&mut self, append: &Append) {
        let events = append.events.len();
        self.version = self.version.map(|version| version.plus(events));
    }
}

/// The next statement, and what has to wait for its outcome.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) now: Vec<Entry>,
    pub(super) chains: Vec<Chain>,
    /// The chain of each append of `now`, by its number.
    pub(super) chain_of: Vec<usize>,
    pub(super) later: Vec<Entry>,
}

impl Plan {
    /// Plans the next statement; `one_by_one` with at most one append for each stream.
    pub(super) fn of(entries: Vec<Entry>, one_by_one: bool) -> Self {
        if let [only] = &entries[..] {
            let chains = vec![Chain::of(&only.append, 0)];
            return Self { now: entries, chains, chain_of: vec![0], later: Vec::new() };
        }
        let mut planner = Planner { one_by_one, ..Planner::default() };
        for entry in entries {
            planner.add(entry);
        }
        planner.plan
    }

    /// The stream, if there is but one.
    pub(super) fn only_stream(&self) -> Option<&StreamId> {
        let [chain] = &self.chains[..] else { return None };
        Some(&self.now[chain.first].append.stream)
    }

    /// The statement for a single stream, the first: cheaper than one among many, and it waits for its row.
    pub(super) fn claim(&self, statements: &AppendStatements) -> Query<'_> {
        claim(&self.now[0].append, self.events(), statements)
    }

    /// The statement for any number of streams, which gives way to whoever keeps one of their rows.
    pub(super) fn query(&self, statements: &AppendStatements) -> Query<'_> {
        let mut streams = StreamColumns::default();
        for chain in &self.chains {
            let Append { stream, expected, .. } = &self.now[chain.first].append;
            streams.push(stream, *expected);
        }
        for (entry, chain) in self.now.iter().zip(&self.chain_of) {
            streams.push_events(*chain, entry.append.events.len());
        }
        self.events().bind_to(streams.bind_to(sqlx::query(statements.many.clone())))
    }

    fn events(&self) -> EventColumns<'_> {
        let mut events = EventColumns::default();
        self.new_events().for_each(|event| events.push(event));
        events
    }

    /// The events of the statement.
    pub(super) fn new_events(&self) -> impl Iterator<Item = &NewEvent> {
        self.now.iter().flat_map(|entry| &entry.append.events)
    }
}

/// The statement of an append that goes alone.
pub(super) fn alone<'a>(append: &'a Append, statements: &AppendStatements) -> Query<'a> {
    let mut events = EventColumns::default();
    append.events.iter().for_each(|event| events.push(event));
    claim(append, events, statements)
}

/// The statement that claims the stream of `first`, as it expects it, and puts the events there.
fn claim<'a>(first: &'a Append, events: EventColumns<'a>, statements: &AppendStatements) -> Query<'a> {
    let sql = statements.one(first.expected).clone();
    events.bind_claim(sqlx::query(sql), &first.stream, first.expected)
}

#[derive(Default)]
struct Planner {
    plan: Plan,
    one_by_one: bool,
    /// The chain of each stream that takes more appends; none, if those to come have to wait.
    open: HashMap<StreamId, Option<usize>>,
    ids: HashSet<EventId>,
}

impl Planner {
    fn add(&mut self, entry: Entry) {
        let chain = self.chain_for(&entry.append);
        self.open.insert(entry.append.stream.clone(), chain.filter(|_| !self.one_by_one));
        let Some(chain) = chain else {
            self.plan.later.push(entry);
            return;
        };
        match self.plan.chains.get_mut(chain) {
            Some(chain) => chain.push(&entry.append),
            None => self.plan.chains.push(Chain::of(&entry.append, self.plan.now.len())),
        }
        self.ids.extend(entry.append.events.iter().map(NewEvent::event_id));
        self.plan.chain_of.push(chain);
        self.plan.now.push(entry);
    }

    /// The number of the chain that the append goes with, perhaps a new one; none if it has to wait.
    fn chain_for(&self, append: &Append) -> Option<usize> {
        if append.events.iter().any(|event| self.ids.contains(&event.event_id())) {
            return None;
        }
        match self.open.get(&append.stream) {
            None => Some(self.plan.chains.len()),
            Some(chain) => chain.filter(|chain| self.plan.chains[*chain].leads_to(append)),
        }
    }
}
