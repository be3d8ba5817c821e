//! A failure of a transaction of rows: which event is retried alone, or among which events smaller transactions find it.

use super::event_handling::EventRetry;
use crate::{
    domain::{record::RecordedEvent, stream::Position},
    port::delivery::HandlerError,
};

/// What is known of a failure while its events are not handled.
///
/// | State | Event | Next state |
/// |---|---|---|
/// | no failure | one event fails | the event: the next transaction takes those before it, then it alone, after a backoff |
/// | no failure | several events fail together | among them: the next transaction takes half of the events up to the last |
/// | among several | half of them are committed | among the rest, of which the next transaction takes half |
/// | among several | fewer fail together | among those fewer |
/// | among several | one event fails | the event |
/// | among several | all of them are committed, as after a fault that has passed | no failure |
/// | the event | it is committed | no failure |
/// | the event | it fails | the event, with one attempt more; the writer stops before it after the last |
pub(super) enum Failure {
    Event(EventRetry),
    /// One of the events up to this position fails, or several of them together.
    Among(Position),
}

impl Failure {
    /// Makes the failure of these events in one transaction; `attempts` of them so far, this one included.
    pub(super) fn of(events: &[RecordedEvent], attempts: u32, error: HandlerError, projection: &'static str) -> Self {
        let (from, to) = (position_of(events.first()), position_of(events.last()));
        if let [_] = events {
            return Self::Event(EventRetry { position: to, attempts, error });
        }
        tracing::warn!(
            projection, %from, %to, events = events.len(), %error,
            "projection cannot handle events together, trying fewer at a time"
        );
        Self::Among(to)
    }

    /// Returns how many of the events, from the first, the next transaction takes; 0 if the first is to be retried.
    pub(super) fn count_of_next_transaction(&self, events: &[RecordedEvent]) -> usize {
        match self {
            Self::Event(retry) => events.partition_point(|event| position_of(Some(event)) < retry.position),
            Self::Among(last) => match events.partition_point(|event| position_of(Some(event)) <= *last) {
                0 => events.len(),
                suspects => (suspects / 2).max(1),
            },
        }
    }
}

/// Returns the position of an event of a feed, which has one.
pub(super) fn position_of(event: Option<&RecordedEvent>) -> Position {
    event.and_then(RecordedEvent::position).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{name::Name, record::NewEvent, stream::StreamId};

    fn events(positions: std::ops::RangeInclusive<u64>) -> Vec<RecordedEvent> {
        let event = |position: u64| {
            let stream = StreamId::parse("Order", "1").unwrap();
            NewEvent::new(Name::from_static("Noted"), 1, "{}").recorded_as(
                stream,
                position.into(),
                Some(position.into()),
            )
        };
        positions.map(event).collect()
    }

    /// Writes events as the writer does, of which those at the positions `bad` fail, each together with others. Returns
    /// the last position that was written, and the number of transactions.
    fn write(count: u64, bad: &[u64]) -> (u64, u32) {
        let all = events(1..=count);
        let (mut rest, mut failure, mut transactions) = (&*all, None::<Failure>, 0);
        while !rest.is_empty() {
            let next = failure.as_ref().map_or(rest.len(), |failure| failure.count_of_next_transaction(rest));
            if next == 0 {
                break;
            }
            transactions += 1;
            let (tried, later) = rest.split_at(next);
            if tried.iter().any(|event| bad.contains(&position_of(Some(event)).get())) {
                failure = Some(Failure::of(tried, 1, HandlerError::from("refused"), "rows"));
            } else {
                rest = later;
            }
        }
        (count - rest.len() as u64, transactions)
    }

    #[test]
    fn a_failing_event_among_many_is_found_in_few_transactions_and_those_before_it_are_written() {
        for count in 1..=70 {
            for bad in 1..=count {
                let (written, transactions) = write(count, &[bad]);
                assert_eq!(written, bad - 1);
                assert!(transactions <= 3 + count.ilog2(), "{transactions} transactions for {bad} of {count}");
            }
        }
        assert_eq!(write(1_000, &[]), (1_000, 1));
        assert_eq!(write(1_000, &[300, 700]).0, 299, "the first of two");
    }

    #[test]
    fn what_fails_only_together_is_written_in_smaller_transactions() {
        let all = events(1..=100);
        let failure = Failure::of(&all[..40], 1, HandlerError::from("refused"), "rows");
        assert_eq!(failure.count_of_next_transaction(&all), 20);
        assert_eq!(failure.count_of_next_transaction(&all[20..]), 10);
        assert_eq!(failure.count_of_next_transaction(&all[39..]), 1);
        assert_eq!(failure.count_of_next_transaction(&all[40..]), 60, "the failure is over");
    }
}
