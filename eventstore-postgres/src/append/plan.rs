//! The plan of a statement: which appends of a batch it holds.
//!
//! Invariant: the appends to one stream are sent in the order given, so one that cannot join the earlier ones defers
//! the later ones too. A statement claims a stream once, with one expected version, and holds no event id twice.

use std::collections::{HashMap, HashSet};

use eventbus::{EventId, ExpectedVersion, NewEvent, StreamId, Version, port::Append};

use super::entry::CommitEntry;
use crate::{
    columns::{EventColumns, StreamColumns},
    pool::Query,
    statements::AppendStatements,
};

/// The appends to one stream in one statement: the server stores all of them or none.
#[derive(Debug, PartialEq)]
pub(super) struct StreamChain {
    /// The number in the plan of its first append.
    pub(super) first: usize,
    /// The version of the stream after these appends, if known in advance.
    next_version: Option<Version>,
}

impl StreamChain {
    fn new(append: &Append, first: usize) -> Self {
        let start = match append.expected {
            ExpectedVersion::NoStream => Some(Version::NONE),
            ExpectedVersion::Exact(version) => Some(version),
            ExpectedVersion::Any | ExpectedVersion::StreamExists => None,
        };
        let events = append.events.len();
        Self { first, next_version: start.map(|start| start.plus(events)) }
    }

    /// Returns `true` if the append surely finds its expected version when the earlier ones of the chain did.
    fn accepts(&self, append: &Append) -> bool {
        match append.expected {
            ExpectedVersion::Any | ExpectedVersion::StreamExists => true,
            ExpectedVersion::Exact(version) => self.next_version == Some(version),
            ExpectedVersion::NoStream => false,
        }
    }

    fn push(&mut self, append: &Append) {
        let events = append.events.len();
        self.next_version = self.next_version.map(|version| version.plus(events));
    }
}

/// The appends of the next statement, and those deferred until its outcome is known.
#[derive(Debug, Default)]
pub(super) struct StatementPlan {
    pub(super) entries: Vec<CommitEntry>,
    pub(super) chains: Vec<StreamChain>,
    /// The number of the chain of each entry.
    pub(super) chain_of_entry: Vec<usize>,
    pub(super) deferred: Vec<CommitEntry>,
}

impl StatementPlan {
    /// Plans the next statement; with at most one append per stream if `one_per_stream`.
    pub(super) fn new(entries: Vec<CommitEntry>, one_per_stream: bool) -> Self {
        if let [only] = &entries[..] {
            let chains = vec![StreamChain::new(&only.append, 0)];
            return Self { entries, chains, chain_of_entry: vec![0], deferred: Vec::new() };
        }
        let mut planner = StatementPlanner { one_per_stream, ..StatementPlanner::default() };
        for entry in entries {
            planner.add(entry);
        }
        planner.plan
    }

    /// Returns the stream if there is only one.
    pub(super) fn single_stream(&self) -> Option<&StreamId> {
        let [chain] = &self.chains[..] else { return None };
        Some(&self.entries[chain.first].append.stream)
    }

    /// Returns the statement for a single stream: cheaper than that for several, and it waits for the stream's row.
    pub(super) fn single_stream_query(&self, statements: &AppendStatements) -> Query<'_> {
        claim_query(&self.entries[0].append, self.event_columns(), statements)
    }

    /// Returns the statement for any number of streams, which fails soon if one of their rows is locked.
    pub(super) fn multi_stream_query(&self, statements: &AppendStatements) -> Query<'_> {
        let mut streams = StreamColumns::default();
        for chain in &self.chains {
            let Append { stream, expected, .. } = &self.entries[chain.first].append;
            streams.push(stream, *expected);
        }
        for (entry, chain) in self.entries.iter().zip(&self.chain_of_entry) {
            streams.push_events(*chain, entry.append.events.len());
        }
        self.event_columns().bind_to(streams.bind_to(sqlx::query(statements.multi_stream.clone())))
    }

    fn event_columns(&self) -> EventColumns<'_> {
        let mut events = EventColumns::default();
        self.new_events().for_each(|event| events.push(event));
        events
    }

    pub(super) fn new_events(&self) -> impl Iterator<Item = &NewEvent> {
        self.entries.iter().flat_map(|entry| &entry.append.events)
    }
}

pub(super) fn single_append_query<'a>(append: &'a Append, statements: &AppendStatements) -> Query<'a> {
    let mut events = EventColumns::default();
    append.events.iter().for_each(|event| events.push(event));
    claim_query(append, events, statements)
}

/// Returns the statement that claims the stream of `first` at its expected version, and inserts the events.
fn claim_query<'a>(first: &'a Append, events: EventColumns<'a>, statements: &AppendStatements) -> Query<'a> {
    let sql = statements.single_stream(first.expected).clone();
    events.bind_claim(sqlx::query(sql), &first.stream, first.expected)
}

#[derive(Default)]
struct StatementPlanner {
    plan: StatementPlan,
    one_per_stream: bool,
    /// The chain of each planned stream; `None` if further appends to the stream are deferred.
    open_chains: HashMap<StreamId, Option<usize>>,
    ids: HashSet<EventId>,
}

impl StatementPlanner {
    fn add(&mut self, entry: CommitEntry) {
        let chain = self.chain_for(&entry.append);
        self.open_chains.insert(entry.append.stream.clone(), chain.filter(|_| !self.one_per_stream));
        let Some(chain) = chain else {
            self.plan.deferred.push(entry);
            return;
        };
        match self.plan.chains.get_mut(chain) {
            Some(chain) => chain.push(&entry.append),
            None => self.plan.chains.push(StreamChain::new(&entry.append, self.plan.entries.len())),
        }
        self.ids.extend(entry.append.events.iter().map(NewEvent::event_id));
        self.plan.chain_of_entry.push(chain);
        self.plan.entries.push(entry);
    }

    /// Returns the number of the append's chain, possibly a new one; `None` if the append is deferred.
    fn chain_for(&self, append: &Append) -> Option<usize> {
        if append.events.iter().any(|event| self.ids.contains(&event.event_id())) {
            return None;
        }
        match self.open_chains.get(&append.stream) {
            None => Some(self.plan.chains.len()),
            Some(chain) => chain.filter(|chain| self.plan.chains[*chain].accepts(append)),
        }
    }
}
