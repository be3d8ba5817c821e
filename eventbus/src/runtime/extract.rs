//! The parameters a handler or projection method can take after its event, and what it can return.

use uuid::Uuid;

use crate::{
    domain::{
        codec::DecodeError,
        metadata::Metadata,
        record::RecordedEvent,
        stream::{AggregateId, StreamId},
    },
    port::{
        TypeKey,
        delivery::{Delivery, HandlerError},
        state::Requirements,
    },
};

/// A parameter taken by value: [`State<T>`], [`Repository<A>`](crate::Repository), [`Attempt`], [`EffectKey`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a handler parameter",
    label = "not a handler parameter",
    note = "after the event a handler takes `State<T>` of `eventbus` (axum's is another type), `Repository<A>`, `Attempt`, `EffectKey`, `&Metadata`, `&RecordedEvent`, `&AggregateId`, `&StreamId`, or the store's connection as `&mut`; a value of your own is `State<{Self}>`"
)]
pub trait FromDelivery: Sized + Send {
    /// Adds what the parameter needs from the application to `requirements`; the app checks them at start.
    fn requires(requirements: &mut Requirements) {
        let _ = requirements;
    }

    /// Makes the parameter of one call.
    ///
    /// # Errors
    /// [`HandlerError`] if the value is missing; `start()` rules that out for values that [`requires`](Self::requires)
    /// names.
    fn from_delivery(delivery: &Delivery) -> Result<Self, HandlerError>;
}

/// A parameter that is borrowed: `&Metadata`, `&RecordedEvent`, `&StreamId`, `&AggregateId`.
///
/// A projection in memory whose methods take only the event and `&StreamId` or `&AggregateId` is rebuilt fastest: the
/// store need not read the metadata.
#[diagnostic::on_unimplemented(
    message = "`&{Self}` cannot be a handler parameter",
    label = "not a borrowed handler parameter",
    note = "only `&Metadata`, `&RecordedEvent`, `&StreamId` and `&AggregateId` are borrowed; shared state is `State<{Self}>`"
)]
pub trait FromDeliveryRef: 'static {
    /// Borrows the parameter from the stream of the event; `None` if it needs more of the event.
    #[doc(hidden)]
    const FROM_STREAM: Option<fn(&StreamId) -> &Self> = None;

    /// Borrows the parameter for one call.
    fn from_delivery_ref(delivery: &Delivery) -> &Self;
}

impl FromDeliveryRef for Metadata {
    fn from_delivery_ref(delivery: &Delivery) -> &Self {
        delivery.metadata()
    }
}

impl FromDeliveryRef for RecordedEvent {
    fn from_delivery_ref(delivery: &Delivery) -> &Self {
        delivery.record()
    }
}

impl FromDeliveryRef for StreamId {
    const FROM_STREAM: Option<fn(&StreamId) -> &Self> = Some(|stream| stream);

    fn from_delivery_ref(delivery: &Delivery) -> &Self {
        delivery.metadata().stream()
    }
}

impl FromDeliveryRef for AggregateId {
    const FROM_STREAM: Option<fn(&StreamId) -> &Self> = Some(StreamId::aggregate_id);

    fn from_delivery_ref(delivery: &Delivery) -> &Self {
        delivery.metadata().aggregate_id()
    }
}

/// A value shared with the application: the builder got it by `.state(value)`, and each delivery gets a clone.
///
/// # Examples
/// ```
/// use eventbus::prelude::*;
/// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// # #[event(aggregate_type = "Account")]
/// # struct Opened {}
/// #[derive(Clone)]
/// struct Greeting(String);
///
/// #[handler]
/// async fn greet(_event: &Opened, meta: &Metadata, State(greeting): State<Greeting>) {
///     println!("{}, {}", greeting.0, meta.aggregate_id());
/// }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct State<T>(pub T);

impl<T: Clone + Send + Sync + 'static> FromDelivery for State<T> {
    fn requires(requirements: &mut Requirements) {
        requirements.state::<T>();
    }

    fn from_delivery(delivery: &Delivery) -> Result<Self, HandlerError> {
        delivery.state().get().map(State).ok_or_else(|| HandlerError::missing(TypeKey::of::<T>()))
    }
}

/// The number of this delivery attempt of the event to the handler: 1 is the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, derive_more::Display)]
pub struct Attempt(pub u32);

impl FromDelivery for Attempt {
    fn from_delivery(delivery: &Delivery) -> Result<Self, HandlerError> {
        Ok(Self(delivery.attempt()))
    }
}

/// A key for one effect of a handler in another system, such as the `Idempotency-Key` of a payment. The text is the
/// same for each delivery of this event to this handler, also after a crash, and differs for every other event and
/// handler.
///
/// The text is a UUID, of version 5. A handler that has several effects adds something to it: `format!("{key}-refund")`.
///
/// # Examples
/// ```
/// use eventbus::{handler::EffectKey, prelude::*};
/// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// # #[event(aggregate_type = "Order")]
/// # struct OrderPlaced { cents: u64 }
/// # #[derive(Clone)]
/// # struct Payments;
/// # impl Payments { async fn charge(&self, cents: u64, idempotency_key: &str) -> Result<(), std::fmt::Error> { Ok(()) } }
/// #[handler]
/// async fn charge(event: &OrderPlaced, key: EffectKey, State(payments): State<Payments>) -> eventbus::Result<()> {
///     payments.charge(event.cents, key.as_str()).await?; // a second time under the same key: nothing is charged
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, derive_more::Display)]
pub struct EffectKey(String);

impl EffectKey {
    /// The key as text: 36 characters, hexadecimal digits and hyphens.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromDelivery for EffectKey {
    fn from_delivery(delivery: &Delivery) -> Result<Self, HandlerError> {
        let (handler, stream) = (delivery.handler(), delivery.metadata().stream());
        // a handler's name is unique on its store, and on a stream within a consumer group
        let group = delivery.message_id().map_or("", |_| delivery.group().as_str());
        // names and ids have no control characters; an event id is unique within its stream
        let tenant = stream.tenant_id().unwrap_or_default();
        let (of_type, id) = (stream.aggregate_type(), stream.aggregate_id());
        let name = format!("{group}\0{}\0{tenant}\0{of_type}\0{id}", handler.unwrap_or_default());
        let key = Uuid::new_v5(&delivery.metadata().event_id().as_uuid(), name.as_bytes());
        Ok(Self(key.to_string()))
    }
}

/// A return type of handlers: `()`, or `Result<(), E>` with any error.
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    label = "expected `()` or `Result<(), E>` where `E` is an error",
    note = "return `()`, or `Result<(), E>` with an error: an `Error + Send + Sync`, a `Box<dyn Error + Send + Sync>`, a text, or `eventbus::Error`"
)]
pub trait HandlerOutcome {
    /// Converts the value into the outcome that the bus records.
    ///
    /// # Errors
    /// The handler's own error.
    fn into_outcome(self) -> Result<(), HandlerError>;
}

impl HandlerOutcome for () {
    fn into_outcome(self) -> Result<(), HandlerError> {
        Ok(())
    }
}

#[diagnostic::do_not_recommend]
impl<E: Into<HandlerError>> HandlerOutcome for Result<(), E> {
    fn into_outcome(self) -> Result<(), HandlerError> {
        self.map_err(Into::into)
    }
}

/// Converts the decode error of the first parameter into a handler error.
#[doc(hidden)]
pub fn decoded<E>(event: Result<E, DecodeError>) -> Result<E, HandlerError> {
    event.map_err(HandlerError::undecodable)
}

/// Decodes the events of a batch, the first parameter of a projection's method.
#[doc(hidden)]
pub fn decoded_batch<E>(
    deliveries: &[Delivery],
    decode: fn(&RecordedEvent) -> Result<E, DecodeError>,
) -> Result<Vec<E>, HandlerError> {
    deliveries.iter().map(|delivery| decoded(decode(delivery.record()))).collect()
}
