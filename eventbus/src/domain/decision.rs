//! Decisions that depend on events of several streams.

use time::OffsetDateTime;

use super::{
    aggregate::{Fold, IntoEvents},
    codec::EncodeError,
    metadata::EventId,
    name::Name,
    record::{DomainEvent, EncodeEvent, NewEvent},
};

/// The state of a decision, folded from all events with certain tags, from any streams; made by `#[derive(Decision)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a decision",
    label = "not a decision",
    note = "derive it: `#[derive(Default, Decision)]` and `#[decision(events(..))]`"
)]
pub trait Decision: Fold {}

/// An event that a decision appends: of any aggregate, with at least one tag.
#[derive(derive_more::Debug)]
pub struct DecidedEvent {
    aggregate_type: Name,
    #[debug(skip)]
    event: Box<dyn EncodeEvent + Send + Sync>,
}

impl DecidedEvent {
    /// Returns the type of the aggregate that the event belongs to.
    pub(crate) const fn aggregate_type(&self) -> &Name {
        &self.aggregate_type
    }
}

impl EncodeEvent for DecidedEvent {
    fn encode_as(&self, event_id: EventId, occurred_at: OffsetDateTime) -> Result<NewEvent, EncodeError> {
        self.event.encode_as(event_id, occurred_at)
    }
}

#[diagnostic::do_not_recommend]
impl<E: DomainEvent> IntoEvents<DecidedEvent> for E {
    fn into_events(self, out: &mut Vec<DecidedEvent>) {
        const {
            assert!(
                !E::DESCRIPTOR.tags.is_empty(),
                "a decision appends an event without tags, which no decision would read: add `#[event(.., tags(..))]`"
            );
        }
        let aggregate_type = Name::from_static(E::AGGREGATE_TYPE);
        out.push(DecidedEvent { aggregate_type, event: Box::new(self) });
    }
}
