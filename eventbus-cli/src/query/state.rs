//! What each event changes in the state of its aggregate, in a program that has the aggregate's type.
//!
//! Invariant: a state may hold the values of hidden fields under other names. After an event with hidden fields it is unknown.

use std::panic::{AssertUnwindSafe, catch_unwind};

use eventbus::{
    RecordedEvent, StreamId,
    catalog::{AggregateState, Catalog},
};

use super::payload::{Change, Difference, FieldChoice, Payload, PayloadComparison};

/// The state of an aggregate, and what its events change in it.
#[derive(Debug)]
pub(crate) struct StateComparison<'a> {
    state: AggregateState,
    comparison: PayloadComparison,
    choice: &'a FieldChoice,
    /// Why the state is unknown from an event on.
    fault: Option<String>,
}

impl<'a> StateComparison<'a> {
    /// Begins before the first event of a stream; `None` if no struct of this program that implements `Serialize` is the
    /// aggregate, or its first state cannot be made or written.
    pub(crate) fn begin(stream: &StreamId, choice: &'a FieldChoice) -> Option<Self> {
        catch_unwind(AssertUnwindSafe(|| Self::begin_unchecked(stream, choice))).ok().flatten()
    }

    fn begin_unchecked(stream: &StreamId, choice: &'a FieldChoice) -> Option<Self> {
        let linked = Catalog::linked().aggregates;
        let mut of_type = linked.iter().filter(|linked| *linked.aggregate_type == **stream.aggregate_type());
        let mut begun = Self {
            state: of_type.find(|linked| !linked.is_fold)?.state()?,
            comparison: PayloadComparison::default(),
            choice,
            fault: None,
        };
        begun.compare().ok()?;
        Some(begun)
    }

    /// Applies the next event, and returns what it changed; nothing once the state is unknown.
    pub(crate) fn advance(&mut self, event: &RecordedEvent) -> Vec<Difference> {
        if self.fault.is_some() {
            return Vec::new();
        }
        let changed = match Payload::new(event, self.choice).is_hiding {
            true => Err("it has hidden fields, whose values the state may hold under other names".to_owned()),
            false => self.apply(event),
        };
        changed.unwrap_or_else(|reason| {
            let version = event.version();
            self.fault = Some(format!("the state is unknown from version {version} on: {reason}"));
            Vec::new()
        })
    }

    /// Applies an event, and returns what it changed. The code of the application may panic; its state is used no more then.
    fn apply(&mut self, event: &RecordedEvent) -> Result<Vec<Difference>, String> {
        let apply = || self.state.apply(event).map_err(|error| error.to_string()).and_then(|()| self.compare());
        catch_unwind(AssertUnwindSafe(apply)).unwrap_or_else(|_| Err("the aggregate panicked".to_owned()))
    }

    pub(crate) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Returns what differs from the last state; at the first call all fields of the state.
    fn compare(&mut self) -> Result<Vec<Difference>, String> {
        let json = self.state.to_json().map_err(|error| format!("it cannot be written as JSON: {error}"))?;
        let mut fields = self.comparison.compare("state", &Payload::of_json(&json, self.choice));
        fields.retain(|field| field.change != Change::None);
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use eventbus::{NewEvent, Version, prelude::*};

    use super::*;

    #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    #[event(aggregate = Fuse)]
    struct Loaded {
        amperes: u32,
    }

    #[derive(Debug, Default, Serialize, Aggregate)]
    #[aggregate(events(Loaded))]
    struct Fuse {
        amperes: u32,
    }

    impl Apply for Fuse {
        fn apply(&mut self, event: &FuseEvent) {
            match event {
                FuseEvent::Loaded(loaded) => {
                    assert!(loaded.amperes < 16, "the fuse has blown");
                    self.amperes = loaded.amperes;
                }
            }
        }
    }

    #[test]
    fn the_state_is_unknown_once_the_aggregate_has_panicked() {
        let (stream, choice) = (StreamId::parse("Fuse", "f-1").unwrap(), FieldChoice::default());
        let mut states = StateComparison::begin(&stream, &choice).unwrap();
        let mut advance = |version: u64, amperes: u32| {
            let event = NewEvent::from_event(&Loaded { amperes }).unwrap();
            states.advance(&event.recorded_as(stream.clone(), Version::new(version), None)).len()
        };
        assert_eq!([advance(1, 5), advance(2, 20), advance(3, 6)], [1, 0, 0]);
        assert_eq!(states.fault(), Some("the state is unknown from version 2 on: the aggregate panicked"));
    }
}
