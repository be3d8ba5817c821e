//! The auditor of runs: finds runs that break a promise of the engine.
//!
//! - An event is *lost* if no run of it has ended well.
//! - A run *repeats* an event if an earlier run of it has not failed. After a fault that is allowed: since the earlier run
//!   began, its process was killed or paused, or the server was down. Without one the event had two owners.
//! - A run is *out of order* if it begins before the event before it in its line has ended well.
//! - A process that was paused may end the runs that it had begun, and begin those that its workers had taken: as many
//!   per handler as had no run. Such runs are *late*: no lease can prevent them.
//!
//! Invariant: the auditor shares no code with the engine. `tests` breaks a correct run in each of these ways.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::{Run, RunEntry};
use crate::fire::auditor::{Report, Violation};

/// The most runs of a handler that a kill or a pause may repeat, on average. Those that a process made while the server was
/// down are not among them.
const REPEATS_PER_FAULT: u64 = 5;

/// An event that a handler must get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::fire) struct Expected {
    /// Its position.
    pub(in crate::fire) event: u64,
    /// Events of one line are handled in the order of their positions.
    pub(in crate::fire) line: Arc<str>,
}

/// A handler with what its runs must be.
#[derive(Debug, Clone)]
pub(in crate::fire) struct AuditedHandler {
    pub(in crate::fire) name: &'static str,
    /// The number of events that a process runs at once.
    pub(in crate::fire) concurrency: usize,
    /// Set if it takes a transaction of the store: the commit after a run may fail, which repeats the run.
    pub(in crate::fire) is_transactional: bool,
    /// The events that it must get, in the order of their positions; it may get no other one.
    pub(in crate::fire) expected: Vec<Expected>,
}

/// What the auditor found.
#[derive(Debug, Default)]
pub(in crate::fire) struct Audited {
    /// The broken promises.
    pub(in crate::fire) report: Report,
    /// The bounds that were exceeded.
    pub(in crate::fire) failures: Vec<String>,
    pub(in crate::fire) runs: u64,
    /// The number of runs that repeat an event after a fault.
    pub(in crate::fire) repeated: u64,
    /// The number of runs that failed.
    pub(in crate::fire) failed: u64,
    /// The number of runs that a paused process ended or began after its successor had begun the event.
    pub(in crate::fire) late: u64,
}

/// A run of an event.
#[derive(Debug)]
struct Begun {
    at: usize,
    process: u32,
    /// Set if a worker may have taken the event before the process was paused.
    may_be_late: bool,
    end: Option<bool>,
}

/// The times in which processes and the server had faults, as ranges of records.
#[derive(Debug, Default)]
struct Faults {
    of_process: HashMap<u32, Vec<(usize, usize)>>,
    of_server: Vec<(usize, usize)>,
    count: u64,
}

impl Faults {
    fn read(entries: &[RunEntry]) -> Self {
        let mut faults = Self::default();
        let close = |ranges: &mut Vec<(usize, usize)>, at| {
            if let Some(last) = ranges.last_mut() {
                last.1 = at;
            }
        };
        for (at, entry) in entries.iter().enumerate() {
            match entry {
                RunEntry::Kill(process) | RunEntry::Pause(process) => {
                    faults.of_process.entry(*process).or_default().push((at, usize::MAX));
                    faults.count += 1;
                }
                RunEntry::Resume(process) => close(faults.of_process.entry(*process).or_default(), at),
                RunEntry::Crash => faults.of_server.push((at, usize::MAX)),
                RunEntry::Restart => close(&mut faults.of_server, at),
                RunEntry::Begins(_) | RunEntry::Ends { .. } => {}
            }
        }
        faults
    }

    /// Returns `true` if the process or the server had a fault between two records.
    fn hit(&self, process: u32, after: usize, before: usize) -> bool {
        let mut of_process = self.of_process.get(&process).into_iter().flatten();
        self.hit_server(after, before) || of_process.any(|(from, to)| *from < before && *to > after)
    }

    fn hit_server(&self, after: usize, before: usize) -> bool {
        self.of_server.iter().any(|(from, to)| *from < before && *to > after)
    }
}

struct HandlerAudit<'a> {
    handler: &'a AuditedHandler,
    faults: &'a Faults,
    /// By event, the event before it in its line.
    before: HashMap<u64, Option<u64>>,
    begun: HashMap<u64, Vec<Begun>>,
    /// The events with a run that ended well.
    done: HashSet<u64>,
    /// The number of current runs of each process.
    running: HashMap<u32, usize>,
    /// The number of runs that each process may begin late.
    may_begin_late: HashMap<u32, usize>,
    repeated: u64,
    audited: &'a mut Audited,
}

/// Compares the records of a test with what its handlers must have done.
pub(in crate::fire) fn audit(entries: &[RunEntry], handlers: &[AuditedHandler]) -> Audited {
    let (faults, mut audited) = (Faults::read(entries), Audited::default());
    for handler in handlers {
        let mut before = HashMap::new();
        let mut last: BTreeMap<&str, u64> = BTreeMap::new();
        for expected in &handler.expected {
            before.insert(expected.event, last.insert(&expected.line, expected.event));
        }
        let mut audit = HandlerAudit {
            handler,
            faults: &faults,
            before,
            begun: HashMap::new(),
            done: HashSet::new(),
            running: HashMap::new(),
            may_begin_late: HashMap::new(),
            repeated: 0,
            audited: &mut audited,
        };
        for (at, entry) in entries.iter().enumerate() {
            match entry {
                RunEntry::Begins(run) if run.handler == handler.name => audit.begins(at, run),
                RunEntry::Ends { run, is_ok } if run.handler == handler.name => audit.ends(run, *is_ok),
                RunEntry::Resume(process) => audit.resumes(*process),
                _ => {}
            }
        }
        audit.finish();
    }
    let known: HashSet<&str> = handlers.iter().map(|handler| handler.name).collect();
    let is_unknown =
        |entry: &&RunEntry| matches!(entry, RunEntry::Begins(run) if !known.contains(run.handler.as_str()));
    for entry in entries.iter().filter(is_unknown) {
        audited.failures.push(format!("a run of an unknown handler: {entry:?}"));
    }
    audited
}

impl HandlerAudit<'_> {
    fn add(&mut self, violation: Violation, what: impl FnOnce() -> String) {
        let name = self.handler.name;
        self.audited.report.add(violation, || format!("`{name}`: {}", what()));
    }

    fn begins(&mut self, at: usize, run: &Run) {
        let Run { process, event, .. } = *run;
        self.audited.runs += 1;
        *self.running.entry(process).or_default() += 1;
        let left = self.may_begin_late.get_mut(&process).filter(|left| **left > 0);
        let may_be_late = left.map(|left| *left -= 1).is_some();
        match self.before.get(&event).copied() {
            None => self.add(Violation::UnknownEffect, || format!("event {event} ran in process {process}")),
            Some(Some(before)) if !self.done.contains(&before) => {
                self.add(Violation::Reordered, || {
                    format!("event {event} began in process {process} before event {before} had ended")
                });
            }
            Some(_) => {}
        }
        let earlier = self.begun.entry(event).or_default();
        let (is_transactional, faults) = (self.handler.is_transactional, self.faults);
        let (mut is_late, mut unexplained) = (false, Vec::new());
        for run in earlier.iter().filter(|run| run.end != Some(false)) {
            let is_own_retry = is_transactional && run.process == process;
            if is_own_retry || faults.hit(run.process, run.at, at) {
                continue;
            }
            if may_be_late || run.may_be_late {
                is_late = true;
            } else {
                unexplained.push(run.process);
            }
        }
        let is_cut_off = earlier.iter().any(|run| faults.hit_server(run.at, at));
        let is_repeat = earlier.iter().any(|run| run.end != Some(false));
        earlier.push(Begun { at, process, may_be_late, end: None });
        self.audited.repeated += u64::from(is_repeat);
        self.repeated += u64::from(is_repeat && !is_cut_off);
        self.audited.late += u64::from(is_late);
        if !unexplained.is_empty() {
            self.add(Violation::Repeated, || {
                format!("event {event} ran in process {process} (record {at}), and without a fault in {unexplained:?}")
            });
        }
    }

    fn ends(&mut self, run: &Run, is_ok: bool) {
        let Run { process, event, .. } = *run;
        let of_event = self.begun.get_mut(&event);
        let Some(runs) = of_event.filter(|runs| runs.iter().any(|run| run.process == process && run.end.is_none()))
        else {
            self.add(Violation::UnknownEffect, || {
                format!("event {event} ended in process {process} and began nowhere")
            });
            return;
        };
        let later_elsewhere = runs.iter().rev().take_while(|run| run.process != process).count();
        self.audited.late += u64::from(later_elsewhere > 0);
        if let Some(run) = runs.iter_mut().rev().find(|run| run.process == process && run.end.is_none()) {
            run.end = Some(is_ok);
        }
        if let Some(running) = self.running.get_mut(&process) {
            *running -= 1;
        }
        if is_ok {
            self.done.insert(event);
        } else {
            self.audited.failed += 1;
        }
    }

    /// The workers that have no run may have taken an event before the process was paused.
    fn resumes(&mut self, process: u32) {
        let running = self.running.get(&process).copied().unwrap_or_default();
        self.may_begin_late.insert(process, self.handler.concurrency.saturating_sub(running));
    }

    fn finish(&mut self) {
        let lost: Vec<_> = self
            .handler
            .expected
            .iter()
            .map(|expected| expected.event)
            .filter(|event| !self.done.contains(event))
            .collect();
        for event in lost {
            self.add(Violation::Skipped, || format!("event {event}"));
        }
        let (name, repeated, faults) = (self.handler.name, self.repeated, self.faults.count);
        if repeated > REPEATS_PER_FAULT * faults {
            self.audited.failures.push(format!("`{name}` repeated {repeated} events after {faults} faults"));
        }
    }
}
