//! Events of any types that a test gives to a store.

use crate::domain::{
    clock::SharedClock,
    codec::EncodeError,
    name::Name,
    record::{EncodeEvent, EventSet, NewEvent, RecordedEvent},
    stream::{AggregateId, ExpectedVersion, StreamId, Version},
};
use crate::port::{AppendError, EventStore};

/// Events to store: one event, or a tuple, array or `Vec` of them. They may be of different types and aggregates.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is neither an event nor a list of events",
    label = "no event",
    note = "give one event, or a tuple, array or `Vec` of events"
)]
pub trait IntoNewEvents {
    /// Adds each event, encoded, with the type of its aggregate.
    ///
    /// # Errors
    /// [`EncodeError`] if an event cannot be saved.
    #[doc(hidden)]
    fn add_to(self, out: &mut Vec<(&'static str, NewEvent)>) -> Result<(), EncodeError>;
}

impl<E: EventSet + EncodeEvent> IntoNewEvents for E {
    fn add_to(self, out: &mut Vec<(&'static str, NewEvent)>) -> Result<(), EncodeError> {
        let event = self.encode()?;
        let mut descriptors = E::EVENTS.descriptors().iter();
        let aggregate_type = descriptors.find(|descriptor| descriptor.is_named(event.event_type()));
        out.extend(aggregate_type.map(|descriptor| (descriptor.aggregate_type, event)));
        Ok(())
    }
}

impl<T: IntoNewEvents> IntoNewEvents for Vec<T> {
    fn add_to(self, out: &mut Vec<(&'static str, NewEvent)>) -> Result<(), EncodeError> {
        self.into_iter().try_for_each(|events| events.add_to(out))
    }
}

impl<T: IntoNewEvents, const N: usize> IntoNewEvents for [T; N] {
    fn add_to(self, out: &mut Vec<(&'static str, NewEvent)>) -> Result<(), EncodeError> {
        self.into_iter().try_for_each(|events| events.add_to(out))
    }
}

macro_rules! tuple_of_events {
    ($($T:ident)*) => {
        impl<$($T: IntoNewEvents),*> IntoNewEvents for ($($T,)*) {
            #[allow(non_snake_case, reason = "the parameters are named like their types")]
            #[allow(unused_variables, reason = "the empty tuple adds nothing")]
            fn add_to(self, out: &mut Vec<(&'static str, NewEvent)>) -> Result<(), EncodeError> {
                let ($($T,)*) = self;
                $($T.add_to(out)?;)*
                Ok(())
            }
        }
    };
}

tuple_of_events!();
tuple_of_events!(A);
tuple_of_events!(A B);
tuple_of_events!(A B C);
tuple_of_events!(A B C D);
tuple_of_events!(A B C D F);
tuple_of_events!(A B C D F G);
tuple_of_events!(A B C D F G H);
tuple_of_events!(A B C D F G H I);

/// Events with the streams of their aggregates.
#[derive(Debug, Clone)]
pub(super) struct NewEvents(Vec<(StreamId, NewEvent)>);

impl NewEvents {
    /// Encodes events of the aggregates with this id.
    ///
    /// # Panics
    /// If the id is not valid, or an event cannot be saved.
    #[track_caller]
    pub(super) fn new(id: &str, events: impl IntoNewEvents) -> Self {
        let id: AggregateId = match id.parse() {
            Ok(id) => id,
            Err(error) => panic!("{error}"),
        };
        let mut encoded = Vec::new();
        if let Err(error) = events.add_to(&mut encoded) {
            panic!("an event of the test cannot be saved: {error}");
        }
        let stream = |aggregate_type| StreamId::new(Name::from_static(aggregate_type), id.clone());
        Self(encoded.into_iter().map(|(aggregate_type, event)| (stream(aggregate_type), event)).collect())
    }

    pub(super) fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// Returns the events as they would be recorded, without version and position.
    pub(super) fn into_records(self) -> Vec<RecordedEvent> {
        let recorded = |(stream, event): (StreamId, NewEvent)| event.recorded_as(stream, Version::FIRST, None);
        self.0.into_iter().map(recorded).collect()
    }

    /// Appends the events in their order, with ids and times of this clock. Returns them as recorded.
    pub(super) async fn append_to(
        self,
        store: &dyn EventStore,
        clock: &SharedClock,
    ) -> Result<Vec<RecordedEvent>, AppendError> {
        let mut recorded = Vec::with_capacity(self.0.len());
        for (stream, event) in self.0 {
            let event = event.with_event_id(clock.new_id().into()).with_occurred_at(clock.now());
            recorded.extend(store.append(&stream, ExpectedVersion::Any, vec![event]).await?);
        }
        Ok(recorded)
    }
}
