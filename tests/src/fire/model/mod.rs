//! Random programs of appends and reads, on a store and on a model: both must give the same results.
//!
//! `FIRE_CASES` sets the number of programs per store. A failing program is shrunk as far as possible, and shown.

mod program;
mod reference;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use eventbus::{
    Position, RecordedEvent, StreamId, Uuid, Version,
    port::{Append, AppendError, AppendEvents as _, Direction, EventStore, ReadFeed as _, ReadStream as _},
    testkit::{Fault, FaultyStore},
};
use futures_util::TryStreamExt as _;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use tokio::runtime::Runtime;

pub use program::{AppendStep, ProgramStep, RelativeExpectation, program};
use reference::{Answer, Reference};

use super::{HarnessError, evidence::Folded, workload};

/// Time limit for PostgreSQL to roll back a refused append, on a machine under load.
const ROLLBACK_DEADLINE: Duration = Duration::from_secs(60);

/// Returns the number of programs: `FIRE_CASES`, or `usually` if it is not set.
///
/// # Errors
/// If the variable is not a number.
pub fn cases(usually: u32) -> Result<u32, HarnessError> {
    Ok(std::env::var("FIRE_CASES").map_or(Ok(usually), |cases| cases.parse())?)
}

/// Runs random programs on a store made in this runtime; returns the number of calls that failed on purpose.
///
/// # Errors
/// The smallest program found on which the store and the model differ, and where.
pub fn run(runtime: &Runtime, store: &Arc<dyn EventStore>, cases: u32, seed: u64) -> Result<u64, HarnessError> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let faults = AtomicU64::new(0);
    let outcome = runner.run(&program(), |steps| {
        faults.fetch_add(steps.iter().filter(|step| step.is_fault()).count() as u64, Ordering::Relaxed);
        let played = runtime.block_on(ModelRunner::run_program(Arc::clone(store), &steps));
        played.map_err(|error| TestCaseError::fail(error.to_string()))
    });
    outcome.map_err(|error| error.to_string())?;
    Ok(faults.into_inner())
}

/// Runs one program on a store and on the model.
struct ModelRunner {
    store: FaultyStore,
    direct: Arc<dyn EventStore>,
    model: Reference,
    /// The head of the feed when the program began.
    begin: Position,
    /// The streams of this program only.
    streams: Vec<StreamId>,
    /// Earlier appends with their ids, for repeats.
    appended: Vec<Append>,
}

impl ModelRunner {
    async fn run_program(store: Arc<dyn EventStore>, steps: &[ProgramStep]) -> Result<(), HarnessError> {
        let own = Uuid::now_v7();
        let streams: Result<Vec<_>, _> =
            (0..program::STREAMS).map(|number| workload::stream(format_args!("{own}-{number}"))).collect();
        let begin = store.head().await?;
        let mut player = Self {
            store: FaultyStore::new(Arc::clone(&store)),
            direct: store,
            model: Reference::default(),
            begin,
            streams: streams?,
            appended: Vec::new(),
        };
        for (number, step) in steps.iter().enumerate() {
            player.run_step(step).await.map_err(|error| format!("step {number}, {step:?}: {error}"))?;
        }
        player.check_all().await
    }

    async fn run_step(&mut self, step: &ProgramStep) -> Result<(), HarnessError> {
        self.model.begin_step();
        match step {
            ProgramStep::Append(append_step) => {
                let append = self.build_append(append_step);
                let answer = self.append(&append, None).await;
                self.check_answer(&append, answer)
            }
            ProgramStep::LoseReply(append_step) => {
                let append = self.build_append(append_step);
                if let Err(AppendError::OutcomeUnknown(_)) = self.append(&append, Some(Fault::LostReply)).await {
                    // the first answer was lost: the second must equal it
                    let answer = self.append(&append, None).await;
                    return self.check_answer(&append, answer);
                }
                let answer = self.append(&append, None).await;
                self.check_answer(&append, answer)
            }
            ProgramStep::Unreachable(append_step) => {
                let append = self.build_append(append_step);
                match self.append(&append, Some(Fault::Unavailable)).await {
                    Err(AppendError::Unavailable(_)) => Ok(()),
                    other => Err(format!("not unavailable but {other:?}").into()),
                }
            }
            ProgramStep::Many(append_steps) => self.append_many(append_steps).await,
            ProgramStep::Again(nth, expected) => {
                let Some(index) = nth.checked_rem(self.appended.len()) else { return Ok(()) };
                let former = self.appended[index].clone();
                let append = Append { expected: self.expected_version(&former.stream, *expected), ..former };
                let answer = self.append(&append, None).await;
                self.check_answer(&append, answer)
            }
            ProgramStep::TakenId(append_step, nth) => {
                let Some(index) = nth.checked_rem(self.appended.len()) else { return Ok(()) };
                let mut append = self.build_append(append_step);
                append.events.extend(self.appended[index].events.first().cloned());
                let answer = self.append(&append, None).await;
                self.check_answer(&append, answer)
            }
            ProgramStep::Load { stream, from, backward } => self.load(*stream, *from, *backward).await,
            ProgramStep::Feed { after } => self.feed(*after).await,
        }
    }

    fn build_append(&mut self, append_step: &AppendStep) -> Append {
        let stream = self.streams[append_step.stream].clone();
        let events = append_step.amounts.iter().map(|amount| workload::event(*amount)).collect();
        let append = Append { expected: self.expected_version(&stream, append_step.expected), stream, events };
        if !append.events.is_empty() {
            self.appended.push(append.clone());
        }
        append
    }

    fn expected_version(&self, stream: &StreamId, expected: RelativeExpectation) -> eventbus::ExpectedVersion {
        expected.at(self.model.version(stream))
    }

    async fn append(&self, append: &Append, fault: Option<Fault>) -> Result<Vec<RecordedEvent>, AppendError> {
        if let Some(fault) = fault {
            self.store.appends.fail_next(fault, 1);
        }
        self.store.append(&append.stream, append.expected, append.events.clone()).await
    }

    async fn append_many(&mut self, append_steps: &[AppendStep]) -> Result<(), HarnessError> {
        let appends: Vec<_> = append_steps.iter().map(|append_step| self.build_append(append_step)).collect();
        let answers = self.direct.append_many(appends.clone()).await;
        if answers.len() != appends.len() {
            return Err(format!("{} answers to {} appends", answers.len(), appends.len()).into());
        }
        appends.iter().zip(answers).try_for_each(|(append, answer)| self.check_answer(append, answer))
    }

    fn check_answer(
        &mut self,
        append: &Append,
        answer: Result<Vec<RecordedEvent>, AppendError>,
    ) -> Result<(), HarnessError> {
        let expected = self.model.append(append);
        let got = match answer {
            Ok(records) => Answer::Stored(records),
            Err(AppendError::Conflict { actual, .. }) => Answer::Conflict(actual),
            Err(AppendError::EventIdTaken { .. }) => Answer::IdTaken,
            Err(other) => return Err(other.into()),
        };
        self.model.compare(&expected, &got)
    }

    async fn load(&self, stream: usize, from: u64, backward: bool) -> Result<(), HarnessError> {
        let stream = &self.streams[stream];
        let direction = if backward { Direction::Backward } else { Direction::Forward };
        let loaded: Vec<_> = self.direct.read_stream(stream, from.into(), direction).try_collect().await?;
        self.model.check_equal(&loaded, &self.model.load(stream, from.into(), backward), "load")?;
        let version = self.direct.stream_version(stream).await?;
        let fold = |records: &[RecordedEvent]| {
            records.iter().try_fold(Folded::default(), |folded, record| {
                Ok::<_, HarnessError>(folded.plus(workload::amount(record)?))
            })
        };
        let whole: Vec<_> = self.direct.read_stream(stream, Version::FIRST, Direction::Forward).try_collect().await?;
        let expected = (self.model.version(stream), self.model.fold(stream));
        match (version, fold(&whole)?) == expected {
            true => Ok(()),
            false => Err(format!("{stream} is at {version}, not {expected:?}").into()),
        }
    }

    /// Reads the feed after one of the events, or from the start of the program.
    ///
    /// PostgreSQL answers a refused append before it has rolled the transaction back, and the head stays below an open
    /// append. The feed may therefore end early for a moment; it is then read again.
    async fn feed(&self, after: usize) -> Result<(), HarnessError> {
        let (position, expected) = self.model.feed(after);
        let own = |record: &RecordedEvent| self.streams.contains(record.metadata().stream());
        let deadline = Instant::now() + ROLLBACK_DEADLINE;
        loop {
            let feed = self.direct.read_all(position.unwrap_or(self.begin));
            let found: Vec<_> = feed.try_collect::<Vec<_>>().await?.into_iter().filter(own).collect();
            let ends_early = found.len() < expected.len() && expected.starts_with(&found);
            if !ends_early || Instant::now() > deadline {
                return self.model.check_equal(&found, expected, "feed");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn check_all(&self) -> Result<(), HarnessError> {
        for stream in 0..self.streams.len() {
            self.load(stream, 1, false).await?;
        }
        self.feed(usize::MAX).await
    }
}
