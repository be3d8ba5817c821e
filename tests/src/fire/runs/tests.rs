//! The auditor of runs finds each broken promise in a run that is correct apart from it.

use super::{AuditedHandler, Expected, Run, RunEntry, audit, audit::Audited};
use crate::fire::auditor::Violation;

fn begins(process: u32, event: u64) -> RunEntry {
    RunEntry::Begins(Run { process, handler: "work".into(), event })
}

fn ends(process: u32, event: u64) -> RunEntry {
    RunEntry::Ends { run: Run { process, handler: "work".into(), event }, is_ok: true }
}

fn fails(process: u32, event: u64) -> RunEntry {
    RunEntry::Ends { run: Run { process, handler: "work".into(), event }, is_ok: false }
}

/// Events 1 and 3 are of one aggregate, event 2 is of a different one.
fn audited(entries: &[RunEntry]) -> Audited {
    let expected = [(1, "a"), (2, "b"), (3, "a")].map(|(event, line)| Expected { event, line: line.into() });
    let handler = AuditedHandler { name: "work", concurrency: 2, is_transactional: false, expected: expected.to_vec() };
    audit(entries, &[handler])
}

#[track_caller]
fn assert_clean(entries: &[RunEntry]) -> Audited {
    let audited = audited(entries);
    assert!(audited.report.is_clean() && audited.failures.is_empty(), "{audited:?}");
    audited
}

#[track_caller]
fn assert_found(entries: &[RunEntry], violation: Violation) {
    assert_eq!(audited(entries).report.violations(), [violation], "{entries:?}");
}

#[test]
fn runs_in_two_processes_are_clean() {
    let found = assert_clean(&[begins(1, 1), begins(2, 2), ends(1, 1), begins(1, 3), ends(2, 2), ends(1, 3)]);
    assert_eq!((found.runs, found.repeated, found.failed, found.late), (3, 0, 0, 0));
}

#[test]
fn an_event_without_a_run_that_ended_well_is_lost() {
    assert_found(&[begins(1, 1), ends(1, 1), begins(1, 3), ends(1, 3)], Violation::Skipped);
    let killed = [begins(1, 1), ends(1, 1), begins(1, 3), ends(1, 3), begins(1, 2), RunEntry::Kill(1)];
    assert_found(&killed, Violation::Skipped);
    assert_found(&[begins(1, 1), ends(1, 1), begins(1, 3), ends(1, 3), begins(1, 2), fails(1, 2)], Violation::Skipped);
}

#[test]
fn a_run_that_begins_before_the_event_before_it_has_ended_is_out_of_order() {
    let early = [begins(1, 1), begins(1, 3), ends(1, 1), ends(1, 3), begins(1, 2), ends(1, 2)];
    assert_found(&early, Violation::Reordered);
    let after_a_failure = [begins(1, 1), fails(1, 1), begins(1, 3), ends(1, 3), begins(1, 1), ends(1, 1)];
    let rest = [begins(1, 2), ends(1, 2)];
    assert_found(&[&after_a_failure[..], &rest].concat(), Violation::Reordered);
}

#[test]
fn an_event_that_runs_twice_without_a_fault_has_two_owners() {
    let rest = [begins(1, 1), ends(1, 1), begins(1, 3), ends(1, 3), begins(1, 2), ends(1, 2)];
    assert_found(&[&rest[..], &[begins(2, 2), ends(2, 2)]].concat(), Violation::Repeated);
    // a fault of a process that did not run it, and one before the run
    assert_found(&[&rest[..], &[RunEntry::Kill(3), begins(2, 2), ends(2, 2)]].concat(), Violation::Repeated);
    let before = [RunEntry::Crash, RunEntry::Restart];
    assert_found(&[&before[..], &rest, &[begins(2, 2), ends(2, 2)]].concat(), Violation::Repeated);
    let paused = [RunEntry::Pause(1), RunEntry::Resume(1)];
    let spent = [begins(1, 1), ends(1, 1), begins(1, 3), ends(1, 3), begins(1, 2), ends(1, 2)];
    let late = [begins(2, 2), ends(2, 2)];
    // both workers of process 1 have begun a run since its pause
    assert_found(&[&paused[..], &spent, &late].concat(), Violation::Repeated);
}

#[test]
fn a_repeat_after_a_fault_or_a_failure_is_allowed() {
    let rest = [begins(1, 1), ends(1, 1), begins(1, 3), ends(1, 3), begins(1, 2), ends(1, 2)];
    let repeat = [begins(2, 2), ends(2, 2)];
    let killed = assert_clean(&[&rest[..], &[RunEntry::Kill(1)], &repeat].concat());
    assert_eq!(killed.repeated, 1);
    let paused = assert_clean(&[&rest[..], &[RunEntry::Pause(1)], &repeat, &[RunEntry::Resume(1)]].concat());
    assert_eq!(paused.repeated, 1);
    let restarted = [RunEntry::Crash, RunEntry::Restart];
    assert_eq!(assert_clean(&[&rest[..], &restarted, &repeat].concat()).repeated, 1);
    let failed = [begins(1, 2), fails(1, 2), begins(1, 2), ends(1, 2)];
    let failed = assert_clean(&[&rest[..4], &failed[..]].concat());
    assert_eq!((failed.repeated, failed.failed), (0, 1));
}

#[test]
fn runs_of_a_paused_process_are_counted_apart_as_many_as_it_has_workers() {
    let rest = [begins(1, 1), ends(1, 1), begins(1, 3), ends(1, 3)];
    let ends_late = [begins(1, 2), RunEntry::Pause(1), begins(2, 2), ends(2, 2), RunEntry::Resume(1), ends(1, 2)];
    assert_eq!(assert_clean(&[&rest[..], &ends_late].concat()).late, 1);
    let begins_late = [RunEntry::Pause(1), begins(2, 2), ends(2, 2), RunEntry::Resume(1), begins(1, 2), ends(1, 2)];
    assert_eq!(assert_clean(&[&rest[..], &begins_late].concat()).late, 1);
    // one worker had a run, the second one begins late, and none is left for the third run
    let too_many = [
        begins(1, 1),
        RunEntry::Pause(1),
        begins(2, 1),
        ends(2, 1),
        begins(2, 3),
        ends(2, 3),
        begins(2, 2),
        ends(2, 2),
        RunEntry::Resume(1),
        ends(1, 1),
        begins(1, 3),
        ends(1, 3),
        begins(1, 2),
        ends(1, 2),
    ];
    assert_found(&too_many, Violation::Repeated);
}

#[test]
fn an_event_that_the_handler_must_not_get_is_found() {
    let rest = [begins(1, 1), ends(1, 1), begins(1, 3), ends(1, 3), begins(1, 2), ends(1, 2)];
    assert_found(&[&rest[..], &[begins(1, 4), ends(1, 4)]].concat(), Violation::UnknownEffect);
}

#[test]
fn more_than_five_repeats_of_a_fault_are_too_many() {
    let rest = [begins(1, 1), ends(1, 1), begins(1, 3), ends(1, 3), begins(1, 2), ends(1, 2), RunEntry::Kill(1)];
    let repeated = |times: usize| {
        let repeats = std::iter::repeat_n([begins(2, 2), ends(2, 2)], times).flatten();
        audited(&rest.iter().cloned().chain(repeats).collect::<Vec<_>>()).failures
    };
    assert_eq!(repeated(5), [""; 0]);
    assert_eq!(repeated(6), ["`work` repeated 6 events after 1 faults"]);
}
