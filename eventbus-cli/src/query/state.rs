//! What each event changes in the state of its aggregate, in a program that has the aggregate's type.
//!
//! Invariant: a state may hold the values of hidden fields under other names. After an event with hidden fields it is unknown.

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
    /// aggregate.
    pub(crate) fn begin(stream: &StreamId, choice: &'a FieldChoice) -> Option<Self> {
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
            false => self.state.apply(event).map_err(|error| error.to_string()).and_then(|()| self.compare()),
        };
        changed.unwrap_or_else(|reason| {
            let version = event.version();
            self.fault = Some(format!("the state is unknown from version {version} on: {reason}"));
            Vec::new()
        })
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
