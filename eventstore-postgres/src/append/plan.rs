//! The plan of a statement: which appends of a batch it holds.
//!
//! Invariant: the appends to one stream are sent in the order given, so one that cannot join the earlier ones defers
//! the later ones too. A statement claims a stream once, with one expected version.
//!
//! Invariant: a statement holds no event id twice, also not of two streams: its answer names stored events by their ids
//! alone.

use std::collections::{HashMap, HashSet};

use eventbus::{EventId, ExpectedVersion, NewEvent, StreamId, Version, port::Append};
use sqlx::postgres::PgBindIterExt as _;

use super::entry::{CommitEntry, approximate_bytes};
use crate::{
    columns::{bind_events, single_stream_append},
    pool::Query,
    statements::{Claim, Statements, StreamClaims},
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
#[derive(Debug)]
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
        let mut planner = StatementPlanner::new(entries.len(), one_per_stream);
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
    pub(super) fn single_stream_query(&self, statements: &Statements, lists_types: bool) -> Query<'_> {
        let Append { stream, expected, .. } = &self.entries[0].append;
        single_stream_append(statements, stream, Claim::new(*expected), &self.new_events(), lists_types)
    }

    /// Returns how a statement for several streams claims them, where a stream without events has no row.
    pub(super) fn claims(&self) -> StreamClaims {
        let mut claims = self.chains.iter().map(|chain| Claim::new(self.entries[chain.first].append.expected));
        if claims.all(|claim| matches!(claim, Claim::New)) { StreamClaims::New } else { StreamClaims::Any }
    }

    /// Returns the statement for any number of streams, which fails soon if one of their rows is locked.
    pub(super) fn multi_stream_query(
        &self,
        statements: &Statements,
        claims: StreamClaims,
        lists_types: bool,
    ) -> Query<'_> {
        let bytes = self.entries.iter().map(|entry| approximate_bytes(&entry.append)).sum();
        let query = statements.multi_stream_append(claims, lists_types, bytes);
        let claims = self.chains.iter().map(|chain| &self.entries[chain.first].append);
        let mut events_of_stream = vec![0_i64; self.chains.len()];
        let mut stream_of_event = Vec::with_capacity(self.entries.len());
        let mut ordinal_in_stream = Vec::with_capacity(self.entries.len());
        for (entry, stream) in self.entries.iter().zip(&self.chain_of_entry) {
            for _ in &entry.append.events {
                events_of_stream[*stream] += 1;
                stream_of_event.push(*stream as i64 + 1);
                ordinal_in_stream.push(events_of_stream[*stream]);
            }
        }
        let query = bind_streams(query, claims).bind(events_of_stream).bind(stream_of_event).bind(ordinal_in_stream);
        bind_events(query, &self.new_events())
    }

    pub(super) fn new_events(&self) -> impl Iterator<Item = &NewEvent> + Clone {
        self.entries.iter().flat_map(|entry| &entry.append.events)
    }
}

/// Binds the streams of appends with their expected versions as the first parameters, one array per column.
pub(super) fn bind_streams<'q>(query: Query<'q>, appends: impl Iterator<Item = &'q Append> + Clone) -> Query<'q> {
    query
        .bind(appends.clone().map(|append| append.stream.aggregate_id().as_str()).bind_iter())
        .bind(appends.clone().map(|append| append.stream.aggregate_type().as_str()).bind_iter())
        .bind(appends.clone().map(|append| append.stream.tenant_or_nil()).bind_iter())
        .bind(appends.map(|append| expected_number(append.expected)).bind_iter())
}

/// Returns an expected version as `append_many.sql` reads it.
fn expected_number(expected: ExpectedVersion) -> i64 {
    match expected {
        ExpectedVersion::Any => -1,
        ExpectedVersion::StreamExists => -2,
        ExpectedVersion::NoStream => 0,
        ExpectedVersion::Exact(version) => version.as_i64(),
    }
}

struct StatementPlanner {
    plan: StatementPlan,
    one_per_stream: bool,
    /// The chain of each planned stream; `None` if further appends to the stream are deferred.
    open_chains: HashMap<StreamId, Option<usize>>,
    /// The ids of the planned events.
    ids: HashSet<EventId>,
}

impl StatementPlanner {
    /// Makes a planner for this number of appends.
    fn new(appends: usize, one_per_stream: bool) -> Self {
        let plan = StatementPlan {
            entries: Vec::with_capacity(appends),
            chains: Vec::with_capacity(appends),
            chain_of_entry: Vec::with_capacity(appends),
            deferred: Vec::new(),
        };
        let (open_chains, ids) = (HashMap::with_capacity(appends), HashSet::with_capacity(appends));
        Self { plan, one_per_stream, open_chains, ids }
    }

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
