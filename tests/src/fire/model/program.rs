//! The steps of a random program.

use eventbus::{ExpectedVersion, Version};
use proptest::{
    collection::vec,
    prop_oneof,
    strategy::{Just, Strategy},
};

/// Number of streams that a program uses.
pub(super) const STREAMS: usize = 3;

/// A step of a program.
#[derive(Debug, Clone)]
pub enum ProgramStep {
    /// Append.
    Append(AppendStep),
    /// Append, lose the reply, append again.
    LoseReply(AppendStep),
    /// Append without reaching the store.
    Unreachable(AppendStep),
    /// Several appends at once.
    Many(Vec<AppendStep>),
    /// A repeat of an earlier append, with a new expectation.
    Again(usize, RelativeExpectation),
    /// An append that also contains an event id of an earlier one, to the same or a different stream.
    TakenId(AppendStep, usize),
    /// Load a stream.
    Load {
        /// The stream.
        stream: usize,
        /// The first version.
        from: u64,
        /// Set if newer events come first.
        backward: bool,
    },
    /// Read the feed.
    Feed {
        /// The number of events to skip.
        after: usize,
    },
}

impl ProgramStep {
    /// Returns `true` if the call fails on purpose.
    pub(super) const fn is_fault(&self) -> bool {
        matches!(self, Self::LoseReply(_) | Self::Unreachable(_))
    }
}

/// An append.
#[derive(Debug, Clone)]
pub struct AppendStep {
    /// The stream.
    pub stream: usize,
    /// The expectation.
    pub expected: RelativeExpectation,
    /// The amounts, one event for each.
    pub amounts: Vec<i64>,
}

/// The expectation of an append, relative to the current version of its stream.
#[derive(Debug, Clone, Copy)]
pub enum RelativeExpectation {
    /// `Any`.
    Any,
    /// `NoStream`.
    NoStream,
    /// `StreamExists`.
    Exists,
    /// The current version.
    Right,
    /// A version that many events ago.
    Old(u64),
    /// A version that many events ahead.
    Ahead(u64),
}

impl RelativeExpectation {
    /// Returns the expectation if the stream is at `version`.
    #[must_use]
    pub fn at(self, version: Version) -> ExpectedVersion {
        match self {
            Self::Any => ExpectedVersion::Any,
            Self::NoStream => ExpectedVersion::NoStream,
            Self::Exists => ExpectedVersion::StreamExists,
            Self::Right => ExpectedVersion::Exact(version),
            Self::Old(by) => ExpectedVersion::Exact(version.get().saturating_sub(by).into()),
            Self::Ahead(by) => ExpectedVersion::Exact((version.get() + by).into()),
        }
    }
}

fn expectation() -> impl Strategy<Value = RelativeExpectation> {
    prop_oneof![
        4 => Just(RelativeExpectation::Any),
        2 => Just(RelativeExpectation::NoStream),
        1 => Just(RelativeExpectation::Exists),
        5 => Just(RelativeExpectation::Right),
        2 => (1_u64..4).prop_map(RelativeExpectation::Old),
        1 => (1_u64..4).prop_map(RelativeExpectation::Ahead),
    ]
}

fn append_step(events: std::ops::Range<usize>) -> impl Strategy<Value = AppendStep> {
    (0..STREAMS, expectation(), vec(-100_i64..100, events)).prop_map(|(stream, expected, amounts)| AppendStep {
        stream,
        expected,
        amounts,
    })
}

fn program_step() -> impl Strategy<Value = ProgramStep> {
    prop_oneof![
        6 => append_step(0..4).prop_map(ProgramStep::Append),
        2 => append_step(1..4).prop_map(ProgramStep::LoseReply),
        1 => append_step(1..3).prop_map(ProgramStep::Unreachable),
        3 => vec(append_step(1..3), 0..7).prop_map(ProgramStep::Many),
        3 => (0_usize..100, expectation()).prop_map(|(nth, expected)| ProgramStep::Again(nth, expected)),
        1 => (append_step(0..3), 0_usize..100).prop_map(|(one, nth)| ProgramStep::TakenId(one, nth)),
        2 => (0..STREAMS, 0_u64..9, proptest::bool::ANY)
            .prop_map(|(stream, from, backward)| ProgramStep::Load { stream, from, backward }),
        2 => (0_usize..40).prop_map(|after| ProgramStep::Feed { after }),
    ]
}

/// Generates a program.
pub fn program() -> impl Strategy<Value = Vec<ProgramStep>> {
    vec(program_step(), 1..16)
}
