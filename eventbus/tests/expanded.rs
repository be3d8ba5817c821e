//! What the macros generate, written by hand: the contract between the derive crate and `__private`.
#![allow(missing_docs, non_camel_case_types, clippy::all, clippy::pedantic)]

use eventbus::{self as eb, prelude::*};

// ---- #[derive(DomainEvent)] #[event(aggregate = Order)] struct OrderCreated { .. }
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OrderCreated {
    pub customer_id: String,
}

impl eb::EventSet for OrderCreated {
    const EVENTS: eb::EventFilter = eb::EventFilter::Only(&[<Self as eb::DomainEvent>::DESCRIPTOR]);
    fn decode(record: &eb::RecordedEvent) -> Result<Self, eb::DecodeError> {
        eb::__private::decode_one(record)
    }
}
impl eb::EncodeEvent for OrderCreated {
    fn encode(&self) -> Result<eb::NewEvent, eb::EncodeError> {
        eb::__private::encode_one(self)
    }
}
impl eb::DomainEvent for OrderCreated {
    const EVENT_TYPE: &'static str = "OrderCreated";
    const SCHEMA_VERSION: u32 = 1;
    const AGGREGATE_TYPE: &'static str = eb::__private::aggregate_type_of::<Order, Self>();
    const CODEC: eb::__private::Codec<Self> = eb::__private::Codec::<Self>::json(); // ::unit() for `struct X;`
    const DESCRIPTOR: eb::EventDescriptor = eb::EventDescriptor::new(
        Self::EVENT_TYPE,
        Self::AGGREGATE_TYPE,
        Self::SCHEMA_VERSION,
        concat!(module_path!(), "::", "OrderCreated"),
        eb::Source::new(file!(), line!()),
    );
}
eb::__private::inventory::submit! { eb::__private::EventRegistration(<OrderCreated as eb::DomainEvent>::DESCRIPTOR) }

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OrderShipped;
impl eb::EventSet for OrderShipped {
    const EVENTS: eb::EventFilter = eb::EventFilter::Only(&[<Self as eb::DomainEvent>::DESCRIPTOR]);
    fn decode(record: &eb::RecordedEvent) -> Result<Self, eb::DecodeError> {
        eb::__private::decode_one(record)
    }
}
impl eb::EncodeEvent for OrderShipped {
    fn encode(&self) -> Result<eb::NewEvent, eb::EncodeError> {
        eb::__private::encode_one(self)
    }
}
impl eb::DomainEvent for OrderShipped {
    const EVENT_TYPE: &'static str = "OrderShipped";
    const SCHEMA_VERSION: u32 = 1;
    const AGGREGATE_TYPE: &'static str = eb::__private::aggregate_type_of::<Order, Self>();
    const CODEC: eb::__private::Codec<Self> = eb::__private::Codec::<Self>::unit();
    const DESCRIPTOR: eb::EventDescriptor = eb::EventDescriptor::new(
        Self::EVENT_TYPE,
        Self::AGGREGATE_TYPE,
        Self::SCHEMA_VERSION,
        concat!(module_path!(), "::", "OrderShipped"),
        eb::Source::new(file!(), line!()),
    );
}

// ---- #[derive(Aggregate)] #[aggregate(events(OrderCreated, OrderShipped))] struct Order
#[derive(Debug, Default)]
pub struct Order {
    customers: Vec<String>,
    shipped: bool,
}

#[derive(Debug, Clone)]
pub enum OrderEvent {
    OrderCreated(OrderCreated),
    OrderShipped(OrderShipped),
}
impl eb::Aggregate for Order {
    const AGGREGATE_TYPE: &'static str = "Order";
    type Event = OrderEvent;
}
impl eb::__private::Lists<OrderCreated> for Order {}
impl eb::__private::Lists<OrderShipped> for Order {}
impl eb::EventSet for OrderEvent {
    const EVENTS: eb::EventFilter = eb::EventFilter::Only(&[
        <OrderCreated as eb::DomainEvent>::DESCRIPTOR,
        <OrderShipped as eb::DomainEvent>::DESCRIPTOR,
    ]);
    fn decode(record: &eb::RecordedEvent) -> Result<Self, eb::DecodeError> {
        let event_type = record.event_type().as_str();
        if event_type == <OrderCreated as eb::DomainEvent>::EVENT_TYPE {
            return eb::__private::decode_one(record).map(Self::OrderCreated);
        }
        if event_type == <OrderShipped as eb::DomainEvent>::EVENT_TYPE {
            return eb::__private::decode_one(record).map(Self::OrderShipped);
        }
        Err(eb::__private::unknown::<Self>(record))
    }
}
impl eb::EncodeEvent for OrderEvent {
    fn encode(&self) -> Result<eb::NewEvent, eb::EncodeError> {
        match self {
            Self::OrderCreated(event) => event.encode(),
            Self::OrderShipped(event) => event.encode(),
        }
    }
}
impl From<OrderCreated> for OrderEvent {
    fn from(event: OrderCreated) -> Self {
        Self::OrderCreated(event)
    }
}
impl eb::IntoEvents<OrderEvent> for OrderCreated {
    fn into_events(self, out: &mut Vec<OrderEvent>) {
        out.push(OrderEvent::OrderCreated(self));
    }
}
impl eb::IntoEvents<OrderEvent> for OrderShipped {
    fn into_events(self, out: &mut Vec<OrderEvent>) {
        out.push(OrderEvent::OrderShipped(self));
    }
}
impl eb::IntoEvents<OrderEvent> for OrderEvent {
    fn into_events(self, out: &mut Vec<OrderEvent>) {
        out.push(self);
    }
}
const _: () = {
    // reverse check and duplicates, per listed event, spanned on its token
    assert!(
        eb::__private::same_text(
            <OrderCreated as eb::DomainEvent>::AGGREGATE_TYPE,
            <Order as eb::Aggregate>::AGGREGATE_TYPE
        ),
        "`OrderCreated` is listed by aggregate `Order` but belongs to another aggregate type; .."
    );
    assert!(<OrderEvent as eb::EventSet>::EVENTS.is_first(0), "..");
    fn check<A: eb::Apply>() {}
    let _ = check::<Order>;
};
impl eb::Apply for Order {
    fn apply(&mut self, event: &OrderEvent) {
        match event {
            OrderEvent::OrderCreated(event) => self.customers.push(event.customer_id.clone()),
            OrderEvent::OrderShipped(_) => self.shipped = true,
        }
    }
}

// ---- #[handler(group = "audit", retries = 5, timeout_ms = 100)]
#[allow(clippy::unused_async, clippy::needless_pass_by_value)]
async fn send_receipt(
    event: &OrderCreated,
    meta: &Metadata,
    State(prefix): State<String>,
) -> Result<(), std::io::Error> {
    assert_eq!(meta.version(), 1);
    assert_eq!(format!("{prefix}{}", event.customer_id), "mail to ada");
    Ok(())
}
#[derive(Debug)]
struct send_receipt {}
impl eb::Handler for send_receipt {
    fn definition() -> eb::HandlerDefinition {
        fn requires(requirements: &mut eb::__private::Requirements) {
            <State<String> as eb::FromDelivery>::requires(requirements);
            // `&mut T`: <T as eb::__private::FromTransaction<_>>::requires(requirements);
        }
        fn call<'d>(
            delivery: &'d eb::__private::Delivery,
            transaction: eb::__private::TransactionSlot<'d>,
        ) -> eb::__private::BoxFuture<'d, Result<(), eb::HandlerError>> {
            let _ = transaction;
            Box::pin(async move {
                let event = eb::__private::decode::<OrderCreated>(delivery)?;
                let outcome = eb::__private::must_be_send(self::send_receipt(
                    &event,
                    <Metadata as eb::FromDeliveryRef>::from_delivery_ref(delivery),
                    <State<String> as eb::FromDelivery>::from_delivery(delivery)?,
                    // `&mut T`: <T as eb::__private::FromTransaction<_>>::take(transaction)?
                ))
                .await;
                eb::HandlerOutcome::into_outcome(outcome)
            })
        }
        eb::HandlerDefinition::new(
            "send_receipt",
            <OrderCreated as eb::EventSet>::EVENTS,
            eb::Source::new(file!(), line!()),
            requires,
            call,
        )
        .in_group("audit")
        .with_options(eb::__private::HandlerOptions::new(Some(5), Some(100), None))
    }
}
eb::__private::inventory::submit! { eb::__private::HandlerRegistration(<send_receipt as eb::Handler>::definition) } // not with `manual`

// ---- #[projection(name = "order-statistics")] impl OrderStatistics
#[derive(Debug, Default)]
pub struct OrderStatistics {
    created: u64,
    shipped: u64,
}
impl OrderStatistics {
    fn created(&mut self, event: &OrderCreated) {
        self.created += u64::from(!event.customer_id.is_empty());
    }
    fn shipped(&mut self, _event: &OrderShipped, _meta: &Metadata) {
        self.shipped += 1;
    }
}
impl eb::Projection for OrderStatistics {
    fn definition() -> eb::ProjectionDefinition {
        const FILTERS: &[eb::EventFilter] = &[
            <OrderCreated as eb::EventSet>::EVENTS,
            <OrderShipped as eb::EventSet>::EVENTS,
        ];
        const COUNT: usize = eb::EventFilter::count(FILTERS);
        const EVENTS: &[eb::EventDescriptor] = &eb::EventFilter::collect::<COUNT>(FILTERS);
        fn requires(_requirements: &mut eb::__private::Requirements) {}
        eb::ProjectionDefinition::new(
            "order-statistics",
            eb::ProjectionKind::InMemory,
            eb::EventFilter::union(FILTERS, EVENTS),
            eb::Source::new(file!(), line!()),
            requires,
        )
    }
    // `&mut self` methods: `project_mut` only. `&self` methods (with or without a transaction): `project` only.
    fn project_mut<'d>(
        &'d mut self,
        delivery: &'d eb::__private::Delivery,
    ) -> eb::__private::BoxFuture<'d, Result<(), eb::HandlerError>> {
        Box::pin(async move {
            let event_type = delivery.record().event_type();
            if <OrderCreated as eb::EventSet>::EVENTS.matches(event_type) {
                let event = eb::__private::decode::<OrderCreated>(delivery)?;
                let outcome = self.created(&event); // `.await` when the method is async
                return eb::HandlerOutcome::into_outcome(outcome);
            }
            if <OrderShipped as eb::EventSet>::EVENTS.matches(event_type) {
                let event = eb::__private::decode::<OrderShipped>(delivery)?;
                let outcome = self.shipped(
                    &event,
                    <Metadata as eb::FromDeliveryRef>::from_delivery_ref(delivery),
                );
                return eb::HandlerOutcome::into_outcome(outcome);
            }
            Ok(())
        })
    }
}
const _: () = assert!(
    !<OrderCreated as eb::EventSet>::EVENTS.overlaps(&<OrderShipped as eb::EventSet>::EVENTS),
    "method `created` already takes an event of `OrderShipped`; each event goes to one method"
);
eb::__private::inventory::submit! {
    eb::__private::ProjectionRegistration::new(<OrderStatistics as eb::Projection>::definition, || {
        use eb::__private::{WithDefault as _, WithoutDefault as _};
        eb::__private::ProjectionSlot::with_default((&eb::__private::Probe::<OrderStatistics>::new()).factory())
    })
}

#[tokio::test]
async fn generated_code_fits_the_library() {
    use eb::{
        Handler, Name, NewEvent, Projection, StreamId, Version,
        port::{Delivery, StateMap},
    };
    let mut order = AggregateRoot::<Order>::new(AggregateId::new());
    order.record((
        OrderCreated {
            customer_id: "ada".into(),
        },
        Some(OrderShipped),
    ));
    assert_eq!((order.customers.len(), order.shipped), (1, true));
    let stream = StreamId::new(Name::from_static("Order"), order.id().clone());
    let record = NewEvent::of(&OrderCreated {
        customer_id: "ada".into(),
    })
    .unwrap()
    .recorded_as(stream, Version::FIRST, None);
    assert!(matches!(
        record.decode::<OrderEvent>(),
        Ok(OrderEvent::OrderCreated(_))
    ));
    let delivery = Delivery::new(record, Name::from_static("audit"))
        .with_state(StateMap::new().with("mail to ".to_owned()));
    let _ = send_receipt::definition();
    let mut statistics = OrderStatistics::default();
    statistics.project_mut(&delivery).await.unwrap();
    assert_eq!(
        OrderStatistics::definition().events.event_types(),
        ["OrderCreated", "OrderShipped"]
    );
    assert_eq!((statistics.created, statistics.shipped), (1, 0));
}
