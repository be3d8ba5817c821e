//! The changes of each event in the state of its aggregate, in a program that has the aggregate's type.
//!
//! Invariant: a state may hold the values of hidden fields under other names, so it counts as unknown after an event
//! with hidden fields.

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
};

use eventbus::{
    RecordedEvent, StreamId,
    catalog::{AggregateState, Catalog},
};

use super::payload::{Change, Difference, FieldChoice, Payload, PayloadComparison};

/// The state of an aggregate, and the changes of its events in it.
#[derive(Debug)]
pub(crate) struct StateComparison<'a> {
    state: AggregateState,
    comparison: PayloadComparison,
    /// Set if events were applied since the last comparison.
    is_behind: bool,
    choice: &'a FieldChoice,
    /// The reason why the state is unknown from an event on.
    fault: Option<String>,
}

impl<'a> StateComparison<'a> {
    /// Begins before the first event of a stream; `None` if this program has no struct for the aggregate that
    /// implements `Serialize`, or its first state cannot be made or written.
    pub(crate) fn begin(stream: &StreamId, choice: &'a FieldChoice) -> Option<Self> {
        catch_unwind(AssertUnwindSafe(|| Self::begin_unchecked(stream, choice))).ok().flatten()
    }

    fn begin_unchecked(stream: &StreamId, choice: &'a FieldChoice) -> Option<Self> {
        let linked = Catalog::linked().aggregates;
        let mut of_type = linked.iter().filter(|linked| *linked.aggregate_type == **stream.aggregate_type());
        let mut begun = Self {
            state: of_type.find(|linked| !linked.is_fold)?.state()?,
            comparison: PayloadComparison::default(),
            is_behind: false,
            choice,
            fault: None,
        };
        begun.compare().ok()?;
        Some(begun)
    }

    /// Applies the next event, and returns its changes; none once the state is unknown.
    pub(crate) fn advance(&mut self, event: &RecordedEvent) -> Vec<Difference> {
        self.advance_with(event, |states| {
            if mem::take(&mut states.is_behind) {
                states.compare()?;
            }
            states.apply(event)?;
            states.compare()
        })
    }

    /// Applies the next event, whose changes are not shown: the state, which may be large, is not written.
    pub(crate) fn pass(&mut self, event: &RecordedEvent) {
        self.advance_with(event, |states| {
            states.is_behind = true;
            states.apply(event)?;
            Ok(Vec::new())
        });
    }

    /// Runs a step for the next event. It runs code of the application, which may panic; after a panic the state is no
    /// longer used.
    fn advance_with(
        &mut self,
        event: &RecordedEvent,
        step: impl FnOnce(&mut Self) -> Result<Vec<Difference>, String>,
    ) -> Vec<Difference> {
        if self.fault.is_some() {
            return Vec::new();
        }
        let changed = match Payload::new(event, self.choice).is_hiding {
            true => Err("it has hidden fields, whose values the state may hold under other names".to_owned()),
            false => catch_unwind(AssertUnwindSafe(|| step(self)))
                .unwrap_or_else(|_| Err("the aggregate panicked".to_owned())),
        };
        changed.unwrap_or_else(|reason| {
            let version = event.version();
            self.fault = Some(format!("the state is unknown from version {version} on: {reason}"));
            Vec::new()
        })
    }

    fn apply(&mut self, event: &RecordedEvent) -> Result<(), String> {
        self.state.apply(event).map_err(|error| error.to_string())
    }

    pub(crate) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Returns the differences from the last state; at the first call, all fields of the state.
    fn compare(&mut self) -> Result<Vec<Difference>, String> {
        let json = self.state.to_json().map_err(|error| format!("it cannot be written as JSON: {error}"))?;
        let mut fields = self.comparison.compare("state", &Payload::of_json(&json, self.choice));
        fields.retain(|field| field.change != Change::None);
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use eventbus::{NewEvent, Version, prelude::*};

    use super::*;

    #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    #[event(aggregate = Fuse)]
    struct Loaded {
        amperes: u32,
    }

    thread_local! {
        /// The states that this thread has written.
        static WRITTEN: Cell<u32> = const { Cell::new(0) };
    }

    fn write_counted<S: serde::Serializer>(amperes: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        WRITTEN.set(WRITTEN.get() + 1);
        serializer.serialize_u32(*amperes)
    }

    #[derive(Debug, Default, Serialize, Aggregate)]
    #[aggregate(events(Loaded))]
    struct Fuse {
        #[serde(serialize_with = "write_counted")]
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

    #[test]
    fn an_event_that_is_passed_writes_no_state_and_the_next_one_is_compared_with_it() {
        let (stream, choice) = (StreamId::parse("Fuse", "f-1").unwrap(), FieldChoice::default());
        let mut states = StateComparison::begin(&stream, &choice).unwrap();
        let loaded = |version: u64, amperes: u32| {
            let event = NewEvent::from_event(&Loaded { amperes }).unwrap();
            event.recorded_as(stream.clone(), Version::new(version), None)
        };
        let before = WRITTEN.get();
        for (version, amperes) in [(1, 5), (2, 6), (3, 7)] {
            states.pass(&loaded(version, amperes));
        }
        assert_eq!(WRITTEN.get(), before);
        let changed = states.advance(&loaded(4, 8));
        assert_eq!((changed.len(), &changed[0].change), (1, &Change::From("7".into())));
        assert_eq!(WRITTEN.get(), before + 2, "that before the event, and that after it");
    }
}
