//! What a random program consists of.

use eventbus::{ExpectedVersion, Version};
use proptest::{
    collection::vec,
    prop_oneof,
    strategy::{Just, Strategy},
};

/// How many streams a program uses.
pub(super) const STREAMS: usize = 3;

/// A step of a program.
#[derive(Debug, Clone)]
pub enum Step {
    /// Append.
    Append(One),
    /// Append, lose the reply, append again.
    LoseReply(One),
    /// Append without reaching the store.
    Unreachable(One),
    /// Several appends at once.
    Many(Vec<One>),
    /// A former append with the same ids, with another expectation.
    Again(usize, Expected),
    /// An append that also has an event id of a former one.
    TakenId(One, usize),
    /// Load a stream.
    Load {
        /// Which.
        stream: usize,
        /// From which version.
        from: u64,
        /// Whether newer events come first.
        backward: bool,
    },
    /// Read the feed after some event.
    Feed {
        /// After which of all events.
        after: usize,
    },
}

impl Step {
    /// Whether a call fails on purpose.
    pub(super) const fn is_fault(&self) -> bool {
        matches!(self, Self::LoseReply(_) | Self::Unreachable(_))
    }
}

/// An append.
#[derive(Debug, Clone)]
pub struct One {
    /// To which stream.
    pub stream: usize,
    /// What it expects.
    pub expected: Expected,
    /// An event for each.
    pub amounts: Vec<i64>,
}

/// What an append expects, seen from where the stream is.
#[derive(Debug, Clone, Copy)]
pub enum Expected {
    /// Anything.
    Any,
    /// No stream.
    NoStream,
    /// Some events.
    Exists,
    /// What is true.
    Right,
    /// Some versions ago.
    Old(u64),
    /// Some versions ahead.
    Ahead(u64),
}

impl Expected {
    /// The expectation if the stream is at `version`.
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

fn expected() -> impl Strategy<Value = Expected> {
    prop_oneof![
        4 => Just(Expected::Any),
        2 => Just(Expected::NoStream),
        1 => Just(Expected::Exists),
        5 => Just(Expected::Right),
        2 => (1_u64..4).prop_map(Expected::Old),
        1 => (1_u64..4).prop_map(Expected::Ahead),
    ]
}

fn one(events: std::ops::Range<usize>) -> impl Strategy<Value = One> {
    (0..STREAMS, expected(), vec(-100_i64..100, events)).prop_map(|(stream, expected, amounts)| One {
        stream,
        expected,
        amounts,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => one(0..4).prop_map(Step::Append),
        2 => one(1..4).prop_map(Step::LoseReply),
        1 => one(1..3).prop_map(Step::Unreachable),
        3 => vec(one(1..3), 0..7).prop_map(Step::Many),
        3 => (0_usize..100, expected()).prop_map(|(nth, expected)| Step::Again(nth, expected)),
        1 => (one(0..3), 0_usize..100).prop_map(|(one, nth)| Step::TakenId(one, nth)),
        2 => (0..STREAMS, 0_u64..9, proptest::bool::ANY)
            .prop_map(|(stream, from, backward)| Step::Load { stream, from, backward }),
        2 => (0_usize..40).prop_map(|after| Step::Feed { after }),
    ]
}

/// A program.
pub fn program() -> impl Strategy<Value = Vec<Step>> {
    vec(step(), 1..16)
}
